//! Steps in a slot's history: each takes the next seq, changes the contents and settles the store's accounts. The primary
//! takes them once it has decided, replicas when they apply its records; so both end up equal.

use bytes::Bytes;
use slotmesh_slots::{Class, Epoch, MonoTime};

use crate::contents::SlotContents;
use crate::entry::{NEVER, NewEntry, Usage};
use crate::guard::SlotGuard;
use crate::home::Home;
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
        standing: Standing,
    ) {
        if let Some(place) = found.1
            && self.contents.overwrite(epoch, place, (key, value), standing).is_some()
        {
            self.store.deadlines.publish(self.slot(), self.contents.sweep.earliest());
            return;
        }
        let Standing { deadline, usage, class } = standing;
        let old = self.change(|contents, home| {
            let version = contents.advance(epoch);
            let new = NewEntry::new((home, found.0), (key, value), version, deadline);
            contents.insert(found, NewEntry { usage, class, ..new }, home)
        });
        self.garbage.blob(old);
    }

    /// Removes the entry if there is one.
    pub(crate) fn delete_next(&mut self, epoch: Epoch, hash: u64, key: &[u8]) {
        let old = self.change(|contents, home| {
            contents.last_delete = contents.advance(epoch);
            contents.remove(hash, key, home)
        });
        self.garbage.blob(old);
    }

    /// Changes the deadline of the entry, and its version, if there is one.
    pub(crate) fn expire_next(
        &mut self,
        epoch: Epoch,
        hash: u64,
        key: &[u8],
        deadline: Option<MonoTime>,
    ) {
        self.change(|contents, home| {
            let version = contents.advance(epoch);
            contents.redate(hash, key, (version, deadline.unwrap_or(NEVER)), home);
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

    /// Changes no entry.
    pub(crate) fn nothing_next(&mut self, epoch: Epoch) {
        self.contents.advance(epoch);
    }

    /// Changes the contents and settles what the store keeps about them outside the lock.
    #[inline]
    pub(crate) fn change<R>(&mut self, change: impl FnOnce(&mut SlotContents, Home<'_>) -> R) -> R {
        let before = Size::of(&self.contents);
        let home = self.store.home(self.slot());
        let result = change(&mut self.contents, home);
        self.store.settle(self.slot(), &self.contents, before);
        result
    }
}
