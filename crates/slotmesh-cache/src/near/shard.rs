use std::collections::VecDeque;
use std::sync::Arc;

use slotmesh_coherence::KeyHasher;
use slotmesh_slots::{MonoTime, Seq, Slot, Version};

use super::bound::{Bound, Cover};
use super::entry::{Entry, Queue, Terms};
use super::ghosts::Ghosts;
use super::hash::hash_of;
use super::index::{Displaced, Index};
use super::{Fresh, InNear, Limits, Lookup, Ticket};
use crate::key::CacheKey;

/// Counts of changes in a shard; keys share them by hash. Sharing costs a lost fill now and then, never a wrong one.
const CHANGES: usize = 64;

/// Places that an insertion looks at for entries that are over: more than one, so that they become fewer.
const SWEPT_PER_INSERT: usize = 4;

/// Entries that one insertion may evict before it gives up. One is enough where all are of a size.
const EVICTIONS_MAX: usize = 64;

/// Used entries that one eviction may pass by, those of the small queue and of the main one. With 16 the hit ratio begins to suffer.
const SPARED_MAX: usize = 64;

/// Places that the hand may pass in one eviction; few of them belong to other queues or nobody.
const STEPS_MAX: usize = 256;

/// Reads after which an entry of the small queue is worth keeping, as in S3-FIFO.
const USES_TO_STAY: u64 = 2;

/// Of the capacity, the part that entries without a value may take at most: they are cheap to find out again, and whoever asks
/// for random keys can make any number of them.
const ABSENT_SHARE: usize = 8;

/// Of a shard's bytes, the part that one entry may take at most.
const LARGEST_SHARE: usize = 2;

/// Of a shard's bytes, the part that must be free before new entries skip their trial. An evicted one that was larger than what it
/// made room for leaves some bytes, and those should not let the next one in.
const SPARE_SHARE: usize = 32;

/// S3-FIFO remembers as many evicted keys as the main queue has entries.
const GHOSTS_PER_MILLE: usize = 900;

/// Places grow by this part, and by so many at least. A large block of memory mostly grows without being copied.
const GROWTH_SHARE: usize = 8;
const GROWTH_MIN: usize = 4;

/// No place.
const NOWHERE: u32 = u32::MAX;

/// A part of the tier with its own bound: an index, the entries, and S3-FIFO's queues over them.
///
/// The main queue is no list: a hand goes round over all places, takes a use from what was used, and evicts what was not. So an
/// entry may be met sooner after its promotion than in a queue, which the simulation says costs nothing, and its order takes no
/// memory. The small queue and that of absent values are rings of places. What is removed from their midst leaves a **hole**: a vacant
/// place that nobody takes until the ring has come to it.
///
/// What a read needs comes first, so that it and the lock before it are one cache line.
#[repr(C)]
pub(super) struct Shard<K, V> {
    index: Index,
    entries: Vec<Entry<K, V>>,
    /// The first vacant place that is no hole, each naming the next.
    vacant: u32,
    small: VecDeque<u32>,
    absent: VecDeque<u32>,
    ghosts: Ghosts,
    hand: usize,
    sweep: usize,
    /// By queue.
    used: [Used; 3],
    limits: Limits,
    changes: [Changes; CHANGES],
}

/// How often the keys of a hash changed, or began to.
#[derive(Clone, Copy, Default)]
struct Changes {
    count: u64,
    /// The latest change, if an owner told of it: the slot's number and one (16 bits), the place in its history (48). Zero if not.
    told: u64,
}

const PLACE_BITS: u32 = 48;

#[derive(Clone, Copy, Default)]
struct Used {
    entries: usize,
    bytes: usize,
}

/// What a change of a shard depends on beside the shard.
pub(super) struct Scene<'a> {
    pub(super) hasher: &'a KeyHasher,
    pub(super) bound: &'a Bound,
    /// Not later than the true time.
    pub(super) now: MonoTime,
    /// What the small queue should have, in 1024ths of the capacity.
    pub(super) small_share: usize,
}

/// Values taken out, to be dropped when the lock is no longer held.
pub(super) type Removed<V> = Vec<Arc<V>>;

