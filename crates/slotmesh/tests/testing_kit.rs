//! The kit for users' tests: crashes, partitions and all that a test does with a cluster in its own process.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::time::Duration;

use slotmesh::{CallOptions, Node, OpError, Phase, PutOptions};
use slotmesh_node::testing::{Cluster, ClusterError};
use slotmesh_node::{NodeConfig, Op};
use slotmesh_slots::Slot;

const KEYS: usize = 300;

/// Longer than a failover takes, and no longer than a test may.
const PATIENCE: Duration = Duration::from_secs(20);

fn key(number: usize) -> String {
    format!("key:{number}")
}

async fn fill(node: &Node, value: &str) {
    for number in 0..KEYS {
        node.put(key(number), value.to_owned(), PutOptions::default()).await.unwrap();
    }
}

async fn read(node: &Node) -> Vec<Option<String>> {
    let mut values = Vec::new();
    for number in 0..KEYS {
        let value = node.get(key(number).as_bytes()).await.unwrap();
        values.push(value.map(|value| String::from_utf8_lossy(&value.value).into_owned()));
    }
    values
}

/// Writes the key again and again until that succeeds.
async fn put_in_the_end(node: &Node, number: usize, value: &str) {
    let tries = async {
        while node.put(key(number), value.to_owned(), PutOptions::default()).await.is_err() {}
    };
    tokio::time::timeout(PATIENCE, tries).await.unwrap();
}

/// A read that gives up soon.
async fn get_soon(node: &Node, number: usize) -> Result<(), OpError> {
    let options = CallOptions { timeout: Some(Duration::from_millis(200)), ..Default::default() };
    let op = Op::Get { key: key(number).into_bytes().into() };
    node.execute(op, options).await.map(drop)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_killed_node_takes_nothing_with_it_and_another_takes_its_place() {
    let mut cluster = Cluster::start(3).await.unwrap();
    fill(cluster.node(0), "one").await;
    let held = cluster.node(2).clone();
    cluster.kill(2).await;
    assert_eq!(held.status().phase, Phase::Left);
    assert_eq!(cluster.nodes().map(|(at, _)| at).collect::<Vec<_>>(), [0, 1]);
    cluster.settle().await.unwrap();
    assert_eq!(read(cluster.node(1)).await, vec![Some("one".to_owned()); KEYS]);
    cluster.restart(2).await.unwrap();
    cluster.settle().await.unwrap();
    assert_eq!(cluster.node(2).status().cluster.members().len(), 3);
    assert_ne!(cluster.node(2).addr(), held.addr(), "the handle of the old one holds its address");
    assert_eq!(read(cluster.node(2)).await, vec![Some("one".to_owned()); KEYS]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn who_is_cut_off_refuses_and_the_others_go_on() {
    let cluster = Cluster::start(3).await.unwrap();
    fill(cluster.node(0), "before").await;
    cluster.partition(&[0]);
    for number in 0..KEYS {
        put_in_the_end(cluster.node(1), number, "meanwhile").await;
    }
    assert_eq!(read(cluster.node(2)).await, vec![Some("meanwhile".to_owned()); KEYS]);
    for number in 0..5 {
        let refused = get_soon(cluster.node(0), number).await.unwrap_err();
        assert!(matches!(refused, OpError::Unavailable { .. }), "{refused}");
    }
    let unsettled = cluster.settle_within(Duration::from_millis(300)).await.unwrap_err();
    assert!(matches!(unsettled, ClusterError::NotSettled { .. }), "{unsettled}");
    cluster.heal();
    cluster.settle().await.unwrap();
    assert_eq!(read(cluster.node(0)).await, vec![Some("meanwhile".to_owned()); KEYS]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_cut_one_way_goes_the_other_way() {
    let cluster = Cluster::start_with(2, |_, config| config.replicas = 0).await.unwrap();
    fill(cluster.node(0), "one").await;
    let (near, far) = (cluster.node(0), cluster.node(1).id());
    let is_remote = |number: &usize| near.owner(Slot::of_key(key(*number).as_bytes())) == Some(far);
    let remote = (0..KEYS).find(is_remote).unwrap();
    cluster.cut(1, 0);
    get_soon(cluster.node(0), remote).await.unwrap_err();
    cluster.heal();
    let again = async { while get_soon(cluster.node(0), remote).await.is_err() {} };
    tokio::time::timeout(PATIENCE, again).await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nodes_are_added_with_settings_of_their_own_and_leave() {
    let configure = |at: usize, config: &mut NodeConfig| config.name = format!("mine-{at}");
    let mut cluster = Cluster::start_with(2, configure).await.unwrap();
    fill(cluster.node(0), "one").await;
    assert_eq!(cluster.add().await.unwrap(), 2);
    cluster.settle().await.unwrap();
    let status = cluster.node(2).status();
    let names = status.cluster.members().values().map(|member| member.info.name.as_str());
    assert_eq!(names.filter(|name| name.starts_with("mine-")).count(), 3);
    assert!(cluster.leave(0, PATIENCE).await);
    assert!(!cluster.leave(0, PATIENCE).await, "it has left");
    cluster.kill(0).await;
    cluster.settle().await.unwrap();
    assert_eq!(read(cluster.node(1)).await, vec![Some("one".to_owned()); KEYS]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_cluster_of_none_begins_with_the_first_that_is_added() {
    let mut cluster = Cluster::start(0).await.unwrap();
    assert_eq!(cluster.add().await.unwrap(), 0);
    cluster.settle().await.unwrap();
    fill(cluster.node(0), "one").await;
    assert_eq!(cluster.add().await.unwrap(), 1);
    cluster.settle().await.unwrap();
    assert_eq!(read(cluster.node(1)).await, vec![Some("one".to_owned()); KEYS]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_all_had_is_lost_with_all_and_they_begin_anew() {
    let mut cluster = Cluster::start(3).await.unwrap();
    fill(cluster.node(0), "one").await;
    let addrs: Vec<_> = cluster.nodes().map(|(_, node)| node.addr()).collect();
    for at in 0..3 {
        cluster.kill(at).await;
    }
    for (at, addr) in addrs.into_iter().enumerate() {
        cluster.restart(at).await.unwrap();
        assert_eq!(cluster.node(at).addr(), addr);
    }
    cluster.settle().await.unwrap();
    assert_eq!(read(cluster.node(0)).await, vec![None; KEYS]);
}
