mod model;
mod threads;

use slotmesh_coherence::{Publisher, key_hash};
use slotmesh_slots::Epoch;

use super::*;

const TTL: Duration = Duration::from_secs(1);

fn at(millis: u64) -> MonoTime {
    MonoTime::from_micros(millis * 1_000)
}

fn slot() -> Slot {
    Slot::new(5).unwrap()
}

const BOUND: Duration = Duration::from_millis(100);

/// A local tier, and this node's own writes, of which it is told at once.
struct Owned {
    near: Arc<Near<u32, u64>>,
    publisher: Publisher,
}

impl std::ops::Deref for Owned {
    type Target = Near<u32, u64>;

    fn deref(&self) -> &Self::Target {
        &self.near
    }
}

impl Owned {
    fn new(limits: Limits, bound: Duration) -> Self {
        let me = NodeId::new(1).unwrap();
        let subscriber = Arc::new(Subscriber::new(me, Box::new(|_| {})));
        let publisher = Publisher::new(Box::new(|_| {}));
        publisher.attach(Arc::clone(&subscriber));
        let hasher = KeyHasher::new(7, b"n:1:");
        let near = Arc::new(Near::new(limits, hasher, Arc::clone(&subscriber), bound));
        subscriber.register(&(Arc::clone(&near) as Arc<dyn Sink>), bound);
        Self { near, publisher }
    }

    /// Every write up to then is known.
    fn vouch(&self, now: MonoTime) {
        self.near.bound.subscriber.vouch(now);
    }

    /// To be told of a slot's writes before one of its values is asked for.
    fn watch(&self, slot: Slot) -> bool {
        let (ticket, by) = (self.bound.subscriber.ticket(slot), self.bound.subscriber.own());
        assert!(self.publisher.subscribe(slot, by));
        self.bound.subscriber.admit(slot, ticket, by.node, by).is_some()
    }

    /// A ticket and what will speak for what is fetched with it.
    fn fetch(&self, key: u32, slot: Slot, now: MonoTime) -> (Ticket, Cover) {
        self.watch(slot);
        let ticket = self.ticket(&key, slot, now);
        (ticket, self.own_cover(ticket))
    }

    fn begin(&self, key: u32, slot: Slot, now: MonoTime) -> Ticket {
        self.watch(slot);
        self.begin_write(&key, slot, now)
    }

    /// Somebody writes the key.
    fn publish(&self, key: u32, slot: Slot, seq: u64) {
        let hash = || key_hash(7, format!("n:1:{key}").as_bytes());
        self.publisher.publish(slot, Seq(seq), hash);
    }
}

/// One that is vouched for for ever.
fn near(entries: usize, bytes: usize) -> Owned {
    let near = Owned::new(Limits { entries, bytes }, BOUND);
    near.vouch(MonoTime::from_micros(u64::MAX));
    near
}

fn fresh(value: u64, seq: u64) -> Fresh<u64> {
    let version = Version::new(Epoch(1), Seq(seq));
    Fresh { value: Some(Arc::new(value)), version, ttl: TTL, stale_for: Duration::ZERO, bytes: 8 }
}

fn absent(seq: u64) -> Fresh<u64> {
    Fresh { value: None, ..fresh(0, seq) }
}

fn fill(near: &Owned, key: u32, fresh: Fresh<u64>, now: MonoTime) {
    let (ticket, cover) = near.fetch(key, slot(), now);
    near.fill(&key, ticket, fresh, cover);
}

fn check(near: &Near<u32, u64>, key: u32, now: MonoTime, expected: Option<u64>) {
    assert_eq!(near.get(&key, now).as_deref().copied(), expected);
}

#[test]
fn a_value_is_served_until_its_time_is_up() {
    let near = near(10, 10_000);
    fill(&near, 1, fresh(5, 1), at(0));
    check(&near, 1, at(999), Some(5));
    check(&near, 1, at(1_000), None);
    fill(&near, 2, fresh(6, 2), at(1_000));
    assert_eq!(near.size().0, 1, "the expired one was cleared away");
}

#[test]
fn a_stale_value_is_for_who_asks_for_it() {
    let near = near(10, 10_000);
    let stale_for = Duration::from_millis(640);
    fill(&near, 1, Fresh { stale_for, ..fresh(5, 1) }, at(0));
    let stale = |now| near.get_stale(&1, at(now));
    assert_eq!(stale(999), Lookup::Value(Arc::new(5)));
    check(&near, 1, at(1_000), None);
    assert_eq!(stale(1_000), Lookup::Value(Arc::new(5)));
    assert_eq!(stale(1_639), Lookup::Value(Arc::new(5)));
    assert_eq!(stale(1_640), Lookup::Nothing);
    // An older value replaces a newer one whose time is up.
    fill(&near, 1, fresh(4, 0), at(1_000));
    check(&near, 1, at(1_001), Some(4));
}

