use ahash::RandomState;
use slotmesh_arena::{Arena, Owner};
use slotmesh_slots::Slot;

use crate::pages::{position, tag};

/// What the entries of a slot need of their store.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Home<'a> {
    pub(crate) arena: &'a Arena,
    pub(crate) hasher: &'a RandomState,
    pub(crate) slot: Slot,
}

/// Where memory of a page comes from, and how the page will be found.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Site<'a> {
    pub(crate) arena: &'a Arena,
    pub(crate) owner: Owner,
}

impl<'a> Home<'a> {
    pub(crate) fn hash(&self, key: &[u8]) -> u64 {
        self.hasher.hash_one(key)
    }

    /// For the page that has this position: it has it as long as it keeps the memory.
    pub(crate) fn site(&self, position: u32) -> Site<'a> {
        let resident = Resident { slot: self.slot, position, tag: None };
        Site { arena: self.arena, owner: resident.owner() }
    }

    /// The owner of a large value whose key has this hash.
    pub(crate) fn blob_owner(&self, hash: u64) -> Owner {
        let (position, tag) = (position(hash), Some(tag(hash)));
        Resident { slot: self.slot, position, tag }.owner()
    }
}

/// Whose a block of the arena is: a page's with this position, or the value's of an entry in it with this tag.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Resident {
    pub(crate) slot: Slot,
    pub(crate) position: u32,
    pub(crate) tag: Option<u16>,
}

const SLOT_BITS: u32 = 14;
const TAG_BITS: u32 = u16::BITS;

impl Resident {
    // The slot comes first: the arena spreads owners by their lowest bits.
    fn owner(self) -> Owner {
        let (is_blob, tag) = self.tag.map_or((0, 0), |tag| (1, tag));
        let rest = (u64::from(self.position) << TAG_BITS | u64::from(tag)) << 1 | is_blob;
        Owner::new(rest << SLOT_BITS | u64::from(self.slot.number()))
    }

    pub(crate) fn of(owner: Owner) -> Option<Self> {
        let (slot, rest) = (owner.number() % (1 << SLOT_BITS), owner.number() >> SLOT_BITS);
        let tag = (rest & 1 == 1).then_some((rest >> 1) as u16);
        let position = (rest >> (1 + TAG_BITS)) as u32;
        Some(Self { slot: Slot::new(slot as u16)?, position, tag })
    }
}

/// A home without a store, for tests of what lies in one.
#[cfg(test)]
#[derive(Debug)]
pub(crate) struct TestHome {
    arena: Arena,
    hasher: RandomState,
}

#[cfg(test)]
impl TestHome {
    pub(crate) fn new() -> Self {
        Self { arena: Arena::new(), hasher: RandomState::with_seeds(1, 2, 3, 4) }
    }

    pub(crate) fn get(&self) -> Home<'_> {
        Home { arena: &self.arena, hasher: &self.hasher, slot: Slot::of_key(b"k") }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn owners_come_back() {
        for slot in [0, 1, 16_383] {
            for position in [0, 1, u32::MAX] {
                for tag in [None, Some(0), Some(1), Some(u16::MAX)] {
                    let resident = Resident { slot: Slot::new(slot).unwrap(), position, tag };
                    assert_eq!(Resident::of(resident.owner()), Some(resident));
                }
            }
        }
    }
}
