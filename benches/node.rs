//! Whole nodes: a local get against a bare dashmap, a remote get against a bare quinn loop, and the time from SIGKILL to
//! the first acknowledged write.
//!
//! `cargo bench -p slotmesh-benches --bench node [-- --quick] [local] [remote] [failover]`

use std::future::Future;
use std::hint::black_box;
use std::io::{BufRead, BufReader, Write};
use std::net::{Ipv4Addr, SocketAddr};
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use ahash::RandomState;
use bytes::Bytes;
use dashmap::DashMap;
use slotmesh_benches::{key, median, ratios, zipf};
use slotmesh_node::{CallOptions, ClusterSecret, Node, NodeConfig, PutOptions};
use slotmesh_slots::{NodeId, Slot};
use slotmesh_transport::Identity;

use slotmesh_benches::bare_quinn::{self, BareClient};
use slotmesh_benches::members::free_addrs;

const SECRET: &str = "the secret of the benchmark";
const MEMBER_FLAG: &str = "--member";
const VALUE: [u8; 64] = [7; 64];
const KEYS: u32 = 1_000_000;
const IN_FLIGHT: usize = 64;

fn main() {
    let args: Vec<String> = std::env::args().collect();
    if let Some(at) = args.iter().position(|arg| arg == MEMBER_FLAG) {
        return current_thread().block_on(member(&args[at + 1..]));
    }
    let quick = args.iter().any(|arg| arg == "--quick");
    let rounds = if quick { 3 } else { 7 };
    let named = |part: &str| args.iter().any(|arg| arg == part);
    let all = !["local", "remote", "failover"].into_iter().any(named);
    if all || named("local") {
        local_get(rounds, if quick { KEYS / 10 } else { KEYS });
    }
    if all || named("remote") {
        current_thread().block_on(remote_get(rounds));
    }
    if all || named("failover") {
        let runtime =
            tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build();
        runtime.expect("a runtime").block_on(failover(if quick { 2 } else { 20 }));
    }
}

fn local_get(rounds: usize, keys: u32) {
    let node = Node::local(4 << 30);
    let map: DashMap<Box<[u8]>, Bytes, RandomState> = DashMap::with_hasher(RandomState::new());
    for number in 0..keys {
        map.insert(Box::from(key(number)), Bytes::copy_from_slice(&VALUE));
    }
    let runtime = current_thread();
    runtime.block_on(async {
        for number in 0..keys {
            let (key, value) = (key(number).to_vec(), Bytes::copy_from_slice(&VALUE));
            node.put(key, value, PutOptions::default()).await.expect("room for every key");
        }
    });
    // Numbers, of which the keys are made on the way: a list of keys would fill the caches with itself.
    let sequence = zipf(keys, 1 << 21);
    let ours = || {
        runtime.block_on(async {
            for number in &sequence {
                black_box(node.get(&key(*number)).await.expect("a local node answers"));
            }
        });
    };
    let theirs = || {
        for number in &sequence {
            black_box(map.get(&key(*number)[..]).map(|value| Bytes::clone(&value)));
        }
    };
    let rate = |work: &dyn Fn()| {
        let began = Instant::now();
        work();
        sequence.len() as f64 / began.elapsed().as_secs_f64() / 1e6
    };
    let (mut a, mut b) = (Vec::new(), Vec::new());
    for _ in 0..rounds {
        a.push(rate(&ours));
        b.push(rate(&theirs));
    }
    println!(
        "local get, {keys} Zipf keys, one thread: node {:.2} M/s, dashmap {:.2} M/s, {}",
        median(&a),
        median(&b),
        ratios(&a, &b)
    );
}

async fn remote_get(rounds: usize) {
    let addrs = free_addrs(2);
    let mut other = Member::start(addrs[1], &addrs, 2, true);
    let node = start(addrs[0], &addrs, 2, 0).await;
    node.wait_until(|status| status.is_safe()).await;
    let far = |slot: &Slot| node.owner(*slot).is_some_and(|owner| owner != node.id());
    let keys: Vec<Vec<u8>> =
        (0..4_000).map(name).filter(|key| far(&Slot::of_key(key))).take(1_000).collect();
    for key in &keys {
        node.put(key.clone(), Bytes::copy_from_slice(&VALUE), PutOptions::default())
            .await
            .expect("a cluster of two");
    }
    let secret = ClusterSecret::new(SECRET).expect("a secret");
    let identity = Identity::from_secret(&secret, NodeId::from_random(99)).expect("an identity");
    let bare = BareClient::connect(other.bare.expect("the echo server's address"), &identity).await;
    let (mut ours, mut theirs) = (Vec::new(), Vec::new());
    let keys = Arc::new(keys);
    for _ in 0..rounds {
        let (node, keys) = (node.clone(), Arc::clone(&keys));
        ours.push(
            rate(move |turn| {
                let (node, keys) = (node.clone(), Arc::clone(&keys));
                async move {
                    let value =
                        node.get(&keys[turn % keys.len()]).await.expect("the owner answers");
                    black_box(value.expect("it was written"));
                }
            })
            .await,
        );
        let bare = Arc::clone(&bare);
        theirs.push(
            rate(move |_| {
                let bare = Arc::clone(&bare);
                async move {
                    black_box(bare.call(&Bytes::from_static(&VALUE)).await);
                }
            })
            .await,
        );
    }
    println!(
        "remote get, 64 B, {IN_FLIGHT} in flight, two processes: node {:.0} k/s, bare quinn {:.0} k/s, {}",
        median(&ours) / 1e3,
        median(&theirs) / 1e3,
        ratios(&ours, &theirs)
    );
    node.stop().await;
    other.kill();
}

