//! What callers of writes with a token were told, kept for a while so that a repetition is answered alike and applied once.
//!
//! They belong to their slot as its entries do: changed under the slot's lock, replicated with the records, carried by
//! snapshots, gone with the slot's history. Kept for [`KEPT_FOR`] and within bounds; a repetition that comes too late to be sure of is
//! refused as ambiguous.

use std::collections::{BTreeMap, HashMap, VecDeque};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use bytes::Bytes;
use parking_lot::Mutex;
use slotmesh_slots::{Answer, DecodeError, MonoTime, Reader, SLOT_COUNT, Seq, Slot, Token, Writer};

/// How long an answer is kept at least, while there is room.
const KEPT_FOR: Duration = Duration::from_secs(60);

/// What the age in a request does not count: its way, at most as long as a silent connection lasts.
const ON_ITS_WAY: Duration = Duration::from_secs(10);

/// Bytes of one slot's answers, whatever their age: three thousand of the usual ones, more than retries that may be under way.
const SLOT_BYTES_MAX: usize = 512 << 10;

/// A slot may have so much in any case: a few answers.
const SLOT_BYTES_MIN: usize = 1 << 10;

/// A longer reply is not kept: its repetition changes nothing but is ambiguous.
const REPLY_BYTES_MAX: usize = 64 << 10;

/// What an answer takes beside its reply: two places in maps and a handle.
const OVERHEAD: usize = 160;

/// Parts that are locked on their own.
const SHARDS: usize = 64;

/// The answers of all slots.
pub(super) struct Answers {
    shards: [Mutex<BTreeMap<Slot, OfSlot>>; SHARDS],
    bytes: AtomicUsize,
    bytes_max: usize,
    /// Which shard is swept next.
    round: AtomicUsize,
}

/// The answers of one slot.
#[derive(Debug, Default)]
struct OfSlot {
    known: HashMap<Token, Given>,
    /// When each was given, oldest first.
    order: VecDeque<(MonoTime, Token)>,
    bytes: usize,
    /// When the latest was given of those that were dropped for want of room.
    forgotten: Option<MonoTime>,
}

/// An answer and the write that it rests on.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Given {
    pub(super) seq: Seq,
    purpose: u64,
    /// Nothing if it was too long to be kept.
    pub(super) reply: Bytes,
}

/// The answer to a write, to be kept.
pub(super) fn answer((token, purpose): (Token, u64), reply: Bytes) -> Answer {
    let reply = if reply.len() <= REPLY_BYTES_MAX { reply } else { Bytes::new() };
    Answer { token, purpose, reply }
}

/// What is known of a token.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Known {
    /// Nothing: carry the write out.
    New,
    /// The write was carried out.
    Answered(Given),
    /// Whether it was is not known any more.
    TooLate,
    /// Another write had this token.
    Reused,
}

impl Answers {
    /// None, and never more than so many bytes of them in the long run.
    pub(super) fn new(bytes_max: usize) -> Self {
        Self {
            shards: std::array::from_fn(|_| Mutex::default()),
            bytes: AtomicUsize::new(0),
            bytes_max,
            round: AtomicUsize::new(0),
        }
    }

    /// Bytes that they take.
    pub(super) fn bytes(&self) -> usize {
        self.bytes.load(Ordering::Relaxed)
    }

    /// What is known of a write with this token and purpose that was begun that long ago, if it is a repetition.
    pub(super) fn find(
        &self,
        slot: Slot,
        (token, purpose): (Token, u64),
        age: Option<Duration>,
        now: MonoTime,
    ) -> Known {
        let shard = self.shard(slot).lock();
        let of_slot = shard.get(&slot);
        if let Some(given) = of_slot.and_then(|of_slot| of_slot.known.get(&token)) {
            return if given.purpose == purpose {
                Known::Answered(given.clone())
            } else {
                Known::Reused
            };
        }
        let Some(age) = age else { return Known::New };
        let age = age + ON_ITS_WAY;
        let forgotten = of_slot.and_then(|of_slot| of_slot.forgotten);
        let is_gone = forgotten.is_some_and(|at| at >= now.saturating_sub(age));
        if age > KEPT_FOR || is_gone { Known::TooLate } else { Known::New }
    }

    /// Keeps the answer of the write at this position; under the slot's lock.
    pub(super) fn keep(&self, slot: Slot, seq: Seq, answer: &Answer, now: MonoTime) {
        let Answer { token, purpose, ref reply } = *answer;
        // A slice of a frame would keep all of it.
        let reply = Bytes::copy_from_slice(reply);
        let given = Given { seq, purpose, reply };
        self.change(slot, |of_slot, room| {
            of_slot.add(token, given, now);
            of_slot.trim(now, room);
        });
    }

    /// The slot's history ended, and its answers with it; under the slot's lock.
    pub(super) fn forget(&self, slot: Slot) {
        if let Some(of_slot) = self.shard(slot).lock().remove(&slot) {
            self.bytes.fetch_sub(of_slot.bytes, Ordering::Relaxed);
        }
    }

