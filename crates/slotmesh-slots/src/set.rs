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
        Slot::all().filter(|&slot| self.contains(slot))
    }

    /// The set as inclusive ranges in ascending order, as `CLUSTER SLOTS` shows them.
    pub fn ranges(&self) -> impl Iterator<Item = (Slot, Slot)> + '_ {
        let mut slots = self.iter().peekable();
        std::iter::from_fn(move || {
            let first = slots.next()?;
            let mut last = first;
            while let Some(next) = slots.next_if(|next| next.number() == last.number() + 1) {
                last = next;
            }
            Some((first, last))
        })
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
