//! A node that keeps values of its own slots is told of writes in the call that publishes them.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::sync::Arc;
use std::time::Duration;

use parking_lot::Mutex;
use slotmesh_coherence::{Publisher, Readable, Sink, Stamp, Subscriber};
use slotmesh_slots::{MonoTime, NodeId, Seq, Slot};

const BOUND: Duration = Duration::from_millis(100);

#[derive(Default)]
struct Told(Mutex<Vec<(Slot, Seq, u64)>>);

impl Sink for Told {
    fn invalidate(&self, slot: Slot, seq: Seq, hash: u64) {
        self.0.lock().push((slot, seq, hash));
    }
}

fn slot() -> Slot {
    Slot::of_key(b"foo")
}

fn at(millis: u64) -> MonoTime {
    MonoTime::from_micros(millis * 1_000)
}

struct World {
    publisher: Publisher,
    subscriber: Arc<Subscriber>,
    told: Arc<Told>,
}

impl World {
    fn new() -> Self {
        let me = NodeId::new(3).unwrap();
        let subscriber = Arc::new(Subscriber::new(me, Box::new(|_| {})));
        let publisher = Publisher::new(Box::new(|_| {}));
        let told = Arc::new(Told::default());
        subscriber.register(&(Arc::clone(&told) as Arc<dyn Sink>), BOUND);
        publisher.attach(Arc::clone(&subscriber));
        Self { publisher, subscriber, told }
    }

    /// Reads a value of the own slot.
    fn keep(&self) -> Option<Stamp> {
        let (ticket, by) = (self.subscriber.ticket(slot()), self.subscriber.own());
        assert!(self.publisher.subscribe(slot(), by));
        self.subscriber.admit(slot(), ticket, by.node, by)
    }

    fn check(&self, stamp: Stamp, now: MonoTime, expected: Readable) {
        let since = now.saturating_sub(BOUND);
        assert_eq!(self.subscriber.readable(slot(), stamp, since), expected);
    }
}

#[test]
fn it_is_told_of_what_it_watches_and_of_nothing_else() {
    let world = World::new();
    world.publisher.publish(slot(), Seq(1), || 7);
    assert!(world.told.0.lock().is_empty(), "nobody keeps anything of the slot");
    let _stamp = world.keep().unwrap();
    world.publisher.publish(slot(), Seq(2), || 7);
    world.publisher.publish(Slot::of_key(b"bar"), Seq(1), || 7);
    assert_eq!(*world.told.0.lock(), [(slot(), Seq(2), 7)]);
}

#[test]
fn its_values_are_served_while_the_node_vouches_for_them() {
    let world = World::new();
    let stamp = world.keep().unwrap();
    world.check(stamp, at(1), Readable::NotNow);
    assert!(world.subscriber.wants_voucher() && !world.subscriber.wants_voucher());
    world.subscriber.vouch(at(50));
    let staleness = |now| world.subscriber.staleness(BOUND, now);
    world.check(stamp, at(149), Readable::Yes);
    assert_eq!(staleness(at(149)), Duration::from_millis(99));
    world.check(stamp, at(150), Readable::NotNow);
    assert_eq!(staleness(at(150)), Duration::ZERO, "nothing is served");
    world.subscriber.vouch(at(200));
    world.check(stamp, at(201), Readable::Yes);
}

#[test]
fn a_slot_that_it_gives_away_is_dropped() {
    let world = World::new();
    world.subscriber.vouch(at(1));
    let stamp = world.keep().unwrap();
    world.check(stamp, at(2), Readable::Yes);
    world.publisher.drop_slot(slot());
    world.check(stamp, at(2), Readable::No);
    assert!(world.subscriber.is_dropped(slot(), stamp));
    world.publisher.publish(slot(), Seq(2), || 7);
    assert!(world.told.0.lock().is_empty(), "it is not watched any more");
}

#[test]
fn it_is_no_peer_that_could_come_or_go() {
    let world = World::new();
    let by = world.subscriber.own();
    assert_eq!(world.subscriber.watcher(by.node), Some(by));
    assert!(world.subscriber.wanted().is_empty());
    assert!(world.subscriber.open(by.node).is_none());
    world.subscriber.vouch(at(1));
    let stamp = world.keep().unwrap();
    assert!(world.subscriber.retain(|_| false).is_empty());
    world.check(stamp, at(2), Readable::Yes);
}