    /// Drops what is too old, in one shard after the other.
    pub(super) fn sweep(&self, now: MonoTime) {
        let round = self.round.fetch_add(1, Ordering::Relaxed);
        let mut shard = self.shards[round % SHARDS].lock();
        shard.retain(|_, of_slot| {
            let before = of_slot.bytes;
            of_slot.trim(now, SLOT_BYTES_MAX);
            self.bytes.fetch_sub(before - of_slot.bytes, Ordering::Relaxed);
            // What was forgotten for want of room matters as long as a repetition of it may come.
            let recent = |at: MonoTime| now.saturating_since(at) <= KEPT_FOR;
            !of_slot.known.is_empty() || of_slot.forgotten.is_some_and(recent)
        });
    }

    /// All that a replica has to know beside the slot's entries.
    pub(super) fn encode(&self, slot: Slot, now: MonoTime) -> Bytes {
        let shard = self.shard(slot).lock();
        let Some(of_slot) = shard.get(&slot) else { return Bytes::new() };
        let mut out = Writer::with_capacity(of_slot.bytes);
        let age = |at: MonoTime| Some(now.saturating_since(at));
        out.duration_option(of_slot.forgotten.and_then(age));
        for (at, token) in &of_slot.order {
            if let Some(given) = of_slot.known.get(token) {
                out.duration_option(age(*at));
                out.u64(given.seq.0);
                out.u128(token.0);
                out.u64(given.purpose);
                out.bytes(&given.reply);
            }
        }
        out.finish()
    }

    /// Replaces a slot's answers by those that [`Answers::encode`] wrote; under the slot's lock.
    pub(super) fn install(&self, slot: Slot, read: Installed, now: MonoTime) {
        self.forget(slot);
        self.change(slot, |of_slot, room| {
            *of_slot = read.0;
            of_slot.trim(now, room);
        });
    }

    fn change(&self, slot: Slot, change: impl FnOnce(&mut OfSlot, usize)) {
        let mut shard = self.shard(slot).lock();
        let of_slot = shard.entry(slot).or_default();
        let before = of_slot.bytes;
        // Once all take more than they should, a slot with many makes room for its own.
        let share = (self.bytes_max / SLOT_COUNT).max(SLOT_BYTES_MIN);
        let room = if self.bytes() < self.bytes_max { SLOT_BYTES_MAX } else { before.max(share) };
        change(of_slot, room);
        self.bytes.fetch_add(of_slot.bytes.wrapping_sub(before), Ordering::Relaxed);
        if of_slot.known.is_empty() && of_slot.forgotten.is_none() {
            shard.remove(&slot);
        }
    }

    fn shard(&self, slot: Slot) -> &Mutex<BTreeMap<Slot, OfSlot>> {
        &self.shards[slot.index() % SHARDS]
    }
}

/// A slot's answers as they came with its snapshot.
#[derive(Debug, Default)]
pub(super) struct Installed(OfSlot);

impl Installed {
    /// Reads what [`Answers::encode`] wrote.
    ///
    /// # Errors
    /// When bytes are missing or left over.
    pub(super) fn decode(bytes: &Bytes, now: MonoTime) -> Result<Self, DecodeError> {
        let mut of_slot = OfSlot::default();
        if bytes.is_empty() {
            return Ok(Self(of_slot));
        }
        let since = |age| now.saturating_sub(age);
        let mut input = Reader::new(bytes);
        of_slot.forgotten = input.duration_option()?.map(since);
        while input.remaining() > 0 {
            let at = input.duration_option()?.map_or(now, since);
            let (seq, token) = (Seq(input.u64()?), Token(input.u128()?));
            let given = Given { seq, purpose: input.u64()?, reply: input.bytes()? };
            of_slot.add(token, given, at);
        }
        Ok(Self(of_slot))
    }
}

impl OfSlot {
    fn add(&mut self, token: Token, given: Given, at: MonoTime) {
        self.bytes += cost(&given);
        if let Some(old) = self.known.insert(token, given) {
            // Its place in the order stays.
            self.bytes -= cost(&old);
        } else {
            self.order.push_back((at, token));
        }
    }

    /// Drops what is too old, and the oldest while there are too many.
    fn trim(&mut self, now: MonoTime, bytes_max: usize) {
        while let Some(&(at, token)) = self.order.front() {
            let is_old = now.saturating_since(at) > KEPT_FOR;
            if !is_old && self.bytes <= bytes_max {
                break;
            }
            self.order.pop_front();
            self.bytes -= self.known.remove(&token).as_ref().map_or(0, cost);
            if !is_old {
                self.forgotten = self.forgotten.max(Some(at));
            }
        }
    }
}

fn cost(given: &Given) -> usize {
    given.reply.len() + OVERHEAD
}

#[cfg(test)]
mod tests {
    use super::*;

    /// So many answers of five bytes fit a slot.
    const FIT: u64 = (SLOT_BYTES_MAX / (OVERHEAD + 5)) as u64;

