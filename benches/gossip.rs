//! Clusters of 10 and 100 nodes in virtual time with 1 % loss: how soon a crash and a join are known, what an idle node
//! sends, and how fast the engine runs. `--quick` takes fewer samples.

use std::time::{Duration, Instant};

use slotmesh_gossip::MemberState;
use slotmesh_gossip::testing::{Network, NetworkConfig};

/// Longest wait for anything to be known.
const LIMIT: Duration = Duration::from_secs(60);

fn main() {
    let quick = std::env::args().any(|arg| arg == "--quick");
    let (runs, idle) = if quick { (3, 30) } else { (20, 120) };
    println!(
        "virtual time, loss 1 %, latency 0.2-0.8 ms, default settings, {runs} runs a row; seconds"
    );
    println!(
        "{:>5} {:>21} {:>21} {:>21} {:>15} {:>15} {:>9} {:>7} {:>9}",
        "nodes",
        "crash: first observer",
        "half of observers",
        "all observers",
        "join, all know",
        "joiner knows",
        "idle B/s",
        "msg/s",
        "x real"
    );
    for nodes in [10, 100] {
        println!("{}", row(nodes, runs, idle));
    }
}

fn row(nodes: usize, runs: u64, idle: u64) -> String {
    let mut crash: [Vec<Duration>; 3] = Default::default();
    let (mut known, mut knows) = (Vec::new(), Vec::new());
    for seed in 1..=runs {
        let mut network =
            Network::settled(NetworkConfig { seed, ..NetworkConfig::default() }, nodes);
        network.run_for(Duration::from_secs(3));
        let (all, joiner) = join(&mut network);
        known.push(all);
        knows.push(joiner);
        network.run_for(Duration::from_secs(3));
        let times = detection(&mut network, nodes / 2);
        crash.iter_mut().zip(times).for_each(|(column, time)| column.push(time));
    }
    let (bytes, datagrams, speed) = idle_cost(nodes, idle);
    let [first, half, last] = crash.map(spread);
    let (known, knows) = (spread(known), spread(knows));
    format!(
        "{nodes:>5} {first:>21} {half:>21} {last:>21} {known:>15} {knows:>15} {bytes:>9.0} {datagrams:>7.1} {speed:>9.0}"
    )
}

/// How long until all know a joiner, and until it knows all.
fn join(network: &mut Network) -> (Duration, Duration) {
    let before = network.running().count();
    let start = network.now();
    let host = network.spawn(&[0, 1]);
    let node = network.node(host);
    let mut knows = None;
    let all = network.run_until(LIMIT, |net| {
        if net.gossip(host).is_some_and(|gossip| gossip.alive_count() == before + 1) {
            knows.get_or_insert(net.now() - start);
        }
        net.believers(node, MemberState::Alive) == before && knows.is_some()
    });
    (all.unwrap_or(LIMIT), knows.unwrap_or(LIMIT))
}

/// How long until the first, half and all of the others hold a crashed node for dead.
fn detection(network: &mut Network, host: usize) -> [Duration; 3] {
    let node = network.node(host);
    network.crash(host);
    let others = network.running().count();
    let start = network.now();
    [1, others / 2, others].map(|count| {
        let reached = |net: &Network| net.believers(node, MemberState::Dead) >= count;
        network.run_until(LIMIT, reached).map_or(LIMIT, |_| network.now() - start)
    })
}

/// Bytes and datagrams sent per node and second while nothing happens, and virtual seconds per second of this machine.
fn idle_cost(nodes: usize, seconds: u64) -> (f64, f64, f64) {
    let mut network = Network::settled(NetworkConfig::default(), nodes);
    network.run_for(Duration::from_secs(5));
    network.clear_log();
    let clock = Instant::now();
    network.run_for(Duration::from_secs(seconds));
    let wall = clock.elapsed().as_secs_f64();
    let (bytes, datagrams) = network.sent();
    let per = (nodes as u64 * seconds) as f64;
    (bytes as f64 / per, datagrams as f64 / per, seconds as f64 / wall)
}

/// "median (largest)" in seconds.
fn spread(mut samples: Vec<Duration>) -> String {
    samples.sort_unstable();
    let median = samples.get(samples.len() / 2).copied().unwrap_or_default();
    let largest = samples.last().copied().unwrap_or_default();
    format!("{:.2} ({:.2})", median.as_secs_f64(), largest.as_secs_f64())
}
