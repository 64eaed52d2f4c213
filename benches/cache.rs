//! What a read through the typed cache costs, by where the value is. Own figures only.
//!
//! `cargo bench -p slotmesh-benches --bench cache [-- --quick]`
//!
//! What a read of another node's value costs beside the node's own get, with two nodes in this process over loopback: both sides by turns. And
//! what it takes to add to a number of another node, which one caller or many change: by a function that runs there, and by `update`.
//!
//! One node without a network owns all slots, so a hit of the cluster is one of this process: lock, decode and allocate,
//! without a network. Values are a struct of about 100 encoded bytes, keys are drawn at random from 10,000.

use std::convert::Infallible;
use std::hint::black_box;
use std::thread;
use std::time::{Duration, Instant};

use futures_util::future::join_all;
use serde::{Deserialize, Serialize};
use slotmesh_cache::testing::Cluster;
use slotmesh_cache::{Cache, Caches, L1};
use slotmesh_node::Node;
use slotmesh_slots::Slot;
use tokio::runtime;

const KEYS: u64 = 10_000;
/// Operations between two looks at the clock.
const BATCH: u64 = 1_024;

#[derive(Clone, Serialize, Deserialize)]
struct User {
    id: u64,
    name: String,
    mail: String,
    scores: Vec<u32>,
}

impl User {
    fn new(id: u64) -> Self {
        let (name, mail) = (format!("user number {id}"), format!("user.{id}@example.org"));
        Self { id, name, mail, scores: (0..40).collect() }
    }
}

/// What is done with each key.
#[derive(Clone, Copy)]
enum Work {
    Get,
    GetOrLoad,
    Put,
}

async fn one(cache: &Cache<u64, User>, work: Work, key: u64) {
    let found = match work {
        Work::Get => cache.get(&key).await,
        Work::GetOrLoad => cache.get_or_load(&key, |_| async { Ok::<_, Infallible>(None) }).await,
        Work::Put => {
            let put = cache.put(&key, User::new(key)).await;
            black_box(put.expect("a local node takes it"));
            return;
        }
    };
    assert!(black_box(found).expect("a local node answers").is_some_and(|user| user.id == key));
}

/// Nanoseconds per operation on each of the threads.
fn measure(cache: &Cache<u64, User>, work: Work, threads: u64, window: Duration) -> f64 {
    thread::scope(|scope| {
        let run = |thread| scope.spawn(move || one_thread(cache, work, thread, window));
        let threads: Vec<_> = (0..threads).map(run).collect();
        let count = threads.len() as f64;
        threads.into_iter().map(|thread| thread.join().expect("no panic")).sum::<f64>() / count
    })
}

fn one_thread(cache: &Cache<u64, User>, work: Work, thread: u64, window: Duration) -> f64 {
    let runtime = runtime::Builder::new_current_thread().enable_time().build().expect("a runtime");
    runtime.block_on(async {
        let (mut state, mut done) = (0x9e37_79b9_7f4a_7c15 ^ thread << 7, 0);
        let start = Instant::now();
        while start.elapsed() < window {
            for _ in 0..BATCH {
                state ^= state << 13;
                state ^= state >> 7;
                state ^= state << 17;
                one(cache, work, (state >> 24) % KEYS).await;
            }
            done += BATCH;
        }
        start.elapsed().as_nanos() as f64 / done as f64
    })
}

fn main() {
    let quick = std::env::args().any(|argument| argument == "--quick");
    let (rounds, window) = if quick { (3, 30) } else { (7, 200) };
    let window = Duration::from_millis(window);
    let node = Node::local(256 << 20);
    let near = node.cache::<u64, User>("near").l1(L1::entries(1 << 16)).build();
    let far = node.cache::<u64, User>("far").no_l1().build();
    let (near, far) = (near.expect("valid settings"), far.expect("valid settings"));
    let loader = runtime::Builder::new_current_thread().enable_time().build().expect("a runtime");
    loader.block_on(async {
        for key in 0..KEYS {
            one(&near, Work::Put, key).await;
            one(&far, Work::Put, key).await;
        }
    });
    println!("nanoseconds per call on each thread, median of {rounds} rounds and the best of them");
    println!("{:<30} {:>14} {:>14}", "", "1 thread", "2 threads");
    let lines = [
        ("get, L1 hit", &near, Work::Get),
        ("get_or_load, L1 hit", &near, Work::GetOrLoad),
        ("get, local cluster hit", &far, Work::Get),
        ("get_or_load, local cluster hit", &far, Work::GetOrLoad),
        ("put", &near, Work::Put),
    ];
    for (name, cache, work) in lines {
        let [one, two] = [1, 2].map(|threads| {
            let measured = (0..rounds).map(|_| measure(cache, work, threads, window));
            median_and_best(measured.collect())
        });
        println!("{name:<30} {:>7.0} {:>6.0} {:>7.0} {:>6.0}", one.0, one.1, two.0, two.1);
    }
    assert_eq!(near.stats().cluster_hits, 0, "L1 held all keys");
    let remote = runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build();
    remote.expect("a runtime").block_on(remotely(rounds, window));
}

