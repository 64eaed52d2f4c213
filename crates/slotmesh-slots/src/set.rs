use std::fmt;

use serde::{Deserialize, Serialize};

use crate::codec::{DecodeError, Reader, Writer};
use crate::slot::{SLOT_COUNT, Slot};

const WORDS: usize = SLOT_COUNT / 64;

/// A set of slots as a 2 KiB bitmap.
#[derive(Clone, PartialEq, Eq)]
pub struct SlotSet(Box<[u64; WORDS]>);

impl SlotSet {
    /// The empty set.
    #[must_use]
    pub fn new() -> Self {
        Self(Box::new([0; WORDS]))
    }

    /// The set of all slots.
    #[must_use]
    pub fn full() -> Self {
        Self(Box::new([u64::MAX; WORDS]))
    }

    /// Adds a slot; false when it was in the set already.
    pub fn insert(&mut self, slot: Slot) -> bool {
        let (word, bit) = place(slot);
        let added = self.0[word] & bit == 0;
        self.0[word] |= bit;
        added
    }

    /// Takes a slot out; false when it was not in the set.
    pub fn remove(&mut self, slot: Slot) -> bool {
        let (word, bit) = place(slot);
        let removed = self.0[word] & bit != 0;
        self.0[word] &= !bit;
        removed
    }

    /// Whether the slot is in the set.
    #[must_use]
    pub fn contains(&self, slot: Slot) -> bool {
        let (word, bit) = place(slot);
        self.0[word] & bit != 0
    }

    /// Number of slots in the set.
    #[must_use]
    pub fn len(&self) -> usize {
        self.0.iter().map(|word| word.count_ones() as usize).sum()
    }

    /// Whether no slot is in the set.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.0.iter().all(|&word| word == 0)
    }

    /// The slots of the set in ascending order.
    pub fn iter(&self) -> impl Iterator<Item = Slot> + '_ {
        self.0.iter().enumerate().flat_map(|(word, &bits)| Bits { word, bits })
    }

    /// The set as inclusive ranges in ascending order, as `CLUSTER SLOTS` shows them.
    pub fn ranges(&self) -> impl Iterator<Item = (Slot, Slot)> + '_ {
        let mut from = 0;
        std::iter::from_fn(move || {
            let first = self.next_where(from, true)?;
            from = self.next_where(first, false).unwrap_or(SLOT_COUNT);
            Some((slot_at(first)?, slot_at(from - 1)?))
        })
    }

    /// The first place from this one on that is in the set, or that is not.
    fn next_where(&self, from: usize, contained: bool) -> Option<usize> {
        let seen = |word: usize| if contained { self.0[word] } else { !self.0[word] };
        let mut word = from / 64;
        let mut bits = seen(word.min(WORDS - 1)) & (u64::MAX << (from % 64));
        while word < WORDS {
            if bits != 0 {
                return Some(word * 64 + bits.trailing_zeros() as usize);
            }
            word += 1;
            bits = seen(word.min(WORDS - 1));
        }
        None
    }
}

/// A set of slots as inclusive ranges in ascending order: small, also on the wire, where there are few of them.
#[derive(Clone, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
#[serde(into = "Vec<(Slot, Slot)>", try_from = "Vec<(Slot, Slot)>")]
pub struct SlotRanges(Vec<(Slot, Slot)>);

impl SlotRanges {
    /// Adds a slot above all others of the set; false, and no change, where it is none.
    pub fn push(&mut self, slot: Slot) -> bool {
        match self.0.last_mut() {
            Some((_, last)) if slot <= *last => return false,
            Some((_, last)) if slot.number() == last.number() + 1 => *last = slot,
            _ => self.0.push((slot, slot)),
        }
        true
    }

    /// The slots in ascending order.
    pub fn iter(&self) -> impl Iterator<Item = Slot> + '_ {
        self.0
            .iter()
            .flat_map(|(first, last)| (first.number()..=last.number()).filter_map(Slot::new))
    }

    /// How many ranges it takes.
    #[must_use]
    pub fn range_count(&self) -> usize {
        self.0.len()
    }

    /// Appends the set as a count of ranges and `(first, last)` pairs of `u16`.
    pub fn encode(&self, out: &mut Writer) {
        out.u16(self.0.len() as u16);
        for (first, last) in &self.0 {
            out.u16(first.number());
            out.u16(last.number());
        }
    }

    /// Reads what [`SlotRanges::encode`] wrote.
    ///
    /// # Errors
    /// When bytes are missing, a slot number is too high, or a range runs backwards or does not lie behind the one before.
    pub fn decode(input: &mut Reader<'_>) -> Result<Self, DecodeError> {
        let count = input.u16()?;
        let ranges: Vec<_> = (0..count)
            .map(|_| Ok((input.slot()?, input.slot()?)))
            .collect::<Result<_, DecodeError>>()?;
        Self::try_from(ranges)
    }
}

