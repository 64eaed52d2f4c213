use ahash::RandomState;
use bytes::Bytes;
use slotmesh_slots::{MonoTime, Version};

use crate::contents::SlotContents;
use crate::entry::{NEVER, NewEntry, Stored};

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
}

impl SlotSnapshot {
    pub(crate) fn of(contents: &SlotContents) -> Self {
        let entry = |stored: Stored<'_>| {
            let (key, value) = stored.key_and_value();
            SnapshotEntry { key, value, version: stored.version(), deadline: stored.deadline() }
        };
        Self {
            version: contents.version,
            digest: contents.digest,
            entries: contents.pages.iter().map(entry).collect(),
        }
    }

    pub(crate) fn into_contents(self, hasher: &RandomState) -> SlotContents {
        let mut contents = SlotContents::starting_at(self.version, self.version);
        for SnapshotEntry { key, value, version, deadline } in &self.entries {
            let new = NewEntry::new(key, value, *version, deadline.unwrap_or(NEVER));
            let hash = hasher.hash_one(&key[..]);
            // A peer could send a key twice.
            let place = contents.pages.place(hash, key);
            contents.insert((hash, place), new, hasher);
        }
        contents
    }
}