impl<K: CacheKey, V> Shard<K, V> {
    /// What an entry takes beside its key's and value's own bytes. Places grow by an eighth, which may be spare; two allocations are
    /// rounded up, one of them has the two counts of an `Arc`.
    pub(super) const OVERHEAD_BYTES: usize = size_of::<Entry<K, V>>() / 8 * 9
        + Index::BYTES_PER_ENTRY
        + Ghosts::BYTES_PER_KEY
        + size_of::<u32>()
        + 32;

    pub(super) fn new(limits: Limits) -> Self {
        Self {
            index: Index::new(limits.entries),
            entries: Vec::new(),
            vacant: NOWHERE,
            small: VecDeque::new(),
            absent: VecDeque::new(),
            ghosts: Ghosts::new(limits.entries * GHOSTS_PER_MILLE / 1000),
            hand: 0,
            sweep: 0,
            used: [Used::default(); 3],
            limits,
            changes: [Changes::default(); CHANGES],
        }
    }

    pub(super) fn size(&self) -> (usize, usize) {
        let all = self.all();
        (all.entries, all.bytes)
    }

    /// What is there under a key, and whether reading it made a difference to its standing. `stale` asks for values as well whose
    /// time is up but which may still be shown.
    #[inline]
    pub(super) fn get(
        &self,
        key: &K,
        hash: u64,
        (bound, now): (&Bound, MonoTime),
        stale: bool,
    ) -> (Lookup<V>, bool) {
        let nothing = (Lookup::Nothing, false);
        let Some(entry) = self.find(key, hash).map(|at| &self.entries[at as usize]) else {
            return nothing;
        };
        let until = if stale { entry.stale_until() } else { entry.fresh_until() };
        if now >= until || !entry.is_readable(bound, now) {
            return nothing;
        }
        let found = entry.value().map_or(Lookup::Absent, |value| Lookup::Value(Arc::clone(value)));
        (found, entry.touch())
    }

    /// As [`Shard::get`], without counting that as a use.
    pub(super) fn peek(
        &self,
        key: &K,
        hash: u64,
        (bound, now): (&Bound, MonoTime),
    ) -> Option<InNear<V>> {
        let entry = &self.entries[self.find(key, hash)? as usize];
        let (version, until) = (entry.version(), entry.fresh_until());
        let shown = now < until && entry.is_readable(bound, now);
        shown.then(|| InNear { value: entry.value().cloned(), version, left: until - now })
    }

    pub(super) fn changes(&self, hash: u64) -> u64 {
        self.changes[changes_of(hash)].count
    }

    /// Whether a value of this version, asked for with this ticket, has all changes that are known of.
    pub(super) fn is_good(
        &self,
        hash: u64,
        ticket: Ticket,
        (version, cover): (Version, Cover),
    ) -> bool {
        let Changes { count, told } = self.changes[changes_of(hash)];
        // Who writes a key is told of that write too, at times before it is answered.
        let is_told = matches!(cover, Cover::Told(_)) && told != 0;
        let has_it = is_told
            && told >> PLACE_BITS == u64::from(ticket.slot.number()) + 1
            && told & ((1 << PLACE_BITS) - 1) <= version.seq.0;
        count == ticket.changes || (count == ticket.changes + 1 && has_it)
    }

    /// Makes every ticket for this key so far worthless.
    pub(super) fn note_change(&mut self, hash: u64) {
        let changes = &mut self.changes[changes_of(hash)];
        *changes = Changes { count: changes.count + 1, told: 0 };
    }

    /// An owner tells that a key of this hash changed: what is here and older will not be seen again.
    pub(super) fn note_told(&mut self, (slot, seq): (Slot, Seq), hash: u64, hasher: &KeyHasher) {
        let changes = &mut self.changes[changes_of(hash)];
        let fits = seq.0 >> PLACE_BITS == 0;
        let told = if fits { (u64::from(slot.number()) + 1) << PLACE_BITS | seq.0 } else { 0 };
        *changes = Changes { count: changes.count + 1, told };
        let is = |at: u32| {
            let entry = &self.entries[at as usize];
            entry.is_of(slot) && entry.key().is_some_and(|key| hash_of(hasher, key) == hash)
        };
        if let Some(at) = self.index.find(hash, is) {
            let entry = &mut self.entries[at as usize];
            if !entry.is_as_new_as(seq) {
                entry.kill();
            }
        }
    }

