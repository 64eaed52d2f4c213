//! How large the small queue of S3-FIFO should be: a duel between three sizes.
//!
//! No size suits all: a loop over a little more than the capacity wants it tiny, bursts of keys that live for a short time want a quarter
//! of the cache. So three **shadows**, which hold no values, replay a part of the reads with a size each, and all shards take that of
//! the one that had the most hits lately. The part is chosen by the keys' hash and the shadows are smaller than the cache by as
//! much, which keeps their hit ratio that of the whole (Waldspurger, Saemundsson, Ahmad and Park: Cache Modeling and Optimization
//! using Miniature Simulations, USENIX ATC 2017); taking the winner's setting is set dueling (Qureshi, Jaleel, Patt, Steely and Emer:
//! Adaptive Insertion Policies for High Performance Caching, ISCA 2007).
//!
//! Hits that find an entry's counter at its end are not shown to the shadows: there it would be at its end as well. So the hottest
//! keys cost nothing here. Whoever finds the shadows in use goes on without them: they are told of a sample anyway.
//!
//! On the eleven traces of the benchmark, each with all capacities that are powers of two, this gives 0.3 points over the best fixed size
//! in the mean, and 1 point less where it is worst.

use std::collections::VecDeque;
use std::sync::atomic::{AtomicUsize, Ordering};

use parking_lot::Mutex;

use super::ghosts::Ghosts;
use super::index::{Displaced, Index};

/// The sizes, in 1024ths of the capacity. A quarter is where hit ratios of traces with bursts level off, a 64th is next to
/// nothing, and the one between them is near the tenth that S3-FIFO takes for all.
const SHARES: [usize; 3] = [1024 / 64, 1024 / 16, 1024 / 4];

/// The one that a cache begins with.
const FIRST: usize = 1;

/// Entries of a shadow: with half as many chance begins to decide.
const SHADOW_ENTRIES_MAX: usize = 512;

/// A smaller cache stays with the first size.
const CACHE_ENTRIES_MIN: usize = 256;

/// A size is taken over when its lead is this part of the reads between two looks, so that equals do not take turns.
const LEAD: usize = 100;

/// As in the shards.
const GHOSTS_PER_MILLE: usize = 900;
const SPARED_MAX: usize = 64;
const USES_MAX: u8 = 3;
const USES_TO_STAY: u8 = 2;

/// Three shadows and the size that wins.
#[derive(Debug)]
pub(super) struct Duel {
    shadows: Mutex<Shadows>,
    winner: AtomicUsize,
    /// Bits of a hash that must be zero in the sample.
    mask: u64,
}

#[derive(Debug)]
struct Shadows {
    each: [Shadow; SHARES.len()],
    /// Hits, those of the last window twice as much as those of the one before it.
    hits: [usize; SHARES.len()],
    /// Reads since the last look that not all of them had.
    telling: usize,
    winner: usize,
}

impl Duel {
    /// What it takes at most.
    pub(super) const BYTES_MAX: usize = SHARES.len()
        * SHADOW_ENTRIES_MAX
        * (Index::BYTES_PER_ENTRY + Ghosts::BYTES_PER_KEY + size_of::<Shade>() + size_of::<u32>());

    /// For a cache of this many entries; `None` for a small one.
    pub(super) fn new(entries: usize) -> Option<Self> {
        if entries < CACHE_ENTRIES_MIN {
            return None;
        }
        let smaller = (entries.div_ceil(SHADOW_ENTRIES_MAX)).next_power_of_two();
        let each = SHARES.map(|share| Shadow::new(entries / smaller, share));
        let shadows = Shadows { each, hits: [0; SHARES.len()], telling: 0, winner: FIRST };
        let mask = smaller as u64 - 1;
        Some(Self { shadows: Mutex::new(shadows), winner: AtomicUsize::new(FIRST), mask })
    }

    /// What a cache without a duel takes.
    pub(super) const SHARE_WITHOUT: usize = SHARES[FIRST];

    /// What the small queue should have of the capacity, in 1024ths.
    pub(super) fn small_share(&self) -> usize {
        SHARES[self.winner.load(Ordering::Relaxed)]
    }

    /// A key was read, or came in after it was not found.
    pub(super) fn note(&self, hash: u64) {
        // Bits that neither shards nor their indexes go by.
        let mixed = hash.wrapping_mul(0xd6e8_feb8_6659_fd93);
        if mixed >> 40 & self.mask != 0 {
            return;
        }
        if let Some(mut shadows) = self.shadows.try_lock() {
            shadows.note((mixed >> 8) as u32);
            self.winner.store(shadows.winner, Ordering::Relaxed);
        }
    }
}

impl Shadows {
    fn note(&mut self, print: u32) {
        let found = std::array::from_fn(|i| self.each[i].read(print));
        let found: [bool; SHARES.len()] = found;
        for (hits, found) in self.hits.iter_mut().zip(found) {
            *hits += usize::from(found);
        }
        self.telling += usize::from(found != [true; SHARES.len()]);
        // As many misses as a shadow has entries: it may have changed all of its content.
        if self.telling < self.each[FIRST].capacity {
            return;
        }
        let best = (0..SHARES.len()).max_by_key(|&i| self.hits[i]).unwrap_or(FIRST);
        if (self.hits[best] - self.hits[self.winner]) * LEAD > self.telling {
            self.winner = best;
        }
        self.telling = 0;
        self.hits = self.hits.map(|hits| hits / 2);
    }
}

/// The queues of a shard without entries: keys are 32 bits of their hash, and two keys with the same are one.
#[derive(Debug)]
struct Shadow {
    capacity: usize,
    small_max: usize,
    index: Index,
    shades: Vec<Shade>,
    small: VecDeque<u32>,
    vacant: Vec<u32>,
    ghosts: Ghosts,
    main: usize,
    hand: usize,
}

