//! What is proposed is applied once everywhere, or refused.

#![allow(missing_docs, clippy::unwrap_used)]

mod fabric;

use std::time::Duration;

use bytes::Bytes;
use fabric::{Cluster, node};
use slotmesh_consensus::{ConsensusConfig, ConsensusError, MESSAGE_BYTES_MAX};
use slotmesh_control::log::ProposeError;

fn config() -> ConsensusConfig {
    ConsensusConfig::default()
}

async fn same_order_everywhere(voters: u64) {
    let cluster = Cluster::founded(voters, config()).await;
    let leader = cluster.at(cluster.leader().await);
    let writers = (0..8u8).map(|writer| {
        let leader = leader.clone();
        tokio::spawn(async move {
            for n in 0..25u8 {
                leader.propose(vec![writer, n], Duration::from_secs(5)).await.unwrap();
            }
        })
    });
    for writer in writers.collect::<Vec<_>>() {
        writer.await.unwrap();
    }
    let order = cluster.commands(cluster.leader().await);
    assert_eq!(order.len(), 200);
    cluster.applied(&(1..=voters).map(node).collect::<Vec<_>>(), &order).await;
}

#[tokio::test(start_paused = true)]
async fn three_voters_apply_in_the_same_order() {
    same_order_everywhere(3).await;
}

#[tokio::test(start_paused = true)]
async fn five_voters_apply_in_the_same_order() {
    same_order_everywhere(5).await;
}

/// Not in paused time: several threads, as the node's runtimes may be.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn threads_apply_in_the_same_order() {
    same_order_everywhere(3).await;
}

#[tokio::test(start_paused = true)]
async fn the_proposer_gets_the_machines_outcome() {
    let cluster = Cluster::founded(3, config()).await;
    for position in 1..=3u64 {
        assert_eq!(cluster.commit(b"same").await, position.to_be_bytes());
    }
}

#[tokio::test(start_paused = true)]
async fn five_voters_survive_two_crashes_and_three_do_not() {
    let cluster = Cluster::founded(5, config()).await;
    for _ in 0..2 {
        cluster.crash(cluster.leader().await).await;
        cluster.commit(b"on").await;
    }
    let leader = cluster.leader().await;
    let follower = (1..=5).map(node).find(|id| *id != leader && cluster.is_up(*id)).unwrap();
    cluster.crash(follower).await;
    let refused = cluster.at(leader).propose(b"x".to_vec(), Duration::from_millis(200)).await;
    assert_eq!(refused, Err(ProposeError::Timeout));
}

#[tokio::test(start_paused = true)]
async fn large_commands_pass_and_larger_are_refused() {
    let cluster = Cluster::founded(3, config()).await;
    let limit = 1024 * 1024;
    let largest = vec![7; limit];
    cluster.commit(&largest).await;
    cluster.commit(&largest).await;
    cluster.applied(&[node(1), node(2), node(3)], &[largest.clone(), largest]).await;
    let leader = cluster.at(cluster.leader().await);
    let refused = leader.propose(vec![7; limit + 1], Duration::from_secs(1)).await;
    assert_eq!(refused, Err(ProposeError::TooLarge { bytes: limit + 1, limit }));
}

#[tokio::test(start_paused = true)]
async fn too_many_waiting_proposals_are_refused() {
    let cluster = Cluster::founded(3, ConsensusConfig { proposals_max: 2, ..config() }).await;
    let leader = cluster.leader().await;
    cluster.cut(leader);
    let leader = cluster.at(leader);
    let propose = || leader.propose(b"x".to_vec(), Duration::from_millis(100));
    let outcomes: [_; 3] = tokio::join!(propose(), propose(), propose()).into();
    assert_eq!(
        outcomes,
        [Err(ProposeError::Timeout), Err(ProposeError::Timeout), Err(ProposeError::Busy)]
    );
}

#[tokio::test(start_paused = true)]
async fn contradicting_settings_are_refused() {
    let config = ConsensusConfig { election_max: Duration::ZERO, ..config() };
    let machine = std::sync::Arc::default();
    let clock = std::sync::Arc::new(|| slotmesh_slots::MonoTime::ZERO);
    let wire = std::sync::Arc::new(fabric::Nowhere);
    let refused = slotmesh_consensus::Consensus::start::<fabric::Journal>(
        node(1),
        config,
        wire,
        machine,
        clock,
    );
    assert!(matches!(refused.await, Err(ConsensusError::Config(_))));
}

#[tokio::test(start_paused = true)]
async fn garbage_is_a_typed_error_and_harms_nothing() {
    let cluster = Cluster::founded(3, config()).await;
    let check = async |bytes: Vec<u8>, wanted: fn(&ConsensusError) -> bool| {
        let refused = cluster.at(node(1)).handle(node(2), Bytes::from(bytes)).await.unwrap_err();
        assert!(wanted(&refused), "{refused}");
    };
    let malformed = |error: &ConsensusError| matches!(error, ConsensusError::Malformed(_));
    check(Vec::new(), malformed).await;
    check(vec![1], malformed).await;
    check(vec![1, 99], malformed).await;
    check(vec![1, 1], malformed).await;
    check(vec![1; MESSAGE_BYTES_MAX + 1], malformed).await;
    check(vec![2, 1, 0], |error| {
        matches!(error, ConsensusError::Version { found: 2, expected: 1 })
    })
    .await;
    // A vote request for term 7 by node 3, without entries, uncommitted.
    check(vec![1, 2, 7, 3, 0, 0], |error| *error == ConsensusError::WrongSender { from: node(2) })
        .await;
    cluster.commit(b"x").await;
}