    pub(super) fn remove(&mut self, key: &K, hash: u64, hasher: &KeyHasher) -> Option<Arc<V>> {
        let at = self.find(key, hash)?;
        self.remember_worthy(at, hasher);
        self.remove_at(at, hasher)
    }

    /// Takes the value in, unless what is there is newer, or it finds no room. What is there goes in any case if it is not newer.
    pub(super) fn insert(
        &mut self,
        (key, hash): (&K, u64),
        (ticket, cover): (Ticket, Cover),
        fresh: Fresh<V>,
        scene: &Scene<'_>,
        removed: &mut Removed<V>,
    ) {
        let mut standing = (Queue::Small, 0);
        if let Some(at) = self.find(key, hash) {
            let entry = &self.entries[at as usize];
            let shown =
                entry.fresh_until() > scene.now && entry.is_readable(scene.bound, scene.now);
            if shown && entry.version() > fresh.version {
                return removed.extend(fresh.value);
            }
            standing = (entry.queue(), entry.uses());
            removed.extend(self.remove_at(at, scene.hasher));
        }
        self.clear_over(scene, removed);
        let bytes = fresh.bytes.saturating_add(Self::OVERHEAD_BYTES);
        let fresh_until = match cover {
            Cover::Told(_) => ticket.at + fresh.ttl,
            Cover::Nobody => (ticket.at + fresh.ttl).min(scene.bound.after(ticket.at)),
        };
        let times = (fresh_until, fresh.stale_for);
        let terms = Terms::new((ticket.slot, cover), fresh.version, bytes, times);
        let Some(terms) = terms.filter(|terms| self.is_small_enough(terms.weight())) else {
            return removed.extend(fresh.value);
        };
        let standing = self.standing_of(hash, &fresh, terms.weight(), standing, scene);
        if !self.make_room(terms.weight(), standing.0, scene, removed) {
            return removed.extend(fresh.value);
        }
        let entry = Entry::new(key.clone(), fresh.value, &terms, standing);
        self.place(entry, hash, scene, removed);
    }

    /// Which queue a new entry comes into and with how many uses, where an older one of its key had this `standing`.
    fn standing_of(
        &mut self,
        hash: u64,
        fresh: &Fresh<V>,
        weight: usize,
        standing: (Queue, u64),
        scene: &Scene<'_>,
    ) -> (Queue, u64) {
        if fresh.value.is_none() {
            return (Queue::Absent, 0);
        }
        match standing {
            (Queue::Main, uses) => (Queue::Main, uses),
            _ if self.ghosts.take(hash) || self.main_has_room(weight, scene) => (Queue::Main, 0),
            (Queue::Small, uses) => (Queue::Small, uses),
            (Queue::Absent, _) => (Queue::Small, 0),
        }
    }

    /// Puts an entry that there is room for where it belongs.
    fn place(
        &mut self,
        entry: Entry<K, V>,
        hash: u64,
        scene: &Scene<'_>,
        removed: &mut Removed<V>,
    ) {
        let (queue, weight) = (entry.queue(), entry.weight());
        let at = self.occupy(entry);
        if let Some(Displaced(other)) = self.index.insert(hash, at) {
            removed.extend(self.remove_at(other, scene.hasher));
        }
        self.used[queue as usize].add(weight);
        match queue {
            Queue::Main => {}
            Queue::Small => self.small.push_back(at),
            Queue::Absent => self.absent.push_back(at),
        }
        self.close_holes(queue);
    }

    fn is_small_enough(&self, weight: usize) -> bool {
        // Alone it may have everything: there is no second one to make room for.
        let most = if self.limits.entries < LARGEST_SHARE {
            self.limits.bytes
        } else {
            self.limits.bytes / LARGEST_SHARE
        };
        self.limits.entries > 0 && weight <= most
    }

    /// New entries go on trial only when the main queue has what it may have: what came first stays then until something
    /// proves better. That makes S3-FIFO hold its own against repeated scans of more than its capacity, of which it keeps nothing
    /// when the small queue takes all that comes first.
    fn main_has_room(&self, weight: usize, scene: &Scene<'_>) -> bool {
        let (taken, spare) = (self.beside_trial(scene), self.limits.bytes / SPARE_SHARE);
        taken.entries < self.limits.entries && taken.bytes + weight + spare <= self.limits.bytes
    }

