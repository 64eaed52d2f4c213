//! What a cluster of processes on loopback takes for planned moves and for acknowledged writes, beside its goals.
//!
//! `cargo bench -p slotmesh-benches --bench moves [-- --quick] [leave] [join] [flood] [copy] [ack] [leader]`
//!
//! All nodes and all callers share this machine's cores, so the longest call without any move is printed too.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use bytes::Bytes;
use slotmesh_benches::members::{MEMBER_FLAG, Member, Plan, be_member, free_addrs, start};
use slotmesh_benches::{key, median};
use slotmesh_node::{Ack, CallOptions, Node, NodeStatus, Op, PutOptions};
use slotmesh_slots::{Class, Slot};

const VALUE: [u8; 64] = [7; 64];

/// Callers of the mixed load, each with a pause between two calls: what is measured is the wait of a call, not how the
/// cores are shared by as many callers as want them.
const CALLERS: usize = 16;
const PAUSE: Duration = Duration::from_millis(1);

/// How long the load runs before anything moves.
const BEFORE: Duration = Duration::from_secs(2);

/// How long anything may take before the benchmark gives up.
const PATIENCE: Duration = Duration::from_secs(120);

/// Entries written at once while a cluster is filled.
const BATCH: u32 = 2_000;

fn main() {
    let args: Vec<String> = std::env::args().collect();
    if let Some(at) = args.iter().position(|arg| arg == MEMBER_FLAG) {
        return be_member(&args[at + 1..]);
    }
    let quick = args.iter().any(|arg| arg == "--quick");
    let keys = if quick { 100_000 } else { 1_000_000 };
    let named = |part: &str| args.iter().any(|arg| arg == part);
    let all = !["leave", "join", "flood", "copy", "ack", "leader"].into_iter().any(named);
    let wanted = |part: &str| all || named(part);
    let runtime =
        tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build();
    runtime.expect("a runtime").block_on(async {
        println!("{:<58} {:>12}   measured", "", "goal");
        if wanted("leave") {
            leave(keys).await;
        }
        if wanted("join") {
            join(keys, 0, false).await;
            join(keys, 1, false).await;
        }
        if wanted("flood") {
            join(keys, 0, true).await;
        }
        if wanted("copy") {
            copy(keys).await;
        }
        if wanted("ack") {
            latency().await;
            throughput().await;
        }
        if wanted("leader") {
            lost_with_leader(if quick { 1 } else { 5 }).await;
        }
    });
}

fn row(name: &str, goal: &str, measured: &str) {
    println!("{name:<58} {goal:>12}   {measured}");
}

/// A cluster of this process and others, with a primary and all copies of every slot in sync.
struct Cluster {
    node: Node,
    others: Vec<Member>,
    plan: Plan,
}

impl Cluster {
    async fn found(nodes: usize, replicas: u8) -> Self {
        let plan = Plan { seeds: free_addrs(nodes), replicas };
        let others = plan.seeds[1..].iter().map(|&addr| Member::start(addr, &plan)).collect();
        let node = start(plan.seeds[0], &plan).await;
        let cluster = Self { node, others, plan };
        cluster.safe_with(nodes).await;
        cluster
    }

    async fn safe_with(&self, members: usize) {
        self.wait("a safe cluster", move |status| {
            status.cluster.members().len() == members && status.is_safe()
        })
        .await;
    }

    async fn wait(&self, what: &str, met: impl FnMut(&NodeStatus) -> bool) {
        let waited = tokio::time::timeout(PATIENCE, self.node.wait_until(met)).await;
        assert!(waited == Ok(true), "waited {PATIENCE:?} for {what}");
    }

    /// Another process joins; returns once it is a member, before it holds anything.
    async fn join(&mut self) {
        let before = self.node.status().cluster.members().len();
        let addr = free_addrs(1)[0];
        // One more than founded the cluster, or a second node would found its own at once.
        self.plan.seeds.push(addr);
        self.others.push(Member::start(addr, &self.plan));
        self.wait("a member more", |status| status.cluster.members().len() > before).await;
    }