/// Operations per second of [`IN_FLIGHT`] tasks that each do one at a time.
async fn rate<F, R>(call: F) -> f64
where
    F: Fn(usize) -> R + Clone + Send + 'static,
    R: Future<Output = ()> + Send,
{
    let window = Duration::from_secs(1);
    let began = Instant::now();
    let tasks: Vec<_> = (0..IN_FLIGHT)
        .map(|task| {
            let call = call.clone();
            tokio::spawn(async move {
                let mut count = 0;
                while began.elapsed() < window {
                    for _ in 0..16 {
                        call(task * 997 + count).await;
                        count += 1;
                    }
                }
                count
            })
        })
        .collect();
    let mut total = 0;
    for task in tasks {
        total += task.await.expect("no panic");
    }
    total as f64 / began.elapsed().as_secs_f64()
}

async fn failover(times: usize) {
    let addrs = free_addrs(3);
    let node = start(addrs[0], &addrs, 3, 1).await;
    let mut others: Vec<Member> =
        addrs[1..].iter().map(|&addr| Member::start(addr, &addrs, 3, false)).collect();
    let (mut took, mut reads, mut writes) = (Vec::new(), Vec::new(), Vec::new());
    for round in 0..times {
        let whole = |status: &slotmesh_node::NodeStatus| {
            // Slots that are still to be given to who has just joined would become those of the victim meanwhile.
            let rests = status.progress() == slotmesh_node::Progress::default();
            status.cluster.members().len() == 3 && status.is_safe() && rests
        };
        node.wait_until(whole).await;
        // Who leads the control plane as well is a case of its own: `--bench moves -- leader`.
        let leader = node.status().leader.map(|leader| leader.to_string());
        let mut turns = (0..others.len()).map(|step| (round + step) % others.len());
        let follows = |victim: &usize| leader.as_ref() != Some(&others[*victim].id);
        let victim = turns.find(follows).unwrap_or(round % 2);
        let id = others[victim].id.clone();
        let of_victim = |key: &Vec<u8>| {
            node.owner(Slot::of_key(key)).is_some_and(|owner| owner.to_string() == id)
        };
        let (keys, mut others_keys): (Vec<_>, Vec<_>) = (0..4_000).map(name).partition(of_victim);
        let keys: Vec<Vec<u8>> = keys.into_iter().take(16).collect();
        others_keys.truncate(64);
        // Not the same: a read of an entry waits for the acknowledgement of its last write.
        let written = others_keys.split_off(32);
        for key in &others_keys {
            first_write(node.clone(), key.clone()).await;
        }
        let over = Arc::new(AtomicBool::new(false));
        let reader = tokio::spawn(calls(node.clone(), others_keys, over.clone(), false));
        let writer = tokio::spawn(calls(node.clone(), written, over.clone(), true));
        others[victim].kill();
        let killed = Instant::now();
        let waiting: Vec<_> =
            keys.into_iter().map(|key| tokio::spawn(first_write(node.clone(), key))).collect();
        for write in waiting {
            write.await.expect("no panic");
        }
        took.push(killed.elapsed().as_secs_f64() * 1e3);
        over.store(true, Ordering::Relaxed);
        reads.push(reader.await.expect("no panic"));
        writes.push(writer.await.expect("no panic"));
        let addr = addrs[1 + victim];
        others[victim] = Member::start(addr, &addrs, 3, false);
    }
    println!(
        "SIGKILL to an acknowledged write on 16 of its slots, {times} times: median {:.0} ms, longest {:.0} ms",
        median(&took),
        took.iter().copied().fold(0.0, f64::max)
    );
    for (what, calls) in [("reads", reads), ("writes", writes)] {
        let longest: Vec<f64> = calls.iter().map(|calls| calls.longest).collect();
        println!(
            "meanwhile {} {what} on slots of the others: {} above 100 ms; longest of each time {:.0} ms in the median, {:.0} ms at most",
            calls.iter().map(|calls| calls.all).sum::<usize>(),
            calls.iter().map(|calls| calls.late).sum::<usize>(),
            median(&longest),
            longest.iter().copied().fold(0.0, f64::max)
        );
    }
    node.stop().await;
    others.iter_mut().for_each(Member::kill);
}

