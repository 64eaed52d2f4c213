//! The primary's end of the streams: who has one, what waits in it, and which slots it is told of.

use std::collections::VecDeque;
use std::sync::OnceLock;
use std::sync::atomic::{AtomicU64, Ordering};

use bytes::Bytes;
use parking_lot::Mutex;
use slotmesh_slots::{SLOT_COUNT, Slot, Writer};

use crate::Watcher;
use crate::frame::{Down, FRAME_BYTES_MAX};

/// Bytes that may wait in a stream: half a second of 100,000 writes/s. A watcher that takes less gets a new stream.
const QUEUE_BYTES_MAX: usize = 1 << 20;

/// Room that every record finds in a frame.
const RECORD_BYTES_MAX: usize = 19;

/// One watcher's stream.
pub(crate) struct Stream {
    pub(crate) watcher: Watcher,
    /// Its bit in [`Marks`].
    pub(crate) place: usize,
    queue: Mutex<Queue>,
}

#[derive(Default)]
struct Queue {
    full: VecDeque<Bytes>,
    open: Writer,
    bytes: usize,
    ended: bool,
}

impl Stream {
    pub(crate) fn new(watcher: Watcher, place: usize) -> Self {
        Self { watcher, place, queue: Mutex::default() }
    }

    /// Puts a record behind all others; true when somebody has to be woken to write it, or to close the stream: one in which
    /// too much waits ends, and takes nothing more, no echo either.
    #[must_use]
    pub(crate) fn push(&self, record: Down) -> bool {
        let mut queue = self.queue.lock();
        if queue.ended {
            return false;
        }
        let was_empty = queue.bytes == 0;
        if queue.open.len() + RECORD_BYTES_MAX > FRAME_BYTES_MAX {
            let frame = std::mem::take(&mut queue.open).finish();
            queue.full.push_back(frame);
        }
        let before = queue.open.len();
        record.encode(&mut queue.open);
        queue.bytes += queue.open.len() - before;
        queue.ended = queue.bytes > QUEUE_BYTES_MAX;
        was_empty || queue.ended
    }

    pub(crate) fn end(&self) {
        self.queue.lock().ended = true;
    }

    /// What waits, in order; `None` when the stream has ended.
    pub(crate) fn poll_frames(&self) -> Option<Vec<Bytes>> {
        let mut queue = self.queue.lock();
        if queue.ended {
            return None;
        }
        queue.bytes = 0;
        let open = std::mem::take(&mut queue.open);
        let frames = std::mem::take(&mut queue.full).into_iter();
        Some(frames.chain((!open.is_empty()).then(|| open.finish())).collect())
    }
}

/// Streams a publisher can have.
pub(crate) const PLACES: usize = 1024;

const GROUP: usize = u64::BITS as usize;

/// For each slot the streams that are told of it, a bit each. Sixty-four streams take 128 KiB, the first sixty-four when there
/// is one.
pub(crate) struct Marks([OnceLock<Box<[AtomicU64]>>; PLACES / GROUP]);

impl Marks {
    pub(crate) const fn new() -> Self {
        Self([const { OnceLock::new() }; PLACES / GROUP])
    }

    pub(crate) fn has(&self, slot: Slot, place: usize) -> bool {
        let words = self.0[place / GROUP].get();
        words.is_some_and(|words| words[slot.index()].load(Ordering::Acquire) & bit(place) != 0)
    }

    pub(crate) fn set(&self, slot: Slot, place: usize) {
        let words = self.0[place / GROUP]
            .get_or_init(|| (0..SLOT_COUNT).map(|_| AtomicU64::new(0)).collect());
        words[slot.index()].fetch_or(bit(place), Ordering::AcqRel);
    }

    /// Removes the marks of a slot and names their places.
    pub(crate) fn take(&self, slot: Slot) -> impl Iterator<Item = usize> + '_ {
        self.places(move |words| words[slot.index()].swap(0, Ordering::AcqRel))
    }

    /// The places marked for a slot.
    pub(crate) fn of(&self, slot: Slot) -> impl Iterator<Item = usize> + '_ {
        self.places(move |words| words[slot.index()].load(Ordering::Acquire))
    }

    /// Removes the marks of a place in all slots.
    pub(crate) fn clear(&self, place: usize) {
        for word in self.0[place / GROUP].get().into_iter().flatten() {
            word.fetch_and(!bit(place), Ordering::AcqRel);
        }
    }

    fn places(
        &self,
        word: impl Fn(&[AtomicU64]) -> u64 + 'static,
    ) -> impl Iterator<Item = usize> + '_ {
        let groups = self.0.iter().enumerate();
        groups.filter_map(|(group, words)| Some((group, words.get()?))).flat_map(
            move |(group, words)| {
                let mut rest = word(words);
                std::iter::from_fn(move || {
                    let first = rest.trailing_zeros() as usize;
                    rest &= rest.wrapping_sub(1);
                    (first < GROUP).then_some(group * GROUP + first)
                })
            },
        )
    }
}

const fn bit(place: usize) -> u64 {
    1 << (place % GROUP)
}

#[cfg(test)]
mod tests {
    use slotmesh_slots::{MonoTime, NodeId};

    use super::*;

    #[test]
    fn marks_are_by_slot_and_place() {
        let marks = Marks::new();
        let (slot, other) = (Slot::of_key(b"foo"), Slot::of_key(b"bar"));
        for place in [1, 63, 64, 1023] {
            marks.set(slot, place);
            assert!(marks.has(slot, place) && !marks.has(other, place));
        }
        marks.clear(63);
        assert_eq!(marks.of(slot).collect::<Vec<_>>(), [1, 64, 1023]);
        assert_eq!(marks.take(slot).count(), 3);
        assert_eq!(marks.of(slot).count() + marks.of(other).count(), 0);
    }

    #[test]
    fn what_nobody_takes_ends_the_stream() {
        let stream = Stream::new(Watcher { node: NodeId::new(1).unwrap(), stream: 1 }, 0);
        let echo = Down::Echo { sent: MonoTime::ZERO };
        assert!(stream.push(echo), "the first one wakes");
        assert!(!stream.push(echo));
        assert_eq!(stream.poll_frames().unwrap().concat().len(), 18);
        assert_eq!(stream.poll_frames(), Some(vec![]));
        let mut pushed = 0;
        while stream.poll_frames_unless_full(&mut pushed, echo) {}
        assert!(pushed > QUEUE_BYTES_MAX / 9);
        assert_eq!(stream.poll_frames(), None);
        assert!(!stream.push(echo));
    }

    impl Stream {
        /// Pushes, until a second push in a row wakes: the stream has ended then.
        fn poll_frames_unless_full(&self, pushed: &mut usize, record: Down) -> bool {
            *pushed += 1;
            !self.push(record) || *pushed == 1
        }
    }

    #[test]
    fn frames_are_bounded_and_in_order() {
        let stream = Stream::new(Watcher { node: NodeId::new(1).unwrap(), stream: 1 }, 0);
        for number in 0..2_000 {
            let _ = stream.push(Down::Echo { sent: MonoTime::from_micros(number) });
        }
        let frames = stream.poll_frames().unwrap();
        assert!(frames.len() > 1 && frames.iter().all(|frame| frame.len() <= FRAME_BYTES_MAX));
        let mut expected = 0;
        for frame in &frames {
            let mut input = slotmesh_slots::Reader::new(frame);
            while input.remaining() > 0 {
                let echo = Down::Echo { sent: MonoTime::from_micros(expected) };
                assert_eq!(Down::decode(&mut input), Ok(echo));
                expected += 1;
            }
        }
        assert_eq!(expected, 2_000);
    }
}
