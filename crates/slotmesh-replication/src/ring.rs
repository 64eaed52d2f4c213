use std::collections::VecDeque;

use parking_lot::Mutex;
use slotmesh_slots::{Epoch, Record, SLOT_COUNT, Seq, Slot, Version};

/// The node's recent records of all slots, of those it owns and of those it copies, in one byte-bounded queue: a new
/// record overwrites the oldest ones and never waits.
///
/// Replicas keep it too, so that one that is promoted can re-send its tail. Records of one slot form a chain: each knows
/// the version before it and the place of the one after it. A record that does not continue its slot's chain starts a
/// new one.
#[derive(Debug)]
pub struct Ring {
    bytes_max: usize,
    inner: Mutex<Inner>,
}

#[derive(Debug)]
struct Inner {
    entries: VecDeque<Entry>,
    /// Place of the first entry; places count up from 1 and are never reused, 0 stands for none.
    base: u64,
    bytes: usize,
    ends: Box<[Ends]>,
}

#[derive(Debug)]
struct Entry {
    record: Record,
    /// Epoch of the version before; its seq is the record's less one.
    prev: Epoch,
    next: u64,
}

/// First and last place of a slot's chain, and its last version, which outlives the entries.
#[derive(Debug, Clone, Copy, Default)]
struct Ends {
    oldest: u64,
    newest: u64,
    last: Version,
}

/// Some of a slot's records in order.
#[derive(Debug)]
pub(crate) struct Tail {
    pub(crate) records: Vec<Record>,
    /// Where to go on; a hint.
    pub(crate) cursor: u64,
    pub(crate) rest: Rest,
}

/// What follows a [`Tail`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Rest {
    Nothing,
    More,
    /// The record asked for was overwritten.
    Lost,
}

impl Ring {
    /// An empty ring for that many bytes of records, their bookkeeping included. 32 MiB holds about 150,000 small ones.
    #[must_use]
    pub fn new(bytes_max: usize) -> Self {
        let ends = vec![Ends::default(); SLOT_COUNT].into_boxed_slice();
        let inner = Inner { entries: VecDeque::new(), base: 1, bytes: 0, ends };
        Self { bytes_max, inner: Mutex::new(inner) }
    }

    /// Adds a record that follows `prev` in its slot's history and returns its place. Calls for one slot come in order.
    pub(crate) fn push(&self, record: Record, prev: Version) -> u64 {
        let mut inner = self.inner.lock();
        let place = inner.base + inner.entries.len() as u64;
        let ends = inner.ends[record.slot.index()];
        let continues =
            inner.entry(ends.newest).is_some_and(|entry| entry.record.version() == prev);
        if continues && let Some(entry) = inner.entry_mut(ends.newest) {
            entry.next = place;
        }
        let oldest = if continues { ends.oldest } else { place };
        inner.ends[record.slot.index()] = Ends { oldest, newest: place, last: record.version() };
        inner.bytes += cost(&record);
        inner.entries.push_back(Entry { record, prev: prev.epoch, next: 0 });
        while inner.bytes > self.bytes_max && inner.entries.len() > 1 {
            inner.pop();
        }
        place
    }

    /// Gives up the slot's chain: its history was replaced.
    pub(crate) fn forget(&self, slot: Slot) {
        self.inner.lock().ends[slot.index()] = Ends::default();
    }

    /// Gives up the slot's chain unless it ends at `version`: a role starts with a history that the chain is part of.
    pub(crate) fn align(&self, slot: Slot, version: Version) {
        let ends = &mut self.inner.lock().ends[slot.index()];
        if ends.last != version {
            *ends = Ends::default();
        }
    }

    /// Whether the record that follows `version` in the slot's history is here, so that a copy at `version` is a prefix.
    pub(crate) fn follows(&self, slot: Slot, version: Version) -> bool {
        let inner = self.inner.lock();
        inner.find(slot, version.seq.next(), 0).is_some_and(|place| {
            inner.entry(place).is_some_and(|entry| entry.prev == version.epoch)
        })
    }

    /// The slot's records from `next` on, about `bytes_max` of them.
    pub(crate) fn read(&self, slot: Slot, next: Seq, cursor: u64, bytes_max: usize) -> Tail {
        let inner = self.inner.lock();
        let mut tail = Tail { records: Vec::new(), cursor: 0, rest: Rest::Nothing };
        if next > inner.ends[slot.index()].last.seq {
            return tail;
        }
        let Some(mut place) = inner.find(slot, next, cursor) else {
            tail.rest = Rest::Lost;
            return tail;
        };
        let mut bytes = 0;
        while let Some(entry) = inner.entry(place) {
            if bytes >= bytes_max {
                (tail.cursor, tail.rest) = (place, Rest::More);
                break;
            }
            bytes += cost(&entry.record);
            tail.records.push(entry.record.clone());
            place = entry.next;
        }
        tail
    }

    /// Checks the ring's bookkeeping.
    ///
    /// # Panics
    /// When it is wrong.
    pub fn check_invariants(&self) {
        let inner = self.inner.lock();
        let bytes: usize = inner.entries.iter().map(|entry| cost(&entry.record)).sum();
        assert_eq!(bytes, inner.bytes, "ring bytes");
        assert!(bytes <= self.bytes_max || inner.entries.len() == 1, "ring bound");
        for slot in Slot::all() {
            let ends = inner.ends[slot.index()];
            let mut place = ends.oldest;
            assert_eq!(ends.oldest == 0, ends.newest == 0, "half a chain");
            while let Some(entry) = inner.entry(place) {
                assert_eq!(entry.record.slot, slot, "chain of one slot");
                if let Some(next) = inner.entry(entry.next) {
                    assert_eq!(next.record.seq, entry.record.seq.next(), "chain without gaps");
                    assert_eq!(next.prev, entry.record.epoch, "chain of versions");
                } else {
                    assert_eq!(ends.newest, place, "end of the chain");
                    assert_eq!(ends.last, entry.record.version(), "last of the chain");
                }
                place = entry.next;
            }
        }
    }
}