    fn main_has_too_much(&self, scene: &Scene<'_>) -> bool {
        let taken = self.beside_trial(scene);
        taken.entries > self.limits.entries || taken.bytes > self.limits.bytes
    }

    /// What would be taken if the small queue had its share.
    fn beside_trial(&self, scene: &Scene<'_>) -> Used {
        let main = self.used[Queue::Main as usize];
        let absent = self.used[Queue::Absent as usize];
        let small = self.small_share(scene);
        Used {
            entries: main.entries + absent.entries + small.entries,
            bytes: main.bytes + absent.bytes + small.bytes,
        }
    }

    fn small_share(&self, scene: &Scene<'_>) -> Used {
        let part = |whole: usize| (whole * scene.small_share / 1024).max(1);
        Used { entries: part(self.limits.entries), bytes: part(self.limits.bytes) }
    }

    /// Evicts until there is room for one more of this weight; gives up after some time.
    fn make_room(
        &mut self,
        weight: usize,
        queue: Queue,
        scene: &Scene<'_>,
        removed: &mut Removed<V>,
    ) -> bool {
        for _ in 0..EVICTIONS_MAX {
            let absent = queue == Queue::Absent && self.absent_are_many();
            if !absent && self.has_room(weight) {
                return true;
            }
            self.evict(absent, scene, removed);
        }
        self.has_room(weight)
    }

    fn has_room(&self, weight: usize) -> bool {
        let all = self.all();
        let place = self.vacant != NOWHERE || self.entries.len() < self.limits.entries;
        place && all.entries < self.limits.entries && all.bytes + weight <= self.limits.bytes
    }

    fn absent_are_many(&self) -> bool {
        let absent = self.used[Queue::Absent as usize];
        absent.entries >= (self.limits.entries / ABSENT_SHARE).max(1)
            || absent.bytes >= self.limits.bytes / ABSENT_SHARE
    }

    fn evict(&mut self, absent: bool, scene: &Scene<'_>, removed: &mut Removed<V>) {
        let [small, main, _] = self.used;
        let share = self.small_share(scene);
        let small_has_much = small.entries >= share.entries || small.bytes >= share.bytes;
        if absent || (small.entries + main.entries == 0 && self.small.is_empty()) {
            self.evict_absent(scene, removed);
        } else if small_has_much || main.entries == 0 || self.small.len() > small.entries {
            self.evict_small(scene, removed);
        } else {
            self.evict_main(scene, removed);
        }
    }

    fn evict_absent(&mut self, scene: &Scene<'_>, removed: &mut Removed<V>) {
        if let Some(at) = self.absent.pop_front() {
            removed.extend(self.take(at, scene.hasher));
            self.release(at);
        }
    }

    fn evict_small(&mut self, scene: &Scene<'_>, removed: &mut Removed<V>) {
        for spared in 0..=SPARED_MAX {
            let Some(at) = self.small.pop_front() else { return };
            let entry = &mut self.entries[at as usize];
            let stays = entry.key().is_some()
                && spared < SPARED_MAX
                && entry.uses() >= USES_TO_STAY
                && !entry.is_over(scene.bound, scene.now);
            if !stays {
                self.remember(at, scene.hasher);
                removed.extend(self.take(at, scene.hasher));
                return self.release(at);
            }
            entry.promote();
            let weight = entry.weight();
            self.used[Queue::Small as usize].subtract(weight);
            self.used[Queue::Main as usize].add(weight);
            if self.main_has_too_much(scene) {
                return self.evict_main(scene, removed);
            }
        }
    }

    fn evict_main(&mut self, scene: &Scene<'_>, removed: &mut Removed<V>) {
        let mut spared = 0;
        for _ in 0..STEPS_MAX.min(self.entries.len() * 4) {
            let at = self.hand;
            self.hand = if at + 1 < self.entries.len() { at + 1 } else { 0 };
            let Some(entry) = self.entries.get_mut(at) else { continue };
            if entry.key().is_none() || entry.queue() != Queue::Main {
                continue;
            }
            let over = entry.uses() > 0 && entry.is_over(scene.bound, scene.now);
            if !over && spared < SPARED_MAX && entry.age() {
                spared += 1;
                continue;
            }
            return removed.extend(self.remove_at(at as u32, scene.hasher));
        }
    }

