use crate::blob::Blob;
use crate::contents::SlotContents;
use crate::store::Store;

/// Handles that a guard keeps until it has unlocked. A batch that replaces more frees the rest under the lock: 8 KiB of
/// handles is enough for any ordinary batch.
const DEFERRED_MAX: usize = 256;

/// What is left to do when a guard has unlocked: what its mutations removed is freed then: freeing a large value takes longer than the
/// mutation itself. The first entry needs no allocation, and most guards remove at most one.
#[derive(Debug)]
pub(crate) struct Garbage<'a> {
    store: &'a Store,
    first: Option<Blob>,
    more: Vec<Blob>,
    contents: Vec<SlotContents>,
}

impl<'a> Garbage<'a> {
    pub(crate) fn new(store: &'a Store) -> Self {
        Self { store, first: None, more: Vec::new(), contents: Vec::new() }
    }

    pub(crate) fn blob(&mut self, blob: Option<Blob>) {
        match blob {
            Some(blob) if self.first.is_none() => self.first = Some(blob),
            Some(blob) if self.more.len() < DEFERRED_MAX => self.more.push(blob),
            Some(blob) => self.store.retired.add(blob),
            None => {}
        }
    }

    pub(crate) fn contents(&mut self, contents: SlotContents) {
        if self.contents.len() < DEFERRED_MAX {
            self.contents.push(contents);
        }
    }
}

impl Drop for Garbage<'_> {
    fn drop(&mut self) {
        // Nothing at all is the usual case.
        if let Some(first) = self.first.take() {
            self.store.retired.add(first);
            self.more.drain(..).for_each(|blob| self.store.retired.add(blob));
        }
        self.store.grow();
        if self.store.arena.is_sparse() {
            self.store.evacuate();
        }
    }
}
