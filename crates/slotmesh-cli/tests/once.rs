//! Writes that are not the same twice as once, retried over the death of their primary.

#[allow(
    unreachable_pub,
    dead_code,
    clippy::unwrap_used,
    reason = "support of these tests, not an interface"
)]
mod processes;

use std::sync::atomic::{AtomicI64, Ordering};
use std::thread;

use processes::{Answer, Process, cluster, keys_of, slots_of, until};
use rustix::process::Signal;

/// Increments of each key before the kill, and as many after it.
const EACH: i64 = 200;

#[test]
fn increments_are_neither_lost_nor_repeated_when_their_primary_dies() {
    let mut nodes = cluster(3);
    let mut client = nodes[0].client();
    let slots: Vec<u16> = slots_of(&mut client, nodes[1].resp).into_iter().step_by(700).collect();
    let keys = keys_of(&slots);
    assert!(keys.len() >= 4, "{keys:?}");
    let victim = nodes.remove(1);
    let (counted, killed) = (AtomicI64::new(0), AtomicI64::new(i64::MAX));
    let count = |key: &str, node: &Process| {
        let mut client = node.client();
        let mut done = 0_i64;
        while done < killed.load(Ordering::Relaxed).saturating_add(EACH) {
            done += 1;
            // Each call outlasts the failover, and the sums tell what became of those that were under way.
            assert_eq!(client.ask(&["INCR", key]), Answer::Value(done.to_string()), "{key}");
            counted.fetch_add(1, Ordering::Relaxed);
        }
    };
    thread::scope(|scope| {
        for (at, key) in keys.iter().enumerate() {
            let node = &nodes[at % 2];
            scope.spawn(|| count(key, node));
        }
        until("the counters to be under way", || {
            counted.load(Ordering::Relaxed) > EACH * keys.len() as i64
        });
        victim.signal(Signal::KILL);
        killed.store(counted.load(Ordering::Relaxed) / keys.len() as i64, Ordering::Relaxed);
    });
    assert!(counted.load(Ordering::Relaxed) >= 2 * EACH * keys.len() as i64);
}
