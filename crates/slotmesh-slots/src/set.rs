use std::fmt;

use serde::{Deserialize, Serialize};

use crate::codec::{DecodeError, Reader, Writer};
use crate::slot::{SLOT_COUNT, Slot};

const WORDS: usize = SLOT_COUNT / 64;

/// A set of slots as a 2 KiB bitmap; encodes as runs, so that ranges stay small on the wire.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(into = "Vec<(Slot, Slot)>", try_from = "Vec<(Slot, Slot)>")]
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

    /// Appends the set as a count of ranges and `(first, last)` pairs of `u16`.
    pub fn encode(&self, out: &mut Writer) {
        let ranges: Vec<_> = self.ranges().collect();
        out.u16(ranges.len() as u16);
        for (first, last) in ranges {
            out.u16(first.number());
            out.u16(last.number());
        }
    }

    /// Reads what [`SlotSet::encode`] wrote.
    ///
    /// # Errors
    /// When bytes are missing, a slot number is too high or a range runs backwards.
    pub fn decode(input: &mut Reader<'_>) -> Result<Self, DecodeError> {
        let count = input.u16()?;
        let ranges: Vec<_> = (0..count)
            .map(|_| Ok((input.slot()?, input.slot()?)))
            .collect::<Result<_, DecodeError>>()?;
        Self::try_from(ranges)
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

impl From<SlotSet> for Vec<(Slot, Slot)> {
    fn from(set: SlotSet) -> Self {
        set.ranges().collect()
    }
}

impl TryFrom<Vec<(Slot, Slot)>> for SlotSet {
    type Error = DecodeError;

    fn try_from(ranges: Vec<(Slot, Slot)>) -> Result<Self, DecodeError> {
        let mut set = Self::new();
        for (first, last) in ranges {
            if first > last {
                return Err(DecodeError::Invalid("slot range runs backwards"));
            }
            set.extend((first.number()..=last.number()).filter_map(Slot::new));
        }
        Ok(set)
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
            set.encode(&mut out);
            let bytes = out.finish();
            prop_assert_eq!(SlotSet::decode(&mut Reader::new(&bytes)).unwrap(), set);
        }
    }

    #[test]
    fn full_set_is_one_range() {
        let ranges: Vec<_> = SlotSet::full().ranges().collect();
        assert_eq!(ranges.len(), 1);
        assert_eq!(ranges[0].1.number(), 16_383);
    }

    #[test]
    fn backward_range_is_refused() {
        let mut out = Writer::new();
        out.u16(1);
        out.u16(9);
        out.u16(3);
        assert!(SlotSet::decode(&mut Reader::new(&out.finish())).is_err());
    }
}