    fn slot() -> Slot {
        Slot::of_key(b"foo")
    }

    fn at(seconds: u64) -> MonoTime {
        MonoTime::ZERO + Duration::from_secs(seconds)
    }

    fn answer(number: u64, reply: usize) -> Answer {
        let token = Token(number.into());
        Answer { token, purpose: 7, reply: Bytes::from(vec![number as u8; reply]) }
    }

    fn find(answers: &Answers, number: u64, age: Option<u64>, now: u64) -> Known {
        let age = age.map(Duration::from_secs);
        answers.find(slot(), (Token(number.into()), 7), age, at(now))
    }

    fn given(answers: &Answers, number: u64, now: u64) -> Option<Seq> {
        match find(answers, number, None, now) {
            Known::Answered(given) => Some(given.seq),
            _ => None,
        }
    }

    #[test]
    fn an_answer_is_known_for_a_minute_and_then_it_is_too_late() {
        let answers = Answers::new(1 << 20);
        answers.keep(slot(), Seq(3), &answer(1, 5), at(10));
        assert_eq!(given(&answers, 1, 69), Some(Seq(3)));
        let other = answers.find(slot(), (Token(1), 8), None, at(69));
        assert_eq!(other, Known::Reused);
        // One that was never carried out: new while nothing can be forgotten, whether it comes for the first time or not.
        assert_eq!(find(&answers, 2, Some(40), 69), Known::New);
        assert_eq!(find(&answers, 2, None, 69), Known::New);
        (0..SHARDS).for_each(|_| answers.sweep(at(71)));
        assert_eq!((given(&answers, 1, 71), answers.bytes()), (None, 0));
        assert_eq!(find(&answers, 1, Some(61), 71), Known::TooLate);
    }

    #[test]
    fn what_was_forgotten_for_want_of_room_is_too_late() {
        let answers = Answers::new(1 << 20);
        for number in 0..FIT + 10 {
            answers.keep(slot(), Seq(number), &answer(number, 5), at(100));
        }
        assert_eq!(given(&answers, 9, 100), None);
        assert_eq!(given(&answers, 10, 100), Some(Seq(10)));
        assert_eq!(find(&answers, 9, Some(1), 101), Known::TooLate);
        assert_eq!(find(&answers, 9, Some(1), 112), Known::New, "begun after that");
        assert!(answers.bytes() <= SLOT_BYTES_MAX);
        let long = super::answer((Token(1), 7), Bytes::from(vec![0; REPLY_BYTES_MAX + 1]));
        assert_eq!((long.token, long.reply), (Token(1), Bytes::new()));
        answers.forget(slot());
        assert_eq!(answers.bytes(), 0);
    }

    #[test]
    fn all_slots_together_stay_within_their_share() {
        let answers = Answers::new(1 << 20);
        let slots: Vec<Slot> = Slot::all().take(100).collect();
        for number in 0..100_000_u64 {
            let slot = slots[number as usize % slots.len()];
            answers.keep(slot, Seq(number), &answer(number, 20), at(1));
        }
        assert!((1 << 19..(1 << 20) + 200 * OVERHEAD).contains(&answers.bytes()));
        let late = Slot::of_key(b"late");
        answers.keep(late, Seq(1), &answer(1, 20), at(1));
        assert_ne!(answers.find(late, (Token(1), 7), None, at(1)), Known::New);
    }

    #[test]
    fn another_node_knows_them_too() {
        let (mine, theirs) = (Answers::new(1 << 20), Answers::new(1 << 20));
        for number in 0..FIT + 1 {
            mine.keep(slot(), Seq(number), &answer(number, 5), at(100 + number / 1_000));
        }
        let bytes = mine.encode(slot(), at(120));
        theirs.keep(slot(), Seq(1), &answer(77_777, 9), at(3));
        let install = |bytes: &Bytes| {
            Installed::decode(bytes, at(20)).map(|read| theirs.install(slot(), read, at(20)))
        };
        install(&bytes).unwrap();
        assert_eq!(theirs.bytes(), mine.bytes());
        assert_eq!(given(&theirs, 77_777, 20), None, "they are replaced");
        assert_eq!(given(&theirs, 5, 20), Some(Seq(5)));
        assert_eq!(find(&theirs, 0, Some(15), 20), Known::TooLate);
        assert_eq!(given(&theirs, 5, 20 + 41), Some(Seq(5)));
        (0..SHARDS).for_each(|_| theirs.sweep(at(20 + 41)));
        assert_eq!(given(&theirs, 5, 20 + 41), None, "it is as old there as here");
        for cut in 1..200 {
            let read = Installed::decode(&bytes.slice(..cut), at(20));
            // Between two answers it cannot be told.
            assert!(read.is_err() || (cut - 8) % (8 + 8 + 16 + 8 + 4 + 5) == 0, "{cut}");
        }
        install(&Bytes::new()).unwrap();
        assert_eq!(theirs.bytes(), 0);
    }
}