impl Inner {
    fn entry(&self, place: u64) -> Option<&Entry> {
        self.entries.get(usize::try_from(place.checked_sub(self.base)?).ok()?)
    }

    fn entry_mut(&mut self, place: u64) -> Option<&mut Entry> {
        self.entries.get_mut(usize::try_from(place.checked_sub(self.base)?).ok()?)
    }

    /// The place of the slot's record with that seq. Places of a chain only grow, so a hint at or after its first entry
    /// lies in the chain; a wrong hint costs a walk from there.
    fn find(&self, slot: Slot, seq: Seq, hint: u64) -> Option<u64> {
        let fits = |place: u64| {
            self.entry(place)
                .is_some_and(|entry| entry.record.slot == slot && entry.record.seq <= seq)
        };
        let ends = self.ends[slot.index()];
        let mut place = if hint >= ends.oldest && fits(hint) { hint } else { ends.oldest };
        while let Some(entry) = self.entry(place) {
            match entry.record.seq.cmp(&seq) {
                std::cmp::Ordering::Equal => return Some(place),
                std::cmp::Ordering::Greater => return None,
                std::cmp::Ordering::Less => place = entry.next,
            }
        }
        None
    }

    fn pop(&mut self) {
        let Some(entry) = self.entries.pop_front() else { return };
        let ends = &mut self.ends[entry.record.slot.index()];
        if ends.oldest == self.base {
            ends.oldest = entry.next;
            if entry.next == 0 {
                ends.newest = 0;
            }
        }
        self.base += 1;
        self.bytes -= cost(&entry.record);
    }
}

/// Bytes a record is charged with, in the ring and on links: its payload and what holding it takes.
pub(crate) fn cost(record: &Record) -> usize {
    record.payload_len() + RECORD_OVERHEAD
}

/// Size of a ring entry and of the two reference-counted buffers behind it.
const RECORD_OVERHEAD: usize = 192;

#[cfg(test)]
mod tests {
    use super::*;
    use bytes::Bytes;
    use slotmesh_slots::Effect;

    fn slot(number: u16) -> Slot {
        Slot::new(number).unwrap()
    }

    fn version(epoch: u32, seq: u64) -> Version {
        Version::new(Epoch(epoch), Seq(seq))
    }

    fn push(ring: &Ring, number: u16, at: (u32, u64), prev: (u32, u64)) {
        let effect = Effect::Delete { key: Bytes::from_static(b"k") };
        let record =
            Record { slot: slot(number), epoch: Epoch(at.0), seq: Seq(at.1), effect, answer: None };
        ring.push(record, version(prev.0, prev.1));
        ring.check_invariants();
    }

    fn check(ring: &Ring, number: u16, next: u64, expected: &[u64], rest: Rest) {
        let tail = ring.read(slot(number), Seq(next), 0, usize::MAX);
        let seqs: Vec<u64> = tail.records.iter().map(|record| record.seq.0).collect();
        assert_eq!((seqs.as_slice(), tail.rest), (expected, rest), "slot {number} from {next}");
    }

    #[test]
    fn overwrites_the_oldest_and_says_what_is_lost() {
        let ring = Ring::new(4 * (RECORD_OVERHEAD + 1));
        for seq in 1..=3 {
            push(&ring, 1, (1, seq), (1, seq - 1));
            push(&ring, 2, (1, seq), (1, seq - 1));
        }
        check(&ring, 1, 1, &[], Rest::Lost);
        check(&ring, 1, 2, &[2, 3], Rest::Nothing);
        check(&ring, 2, 4, &[], Rest::Nothing);
        assert!(ring.follows(slot(1), version(1, 1)));
        assert!(!ring.follows(slot(1), version(1, 0)), "overwritten");
        assert!(!ring.follows(slot(1), version(1, 3)), "nothing follows yet");
        for seq in 4..=7 {
            push(&ring, 2, (1, seq), (1, seq - 1));
        }
        check(&ring, 1, 3, &[], Rest::Lost);
        check(&ring, 1, 4, &[], Rest::Nothing);
    }

    #[test]
    fn a_broken_chain_starts_anew() {
        let ring = Ring::new(1 << 20);
        push(&ring, 1, (1, 11), (1, 10));
        push(&ring, 1, (1, 12), (1, 11));
        // The slot was refilled at (2, 12) and goes on: (1, 12) is not part of this history.
        push(&ring, 1, (2, 13), (2, 12));
        check(&ring, 1, 12, &[], Rest::Lost);
        check(&ring, 1, 13, &[13], Rest::Nothing);
        assert!(ring.follows(slot(1), version(2, 12)) && !ring.follows(slot(1), version(1, 12)));
        ring.forget(slot(1));
        check(&ring, 1, 13, &[], Rest::Nothing);
        ring.check_invariants();
    }

    #[test]
    fn a_cursor_goes_on_where_it_stopped() {
        let ring = Ring::new(1 << 20);
        (1..=5).for_each(|seq| push(&ring, 1, (1, seq), (1, seq - 1)));
        let first = ring.read(slot(1), Seq(1), 0, 2 * RECORD_OVERHEAD);
        assert_eq!((first.records.len(), first.rest), (2, Rest::More));
        let second = ring.read(slot(1), Seq(3), first.cursor, usize::MAX);
        assert_eq!((second.records.len(), second.rest), (3, Rest::Nothing));
    }
}