#[test]
fn a_slow_read_does_not_bring_back_what_was_overwritten_or_invalidated() {
    let near = near(10, 10_000);
    let (before, cover) = near.fetch(1, slot(), at(0));
    let write = near.begin(1, slot(), at(0));
    let (during, _) = near.fetch(1, slot(), at(0));
    near.fill(&1, before, fresh(5, 1), cover);
    check(&near, 1, at(0), None);
    near.end_write(&1, write, None);
    near.fill(&1, during, fresh(5, 1), cover);
    check(&near, 1, at(0), None);
    fill(&near, 1, fresh(7, 3), at(0));
    check(&near, 1, at(0), Some(7));
}

#[test]
fn a_read_during_a_write_is_erased_by_its_end() {
    let near = near(10, 10_000);
    let write = near.begin(1, slot(), at(0));
    fill(&near, 1, fresh(5, 1), at(0));
    check(&near, 1, at(0), Some(5));
    near.end_write(&1, write, None);
    check(&near, 1, at(0), None);
}

#[test]
fn of_overlapping_writes_none_is_kept() {
    for first_ends_first in [true, false] {
        let near = near(10, 10_000);
        let (a, b) = (near.begin(1, slot(), at(0)), near.begin(1, slot(), at(0)));
        let mut ends = [(a, fresh(5, 2)), (b, fresh(6, 1))];
        if !first_ends_first {
            ends.reverse();
        }
        for (ticket, fresh) in ends {
            near.end_write(&1, ticket, Some(fresh));
        }
        check(&near, 1, at(0), None);
    }
}

#[test]
fn a_write_is_kept_whether_its_own_invalidation_comes_first_or_last() {
    for told_first in [true, false] {
        let near = near(10, 10_000);
        let write = near.begin(1, slot(), at(0));
        if told_first {
            near.publish(1, slot(), 2);
        }
        near.end_write(&1, write, Some(fresh(5, 2)));
        if !told_first {
            near.publish(1, slot(), 2);
        }
        check(&near, 1, at(0), Some(5));
        near.publish(1, slot(), 3);
        check(&near, 1, at(0), None);
    }
    // Somebody else's came behind it, or so it may be.
    for told in [vec![3], vec![2, 3], vec![1, 2]] {
        let near = near(10, 10_000);
        let write = near.begin(1, slot(), at(0));
        told.iter().for_each(|seq| near.publish(1, slot(), *seq));
        near.end_write(&1, write, Some(fresh(5, 2)));
        check(&near, 1, at(0), None);
    }
}

#[test]
fn an_older_version_does_not_replace_a_newer_one() {
    let near = near(10, 10_000);
    let (slow, cover) = near.fetch(1, slot(), at(0));
    near.fill(&1, slow, fresh(6, 2), cover);
    near.fill(&1, slow, fresh(5, 1), cover);
    check(&near, 1, at(0), Some(6));
    let late = Ticket { at: at(2_000), ..slow };
    near.fill(&1, late, fresh(5, 1), cover);
    check(&near, 1, at(2_000), Some(5));
}

#[test]
fn another_nodes_write_is_told_by_the_hash_of_the_key() {
    let near = near(10, 10_000);
    fill(&near, 42, fresh(5, 1), at(0));
    fill(&near, 43, fresh(6, 1), at(0));
    let (under_way, cover) = near.fetch(42, slot(), at(0));
    near.publish(42, slot(), 2);
    check(&near, 42, at(0), None);
    assert_eq!(near.get_stale(&42, at(0)), Lookup::Nothing);
    check(&near, 43, at(0), Some(6));
    near.fill(&42, under_way, fresh(5, 1), cover);
    check(&near, 42, at(0), None);
    near.publish(43, Slot::new(6).unwrap(), 7);
    check(&near, 43, at(0), Some(6));
}

#[test]
fn what_was_written_by_others_keeps_its_standing_but_is_cleared_away() {
    let near = near(100, 1 << 20);
    (0..90).for_each(|key| fill(&near, key, fresh(1, 1), at(0)));
    near.publish(7, slot(), 2);
    assert_eq!(near.size().0, 90, "nothing is dropped under a slot's lock");
    (0..30).for_each(|key| fill(&near, key + 30, fresh(1, 3), at(0)));
    assert_eq!(near.size().0, 89);
}

#[test]
fn a_dropped_slot_takes_what_is_there_and_what_is_on_its_way() {
    let near = near(10, 10_000);
    fill(&near, 1, fresh(5, 1), at(0));
    let (before, cover) = near.fetch(2, slot(), at(0));
    let write = near.begin(3, slot(), at(0));
    near.publisher.drop_slot(slot());
    near.fill(&2, before, fresh(6, 1), cover);
    check(&near, 1, at(0), None);
    check(&near, 2, at(0), None);
    // Nobody tells what becomes of it.
    near.end_write(&3, write, Some(fresh(7, 1)));
    check(&near, 3, at(99), Some(7));
    check(&near, 3, at(100), None);
    fill(&near, 4, fresh(8, 1), at(100));
    check(&near, 4, at(100), Some(8));
    assert_eq!(near.size().0, 1, "the dropped ones were cleared away");
}