    async fn fill(&self, keys: u32) {
        let put = |number| Op::Put {
            key: Bytes::copy_from_slice(&key(number)),
            value: Bytes::from_static(&VALUE),
            ttl: None,
            keep_ttl: false,
            condition: Default::default(),
            class: Class::Cache,
        };
        let options = CallOptions { timeout: Some(PATIENCE), ..CallOptions::default() };
        for first in (0..keys).step_by(BATCH as usize) {
            let mut ops: Vec<Op> = (first..keys.min(first + BATCH)).map(put).collect();
            while !ops.is_empty() {
                let answers = self.node.execute_many(ops.clone(), options).await;
                let failed = ops.into_iter().zip(answers).filter(|(_, answer)| answer.is_err());
                ops = failed.map(|(op, _)| op).collect();
            }
        }
    }

    async fn end(self) {
        self.node.stop().await;
    }
}

/// What callers met.
#[derive(Default)]
struct Met {
    calls: u64,
    errors: u64,
    longest: Duration,
    slow: u64,
}

/// Callers at work.
struct Callers {
    over: Arc<AtomicBool>,
    tasks: Vec<tokio::task::JoinHandle<Met>>,
    began: Instant,
}

/// A call longer than this is a stall: the goal of planned moves.
const STALL: Duration = Duration::from_millis(20);

impl Callers {
    /// `flood`: as many writes as possible; else nine reads to a write, with pauses.
    fn start(node: &Node, keys: u32, flood: bool) -> Self {
        let over = Arc::new(AtomicBool::new(false));
        let callers = if flood { 4 * CALLERS } else { CALLERS };
        let caller = |caller: usize| {
            let (node, over) = (node.clone(), Arc::clone(&over));
            tokio::spawn(async move {
                let mut met = Met::default();
                let mut turn = caller as u32 * 7_919;
                while !over.load(Ordering::Relaxed) {
                    turn = turn.wrapping_add(104_729);
                    met.call(&node, &key(turn % keys), flood || turn.is_multiple_of(10)).await;
                    if !flood {
                        tokio::time::sleep(PAUSE).await;
                    }
                }
                met
            })
        };
        Self { tasks: (0..callers).map(caller).collect(), over, began: Instant::now() }
    }

    async fn end(self) -> String {
        self.over.store(true, Ordering::Relaxed);
        let took = self.began.elapsed();
        let mut sum = Met::default();
        for task in self.tasks {
            let met = task.await.expect("no panic");
            sum.calls += met.calls;
            sum.errors += met.errors;
            sum.longest = sum.longest.max(met.longest);
            sum.slow += met.slow;
        }
        let rate = sum.calls as f64 / took.as_secs_f64() / 1e3;
        let Met { errors, longest, slow, calls } = sum;
        format!(
            "longest call {longest:.1?}, {slow} of {calls} above {STALL:?}, {errors} errors, {rate:.1} k/s"
        )
    }
}

impl Met {
    async fn call(&mut self, node: &Node, key: &[u8], write: bool) {
        let began = Instant::now();
        let failed = if write {
            let value = Bytes::from_static(&VALUE);
            node.put(Bytes::copy_from_slice(key), value, PutOptions::default()).await.is_err()
        } else {
            node.get(key).await.is_err()
        };
        let took = began.elapsed();
        self.calls += 1;
        self.errors += u64::from(failed);
        self.slow += u64::from(took > STALL);
        self.longest = self.longest.max(took);
    }
}

/// The mixed load while nothing moves.
async fn quiet(cluster: &Cluster, keys: u32) -> String {
    let callers = Callers::start(&cluster.node, keys, false);
    tokio::time::sleep(BEFORE).await;
    callers.end().await
}