#[derive(Clone, Copy, Debug)]
struct Shade {
    print: u32,
    uses: u8,
    state: State,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
    Vacant,
    Small,
    Main,
}

impl Shadow {
    fn new(capacity: usize, share: usize) -> Self {
        Self {
            capacity,
            small_max: (capacity * share / 1024).max(1),
            index: Index::new(capacity),
            shades: Vec::with_capacity(capacity),
            small: VecDeque::new(),
            vacant: Vec::new(),
            ghosts: Ghosts::new(capacity * GHOSTS_PER_MILLE / 1000),
            main: 0,
            hand: 0,
        }
    }

    /// Whether it is there; if not it is now.
    fn read(&mut self, print: u32) -> bool {
        let hash = spread(print);
        let found = self.index.find(hash, |at| self.shades[at as usize].print == print);
        if let Some(at) = found {
            let shade = &mut self.shades[at as usize];
            shade.uses = (shade.uses + 1).min(USES_MAX);
            return true;
        }
        let known = self.ghosts.take(hash);
        while self.small.len() + self.main >= self.capacity {
            if self.small.len() >= self.small_max || self.main == 0 {
                self.evict_small();
            } else {
                self.evict_main();
            }
        }
        let state = if known || self.main + self.small_max < self.capacity {
            self.main += 1;
            State::Main
        } else {
            State::Small
        };
        let at = self.occupy(Shade { print, uses: 0, state });
        if state == State::Small {
            self.small.push_back(at);
        }
        if let Some(Displaced(other)) = self.index.insert(hash, at) {
            self.displace(other);
        }
        false
    }

    fn occupy(&mut self, shade: Shade) -> u32 {
        if let Some(at) = self.vacant.pop() {
            self.shades[at as usize] = shade;
            return at;
        }
        self.shades.push(shade);
        (self.shades.len() - 1) as u32
    }

    fn evict_small(&mut self) {
        for spared in 0..=SPARED_MAX {
            let Some(at) = self.small.pop_front() else { return };
            let shade = &mut self.shades[at as usize];
            if spared < SPARED_MAX && shade.uses >= USES_TO_STAY {
                (shade.uses, shade.state) = (0, State::Main);
                self.main += 1;
                if self.main > self.capacity - self.small_max {
                    return self.evict_main();
                }
                continue;
            }
            let print = shade.print;
            self.vacate(at);
            return self.ghosts.remember(spread(print));
        }
    }

    /// Ends: what was used is used less each time.
    fn evict_main(&mut self) {
        let mut spared = 0;
        while self.main > 0 {
            let at = self.hand;
            self.hand = (at + 1) % self.shades.len();
            let shade = &mut self.shades[at];
            if shade.state != State::Main {
                continue;
            }
            if shade.uses > 0 && spared < SPARED_MAX {
                shade.uses -= 1;
                spared += 1;
                continue;
            }
            self.main -= 1;
            return self.vacate(at as u32);
        }
    }

    /// The index had no room for it.
    fn displace(&mut self, at: u32) {
        match self.shades[at as usize].state {
            State::Main => self.main -= 1,
            State::Small => self.small.retain(|other| *other != at),
            State::Vacant => return,
        }
        self.vacate(at);
    }

    fn vacate(&mut self, at: u32) {
        let shade = &mut self.shades[at as usize];
        shade.state = State::Vacant;
        self.index.remove(spread(shade.print), at);
        self.vacant.push(at);
    }
}

/// A hash again, all of whose bits depend on the print.
const fn spread(print: u32) -> u64 {
    (print as u64 + 1).wrapping_mul(0x9e37_79b9_7f4a_7c15).rotate_left(29)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The size that wins after these keys.
    fn winner(entries: usize, keys: impl Iterator<Item = u64>) -> usize {
        let duel = Duel::new(entries).unwrap();
        keys.for_each(|key| duel.note(spread(key as u32)));
        duel.small_share()
    }

    #[test]
    fn a_loop_wants_a_small_trial_and_bursts_a_long_one() {
        let rounds = (0..40).flat_map(|_| 0..4_000);
        assert_eq!(winner(2_000, rounds), SHARES[0]);
        // Each is read three times, about 300 reads apart, and never again.
        let bursts =
            (0..40_000).flat_map(|n: u64| [n, n.saturating_sub(200), n.saturating_sub(400)]);
        assert_eq!(winner(2_000, bursts), SHARES[2]);
    }

    #[test]
    fn a_shadow_never_holds_more_than_its_capacity() {
        for share in SHARES {
            let mut shadow = Shadow::new(64, share);
            let mut state = 1_u32;
            for _ in 0..20_000 {
                state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
                shadow.read((state >> 20) % 200 * (1 + (state >> 8) % 2));
                let main = shadow.shades.iter().filter(|shade| shade.state == State::Main).count();
                assert!(shadow.small.len() + main <= 64);
                assert_eq!(
                    (main, shadow.shades.len() - shadow.vacant.len()),
                    (shadow.main, main + shadow.small.len())
                );
            }
        }
    }

    #[test]
    fn it_takes_what_it_says() {
        let shadow = Shadow::new(512, 256);
        let ghosts = 461_usize.div_ceil(16) * 64;
        let index = (512 * 1000_usize).div_ceil(750 * 16) * 64;
        let bytes = index + ghosts + shadow.shades.capacity() * 8 + 128 * 4;
        assert!(bytes * 3 < Duel::BYTES_MAX + 2_048, "{bytes}");
        assert!(Duel::new(255).is_none());
    }
}
