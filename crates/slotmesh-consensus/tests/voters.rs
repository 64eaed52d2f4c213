//! Voters that come and go.

#![allow(missing_docs, clippy::unwrap_used)]

mod fabric;

use std::time::Duration;

use fabric::{Cluster, node, until};
use slotmesh_consensus::{ConsensusConfig, ConsensusError};
use slotmesh_control::log::ProposeError;
use slotmesh_slots::NodeId;

fn config() -> ConsensusConfig {
    ConsensusConfig::default()
}

/// Asks whoever leads, until it is done.
async fn set_voters(cluster: &Cluster, voters: &[NodeId]) {
    loop {
        let leader = cluster.at(cluster.leader().await);
        match leader.set_voters(voters.to_vec()).await {
            Ok(()) => break,
            Err(
                ProposeError::NotLeader { .. }
                | ProposeError::NoQuorum
                | ProposeError::LeadershipLost
                | ProposeError::Timeout,
            ) => {}
            Err(error) => panic!("{error}"),
        }
    }
    let leader = cluster.leader().await;
    let status = cluster.at(leader).status();
    assert_eq!(status.voters, voters);
    assert!(!status.voters_changing);
}

/// Replaces each founding voter, and each of those who replaced them, and looks for every command afterwards.
async fn turns_over(size: u64, crash: bool) {
    let mut cluster = Cluster::founded(size, config()).await;
    let mut voters: Vec<NodeId> = (1..=size).map(node).collect();
    let mut commands = Vec::new();
    for newcomer in size + 1..=3 * size {
        let command = newcomer.to_be_bytes().to_vec();
        cluster.commit(&command).await;
        commands.push(command);
        let victim = voters.remove(0);
        if crash {
            cluster.crash(victim).await;
        }
        voters.push(cluster.start(newcomer).await);
        set_voters(&cluster, &voters).await;
        if !crash {
            cluster.crash(victim).await;
        }
    }
    cluster.commit(b"last").await;
    commands.push(b"last".to_vec());
    cluster.applied(&voters, &commands).await;
}

#[tokio::test(start_paused = true)]
async fn three_voters_turn_over_by_crashes_without_loss() {
    turns_over(3, true).await;
}

#[tokio::test(start_paused = true)]
async fn three_voters_turn_over_gracefully_leaders_included() {
    turns_over(3, false).await;
}

#[tokio::test(start_paused = true)]
async fn five_voters_turn_over_by_crashes_without_loss() {
    turns_over(5, true).await;
}

#[tokio::test(start_paused = true)]
async fn a_group_grows_from_one_to_five_and_shrinks_back() {
    let mut cluster = Cluster::founded(1, config()).await;
    for number in 2..=5 {
        cluster.start(number).await;
    }
    for voters in [&[1, 2, 3][..], &[1, 2, 3, 4, 5], &[3, 4, 5], &[4]] {
        cluster.commit(b"x").await;
        set_voters(&cluster, &voters.iter().map(|n| node(*n)).collect::<Vec<_>>()).await;
    }
    cluster.commit(b"x").await;
    cluster.applied(&[node(4)], &vec![b"x".to_vec(); 5]).await;
}

#[tokio::test(start_paused = true)]
async fn a_newcomer_gets_the_snapshot_and_what_follows() {
    let config = ConsensusConfig { snapshot_after: 50, snapshot_keep: 10, ..config() };
    let mut cluster = Cluster::founded(3, config).await;
    let commands: Vec<Vec<u8>> = (0..300u32).map(|n| n.to_be_bytes().to_vec()).collect();
    for command in &commands {
        cluster.commit(command).await;
    }
    let newcomer = cluster.start(4).await;
    set_voters(&cluster, &[node(1), node(2), node(3), newcomer]).await;
    cluster.applied(&[newcomer], &commands).await;
    assert!(cluster.journals[&newcomer].lock().restored > 0, "all of it came as entries");
    // 50 until the next snapshot, 10 behind the last, and as many again while one is taken.
    for number in 1..=3 {
        let size = cluster.at(node(number)).log_size();
        assert!(size.entries <= 120, "node {number} holds {size:?}");
    }
}

