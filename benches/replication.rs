//! Records per second through append, link, replica, acknowledgement and commit, with no, one and two replicas.
//!
//! `cargo bench -p slotmesh-benches --bench replication [-- --quick]`
//!
//! One thread does the work of all nodes and there is no network, so a row is the protocol's cost per record on all of them.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use bytes::Bytes;
use slotmesh_replication::{Config, Primary, PrimarySlot, Replica, ReplicaAction, Ring};
use slotmesh_slots::{Class, Effect, Epoch, MonoTime, NodeId, Record, Seq, Slot, Version};

const KEY_BYTES: usize = 16;
const VALUE_BYTES: usize = 64;
const SLOTS: u64 = 1_024;
/// Records appended between two looks at the links, as many callers in flight would.
const BATCH: u64 = 64;
const NOW: MonoTime = MonoTime::from_micros(1);
const RING_BYTES: usize = 32 << 20;

struct Cluster {
    primary: Primary,
    replicas: Vec<(NodeId, Replica)>,
    seqs: Vec<u64>,
    committed: Arc<AtomicU64>,
    value: Bytes,
}

fn id(number: u64) -> NodeId {
    NodeId::from_random(number)
}

impl Cluster {
    fn new(replicas: u64) -> Self {
        let config = Config::default();
        let primary = Primary::new(config.clone(), Arc::new(Ring::new(RING_BYTES)), |_| {});
        let in_sync = (2..2 + replicas).map(id).collect();
        let role = PrimarySlot { epoch: Epoch(1), in_sync, ..PrimarySlot::default() };
        for slot in Slot::all().take(SLOTS as usize) {
            primary.set_slot(slot, Some(role), Version::default(), NOW);
        }
        let replica = |number| {
            let replica = Replica::new(config.clone(), Arc::new(Ring::new(RING_BYTES)));
            replica.open(id(1));
            primary.link_up(id(number), NOW);
            (id(number), replica)
        };
        let replicas = (2..2 + replicas).map(replica).collect();
        let value = Bytes::from(vec![7; VALUE_BYTES]);
        let seqs = vec![0; SLOTS as usize];
        Self { primary, replicas, seqs, committed: Arc::default(), value }
    }

    fn append(&mut self, number: u64) {
        // A multiplicative hash spreads neighbours over the slots.
        let slot = number.wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 54;
        let seq = &mut self.seqs[slot as usize];
        *seq += 1;
        let key = Bytes::copy_from_slice(&[number.to_be_bytes(); KEY_BYTES / 8].concat());
        let effect =
            Effect::Put { class: Class::Cache, key, value: self.value.clone(), deadline: None };
        let slot = Slot::new(slot as u16).expect("below the number of slots");
        let record = Record { slot, epoch: Epoch(1), seq: Seq(*seq), effect, answer: None };
        let committed = self.committed.clone();
        self.primary.append(&record).expect("in order");
        let done = Box::new(move |_| {
            committed.fetch_add(1, Ordering::Relaxed);
        });
        self.primary.wait(slot, record.version(), done);
    }

    /// Carries frames both ways until nothing is left.
    fn exchange(&self) {
        for (node, replica) in &self.replicas {
            loop {
                let frames = self.primary.poll_frames(*node, 1 << 20, NOW);
                if frames.is_empty() {
                    break;
                }
                for frame in &frames {
                    for action in replica.handle_frame(id(1), frame, NOW).expect("well-formed") {
                        work(replica, action);
                    }
                }
                for frame in replica.poll_frames(id(1)) {
                    self.primary.handle_frame(*node, &frame, NOW).expect("well-formed");
                }
            }
        }
    }
}

fn work(replica: &Replica, action: ReplicaAction) {
    match action {
        ReplicaAction::Report { ticket } => replica.report(ticket, Version::default(), 0),
        ReplicaAction::Apply { ticket, .. } => {
            assert!(replica.admits(&ticket), "nobody promised anything");
            replica.applied(ticket, Ok(()));
        }
        other @ (ReplicaAction::Install { .. } | ReplicaAction::Audit { .. }) => {
            unreachable!("{other:?}")
        }
    }
}

fn measure(replicas: u64, window: Duration) -> f64 {
    let mut cluster = Cluster::new(replicas);
    cluster.exchange();
    let (start, mut number) = (Instant::now(), 0);
    while start.elapsed() < window {
        for _ in 0..BATCH {
            cluster.append(number);
            number += 1;
        }
        cluster.exchange();
    }
    let elapsed = start.elapsed();
    assert_eq!(cluster.committed.load(Ordering::Relaxed), number, "all are committed");
    number as f64 / elapsed.as_secs_f64()
}

fn main() {
    let quick = std::env::args().any(|argument| argument == "--quick");
    let (rounds, window) = if quick { (3, 200) } else { (9, 1_000) };
    for replicas in 0..=2 {
        let mut rates: Vec<f64> =
            (0..rounds).map(|_| measure(replicas, Duration::from_millis(window))).collect();
        rates.sort_by(f64::total_cmp);
        let rate = rates[rounds / 2];
        println!(
            "replicas {replicas}: {:>9.0} records/s committed, {:>6.0} ns each",
            rate,
            1e9 / rate
        );
    }
}
