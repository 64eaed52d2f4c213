mod model;
mod threads;

use slotmesh_slots::{Epoch, Seq};

use super::*;

const TTL: Duration = Duration::from_secs(1);

fn at(millis: u64) -> MonoTime {
    MonoTime::from_micros(millis * 1_000)
}

fn slot() -> Slot {
    Slot::new(5).unwrap()
}

fn near(entries: usize, bytes: usize) -> Near<u32, u64> {
    let coherence = Arc::new(Coherence::new(1));
    Near::new(Limits { entries, bytes }, KeyHasher::new(7, b"n:1:"), coherence)
}

fn fresh(value: u64, seq: u64) -> Fresh<u64> {
    let version = Version::new(Epoch(1), Seq(seq));
    Fresh { value: Some(Arc::new(value)), version, ttl: TTL, stale_for: Duration::ZERO, bytes: 8 }
}

fn absent(seq: u64) -> Fresh<u64> {
    Fresh { value: None, ..fresh(0, seq) }
}

fn fill(near: &Near<u32, u64>, key: u32, fresh: Fresh<u64>, now: MonoTime) {
    near.fill(&key, near.ticket(&key, slot()), fresh, now);
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
    let (before, write) = (near.ticket(&1, slot()), near.begin_write(&1, slot()));
    let during = near.ticket(&1, slot());
    near.fill(&1, before, fresh(5, 1), at(0));
    check(&near, 1, at(0), None);
    near.end_write(&1, write, None, at(0));
    near.fill(&1, during, fresh(5, 1), at(0));
    check(&near, 1, at(0), None);
    fill(&near, 1, fresh(7, 3), at(0));
    check(&near, 1, at(0), Some(7));
}

#[test]
fn a_read_during_a_write_is_erased_by_its_end() {
    let near = near(10, 10_000);
    let write = near.begin_write(&1, slot());
    fill(&near, 1, fresh(5, 1), at(0));
    check(&near, 1, at(0), Some(5));
    near.end_write(&1, write, None, at(0));
    check(&near, 1, at(0), None);
}

#[test]
fn of_overlapping_writes_none_is_kept() {
    for first_ends_first in [true, false] {
        let near = near(10, 10_000);
        let (a, b) = (near.begin_write(&1, slot()), near.begin_write(&1, slot()));
        let mut ends = [(a, fresh(5, 2)), (b, fresh(6, 1))];
        if !first_ends_first {
            ends.reverse();
        }
        for (ticket, fresh) in ends {
            near.end_write(&1, ticket, Some(fresh), at(0));
        }
        check(&near, 1, at(0), None);
    }
    let near = near(10, 10_000);
    let alone = near.begin_write(&1, slot());
    near.end_write(&1, alone, Some(fresh(5, 2)), at(0));
    check(&near, 1, at(0), Some(5));
}

#[test]
fn an_older_version_does_not_replace_a_newer_one() {
    let near = near(10, 10_000);
    let (slow, fast) = (near.ticket(&1, slot()), near.ticket(&1, slot()));
    near.fill(&1, fast, fresh(6, 2), at(0));
    near.fill(&1, slow, fresh(5, 1), at(0));
    check(&near, 1, at(0), Some(6));
    near.fill(&1, slow, fresh(5, 1), at(2_000));
    check(&near, 1, at(2_000), Some(5));
}

#[test]
fn another_nodes_write_is_told_by_the_hash_of_the_key() {
    let near = near(10, 10_000);
    let hash = |key: &str| cluster_key_hash(7, key.as_bytes());
    fill(&near, 42, fresh(5, 1), at(0));
    fill(&near, 43, fresh(6, 1), at(0));
    let under_way = near.ticket(&42, slot());
    near.invalidate_hash(slot(), hash("n:1:42"));
    check(&near, 42, at(0), None);
    check(&near, 43, at(0), Some(6));
    near.fill(&42, under_way, fresh(5, 1), at(0));
    check(&near, 42, at(0), None);
    near.invalidate_hash(Slot::new(6).unwrap(), hash("n:1:43"));
    check(&near, 43, at(0), Some(6));
}

#[test]
fn a_dropped_slot_takes_what_is_there_and_what_is_on_its_way() {
    let near = near(10, 10_000);
    fill(&near, 1, fresh(5, 1), at(0));
    let (before, write) = (near.ticket(&2, slot()), near.begin_write(&3, slot()));
    near.coherence.slot_dropped(slot());
    near.fill(&2, before, fresh(6, 1), at(0));
    near.end_write(&3, write, Some(fresh(7, 1)), at(0));
    for key in 1..=3 {
        check(&near, key, at(0), None);
    }
    fill(&near, 4, fresh(8, 1), at(0));
    check(&near, 4, at(0), Some(8));
    assert_eq!(near.size().0, 1, "the dropped ones were cleared away");
}

#[test]
fn a_silent_peers_slots_are_not_shown() {
    let near = near(10, 10_000);
    near.coherence.slot_owned_by(slot(), PeerIndex(1));
    near.coherence.peer_readable_until(PeerIndex(1), at(100));
    fill(&near, 1, Fresh { stale_for: TTL, ..fresh(5, 1) }, at(0));
    check(&near, 1, at(99), Some(5));
    check(&near, 1, at(100), None);
    assert_eq!(near.get_stale(&1, at(100)), Lookup::Nothing);
    near.coherence.peer_readable_until(PeerIndex(1), at(200));
    check(&near, 1, at(199), Some(5));
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
        let write = near.begin_write(&7, slot());
        near.end_write(&7, write, Some(fresh(1, 2)), at(0));
        fill(&near, key, fresh(1, 1), at(0));
    }
    check(&near, 7, at(0), Some(1));
}
