//! Steps in a slot's history: each takes the next seq, changes the contents and settles the store's accounts. The primary
//! takes them once it has decided, replicas when they apply its records; so both end up equal.

use ahash::RandomState;
use bytes::Bytes;
use slotmesh_slots::{Class, Epoch, MonoTime};

use crate::contents::SlotContents;
use crate::entry::{NEVER, NewEntry, Usage};
use crate::guard::SlotGuard;
use crate::pages::Place;
use crate::store::Size;

/// What is known of an entry beside its key, value and version.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Standing {
    /// [`NEVER`] for none.
    pub(crate) deadline: MonoTime,
    pub(crate) usage: Usage,
    pub(crate) class: Class,
}

impl SlotGuard<'_> {
    /// Stores the value of a key with this hash, whose entry is at the place if there is one.
    #[inline]
    pub(crate) fn put_next(
        &mut self,
        epoch: Epoch,
        found: (u64, Option<Place>),
        (key, value): (&[u8], &Bytes),
        Standing { deadline, usage, class }: Standing,
    ) {
        let old = self.change(|contents, hasher| {
            let version = contents.advance(epoch);
            let new = NewEntry { usage, class, ..NewEntry::new(key, value, version, deadline) };
            contents.insert(found, new, hasher)
        });
        self.garbage.blob(old);
    }

    /// Removes the entry if there is one.
    pub(crate) fn delete_next(&mut self, epoch: Epoch, hash: u64, key: &[u8]) {
        let old = self.change(|contents, _| {
            contents.last_delete = contents.advance(epoch);
            contents.remove(hash, key)
        });
        self.garbage.blob(old);
    }

    /// Changes the deadline of the entry if there is one.
    pub(crate) fn expire_next(
        &mut self,
        epoch: Epoch,
        hash: u64,
        key: &[u8],
        deadline: Option<MonoTime>,
    ) {
        self.change(|contents, hasher| {
            contents.advance(epoch);
            contents.set_deadline(hash, key, deadline.unwrap_or(NEVER), hasher);
        });
    }

    /// Removes all entries.
    pub(crate) fn clear_next(&mut self, epoch: Epoch) {
        let old = self.change(|contents, _| {
            contents.last_delete = contents.advance(epoch);
            contents.clear()
        });
        self.garbage.contents(old);
    }

    /// Changes the contents and settles what the store keeps about them outside the lock.
    #[inline]
    pub(crate) fn change<R>(
        &mut self,
        change: impl FnOnce(&mut SlotContents, &RandomState) -> R,
    ) -> R {
        let before = Size::of(&self.contents);
        let result = change(&mut self.contents, &self.store.hasher);
        self.store.settle(self.slot(), &self.contents, before);
        result
    }
}
