//! What coherence costs: a write at the slot's owner by how many nodes watch the slot, what it puts on their streams, and the
//! question of a local tier whether a value may be served, beside a read of an atomic.
//!
//! `cargo bench -p slotmesh-benches --bench coherence [-- --quick]`

use std::hint::black_box;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use bytes::Bytes;
use slotmesh_benches::median;
use slotmesh_coherence::{Publisher, Readable, Sink, Stamp, Subscriber, Watcher};
use slotmesh_slots::{MonoTime, NodeId, Seq, Slot};

/// Writes between two looks of the streams' writers.
const BATCH: usize = 1_000;

struct Ignored;

impl Sink for Ignored {
    fn invalidate(&self, _slot: Slot, seq: Seq, hash: u64) {
        black_box((seq, hash));
    }
}

fn main() {
    let quick = std::env::args().any(|argument| argument == "--quick");
    let rounds = if quick { 20 } else { 400 };
    println!("medians of {rounds} rounds of {BATCH}");
    println!(
        "{:>9} {:>16} {:>25} {:>24}",
        "watchers", "ns per write", "bytes per watcher", "ns to take one in"
    );
    for watchers in [0, 1, 3, 100] {
        println!("{}", publish(watchers, rounds));
    }
    println!("{}", serve(rounds));
}

fn node(number: u64) -> NodeId {
    NodeId::new(number).expect("not zero")
}

fn publish(watchers: u64, rounds: usize) -> String {
    let publisher = Publisher::new(Box::new(|_| {}));
    let slots: Vec<Slot> = Slot::all().collect();
    let subscribers: Vec<(Subscriber, Watcher)> =
        (0..watchers).map(|number| watch(&publisher, number + 2, &slots)).collect();
    let (mut write, mut take, mut bytes) = (Vec::new(), Vec::new(), 0);
    for round in 0..rounds {
        let began = Instant::now();
        for index in 0..BATCH {
            let slot = slots[(round * BATCH + index * 31) % slots.len()];
            publisher.publish(slot, Seq(round as u64), || index as u64);
        }
        write.push(began.elapsed().as_nanos() as f64 / BATCH as f64);
        for (subscriber, watcher) in &subscribers {
            let frames = publisher.poll_frames(*watcher).expect("open");
            bytes += frames.iter().map(Bytes::len).sum::<usize>();
            let began = Instant::now();
            for frame in frames {
                subscriber.handle_frame(node(1), *watcher, &frame, MonoTime::ZERO).expect("valid");
            }
            take.push(began.elapsed().as_nanos() as f64 / BATCH as f64);
        }
    }
    let each = bytes as f64 / (rounds * BATCH * watchers.max(1) as usize) as f64;
    let taken = if take.is_empty() { 0.0 } else { median(&take) };
    format!("{watchers:>9} {:>16.1} {each:>25.1} {taken:>24.1}", median(&write))
}

/// A subscriber that watches all slots.
fn watch(publisher: &Publisher, number: u64, slots: &[Slot]) -> (Subscriber, Watcher) {
    let subscriber = Subscriber::new(node(number), Box::new(|_| {}));
    let sink: Arc<dyn Sink> = Arc::new(Ignored);
    subscriber.register(&sink, Duration::from_millis(100));
    // The tier lives as long as the program.
    std::mem::forget(sink);
    let (watcher, hello) = subscriber.open(node(1)).expect("room for it");
    publisher.open(watcher.node, &hello).expect("a hello");
    for slot in slots {
        assert!(publisher.subscribe(*slot, watcher));
    }
    (subscriber, watcher)
}

fn serve(rounds: usize) -> String {
    let publisher = Publisher::new(Box::new(|_| {}));
    let slots: Vec<Slot> = Slot::all().collect();
    let (subscriber, watcher) = watch(&publisher, 2, &slots);
    let stamp = |slot: &Slot| {
        let ticket = subscriber.ticket(*slot);
        subscriber.admit(*slot, ticket, node(1), watcher).expect("watched")
    };
    let stamps: Vec<Stamp> = slots.iter().map(stamp).collect();
    let now = MonoTime::from_micros(1_000_000);
    let _asks = subscriber.watcher(node(1));
    let ping = subscriber.poll_ping(node(1), now).expect("asked for");
    publisher.handle_frame(watcher, &ping, true).expect("a ping");
    for frame in publisher.poll_frames(watcher).expect("open") {
        subscriber.handle_frame(node(1), watcher, &frame, now).expect("valid");
    }
    let atomics: Vec<AtomicU64> = (0..slots.len() as u64).map(AtomicU64::new).collect();
    let (mut ours, mut theirs) = (Vec::new(), Vec::new());
    for _ in 0..rounds {
        let since = now.saturating_sub(Duration::from_millis(100));
        ours.push(each(|index| {
            let readable = subscriber.readable(slots[index], stamps[index], since);
            assert_eq!(readable, Readable::Yes);
        }));
        theirs.push(each(|index| {
            black_box(atomics[index].load(Ordering::Acquire));
        }));
    }
    let (ours, theirs) = (median(&ours), median(&theirs));
    format!("may it be served: {ours:.2} ns; an atomic of a slot: {theirs:.2} ns")
}

fn each(mut ask: impl FnMut(usize)) -> f64 {
    let began = Instant::now();
    for index in 0..BATCH {
        ask(black_box(index * 7 % 16_384));
    }
    began.elapsed().as_nanos() as f64 / BATCH as f64
}