#[test]
fn slots_that_nobody_vouches_for_are_not_shown() {
    let near = Owned::new(Limits { entries: 10, bytes: 10_000 }, BOUND);
    near.vouch(at(1));
    fill(&near, 1, Fresh { stale_for: TTL, ..fresh(5, 1) }, at(1));
    check(&near, 1, at(100), Some(5));
    check(&near, 1, at(101), None);
    assert_eq!(near.get_stale(&1, at(101)), Lookup::Nothing);
    near.vouch(at(101));
    check(&near, 1, at(200), Some(5));
}

#[test]
fn what_nobody_tells_of_is_shown_until_the_bound_is_over() {
    let near = near(10, 10_000);
    let ticket = near.ticket(&1, slot(), at(10));
    near.fill(&1, ticket, fresh(5, 1), Cover::Nobody);
    check(&near, 1, at(109), Some(5));
    check(&near, 1, at(110), None);
    let short = Fresh { ttl: Duration::from_millis(20), ..fresh(5, 1) };
    near.fill(&1, near.ticket(&1, slot(), at(110)), short, Cover::Nobody);
    check(&near, 1, at(129), Some(5));
    check(&near, 1, at(130), None);
}

#[test]
fn absent_values_are_known_and_have_a_bound_of_their_own() {
    let near = near(80, 1 << 20);
    fill(&near, 1, absent(1), at(0));
    assert_eq!(near.lookup(&1, at(0)), Lookup::Absent);
    assert_eq!(near.lookup(&2, at(0)), Lookup::Nothing);
    (100..150).for_each(|key| fill(&near, key, fresh(1, 1), at(0)));
    (1_000..3_000).for_each(|key| fill(&near, key, absent(1), at(0)));
    let absent = (1_000..3_000).filter(|key| near.lookup(key, at(0)) == Lookup::Absent);
    assert_eq!(absent.count(), 10);
    (100..150).for_each(|key| check(&near, key, at(0), Some(1)));
    // A value takes the place of its absence, and the other way round.
    fill(&near, 2_999, fresh(2, 2), at(0));
    check(&near, 2_999, at(0), Some(2));
    fill(&near, 100, Fresh { value: None, ..fresh(0, 2) }, at(0));
    assert_eq!(near.lookup(&100, at(0)), Lookup::Absent);
}

#[test]
fn it_stays_within_its_bounds() {
    for (entries, bytes) in
        [(10, 1 << 20), (5_000, 20_000), (1, 1_000), (3_000, 0), (3_000, 1 << 22)]
    {
        let near = near(entries, bytes);
        for key in 0..20_000 {
            fill(&near, key, fresh(1, 1), at(0));
            check(&near, key, at(0), (bytes > 0).then_some(1));
        }
        let (held, size) = near.size();
        assert!(held <= entries && size <= bytes, "{held} entries, {size} bytes");
        assert!(bytes == 0 || held > 0);
    }
}

#[test]
fn what_is_too_large_is_refused() {
    let near = near(100, 100_000);
    fill(&near, 1, fresh(1, 1), at(0));
    fill(&near, 2, Fresh { bytes: 60_000, ..fresh(2, 1) }, at(0));
    fill(&near, 3, Fresh { bytes: 40_000, ..fresh(3, 1) }, at(0));
    check(&near, 1, at(0), Some(1));
    check(&near, 2, at(0), None);
    check(&near, 3, at(0), Some(3));
    // What it was to replace is older, and gone.
    fill(&near, 1, Fresh { bytes: usize::MAX, ..fresh(2, 2) }, at(0));
    check(&near, 1, at(0), None);
}

#[test]
fn what_is_read_survives_a_scan() {
    let near = near(100, 1 << 20);
    (0..50).for_each(|key| fill(&near, key, fresh(1, 1), at(0)));
    for key in 1_000..3_000 {
        fill(&near, key, fresh(1, 1), at(0));
        check(&near, key % 50, at(0), Some(1));
    }
}

#[test]
fn a_written_key_keeps_its_standing() {
    let near = near(100, 1 << 20);
    (0..90).for_each(|key| fill(&near, key, fresh(1, 1), at(0)));
    for key in 1_000..2_000 {
        check(&near, 7, at(0), Some(1));
        let write = near.begin(7, slot(), at(0));
        near.end_write(&7, write, Some(fresh(1, 2)));
        fill(&near, key, fresh(1, 1), at(0));
    }
    check(&near, 7, at(0), Some(1));
}
