use bytes::Bytes;
use slotmesh_slots::{Class, MonoTime, Slot, Version};

use crate::contents::SlotContents;
use crate::entry::{NEVER, NewEntry, Stored};
use crate::store::Store;

/// All that a slot held at one version, small values as copies, large ones as handles that keep overwritten ones in memory.
#[derive(Clone, Debug, PartialEq, Eq, Default)]
pub struct SlotSnapshot {
    /// Version of the last mutation it contains.
    pub version: Version,
    /// The slot's digest at that version.
    pub digest: u128,
    /// The entries, in no particular order.
    pub entries: Vec<SnapshotEntry>,
}

/// An entry in a [`SlotSnapshot`].
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SnapshotEntry {
    /// The key.
    pub key: Bytes,
    /// The value.
    pub value: Bytes,
    /// Version of the mutation that wrote the value.
    pub version: Version,
    /// When it expires; `None` is never.
    pub deadline: Option<MonoTime>,
    /// Whether it may be evicted.
    pub class: Class,
}

impl SnapshotEntry {
    pub(crate) fn of(stored: Stored<'_>) -> Self {
        let (key, value) = stored.key_and_value();
        Self {
            key,
            value,
            version: stored.version(),
            deadline: stored.deadline(),
            class: stored.class(),
        }
    }
}

impl SlotSnapshot {
    pub(crate) fn of(contents: &SlotContents) -> Self {
        Self {
            version: contents.version,
            digest: contents.digest(),
            entries: contents.pages.iter().map(SnapshotEntry::of).collect(),
        }
    }
}

impl Store {
    /// Makes what the slot holds of a snapshot, for [`SlotGuard::install`](crate::SlotGuard::install): it takes as long as so many writes,
    /// and no lock. Compare [`SlotContents::digest`], which is counted anew, with the snapshot's.
    #[must_use]
    pub fn prepare(&self, slot: Slot, snapshot: &SlotSnapshot) -> SlotContents {
        let home = self.home(slot);
        let mut contents = SlotContents::starting_at(snapshot.version, snapshot.version);
        for SnapshotEntry { key, value, version, deadline, class } in &snapshot.entries {
            let (hash, deadline) = (self.hash(key), deadline.unwrap_or(NEVER));
            let new = NewEntry::new((home, hash), (key, value), *version, deadline);
            let new = NewEntry { class: *class, ..new };
            // A peer could send a key twice.
            let place = contents.pages.place(hash, key);
            contents.insert((hash, place), new, home);
        }
        contents
    }
}
