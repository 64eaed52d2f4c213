//! Reading a slot in steps while it changes.

use bytes::Bytes;
use slotmesh_store::{ScanCursor, SlotSnapshot, SlotView, SnapshotEntry};

use super::{Harness, Input};

/// A view under way and what it has to turn out to be.
pub(super) struct Watched {
    slot: u8,
    expected: SlotSnapshot,
    view: SlotView,
    entries: Vec<SnapshotEntry>,
    /// The slot was replaced since.
    pub(super) is_gone: bool,
}

impl Harness {
    /// Begins a view of the slot, or reads a page more of the one that is under way.
    pub(super) fn watch(&mut self, input: &Input) {
        let Some(mut watched) = self.watched.take() else {
            let mut guard = self.primary.lock(Self::slot(input.slot));
            let (expected, view) = (sorted(guard.snapshot()), guard.view());
            drop(guard);
            let (slot, entries, is_gone) = (input.slot, Vec::new(), false);
            self.watched = Some(Watched { slot, expected, view, entries, is_gone });
            return;
        };
        let part = self.primary.read_view(&mut watched.view);
        assert_eq!(part.is_err(), watched.is_gone);
        match part {
            Ok(Some(part)) => {
                watched.entries.extend(part);
                self.watched = Some(watched);
            }
            Ok(None) => {
                let (version, digest) = (watched.view.version(), watched.view.digest());
                let read = sorted(SlotSnapshot { version, digest, entries: watched.entries });
                assert_eq!(read, watched.expected);
            }
            Err(_) => {}
        }
    }

    /// The primary's slot was replaced: a view of it ends.
    pub(super) fn replaced(&mut self, slot: u8) {
        if let Some(watched) = &mut self.watched {
            watched.is_gone |= watched.slot == slot;
        }
    }

    /// A scan while nothing changes is a list of what is there.
    pub(super) fn scan(&self, input: &Input) {
        let (slot, model) = (Self::slot(input.slot), &self.models[usize::from(input.slot)]);
        let mut cursor = Some(ScanCursor::default());
        let mut keys: Vec<Bytes> = Vec::new();
        while let Some(from) = cursor {
            let scan = self.primary.scan(slot, from, self.now);
            for (key, entry) in scan.entries {
                let held = model.live(&key, self.now).map(|held| (&held.value, held.version));
                assert_eq!(held, Some((&entry.value, entry.version)));
                keys.push(key);
            }
            cursor = scan.next;
        }
        keys.sort_unstable();
        let live = model.entries.keys().filter(|key| model.live(key, self.now).is_some());
        assert!(keys.iter().eq(live));
    }
}

fn sorted(mut snapshot: SlotSnapshot) -> SlotSnapshot {
    snapshot.entries.sort_unstable_by(|a, b| a.key.cmp(&b.key));
    snapshot
}
