use crate::contents::SlotContents;
use crate::entry::Stored;

/// Handles that a guard keeps until it has unlocked. A batch that replaces more frees the rest under the lock: 16 KiB of
/// handles is enough for any ordinary batch.
const DEFERRED_MAX: usize = 256;

/// What a guard's mutations removed, freed after the slot is unlocked: freeing a large value takes longer than the
/// mutation itself. The first entry needs no allocation, and most guards remove at most one.
#[derive(Debug, Default)]
pub(crate) struct Garbage {
    first: Option<Stored>,
    more: Vec<Stored>,
    contents: Vec<SlotContents>,
}

impl Garbage {
    pub(crate) fn entry(&mut self, stored: Option<Stored>) {
        match stored {
            Some(stored) if self.first.is_none() => self.first = Some(stored),
            Some(stored) if self.more.len() < DEFERRED_MAX => self.more.push(stored),
            _ => {}
        }
    }

    pub(crate) fn contents(&mut self, contents: SlotContents) {
        if self.contents.len() < DEFERRED_MAX {
            self.contents.push(contents);
        }
    }
}
