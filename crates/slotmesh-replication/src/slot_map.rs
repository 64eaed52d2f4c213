use slotmesh_slots::{SLOT_COUNT, Slot};

/// A map from slots to values that costs little when few slots are in it, looks up by two indexings and iterates in
/// slot order, the same on every run.
#[derive(Debug)]
pub(crate) struct SlotMap<T> {
    pages: Vec<Option<Box<[Option<T>]>>>,
}

impl<T> SlotMap<T> {
    pub(crate) fn new() -> Self {
        Self { pages: (0..SLOT_COUNT / PAGE).map(|_| None).collect() }
    }

    pub(crate) fn get(&self, slot: Slot) -> Option<&T> {
        self.pages[slot.index() / PAGE].as_ref()?[slot.index() % PAGE].as_ref()
    }

    pub(crate) fn get_mut(&mut self, slot: Slot) -> Option<&mut T> {
        self.pages[slot.index() / PAGE].as_mut()?[slot.index() % PAGE].as_mut()
    }

    pub(crate) fn insert(&mut self, slot: Slot, value: T) -> Option<T> {
        let page = self.pages[slot.index() / PAGE]
            .get_or_insert_with(|| (0..PAGE).map(|_| None).collect());
        page[slot.index() % PAGE].replace(value)
    }

    pub(crate) fn remove(&mut self, slot: Slot) -> Option<T> {
        self.pages[slot.index() / PAGE].as_mut()?[slot.index() % PAGE].take()
    }

    pub(crate) fn iter(&self) -> impl Iterator<Item = (Slot, &T)> {
        Slot::all().filter_map(|slot| Some((slot, self.get(slot)?)))
    }
}

/// Slots per page: a page of the usual values is about one memory page.
const PAGE: usize = 128;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keeps_the_first_and_the_last_slot_apart() {
        let (first, last) = (Slot::new(0).unwrap(), Slot::new(16_383).unwrap());
        let mut map = SlotMap::new();
        assert_eq!(map.insert(last, 'z'), None);
        assert_eq!(map.insert(first, 'a'), None);
        assert_eq!(map.insert(last, 'y'), Some('z'));
        assert!(map.iter().map(|(slot, &c)| (slot, c)).eq([(first, 'a'), (last, 'y')]));
        assert_eq!((map.remove(first), map.get(first)), (Some('a'), None));
        assert_eq!(map.get_mut(last), Some(&mut 'y'));
    }
}
