//! The control log with three voters in one process: how long a commit takes, and how long a lost leader is missed.
//!
//! `cargo bench --bench consensus [-- --quick]`

#[path = "../crates/slotmesh-consensus/tests/fabric/mod.rs"]
mod fabric;

use std::time::{Duration, Instant};

use fabric::Cluster;
use slotmesh_consensus::ConsensusConfig;

const COMMITS: usize = 5000;
const FAILOVERS: usize = 20;

fn main() {
    let quick = std::env::args().any(|argument| argument == "--quick");
    let (commits, failovers) = if quick { (500, 3) } else { (COMMITS, FAILOVERS) };
    // One thread, as the node runs its control plane.
    let runtime = tokio::runtime::Builder::new_current_thread().enable_time().build();
    runtime.expect("a runtime").block_on(async {
        for voters in [3, 5] {
            let mut direct = commit_latency(voters, commits, Duration::ZERO).await;
            print(&format!("{voters} voters, commit, no delay"), &mut direct);
        }
        let mut delayed = commit_latency(3, commits / 5, Duration::from_millis(1)).await;
        print("3 voters, commit, 1 ms each way", &mut delayed);
        for voters in [3, 5] {
            let mut gaps = Vec::new();
            for _ in 0..failovers {
                gaps.push(failover(voters).await);
            }
            print(&format!("{voters} voters, leader cut to next commit"), &mut gaps);
        }
    });
}

/// One proposal after the other on the leader.
async fn commit_latency(voters: u64, commits: usize, delay: Duration) -> Vec<Duration> {
    let cluster = Cluster::founded_with_delay(voters, ConsensusConfig::default(), delay).await;
    let leader = cluster.at(cluster.leader().await);
    let mut taken = Vec::with_capacity(commits);
    for _ in 0..commits {
        let started = Instant::now();
        leader.propose(vec![0; 256], Duration::from_secs(5)).await.expect("a commit");
        taken.push(started.elapsed());
    }
    cluster.stop().await;
    taken
}

/// From the silence of the leader to the first commit on its successor.
async fn failover(voters: u64) -> Duration {
    let cluster =
        Cluster::founded_with_delay(voters, ConsensusConfig::default(), Duration::ZERO).await;
    cluster.commit(b"before").await;
    let old = cluster.leader().await;
    let started = Instant::now();
    cluster.cut(old);
    while cluster.leader().await == old {
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
    cluster.commit(b"after").await;
    let taken = started.elapsed();
    cluster.stop().await;
    taken
}

fn print(what: &str, taken: &mut [Duration]) {
    taken.sort_unstable();
    let at = |percent: usize| taken[(taken.len() - 1) * percent / 100];
    let (median, high, most) = (at(50), at(99), at(100));
    println!(
        "{what:<42} p50 {median:>10.2?}  p99 {high:>10.2?}  max {most:>10.2?}  n {}",
        taken.len()
    );
}