#[tokio::test(start_paused = true)]
async fn a_snapshot_of_many_pieces_arrives_whole() {
    let config = ConsensusConfig { log_bytes_max: 256 * 1024, ..config() };
    let mut cluster = Cluster::founded(3, config).await;
    let commands: Vec<Vec<u8>> = (0..24u8).map(|n| vec![n; 100_000]).collect();
    for command in &commands {
        cluster.commit(command).await;
    }
    let newcomer = cluster.start(4).await;
    set_voters(&cluster, &[node(1), node(2), newcomer]).await;
    cluster.applied(&[newcomer], &commands).await;
    assert!(cluster.journals[&newcomer].lock().restored > 0);
    let small = |number| cluster.at(node(number)).log_size().command_bytes <= 256 * 1024;
    until("the logs to shrink to their bytes", || small(1) && small(2) && small(4)).await;
}

#[tokio::test(start_paused = true)]
async fn a_voter_that_slept_through_a_snapshot_catches_up() {
    let config = ConsensusConfig { snapshot_after: 50, snapshot_keep: 0, ..config() };
    let cluster = Cluster::founded(3, config).await;
    let leader = cluster.leader().await;
    let sleeper = [node(1), node(2)].into_iter().find(|id| *id != leader).unwrap();
    cluster.at(sleeper).set_elections(false);
    cluster.cut(sleeper);
    let commands: Vec<Vec<u8>> = (0..200u32).map(|n| n.to_be_bytes().to_vec()).collect();
    for command in &commands {
        cluster.commit(command).await;
    }
    cluster.heal();
    cluster.applied(&[sleeper], &commands).await;
    assert!(cluster.journals[&sleeper].lock().restored > 0);
}

/// The log is over its bytes while entries are on their way to a voter that does not answer: they cannot be purged yet, and
/// that must neither keep the leader busy (this test would not end) nor clash with the snapshots that the entries' number asks for.
#[tokio::test(start_paused = true)]
async fn a_log_over_its_bytes_waits_for_a_silent_voter() {
    let limits = (25, 5, 16 * 1024);
    let (snapshot_after, snapshot_keep, log_bytes_max) = limits;
    let config = ConsensusConfig { snapshot_after, snapshot_keep, log_bytes_max, ..config() };
    let cluster = Cluster::founded(3, config).await;
    let leader = cluster.leader().await;
    let silent = [node(1), node(2)].into_iter().find(|id| *id != leader).unwrap();
    cluster.at(silent).set_elections(false);
    cluster.cut(silent);
    let commands: Vec<Vec<u8>> =
        (0..120u8).map(|n| vec![n; if n % 12 < 6 { 4000 } else { 10 }]).collect();
    for command in &commands {
        cluster.commit(command).await;
    }
    cluster.heal();
    cluster.applied(&[node(1), node(2), node(3)], &commands).await;
}

#[tokio::test(start_paused = true)]
async fn a_newcomer_that_never_answers_changes_nothing() {
    let cluster = Cluster::founded(3, config()).await;
    let leader = cluster.at(cluster.leader().await);
    let refused = leader.set_voters(vec![node(1), node(2), node(9)]).await;
    assert!(matches!(refused, Err(ProposeError::BadVoters { .. })), "{refused:?}");
    assert_eq!(leader.status().voters, [node(1), node(2), node(3)]);
    cluster.commit(b"x").await;
}

#[tokio::test(start_paused = true)]
async fn one_change_of_voters_at_a_time() {
    let cluster = Cluster::founded(3, config()).await;
    let leader = cluster.at(cluster.leader().await);
    let slow = leader.set_voters(vec![node(1), node(2), node(9)]);
    let second = async {
        tokio::time::sleep(Duration::from_millis(100)).await;
        leader.set_voters(vec![node(1), node(2)]).await
    };
    let (_, second) = tokio::join!(slow, second);
    assert_eq!(second, Err(ProposeError::VotersChanging));
}

#[tokio::test(start_paused = true)]
async fn impossible_voters_are_refused() {
    let cluster = Cluster::founded(3, config()).await;
    let leader = cluster.at(cluster.leader().await);
    for voters in [Vec::new(), (1..=10).map(node).collect()] {
        let refused = leader.set_voters(voters).await;
        assert!(matches!(refused, Err(ProposeError::BadVoters { .. })), "{refused:?}");
    }
}

#[tokio::test(start_paused = true)]
async fn a_log_is_founded_once_by_one_of_its_voters() {
    let mut cluster = Cluster::new(config());
    cluster.start(1).await;
    let one = cluster.at(node(1));
    for voters in [Vec::new(), vec![node(2)]] {
        let refused = one.initialize(voters).await;
        assert!(matches!(refused, Err(ConsensusError::BadVoters(_))), "{refused:?}");
    }
    one.initialize(vec![node(1)]).await.unwrap();
    assert_eq!(one.initialize(vec![node(1)]).await, Err(ConsensusError::AlreadyInitialized));
}
