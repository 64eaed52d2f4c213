use crate::blob::Blob;
use crate::contents::SlotContents;
use crate::retired::Retired;

/// Handles that a guard keeps until it has unlocked. A batch that replaces more frees the rest under the lock: 8 KiB of
/// handles is enough for any ordinary batch.
const DEFERRED_MAX: usize = 256;

/// What a guard's mutations removed, freed after the slot is unlocked: freeing a large value takes longer than the
/// mutation itself. The first entry needs no allocation, and most guards remove at most one.
#[derive(Debug)]
pub(crate) struct Garbage<'a> {
    retired: &'a Retired,
    first: Option<Blob>,
    more: Vec<Blob>,
    contents: Vec<SlotContents>,
}

impl<'a> Garbage<'a> {
    pub(crate) fn new(retired: &'a Retired) -> Self {
        Self { retired, first: None, more: Vec::new(), contents: Vec::new() }
    }

    pub(crate) fn blob(&mut self, blob: Option<Blob>) {
        match blob {
            Some(blob) if self.first.is_none() => self.first = Some(blob),
            Some(blob) if self.more.len() < DEFERRED_MAX => self.more.push(blob),
            Some(blob) => self.retired.add(blob),
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
            self.retired.add(first);
            self.more.drain(..).for_each(|blob| self.retired.add(blob));
        }
    }
}