impl From<SlotRanges> for Vec<(Slot, Slot)> {
    fn from(ranges: SlotRanges) -> Self {
        ranges.0
    }
}

impl TryFrom<Vec<(Slot, Slot)>> for SlotRanges {
    type Error = DecodeError;

    fn try_from(ranges: Vec<(Slot, Slot)>) -> Result<Self, DecodeError> {
        let bounds = ranges.iter().flat_map(|(first, last)| [first, last]);
        let ascend =
            ranges.iter().zip(ranges.iter().skip(1)).all(|((_, last), (first, _))| last < first);
        if bounds.is_sorted() && ascend {
            Ok(Self(ranges))
        } else {
            Err(DecodeError::Invalid("slot ranges"))
        }
    }
}

impl Default for SlotSet {
    fn default() -> Self {
        Self::new()
    }
}

impl Extend<Slot> for SlotSet {
    fn extend<I: IntoIterator<Item = Slot>>(&mut self, slots: I) {
        for slot in slots {
            self.insert(slot);
        }
    }
}

impl FromIterator<Slot> for SlotSet {
    fn from_iter<I: IntoIterator<Item = Slot>>(slots: I) -> Self {
        let mut set = Self::new();
        set.extend(slots);
        set
    }
}

impl fmt::Debug for SlotSet {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_list().entries(self.ranges().map(|(a, b)| (a.number(), b.number()))).finish()
    }
}

/// The slots of one word of the map: sets are mostly empty, or runs, and iterated often.
struct Bits {
    word: usize,
    bits: u64,
}

impl Iterator for Bits {
    type Item = Slot;

    fn next(&mut self) -> Option<Slot> {
        let lowest = self.bits.trailing_zeros() as usize;
        // Of no bits there is no lowest one to clear.
        self.bits &= self.bits.wrapping_sub(1);
        (lowest < 64).then(|| slot_at(self.word * 64 + lowest)).flatten()
    }
}

fn slot_at(index: usize) -> Option<Slot> {
    Slot::new(u16::try_from(index).ok()?)
}

const fn place(slot: Slot) -> (usize, u64) {
    (slot.index() / 64, 1 << (slot.index() % 64))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn behaves_like_a_tree_set_and_survives_the_wire(numbers in proptest::collection::vec(0u16..16384, 0..300)) {
            let model: std::collections::BTreeSet<_> = numbers.iter().filter_map(|&n| Slot::new(n)).collect();
            let set: SlotSet = model.iter().copied().collect();
            prop_assert_eq!(set.len(), model.len());
            prop_assert!(set.iter().eq(model.iter().copied()));
            let ranges = || set.ranges().map(|(first, last)| first.number()..=last.number());
            prop_assert!(ranges().flatten().eq(model.iter().map(|slot| slot.number())));
            let apart = ranges().zip(ranges().skip(1)).all(|(a, b)| a.end() + 1 < *b.start());
            prop_assert!(apart, "ranges that touch are one");
            let mut out = Writer::new();
            SlotRanges(set.ranges().collect()).encode(&mut out);
            let bytes = out.finish();
            let decoded = SlotRanges::decode(&mut Reader::new(&bytes)).unwrap();
            prop_assert_eq!(decoded.iter().collect::<SlotSet>(), set);
        }
    }

    #[test]
    fn full_set_is_one_range() {
        let ranges: Vec<_> = SlotSet::full().ranges().collect();
        assert_eq!(ranges.len(), 1);
        assert_eq!(ranges[0].1.number(), 16_383);
    }

    #[test]
    fn ranges_that_do_not_ascend_are_refused() {
        let decoded = |ranges: &[(u16, u16)]| {
            let mut out = Writer::new();
            out.u16(ranges.len() as u16);
            ranges.iter().for_each(|(first, last)| {
                out.u16(*first);
                out.u16(*last);
            });
            SlotRanges::decode(&mut Reader::new(&out.finish())).map(|set| set.iter().count())
        };
        assert_eq!(decoded(&[(3, 9), (10, 10), (16_383, 16_383)]), Ok(9));
        for bad in [vec![(9, 3)], vec![(5, 9), (1, 3)], vec![(1, 5), (5, 9)], vec![(0, 16_384)]] {
            assert!(decoded(&bad).is_err(), "{bad:?}");
        }
    }
}
