//! The queue of SIEVE (Zhang et al., NSDI '24): entries in order of arrival, a bit for those read since the hand last
//! passed, and a hand that walks from the oldest to the newest and evicts the first without the bit. A scan of new keys
//! passes through without displacing what is read again, and a hit only sets a bit.

use std::sync::atomic::{AtomicBool, Ordering};

/// No position.
const NONE: u32 = u32::MAX;

/// Entries in order of arrival; positions stay valid until the entry is removed.
pub(super) struct Sieve<T> {
    places: Vec<Place<T>>,
    newest: u32,
    oldest: u32,
    hand: u32,
    /// Head of the list of empty places, linked by `newer`.
    empty: u32,
    len: usize,
}

struct Place<T> {
    entry: Option<T>,
    visited: AtomicBool,
    newer: u32,
    older: u32,
}

impl<T> Sieve<T> {
    pub(super) const fn new() -> Self {
        Self { places: Vec::new(), newest: NONE, oldest: NONE, hand: NONE, empty: NONE, len: 0 }
    }

    pub(super) const fn len(&self) -> usize {
        self.len
    }

    pub(super) fn get(&self, at: u32) -> Option<&T> {
        self.place(at)?.entry.as_ref()
    }

    /// Notes that the entry was read.
    pub(super) fn visit(&self, at: u32) {
        if let Some(place) = self.place(at) {
            // Reading first keeps the cache line of a hot entry shared between cores.
            if !place.visited.load(Ordering::Relaxed) {
                place.visited.store(true, Ordering::Relaxed);
            }
        }
    }

    /// Adds an entry as the newest one.
    pub(super) fn push(&mut self, entry: T) -> u32 {
        let older = self.newest;
        let place =
            Place { entry: Some(entry), visited: AtomicBool::new(false), newer: NONE, older };
        let at = self.occupy(place);
        match self.place_mut(older) {
            Some(place) => place.newer = at,
            None => self.oldest = at,
        }
        self.newest = at;
        self.len += 1;
        at
    }

    pub(super) fn remove(&mut self, at: u32) -> Option<T> {
        let empty = self.empty;
        let place = self.place_mut(at)?;
        let entry = place.entry.take()?;
        let (newer, older) = (place.newer, place.older);
        place.newer = empty;
        self.empty = at;
        self.len -= 1;
        match self.place_mut(newer) {
            Some(place) => place.older = older,
            None => self.newest = older,
        }
        match self.place_mut(older) {
            Some(place) => place.newer = newer,
            None => self.oldest = newer,
        }
        if self.hand == at {
            self.hand = newer;
        }
        Some(entry)
    }

    /// The entry that arrived first.
    pub(super) const fn oldest(&self) -> Option<u32> {
        if self.oldest == NONE { None } else { Some(self.oldest) }
    }

    /// The entry to evict next. Clears bits on its way, so it ends after two rounds at most.
    pub(super) fn victim(&mut self) -> Option<u32> {
        for _ in 0..=2 * self.len {
            if self.hand == NONE {
                self.hand = self.oldest;
            }
            let hand = self.hand;
            let place = self.place_mut(hand)?;
            if !std::mem::take(place.visited.get_mut()) {
                return Some(hand);
            }
            self.hand = place.newer;
        }
        None
    }

    fn occupy(&mut self, new: Place<T>) -> u32 {
        let at = self.empty;
        if let Some(place) = self.place_mut(at) {
            let next = place.newer;
            *place = new;
            self.empty = next;
            return at;
        }
        self.places.push(new);
        (self.places.len() - 1) as u32
    }

    fn place(&self, at: u32) -> Option<&Place<T>> {
        self.places.get(at as usize)
    }

    fn place_mut(&mut self, at: u32) -> Option<&mut Place<T>> {
        self.places.get_mut(at as usize)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Evicts and names what was evicted.
    fn evict(sieve: &mut Sieve<char>) -> Option<char> {
        let at = sieve.victim()?;
        sieve.remove(at)
    }

    fn filled(entries: &str) -> (Sieve<char>, Vec<u32>) {
        let mut sieve = Sieve::new();
        let places = entries.chars().map(|entry| sieve.push(entry)).collect();
        (sieve, places)
    }

    #[test]
    fn what_was_read_stays() {
        let (mut sieve, places) = filled("abcd");
        sieve.visit(places[0]);
        sieve.visit(places[2]);
        assert_eq!(evict(&mut sieve), Some('b'));
        assert_eq!(evict(&mut sieve), Some('d'));
        // The second round: nothing was read since the first.
        assert_eq!(evict(&mut sieve), Some('a'));
        assert_eq!(evict(&mut sieve), Some('c'));
        assert_eq!((evict(&mut sieve), sieve.len()), (None, 0));
    }

    #[test]
    fn the_hand_goes_on_where_it_was() {
        let (mut sieve, places) = filled("abc");
        sieve.visit(places[0]);
        assert_eq!(evict(&mut sieve), Some('b'));
        sieve.push('d');
        assert_eq!(evict(&mut sieve), Some('c'), "not a, which the hand has passed");
        assert_eq!(evict(&mut sieve), Some('d'));
        assert_eq!(evict(&mut sieve), Some('a'));
    }

    #[test]
    fn all_read_is_as_none_read() {
        let (mut sieve, places) = filled("abc");
        places.iter().for_each(|&at| sieve.visit(at));
        assert_eq!(evict(&mut sieve), Some('a'));
    }

    #[test]
    fn places_are_used_again() {
        let (mut sieve, places) = filled("abc");
        assert_eq!(sieve.remove(places[1]), Some('b'));
        assert_eq!(sieve.remove(places[1]), None);
        assert_eq!(sieve.push('d'), places[1]);
        assert_eq!(sieve.places.len(), 3);
        let order = std::iter::from_fn(|| {
            let oldest = sieve.oldest()?;
            sieve.remove(oldest)
        });
        assert_eq!(order.collect::<String>(), "acd");
    }
}
