//! What coherence costs: a write at the slot's owner by how many nodes watch the slot, what it puts on their streams, and the
//! question of a local tier whether a value may be served, beside a read of an atomic.
//!
//! And how soon a local tier hears of writes, with three nodes in this process: from the acknowledgement of a put, at 50,000 in a second, to
//! the moment at which another node can serve the old value no more.
//!
//! `cargo bench -p slotmesh-benches --bench coherence [-- --quick]`

use std::collections::HashMap;
use std::hint::black_box;
use std::net::TcpListener;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use bytes::Bytes;
use slotmesh_benches::median;
use slotmesh_coherence::{Publisher, Readable, Sink, Stamp, Subscriber, Watcher, key_hash};
use slotmesh_node::{CallOptions, ClusterSecret, Node, NodeConfig, Op, Phase, PutOptions, Reply};
use slotmesh_slots::{MonoTime, NodeId, Seq, Slot};
use tokio::runtime;
use tokio::task::JoinSet;

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
    let runtime = runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build();
    println!("{}", runtime.expect("a runtime").block_on(hear(quick)));
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

const KEYS: usize = 4_096;
const WRITERS: usize = 32;
const WRITES_PER_SECOND: usize = 50_000;

/// When each key's write was acknowledged and when it was heard of, in nanoseconds since the beginning; zero while not.
struct Heard {
    began: Instant,
    hashes: HashMap<u64, usize>,
    acked: Vec<AtomicU64>,
    heard: Vec<AtomicU64>,
}

impl Sink for Heard {
    fn invalidate(&self, _slot: Slot, _seq: Seq, hash: u64) {
        if let Some(key) = self.hashes.get(&hash) {
            self.heard[*key].store(self.now(), Ordering::Release);
        }
    }
}

impl Heard {
    fn new(seed: u64) -> Self {
        let hashes = (0..KEYS).map(|key| (key_hash(seed, name(key).as_bytes()), key)).collect();
        let zeroes = || (0..KEYS).map(|_| AtomicU64::new(0)).collect();
        Self { began: Instant::now(), hashes, acked: zeroes(), heard: zeroes() }
    }

    fn now(&self) -> u64 {
        self.began.elapsed().as_nanos() as u64
    }
}

fn name(key: usize) -> String {
    format!("heard:1:{key}")
}

async fn cluster() -> Vec<Node> {
    let listen = |_| TcpListener::bind("127.0.0.1:0").expect("a port");
    let listeners: Vec<TcpListener> = (0..3).map(listen).collect();
    let seeds: Vec<_> = listeners.iter().map(|it| it.local_addr().expect("bound")).collect();
    drop(listeners);
    let mut nodes = Vec::new();
    for bind in seeds.clone() {
        let secret = ClusterSecret::new("a secret of the benchmark").expect("long enough");
        let seeds = seeds.clone();
        let config = NodeConfig { bind, seeds, expect: 3, ..NodeConfig::new(secret) };
        nodes.push(Node::start(config).await.expect("a free address"));
    }
    for node in &nodes {
        node.wait_until(|status| status.phase == Phase::Serving && status.is_safe()).await;
    }
    nodes
}

/// The first node writes, the second hears.
async fn hear(quick: bool) -> String {
    let nodes = cluster().await;
    let heard = Arc::new(Heard::new(nodes[1].key_seed()));
    let sink: Arc<dyn Sink> = Arc::clone(&heard) as Arc<dyn Sink>;
    nodes[1].subscriber().register(&sink, Duration::from_millis(100));
    for key in 0..KEYS {
        let op = || Op::Watch { key: name(key).into(), by: None };
        while !matches!(
            nodes[1].execute(op(), CallOptions::default()).await,
            Ok(Reply::Watched { .. })
        ) {}
    }
    let rounds = if quick { 10 } else { 60 };
    let mut delays = Vec::new();
    let (began, mut written) = (Instant::now(), 0);
    for _ in 0..rounds {
        heard.acked.iter().chain(&heard.heard).for_each(|at| at.store(0, Ordering::Release));
        let mut writers = JoinSet::new();
        for writer in 0..WRITERS {
            let (node, heard) = (nodes[0].clone(), Arc::clone(&heard));
            writers.spawn(async move {
                for key in (writer..KEYS).step_by(WRITERS) {
                    let put = node.put(name(key), "value", PutOptions::default()).await;
                    put.expect("acknowledged");
                    heard.acked[key].store(heard.now(), Ordering::Release);
                }
            });
        }
        writers.join_all().await;
        written += KEYS;
        let due = Duration::from_secs_f64(written as f64 / WRITES_PER_SECOND as f64);
        tokio::time::sleep(due.saturating_sub(began.elapsed()).max(Duration::from_millis(5))).await;
        for (acked, heard) in heard.acked.iter().zip(&heard.heard) {
            let (acked, heard) = (acked.load(Ordering::Acquire), heard.load(Ordering::Acquire));
            assert!(heard != 0, "every write is told");
            delays.push(heard.saturating_sub(acked) as f64 / 1e6);
        }
    }
    let rate = written as f64 / began.elapsed().as_secs_f64() / 1e3;
    delays.sort_by(f64::total_cmp);
    let at = |part: f64| delays[((delays.len() - 1) as f64 * part) as usize];
    let (p50, p99, most) = (at(0.5), at(0.99), at(1.0));
    format!(
        "heard on another node, {rate:.0} k writes/s: p50 {p50:.2} ms, p99 {p99:.2} ms, longest {most:.1} ms"
    )
}