    /// Looks at the next few places for entries that are over.
    fn clear_over(&mut self, scene: &Scene<'_>, removed: &mut Removed<V>) {
        for _ in 0..SWEPT_PER_INSERT.min(self.entries.len()) {
            let at = self.sweep;
            self.sweep = if at + 1 < self.entries.len() { at + 1 } else { 0 };
            let entry = &self.entries[at];
            if entry.key().is_none() || !entry.is_over(scene.bound, scene.now) {
                continue;
            }
            self.remember_worthy(at as u32, scene.hasher);
            removed.extend(self.remove_at(at as u32, scene.hasher));
        }
    }

    /// Of an entry that goes although it was worth its place: it gets that back if its key comes again soon.
    fn remember_worthy(&mut self, at: u32, hasher: &KeyHasher) {
        let entry = &self.entries[at as usize];
        if entry.queue() == Queue::Main || entry.uses() >= USES_TO_STAY {
            self.remember(at, hasher);
        }
    }

    fn remember(&mut self, at: u32, hasher: &KeyHasher) {
        if let Some(key) = self.entries[at as usize].key() {
            self.ghosts.remember(hash_of(hasher, key));
        }
    }

    /// A place of its own for an entry; there is one.
    fn occupy(&mut self, entry: Entry<K, V>) -> u32 {
        if let Some(place) = self.entries.get_mut(self.vacant as usize) {
            let at = self.vacant;
            self.vacant = place.next_vacant();
            *place = entry;
            return at;
        }
        if self.entries.len() == self.entries.capacity() {
            let more = (self.entries.len() / GROWTH_SHARE).max(GROWTH_MIN);
            let more = more.min(self.limits.entries - self.entries.len());
            self.entries.reserve_exact(more);
        }
        self.entries.push(entry);
        (self.entries.len() - 1) as u32
    }

    fn remove_at(&mut self, at: u32, hasher: &KeyHasher) -> Option<Arc<V>> {
        let in_ring = self.entries[at as usize].queue() != Queue::Main;
        let value = self.take(at, hasher);
        if !in_ring {
            self.release(at);
        }
        value
    }

    /// Takes an entry out and leaves a hole, or the hole that was there.
    fn take(&mut self, at: u32, hasher: &KeyHasher) -> Option<Arc<V>> {
        let entry = &mut self.entries[at as usize];
        self.index.remove(hash_of(hasher, entry.key()?), at);
        self.used[entry.queue() as usize].subtract(entry.weight());
        let (_, value) = entry.vacate(NOWHERE);
        value
    }

    /// Gives a hole free that no ring comes to any more.
    fn release(&mut self, at: u32) {
        let _ = self.entries[at as usize].vacate(self.vacant);
        self.vacant = at;
    }

    /// Keeps the holes of a ring fewer than its entries and a few, by turning it a little.
    fn close_holes(&mut self, queue: Queue) {
        const FEW: usize = 32;
        for _ in 0..2 {
            let used = self.used[queue as usize].entries;
            let ring = match queue {
                Queue::Main => return,
                Queue::Small => &mut self.small,
                Queue::Absent => &mut self.absent,
            };
            if ring.len() <= 2 * used + FEW {
                return;
            }
            let Some(at) = ring.pop_front() else { return };
            if self.entries[at as usize].key().is_some() {
                ring.push_back(at);
            } else {
                self.release(at);
            }
        }
    }

    fn find(&self, key: &K, hash: u64) -> Option<u32> {
        self.index.find(hash, |at| {
            self.entries.get(at as usize).is_some_and(|entry| entry.key() == Some(key))
        })
    }

    fn all(&self) -> Used {
        self.used.iter().fold(Used::default(), |sum, used| Used {
            entries: sum.entries + used.entries,
            bytes: sum.bytes + used.bytes,
        })
    }
}

impl Used {
    const fn add(&mut self, weight: usize) {
        self.entries += 1;
        self.bytes += weight;
    }

    const fn subtract(&mut self, weight: usize) {
        self.entries -= 1;
        self.bytes -= weight;
    }
}

/// Whose changes are counted together: not by the bits that a shard goes by.
const fn changes_of(hash: u64) -> usize {
    (hash >> 16) as usize % CHANGES
}
