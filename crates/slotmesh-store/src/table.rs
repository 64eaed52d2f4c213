use std::num::NonZero;

use ahash::RandomState;

use crate::entry::{DISPLACEMENT_MAX, Stored};

/// Places of the smallest table that is not empty.
const PLACES_MIN: usize = 4;

/// The entries of a slot in one array, each of a cache line's size: a lookup misses the cache once for the place and once for the
/// key, where a table with its control bytes apart misses once more.
///
/// Linear probing with Robin Hood order (Celis, Larson and Munro 1985): along a run of entries the distance to where each
/// belongs is what an earlier one of the run has, or more, so a lookup that has come further than the entry it looks at
/// ends. An entry carries that distance and eight bits of its hash, so keys are compared only when they are likely equal.
/// Removing moves the rest of the run one place back; there are no graves.
#[derive(Debug, Default)]
pub(crate) struct Table {
    places: Vec<Option<Stored>>,
    len: usize,
}

impl Table {
    pub(crate) fn len(&self) -> usize {
        self.len
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// How many places there are, taken or not.
    pub(crate) fn places(&self) -> usize {
        self.places.len()
    }

    /// How many entries fit before the table grows.
    pub(crate) fn capacity(&self) -> usize {
        room(self.places.len())
    }

    /// What is at a place.
    pub(crate) fn at(&self, place: usize) -> Option<&Stored> {
        self.places.get(place)?.as_ref()
    }

    pub(crate) fn iter(&self) -> impl Iterator<Item = &Stored> {
        self.places.iter().flatten()
    }

    pub(crate) fn find(&self, hash: u64, key: &[u8]) -> Option<&Stored> {
        self.at(self.position(hash, key)?)
    }

    pub(crate) fn find_mut(&mut self, hash: u64, key: &[u8]) -> Option<&mut Stored> {
        let place = self.position(hash, key)?;
        self.places[place].as_mut()
    }

    /// Adds an entry whose key is not there. Calls `moved` for each entry that has another place afterwards; when the
    /// number of places changes, all have.
    pub(crate) fn insert(
        &mut self,
        hash: u64,
        mut entry: Stored,
        hasher: &RandomState,
        mut moved: impl FnMut(&Stored),
    ) {
        if self.len >= self.capacity() {
            self.resize(self.places.len() + self.places.len() / 2, hasher);
        }
        entry.set_tag(tag(hash));
        let mut home = home(hash, self.places.len());
        while let Err(homeless) = self.settle(home, entry, &mut moved) {
            // A run so long is next to impossible below the load that makes tables grow.
            self.resize(self.places.len() * 2, hasher);
            entry = homeless;
            home = self::home(hasher.hash_one(entry.key()), self.places.len());
        }
        self.len += 1;
    }

    /// Takes an entry out. Calls `moved` as [`Table::insert`] does.
    pub(crate) fn remove(
        &mut self,
        hash: u64,
        key: &[u8],
        mut moved: impl FnMut(&Stored),
    ) -> Option<Stored> {
        let mut hole = self.position(hash, key)?;
        let removed = self.places[hole].take();
        self.len -= 1;
        loop {
            let next = self.after(hole);
            let follows = self.places[next].as_ref().is_some_and(|entry| entry.displacement() > 0);
            if !follows {
                return removed;
            }
            self.places.swap(hole, next);
            if let Some(entry) = &mut self.places[hole] {
                entry.set_displacement(entry.displacement() - 1);
                moved(entry);
            }
            hole = next;
        }
    }

    /// Makes room for so many entries in all.
    pub(crate) fn reserve(&mut self, entries: usize, hasher: &RandomState) {
        if entries > self.capacity() {
            self.resize(places_for(entries), hasher);
        }
    }

    /// Gives room back that more than so many entries would take.
    pub(crate) fn shrink_to(&mut self, entries: usize, hasher: &RandomState) {
        let places = places_for(entries.max(self.len));
        if places < self.places.len() {
            self.resize(places, hasher);
        }
    }

    fn position(&self, hash: u64, key: &[u8]) -> Option<usize> {
        if self.places.is_empty() {
            return None;
        }
        let (mut place, tag) = (home(hash, self.places.len()), tag(hash));
        for distance in 0..=DISPLACEMENT_MAX {
            let entry = self.places[place].as_ref()?;
            let displacement = entry.displacement();
            if displacement < distance {
                return None;
            }
            if displacement == distance && entry.tag() == tag && entry.key() == key {
                return Some(place);
            }
            place = self.after(place);
        }
        None
    }

    fn after(&self, place: usize) -> usize {
        if place + 1 == self.places.len() { 0 } else { place + 1 }
    }

    /// Puts an entry into the run of its home; whoever is nearer to its own home makes place. The entry that came too far
    /// from its home, if one did.
    fn settle(
        &mut self,
        home: usize,
        mut entry: Stored,
        moved: &mut impl FnMut(&Stored),
    ) -> Result<(), Stored> {
        let mut place = home;
        entry.set_displacement(0);
        loop {
            match &mut self.places[place] {
                free @ None => {
                    *free = Some(entry);
                    return Ok(());
                }
                Some(there) => {
                    if there.displacement() < entry.displacement() {
                        std::mem::swap(there, &mut entry);
                        moved(&entry);
                    }
                }
            }
            if entry.displacement() == DISPLACEMENT_MAX {
                return Err(entry);
            }
            entry.set_displacement(entry.displacement() + 1);
            place = self.after(place);
        }
    }

    fn resize(&mut self, places: usize, hasher: &RandomState) {
        let mut places = places.max(PLACES_MIN);
        let mut homeless: Vec<Stored> = Vec::new();
        let mut old = std::mem::take(&mut self.places).into_iter().flatten();
        self.places = empty(places);
        while let Some(entry) = homeless.pop().or_else(|| old.next()) {
            let home = home(hasher.hash_one(entry.key()), self.places.len());
            if let Err(entry) = self.settle(home, entry, &mut |_| ()) {
                places *= 2;
                homeless.push(entry);
                homeless.extend(
                    std::mem::replace(&mut self.places, empty(places)).into_iter().flatten(),
                );
            }
        }
    }
}

fn empty(places: usize) -> Vec<Option<Stored>> {
    std::iter::repeat_with(|| None).take(places).collect()
}

/// Four fifths may be taken: above that runs grow long, below it room is wasted.
const fn room(places: usize) -> usize {
    places * 4 / 5
}

const fn places_for(entries: usize) -> usize {
    (entries * 5).div_ceil(4)
}

/// Where an entry belongs: the upper half of its hash, scaled.
const fn home(hash: u64, places: usize) -> usize {
    (((hash >> 32) * places as u64) >> 32) as usize
}

/// Bits of the hash that say nothing of the home.
fn tag(hash: u64) -> NonZero<u8> {
    NonZero::new(hash as u8).unwrap_or(NonZero::<u8>::MIN)
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use bytes::Bytes;
    use proptest::prelude::*;
    use slotmesh_slots::Version;

    use super::*;
    use crate::entry::NEVER;

    fn entry(key: &[u8], value: u8) -> Stored {
        Stored::new(key, &Bytes::from(vec![value]), Version::default(), NEVER)
    }

    /// The order of the runs, and that nothing is lost from sight.
    fn check(table: &Table, model: &BTreeMap<Vec<u8>, u8>, hasher: &RandomState) {
        assert_eq!(table.len(), model.len());
        assert!(table.len() <= table.capacity());
        for (key, value) in model {
            let found = table.find(hasher.hash_one(&key[..]), key).map(Stored::value);
            assert_eq!(found.as_deref(), Some(&[*value][..]));
        }
        for place in 0..table.places() {
            let Some(entry) = table.at(place) else { continue };
            let home = home(hasher.hash_one(entry.key()), table.places());
            let distance = (place + table.places() - home) % table.places();
            assert_eq!(distance, usize::from(entry.displacement()));
        }
    }

    proptest! {
        #[test]
        fn it_is_a_map(steps in proptest::collection::vec((0_u8..4, 0_u16..300), 0..2_000)) {
            let hasher = RandomState::with_seeds(1, 2, 3, 4);
            let (mut table, mut model) = (Table::default(), BTreeMap::new());
            for (step, number) in steps {
                let key = number.to_be_bytes().to_vec();
                let hash = hasher.hash_one(&key[..]);
                if step == 0 {
                    let removed = table.remove(hash, &key, |_| ());
                    prop_assert_eq!(removed.is_some(), model.remove(&key).is_some());
                } else if let Some(there) = table.find_mut(hash, &key) {
                    *there = { let mut new = entry(&key, step); new.take_place_of(there); new };
                    model.insert(key, step);
                } else {
                    table.insert(hash, entry(&key, step), &hasher, |_| ());
                    model.insert(key, step);
                }
            }
            check(&table, &model, &hasher);
            table.shrink_to(0, &hasher);
            check(&table, &model, &hasher);
            table.reserve(500, &hasher);
            check(&table, &model, &hasher);
            prop_assert_eq!(table.iter().count(), model.len());
        }

        #[test]
        fn what_moved_is_told(numbers in proptest::collection::vec(0_u16..60, 0..200)) {
            let hasher = RandomState::with_seeds(1, 2, 3, 4);
            let mut table = Table::default();
            for number in numbers {
                let key = number.to_be_bytes();
                let hash = hasher.hash_one(&key[..]);
                let before: Vec<_> = places(&table);
                let mut told = Vec::new();
                if table.remove(hash, &key, |entry| told.push(entry.key_handle())).is_none() {
                    let moved = |entry: &Stored| told.push(entry.key_handle());
                    table.insert(hash, entry(&key, 0), &hasher, moved);
                }
                let after = places(&table);
                if before.len() != after.len() {
                    continue;
                }
                for (place, there) in before.iter().enumerate() {
                    let Some(there) = there.as_ref().filter(|there| there[..] != key) else { continue };
                    prop_assert!(after[place].as_ref() == Some(there) || told.contains(there));
                }
            }
        }
    }

    fn places(table: &Table) -> Vec<Option<Bytes>> {
        (0..table.places()).map(|place| table.at(place).map(Stored::key_handle)).collect()
    }

    #[test]
    fn equal_hashes_are_told_apart_by_their_keys() {
        let hasher = RandomState::with_seeds(1, 2, 3, 4);
        let mut table = Table::default();
        table.reserve(80, &hasher);
        for key in 0..20_u8 {
            table.insert(7 << 40, entry(&[key], key), &hasher, |_| ());
        }
        for key in 0..20_u8 {
            assert_eq!(table.find(7 << 40, &[key]).map(Stored::value).as_deref(), Some(&[key][..]));
        }
        assert!(table.find(7 << 40, b"other").is_none());
    }
}