/// The ways to read a value of another node.
async fn remotely(rounds: usize, window: Duration) {
    let cluster = Cluster::start(2).await.expect("two nodes");
    cluster.settle().await.expect("all copies");
    let (node, owner) = (cluster.node(0), cluster.node(1).id());
    let cache = node.cache::<u64, User>("remote").no_l1().build().expect("valid settings");
    let is_remote = |key: &u64| node.owner(Slot::of_key(&name(*key))) == Some(owner);
    let keys: Vec<u64> = (0..KEYS).filter(is_remote).collect();
    for &key in &keys {
        one(&cache, Work::Put, key).await;
    }
    let mut took = [Vec::new(), Vec::new(), Vec::new()];
    for _ in 0..rounds {
        for (way, took) in took.iter_mut().enumerate() {
            let (began, mut done) = (Instant::now(), 0);
            while began.elapsed() < window {
                let key = keys[(done * 7919) % keys.len()];
                match way {
                    0 => {
                        assert!(black_box(node.get(&name(key)).await).is_ok_and(|it| it.is_some()))
                    }
                    1 => one(&cache, Work::Get, key).await,
                    _ => one(&cache, Work::GetOrLoad, key).await,
                }
                done += 1;
            }
            took.push(began.elapsed().as_secs_f64() * 1e6 / done as f64);
        }
    }
    println!(
        "microseconds per call for a value of another node, one caller, and beside the node's own get"
    );
    let [bare, ..] = &took;
    let bare = median_and_best(bare.clone()).0;
    for (name, took) in ["Node::get", "get, no L1", "get_or_load, no L1"].iter().zip(took) {
        let took = median_and_best(took).0;
        println!("{name:<30} {took:>7.1} {:>6.2}", took / bare);
    }
    adding(&cluster, rounds, window).await;
}

/// The ways to add to one number of another node, which so many callers do at once.
async fn adding(cluster: &Cluster, rounds: usize, window: Duration) {
    let counts: [Cache<u64, u64>; 2] =
        [0, 1].map(|at| cluster.node(at).cache("counts").no_l1().build().expect("valid settings"));
    let add = |sum: &mut Option<u64>, by: u64| *sum.get_or_insert_default() += by;
    let [add, _there] = [0, 1].map(|at: usize| counts[at].function("add", 1, add));
    let owner = cluster.node(1).id();
    let name = |key: u64| format!("counts:1:{key}").into_bytes();
    let owned = |key: &u64| cluster.node(0).owner(Slot::of_key(&name(*key))) == Some(owner);
    let key = (0..KEYS).find(owned).expect("half of them");
    println!("microseconds per addition to one number of another node");
    for callers in [1, 16] {
        let mut took = [Vec::new(), Vec::new()];
        let mut done = [0_u64; 2];
        for _ in 0..rounds {
            for way in 0..2 {
                let began = Instant::now();
                let one = async || {
                    let mut count = 0;
                    while began.elapsed() < window {
                        let added = match way {
                            0 => add.call(&key, &1).await.map(drop),
                            _ => counts[0]
                                .update(&key, |it| Some(it.map_or(1, |it| it + 1)))
                                .await
                                .map(drop),
                        };
                        added.expect("it is taken");
                        count += 1;
                    }
                    count
                };
                let count: u64 = join_all((0..callers).map(|_| one())).await.into_iter().sum();
                done[way] += count;
                took[way].push(began.elapsed().as_secs_f64() * 1e6 / count as f64);
            }
        }
        let [function, update] = took.map(|took| median_and_best(took).0);
        let ratio = update / function;
        println!(
            "{callers:>2} callers: by a function {function:>7.1}, by update {update:>7.1}, {ratio:>5.1} times"
        );
        let sum = counts[0].get(&key).await.expect("it is there").map(|it| *it);
        assert_eq!(sum, Some(done.iter().sum()), "each counts once");
        counts[0].invalidate(&key).await.expect("it is taken");
    }
}

/// As the cluster has it.
fn name(key: u64) -> Vec<u8> {
    format!("remote:1:{key}").into_bytes()
}

fn median_and_best(mut values: Vec<f64>) -> (f64, f64) {
    values.sort_by(f64::total_cmp);
    (values[values.len() / 2], values[0])
}
