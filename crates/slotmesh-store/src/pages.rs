use slotmesh_slots::{MonoTime, Version};

use crate::blob::Blob;
use crate::directory::Directory;
use crate::entry::{NewEntry, NewValue, Stored};
use crate::home::Home;
use crate::page::Page;

/// The entries of a slot: one page while they fit, else pages by the upper bits of the keys' hashes.
///
/// A **position** is the upper half of a hash. Every page has a range of them, and an entry keeps its position for good, so a walk
/// that remembers how far it came misses nothing that was there all the time, however pages split and merge meanwhile.
#[derive(Debug)]
pub(crate) enum Pages {
    One(Page),
    Many(Box<Directory>),
}

impl Default for Pages {
    fn default() -> Self {
        Self::One(Page::default())
    }
}

/// Beyond this a slot has several pages: looking into one is faster, and it costs no more than a copy of so much at a time.
const ONLY_PAGE_BYTES_MAX: usize = 16 << 10;

/// Where an entry is, until something is inserted or removed.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Place {
    position: u32,
    at: usize,
}

/// Half of the hash says which page, bits of the other half where in it.
pub(crate) const fn position(hash: u64) -> u32 {
    (hash >> 32) as u32
}

pub(crate) const fn tag(hash: u64) -> u16 {
    hash as u16
}

impl Pages {
    pub(crate) fn len(&self) -> usize {
        match self {
            Self::One(page) => page.len(),
            Self::Many(directory) => directory.len(),
        }
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Memory beside this header.
    pub(crate) fn footprint(&self) -> usize {
        match self {
            Self::One(page) => page.footprint(),
            Self::Many(directory) => directory.footprint(),
        }
    }

    /// Of what is never evicted, in [`STATE_UNIT`](crate::entry::STATE_UNIT).
    pub(crate) fn state_units(&self) -> u64 {
        match self {
            Self::One(page) => page.state_units(),
            Self::Many(directory) => directory.state_units(),
        }
    }

    pub(crate) fn iter(&self) -> impl Iterator<Item = Stored<'_>> {
        let pages = match self {
            Self::One(page) => std::slice::from_ref(page),
            Self::Many(directory) => directory.pages(),
        };
        pages.iter().flat_map(Page::iter)
    }