/// Calls, one after the other.
#[derive(Default)]
struct Calls {
    all: usize,
    /// Those of more than 100 ms.
    late: usize,
    /// In milliseconds.
    longest: f64,
}

/// Reads, or writes, until it is over. One that fails ends the benchmark.
async fn calls(node: Node, keys: Vec<Vec<u8>>, over: Arc<AtomicBool>, write: bool) -> Calls {
    let mut calls = Calls::default();
    for key in keys.iter().cycle() {
        let began = Instant::now();
        if write {
            first_write(node.clone(), key.clone()).await;
        } else {
            node.get(key).await.expect("its owner lives");
        }
        let took = began.elapsed().as_secs_f64() * 1e3;
        calls.all += 1;
        calls.late += usize::from(took > 100.0);
        calls.longest = calls.longest.max(took);
        if over.load(Ordering::Relaxed) {
            break;
        }
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
    calls
}

async fn first_write(node: Node, key: Vec<u8>) {
    let call = CallOptions {
        timeout: Some(Duration::from_secs(30)),
        retry_ambiguous: true,
        ..CallOptions::default()
    };
    let options = PutOptions { call, ..PutOptions::default() };
    if let Err(error) = node.put(key, "1", options).await {
        panic!("no write within half a minute: {error}; {:?}", node.status());
    }
}

/// This program again, as another node.
struct Member {
    process: Child,
    id: String,
    bare: Option<SocketAddr>,
}

impl Member {
    fn start(addr: SocketAddr, seeds: &[SocketAddr], expect: u16, bare: bool) -> Self {
        let seeds: Vec<String> = seeds.iter().map(ToString::to_string).collect();
        let mut process = Command::new(std::env::current_exe().expect("own path"))
            .arg(MEMBER_FLAG)
            .args([addr.to_string(), seeds.join(","), expect.to_string(), bare.to_string()])
            .stdout(Stdio::piped())
            .spawn()
            .expect("another process");
        let mut line = String::new();
        let output = process.stdout.take().expect("its output");
        BufReader::new(output).read_line(&mut line).expect("its first line");
        let mut words = line.split_whitespace();
        let id = words.next().expect("its identity").to_owned();
        Self { process, id, bare: words.next().and_then(|addr| addr.parse().ok()) }
    }

    fn kill(&mut self) {
        self.process.kill().expect("a process of ours");
        self.process.wait().expect("a process of ours");
    }
}

impl Drop for Member {
    fn drop(&mut self) {
        // It has mostly ended already.
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

async fn member(args: &[String]) {
    let addr: SocketAddr = args[0].parse().expect("an address");
    let seeds: Vec<SocketAddr> =
        args[1].split(',').map(|seed| seed.parse().expect("an address")).collect();
    let expect: u16 = args[2].parse().expect("a number");
    let replicas = u8::from(expect > 2);
    let node = start(addr, &seeds, expect, replicas).await;
    let mut bare = None;
    if args[3] == "true" {
        let secret = ClusterSecret::new(SECRET).expect("a secret");
        let identity =
            Identity::from_secret(&secret, NodeId::from_random(98)).expect("an identity");
        bare = Some(bare_quinn::serve(SocketAddr::from((Ipv4Addr::LOCALHOST, 0)), &identity));
    }
    let echo =
        bare.as_ref().map(|endpoint| endpoint.local_addr().expect("its address").to_string());
    println!("{} {}", node.id(), echo.unwrap_or_default());
    std::io::stdout().flush().expect("an open pipe");
    std::future::pending::<()>().await;
}

async fn start(bind: SocketAddr, seeds: &[SocketAddr], expect: u16, replicas: u8) -> Node {
    let secret = ClusterSecret::new(SECRET).expect("a secret");
    let seeds = seeds.to_vec();
    let config = NodeConfig { bind, seeds, expect, replicas, ..NodeConfig::new(secret) };
    Node::start(config).await.expect("a free address")
}

fn name(key: u32) -> Vec<u8> {
    format!("key:{key:012}").into_bytes()
}

fn current_thread() -> tokio::runtime::Runtime {
    tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime")
}
