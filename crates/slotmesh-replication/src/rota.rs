use std::collections::BTreeSet;
use std::ops::Bound;

use slotmesh_slots::Slot;

/// A set of slots that are served in turn: no duplicates, so it is bounded, and no slot starves another.
#[derive(Debug, Default)]
pub(crate) struct Rota {
    slots: BTreeSet<Slot>,
    served: Option<Slot>,
}

impl Rota {
    pub(crate) fn insert(&mut self, slot: Slot) {
        self.slots.insert(slot);
    }

    pub(crate) fn remove(&mut self, slot: Slot) {
        self.slots.remove(&slot);
    }

    pub(crate) fn contains(&self, slot: Slot) -> bool {
        self.slots.contains(&slot)
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.slots.is_empty()
    }

    /// The slot after the one served last; it stays in the set.
    pub(crate) fn next(&mut self) -> Option<Slot> {
        let after = self.served.map_or(Bound::Unbounded, Bound::Excluded);
        let next = self.slots.range((after, Bound::Unbounded)).next().or(self.slots.first());
        self.served = next.copied();
        self.served
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn turns_go_round() {
        let [a, b, c] = [3, 7, 9].map(|number| Slot::new(number).unwrap());
        let mut rota = Rota::default();
        [b, a, c, a].into_iter().for_each(|slot| rota.insert(slot));
        assert_eq!([rota.next(), rota.next()], [Some(a), Some(b)]);
        rota.remove(b);
        assert_eq!([rota.next(), rota.next()], [Some(c), Some(a)]);
        [a, c].into_iter().for_each(|slot| rota.remove(slot));
        assert!(rota.is_empty() && rota.next().is_none());
    }
}