    #[inline]
    pub(crate) fn find(&self, hash: u64, key: &[u8]) -> Option<Stored<'_>> {
        let page = self.page(position(hash));
        page.entry(page.find(tag(hash), key)?)
    }

    /// Finds an entry and notes the use.
    #[inline]
    pub(crate) fn find_and_touch(&mut self, hash: u64, key: &[u8]) -> Option<Stored<'_>> {
        self.page_mut(position(hash)).find_and_touch(tag(hash), key)
    }

    /// See [`Page::prefetch_index`].
    #[inline]
    pub(crate) fn prefetch_index(&self, hash: u64) {
        self.page(position(hash)).prefetch_index(tag(hash));
    }

    /// See [`Page::prefetch_entry`].
    #[inline]
    pub(crate) fn prefetch_entry(&self, hash: u64) -> usize {
        self.page(position(hash)).prefetch_entry(tag(hash))
    }

    /// As [`Pages::find_and_touch`] once [`Pages::prefetch_entry`] said where to begin.
    #[inline]
    pub(crate) fn find_and_touch_from(
        &mut self,
        first: usize,
        hash: u64,
        key: &[u8],
    ) -> Option<Stored<'_>> {
        self.page_mut(position(hash)).find_and_touch_from(first, tag(hash), key)
    }

    #[inline]
    pub(crate) fn place(&self, hash: u64, key: &[u8]) -> Option<Place> {
        let position = position(hash);
        Some(Place { position, at: self.page(position).find(tag(hash), key)? })
    }

    #[inline]
    pub(crate) fn at(&self, place: Place) -> Option<Stored<'_>> {
        self.page(place.position).entry(place.at)
    }

    /// The bytes of the entry at the place and what follows in its page; they must keep its key and size.
    #[inline]
    pub(crate) fn entry_bytes_mut(&mut self, place: Place) -> Option<&mut [u8]> {
        self.page_mut(place.position).entry_bytes_mut(place.at)
    }

    /// The page with this position, and the first position behind its range, if any is.
    #[inline]
    pub(crate) fn page_at(&self, position: u32) -> (&Page, Option<u32>) {
        match self {
            Self::One(page) => (page, None),
            Self::Many(directory) => directory.page_at(position),
        }
    }

    /// The first position of the page with this one.
    pub(crate) fn page_start(&self, position: u32) -> u32 {
        match self {
            Self::One(_) => 0,
            Self::Many(directory) => directory.page_start(position),
        }
    }

    /// As [`Pages::page_at`]; what is done to the page changes neither its entries' number nor its size.
    #[inline]
    pub(crate) fn page_at_mut(&mut self, position: u32) -> (&mut Page, Option<u32>) {
        match self {
            Self::One(page) => (page, None),
            Self::Many(directory) => directory.page_at_mut(position),
        }
    }

    /// Adds an entry whose key is not there.
    pub(crate) fn insert(&mut self, hash: u64, new: NewEntry<'_>, home: Home<'_>) {
        let (position, size) = (position(hash), new.size());
        loop {
            let bytes_max = self.page_bytes_max(position);
            if self.change(position, |page| page.make_room(size, bytes_max, home.site(position))) {
                break;
            }
            self.split(position, home);
        }
        self.change(position, |page| page.insert(tag(hash), new));
    }

    /// Puts another entry with the same key in an entry's place; the blob of the old one, if it had one.
    #[inline]
    pub(crate) fn replace(
        &mut self,
        place: Place,
        hash: u64,
        new: NewEntry<'_>,
        home: Home<'_>,
    ) -> Option<Blob> {
        let size = self.at(place)?.size();
        if size == new.size() {
            return self.change(place.position, |page| page.replace(place.at, new));
        }
        let blob = self.take(place);
        self.insert(hash, new, home);
        self.shrink(place, home);
        blob
    }

    /// Takes an entry out; its blob, if it had one.
    pub(crate) fn remove(&mut self, place: Place, home: Home<'_>) -> Option<Blob> {
        let blob = self.take(place);
        self.shrink(place, home);
        blob
    }

    /// Joins the page of a position with its neighbours while they are small.
    pub(crate) fn merge(&mut self, position: u32, home: Home<'_>) {
        if let Self::Many(directory) = self {
            directory.merge(position, home);
            if let Some(page) = directory.take_last() {
                *self = Self::One(page);
            }
        }
    }

    /// Changes when an entry expires, and its version.
    pub(crate) fn redate(
        &mut self,
        place: Place,
        hash: u64,
        (version, deadline): (Version, MonoTime),
        home: Home<'_>,
    ) {
        if self.page_mut(place.position).redate(place.at, version, deadline) {
            return;
        }
        let Some(stored) = self.at(place) else { return };
        let (usage, class) = (stored.usage(), stored.class());
        let key = stored.key().to_vec();
        // A large value moves without being copied.
        let in_page = stored.blob_place().is_none().then(|| stored.value_bytes().to_vec());
        let value = match (&in_page, self.take(place)) {
            (None, Some(blob)) => NewValue::Blob(blob),
            (value, _) => NewValue::Inline(value.as_deref().unwrap_or_default()),
        };
        self.insert(hash, NewEntry { key: &key, value, version, deadline, usage, class }, home);
        self.shrink(place, home);
    }

    /// Recounts what is kept incrementally and names the first difference.
    pub(crate) fn check(&self, home: Home<'_>) -> Result<(), &'static str> {
        match self {
            Self::One(page) => page.check()?,
            Self::Many(directory) => {
                directory.check(|stored| position(home.hash(stored.key())))?;
            }
        }
        let found = |stored: Stored<'_>| {
            let hash = home.hash(stored.key());
            self.find(hash, stored.key()).is_some_and(|found| found.version() == stored.version())
        };
        if self.iter().all(found) { Ok(()) } else { Err("an entry is not found by its key") }
    }

    fn shrink(&mut self, place: Place, home: Home<'_>) {
        self.change(place.position, |page| page.shrink(home.site(place.position)));
    }

    fn take(&mut self, place: Place) -> Option<Blob> {
        self.change(place.position, |page| page.remove(place.at))
    }

    #[inline]
    fn page(&self, position: u32) -> &Page {
        self.page_at(position).0
    }

    #[inline]
    fn page_mut(&mut self, position: u32) -> &mut Page {
        self.page_at_mut(position).0
    }

    pub(crate) fn change<R>(&mut self, position: u32, change: impl FnOnce(&mut Page) -> R) -> R {
        match self {
            Self::One(page) => change(page),
            Self::Many(directory) => directory.change(position, change),
        }
    }

    /// How large the page of a position may become before it is split.
    fn page_bytes_max(&self, position: u32) -> usize {
        match self {
            Self::One(_) => ONLY_PAGE_BYTES_MAX,
            Self::Many(directory) => directory.page_bytes_max(position),
        }
    }

    fn split(&mut self, position: u32, home: Home<'_>) {
        if let Self::One(page) = self {
            *self = Self::Many(Box::new(Directory::new(std::mem::take(page))));
        }
        if let Self::Many(directory) = self {
            directory.split(position, home);
        }
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use bytes::Bytes;
    use proptest::prelude::*;
    use slotmesh_slots::{Epoch, Seq, Version};

    use super::*;
    use crate::entry::NEVER;
    use crate::home::TestHome;

    /// Pages and what they should hold.
    struct Checked {
        pages: Pages,
        home: TestHome,
        model: BTreeMap<Vec<u8>, (Bytes, u64, MonoTime)>,
        seq: u64,
    }

    impl Checked {
        fn new() -> Self {
            let home = TestHome::new();
            Self { pages: Pages::default(), home, model: BTreeMap::new(), seq: 0 }
        }

        fn place(&self, key: &[u8]) -> (u64, Option<Place>) {
            let hash = self.home.get().hash(key);
            (hash, self.pages.place(hash, key))
        }

        fn put(&mut self, key: &[u8], value: Bytes, deadline: MonoTime) {
            self.seq += 1;
            let (hash, place) = self.place(key);
            let version = Version::new(Epoch(1), Seq(self.seq));
            let home = self.home.get();
            let new = NewEntry::new((home, hash), (key, &value), version, deadline);
            assert_eq!(place.is_some(), self.model.contains_key(key));
            match place {
                Some(place) => drop(self.pages.replace(place, hash, new, home)),
                None => self.pages.insert(hash, new, home),
            }
            self.model.insert(key.to_vec(), (value, self.seq, deadline));
        }

        fn remove(&mut self, key: &[u8]) {
            let (hash, place) = self.place(key);
            assert_eq!(place.is_some(), self.model.remove(key).is_some());
            if let (hash, Some(place)) = (hash, place) {
                let home = self.home.get();
                drop(self.pages.remove(place, home));
                self.pages.merge(position(hash), home);
            }
        }

        fn redate(&mut self, key: &[u8], deadline: MonoTime) {
            // Also by more than a short head has room for.
            self.seq += if self.seq.is_multiple_of(97) { 1 << 34 } else { 1 };
            if let (hash, Some(place)) = self.place(key) {
                let version = Version::new(Epoch(1), Seq(self.seq));
                self.pages.redate(place, hash, (version, deadline), self.home.get());
                let known = self.model.get_mut(key).unwrap();
                (known.1, known.2) = (self.seq, deadline);
            }
        }

        fn check(&self) {
            self.pages.check(self.home.get()).unwrap();
            assert_eq!(self.pages.len(), self.model.len());
            for (key, (value, seq, deadline)) in &self.model {
                let stored = self.pages.find(self.home.get().hash(key), key).unwrap();
                assert_eq!((stored.key(), &stored.value()), (&key[..], value));
                assert_eq!((stored.version().seq.0, stored.expires_at()), (*seq, *deadline));
            }
        }

        fn page_count(&self) -> usize {
            match &self.pages {
                Pages::One(_) => 1,
                Pages::Many(directory) => directory.pages().len(),
            }
        }
    }

    fn key(number: u16) -> Vec<u8> {
        // One in sixteen too long for its page.
        let len = if number.is_multiple_of(16) { 700 } else { 3 + usize::from(number % 20) };
        [&number.to_le_bytes()[..], &vec![b'k'; len]].concat()
    }

    fn value(size: u16) -> Bytes {
        Bytes::from(vec![size as u8; usize::from(size) % 900])
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(64))]
        #[test]
        fn they_hold_what_a_map_holds(
            steps in prop::collection::vec((0..8_u8, 0..400_u16, any::<u16>()), 1..1_500)
        ) {
            let mut checked = Checked::new();
            for (kind, number, argument) in steps {
                let key = key(number);
                let deadline = MonoTime::from_micros(u64::from(argument));
                match kind {
                    0..=2 => checked.put(&key, value(argument), NEVER),
                    3 => checked.put(&key, value(argument), deadline),
                    4 => checked.redate(&key, deadline),
                    5 => checked.redate(&key, NEVER),
                    _ => checked.remove(&key),
                }
            }
            checked.check();
        }
    }

    #[test]
    fn pages_split_as_they_fill_and_merge_as_they_empty() {
        let mut checked = Checked::new();
        let numbers = || (0..5_000_u16).filter(|number| !number.is_multiple_of(16));
        for number in numbers() {
            checked.put(&key(number), Bytes::from(vec![1; 64]), NEVER);
        }
        checked.check();
        let full = (checked.page_count(), checked.pages.footprint());
        assert!(full.0 > 30, "{full:?}");
        let payload: usize =
            checked.model.iter().map(|(key, (value, ..))| key.len() + value.len()).sum();
        let overhead = (full.1 - payload) / checked.model.len();
        assert!((16..30).contains(&overhead), "{overhead} bytes an entry");
        for number in numbers().skip(40) {
            checked.remove(&key(number));
        }
        checked.check();
        let left = (checked.page_count(), checked.pages.footprint());
        assert!(left.0 <= 8 && left.1 < 16 << 10, "{left:?}");
        numbers().for_each(|number| checked.remove(&key(number)));
        assert_eq!((checked.page_count(), checked.pages.footprint()), (1, 0));
    }

    #[test]
    fn equal_hashes_only_make_a_page_long() {
        let mut pages = Pages::default();
        let (home, value) = (TestHome::new(), Bytes::from(vec![1; 100]));
        let home = home.get();
        let keys: Vec<_> = (0..2_000).map(key).collect();
        for key in &keys {
            // Not the key's own hash: splitting goes by that, and must not lose what it finds elsewhere.
            let hash = 0xabcd_ef01_2345_6789;
            assert!(pages.place(hash, key).is_none());
            let new = NewEntry::new((home, hash), (key, &value), Version::default(), NEVER);
            if let Pages::One(page) = &mut pages {
                assert!(page.make_room(new.size(), usize::MAX, home.site(0)));
            }
            pages.insert(hash, new, home);
            assert!(pages.find(hash, key).is_some());
        }
        assert_eq!(pages.len(), keys.len());
    }

    #[test]
    fn a_walk_by_position_meets_all_that_stays() {
        let mut checked = Checked::new();
        let stays = |number: u16| number.is_multiple_of(3);
        for number in (0..3_000).filter(|&number| stays(number)) {
            checked.put(&key(number), value(90), NEVER);
        }
        let mut met: BTreeMap<Vec<u8>, usize> = BTreeMap::new();
        let (mut cursor, mut step) = (Some(0), 0);
        while let Some(position) = cursor {
            let (page, next) = checked.pages.page_at(position);
            for stored in page.iter() {
                // A page that was merged since begins before the cursor.
                if super::position(checked.home.get().hash(stored.key())) >= position {
                    *met.entry(stored.key().to_vec()).or_default() += 1;
                }
            }
            cursor = next;
            step += 1;
            // The table grows threefold in the first half of the walk and shrinks again in the second.
            for number in (0..9_000).filter(|&number| !stays(number)) {
                match step % 16 {
                    3 => checked.put(&key(number), value(80), NEVER),
                    11 => checked.remove(&key(number)),
                    _ => break,
                }
            }
        }
        assert!(step > 16, "{step} steps");
        for number in (0..3_000).filter(|&number| stays(number)) {
            assert_eq!(met.get(&key(number)), Some(&1));
        }
    }
}