async fn leave(keys: u32) {
    let mut cluster = Cluster::found(3, 1).await;
    cluster.fill(keys).await;
    let before = quiet(&cluster, keys).await;
    let callers = Callers::start(&cluster.node, keys, false);
    let began = Instant::now();
    cluster.others[1].leave();
    while !cluster.others[1].has_ended() {
        assert!(began.elapsed() < PATIENCE, "the member does not leave");
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    let took = began.elapsed();
    let during = callers.end().await;
    row(&format!("leave of one of three, {keys} keys, one replica: time"), "", &secs(took));
    row("  90/10 load meanwhile", "20 ms, 0 err", &during);
    row("  the same load before", "", &before);
    cluster.end().await;
}

/// A third node joins two; without replicas exactly its 5461 slots move.
async fn join(keys: u32, replicas: u8, flood: bool) {
    let mut cluster = Cluster::found(2, replicas).await;
    // So that a third of it, what moves, is as many as the goal says.
    let keys = if replicas == 0 { 3 * keys } else { keys };
    cluster.fill(keys).await;
    let before = quiet(&cluster, keys).await;
    let callers = Callers::start(&cluster.node, keys, flood);
    cluster.join().await;
    let began = Instant::now();
    let filled = |status: &NodeStatus| {
        let newcomer = status.cluster.members().keys().map(|node| owned(status, *node)).min();
        newcomer.is_some_and(|slots| slots > 5_400) && status.is_safe()
    };
    cluster.wait("the newcomer's share", filled).await;
    let took = began.elapsed();
    let during = callers.end().await;
    let load = if flood { "as many writes as possible" } else { "90/10 load" };
    let goal = if flood { "completes" } else { "2 s" };
    let name = format!("join of a third, {} keys a node, {replicas} replicas: time", keys / 3);
    row(&name, goal, &secs(took));
    row(&format!("  {load} meanwhile"), if flood { "0 err" } else { "20 ms, 0 err" }, &during);
    row("  90/10 load before", "", &before);
    cluster.end().await;
}

fn owned(status: &NodeStatus, node: slotmesh_slots::NodeId) -> usize {
    status.cluster.table().iter().filter(|(_, held)| held.primary == Some(node)).count()
}

/// A second node gets a copy of everything that the first has.
async fn copy(keys: u32) {
    let mut cluster = Cluster::found(1, 1).await;
    cluster.fill(keys).await;
    cluster.join().await;
    let began = Instant::now();
    let copied = |status: &NodeStatus| {
        status.cluster.table().iter().all(|(_, held)| held.in_sync.iter().next().is_some())
    };
    cluster.wait("all copies", copied).await;
    row(&format!("full copy of {keys} entries to a new node"), "0.8 s", &secs(began.elapsed()));
    cluster.end().await;
}

/// One caller, the primary and its replica in three processes.
async fn latency() {
    let cluster = Cluster::found(3, 1).await;
    let status = cluster.node.status();
    let me = cluster.node.id();
    let far = |key: &[u8]| !status.cluster.table().slot(Slot::of_key(key)).involves(me);
    let keys: Vec<_> = (0..20_000).map(key).filter(|key| far(key)).take(1_000).collect();
    let (mut all, mut primary) = (Vec::new(), Vec::new());
    for _ in 0..5 {
        all.push(micros(&cluster.node, &keys, Ack::All).await);
        primary.push(micros(&cluster.node, &keys, Ack::Primary).await);
    }
    let (all, primary) = (median(&all), median(&primary));
    row(
        "write of one caller, one replica: Ack::All over Ack::Primary",
        "1.7",
        &format!("{:.2} ({all:.0} us over {primary:.0} us)", all / primary),
    );
    cluster.end().await;
}

/// The median time of a write.
async fn micros(node: &Node, keys: &[[u8; 16]], ack: Ack) -> f64 {
    let mut took = Vec::with_capacity(keys.len());
    for key in keys {
        let began = Instant::now();
        write(node, key, ack).await;
        took.push(began.elapsed().as_secs_f64() * 1e6);
    }
    median(&took)
}

async fn write(node: &Node, key: &[u8], ack: Ack) {
    let call = CallOptions { ack, ..CallOptions::default() };
    let options = PutOptions { call, ..PutOptions::default() };
    let value = Bytes::from_static(&VALUE);
    node.put(Bytes::copy_from_slice(key), value, options).await.expect("a healthy cluster");
}

/// Fifty callers at a primary whose replica is another process.
async fn throughput() {
    let cluster = Cluster::found(2, 1).await;
    let (node, me) = (&cluster.node, cluster.node.id());
    for (name, here) in [("at their node", true), ("anywhere", false)] {
        let mine = |key: &[u8]| node.owner(Slot::of_key(key)) == Some(me);
        let keys: Vec<_> = (0..40_000).map(key).filter(|key| !here || mine(key)).collect();
        let keys = Arc::new(keys);
        let mut rates = Vec::new();
        for _ in 0..5 {
            rates.push(writes_per_second(node, &keys).await / 1e3);
        }
        let name = format!("writes/s of 50 callers, one replica, Ack::All, {name}");
        row(&name, "150 k/s", &format!("{:.0} k/s", median(&rates)));
    }
    cluster.end().await;
}

async fn writes_per_second(node: &Node, keys: &Arc<Vec<[u8; 16]>>) -> f64 {
    let window = Duration::from_secs(1);
    let began = Instant::now();
    let caller = |caller: usize| {
        let (node, keys) = (node.clone(), Arc::clone(keys));
        tokio::spawn(async move {
            let mut count = 0;
            while began.elapsed() < window {
                for _ in 0..16 {
                    write(&node, &keys[(caller * 997 + count) % keys.len()], Ack::All).await;
                    count += 1;
                }
            }
            count
        })
    };
    let tasks: Vec<_> = (0..50).map(caller).collect();
    let mut total = 0;
    for task in tasks {
        total += task.await.expect("no panic");
    }
    total as f64 / began.elapsed().as_secs_f64()
}

/// A primary and the leader of the control plane are killed at the same moment, in a cluster of five that survives any two.
async fn lost_with_leader(times: usize) {
    let mut took = Vec::new();
    for attempt in 0.. {
        if took.len() == times {
            break;
        }
        // The leader is this process in one of five; it cannot kill itself.
        assert!(attempt < 10 * times, "this node leads every time");
        let mut cluster = Cluster::found(5, 2).await;
        let leader = cluster.node.status().leader.map(|node| node.to_string());
        let (mut led, mut others): (Vec<_>, Vec<_>) =
            cluster.others.drain(..).partition(|member| Some(member.id()) == leader.as_deref());
        if let (Some(leader), Some(primary)) = (led.first_mut(), others.first_mut()) {
            took.push(first_writes_without(&cluster.node, leader, primary).await);
        }
        cluster.end().await;
    }
    let longest = took.iter().copied().fold(0.0, f64::max);
    row(
        "SIGKILL of a primary and the leader, to writes on their slots",
        "3 s",
        &format!("median {:.2} s, longest {longest:.2} s of {times}", median(&took)),
    );
}

/// The time until some slots of both are written again.
async fn first_writes_without(node: &Node, leader: &mut Member, primary: &mut Member) -> f64 {
    let owned = |member: &Member| {
        let of = |key: &[u8; 16]| {
            let owner = node.owner(Slot::of_key(key)).map(|owner| owner.to_string());
            owner.as_deref() == Some(member.id())
        };
        (0..10_000).map(key).filter(of).take(16).collect::<Vec<_>>()
    };
    let keys = [owned(leader), owned(primary)].concat();
    leader.kill();
    primary.kill();
    let began = Instant::now();
    let call =
        CallOptions { timeout: Some(PATIENCE), retry_ambiguous: true, ..CallOptions::default() };
    let write = |key: [u8; 16]| {
        let node = node.clone();
        let options = PutOptions { call, ..PutOptions::default() };
        tokio::spawn(async move {
            node.put(Bytes::copy_from_slice(&key), Bytes::from_static(&VALUE), options).await
        })
    };
    let writes: Vec<_> = keys.into_iter().map(write).collect();
    for write in writes {
        write.await.expect("no panic").expect("a write within two minutes");
    }
    began.elapsed().as_secs_f64()
}

fn secs(time: Duration) -> String {
    format!("{:.2} s", time.as_secs_f64())
}
