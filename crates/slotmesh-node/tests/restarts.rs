//! Nodes that start again at addresses where others ran, beside one that lives.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::future::Future;
use std::net::{SocketAddr, TcpListener};
use std::time::Duration;

use slotmesh_node::{ClusterSecret, Node, NodeConfig, NodeStatus, Phase, PutOptions};

const PATIENCE: Duration = Duration::from_secs(30);

/// Ports that are free on TCP now; the nodes bind UDP and TCP on them.
fn free_addrs(count: usize) -> Vec<SocketAddr> {
    let listeners: Vec<_> = (0..count).map(|_| TcpListener::bind("127.0.0.1:0").unwrap()).collect();
    listeners.iter().map(|listener| listener.local_addr().unwrap()).collect()
}

async fn start(addrs: &[SocketAddr], index: usize) -> Node {
    let config = NodeConfig {
        name: format!("n{index}"),
        bind: addrs[index],
        seeds: addrs.to_vec(),
        expect: 2,
        ..NodeConfig::new(ClusterSecret::new("a secret of more than 16 bytes").unwrap())
    };
    Node::start(config).await.unwrap()
}

async fn until(node: &Node, what: &str, condition: impl FnMut(&NodeStatus) -> bool) {
    let met = tokio::time::timeout(PATIENCE, node.wait_until(condition)).await;
    let status = node.status();
    assert!(met.is_ok_and(|met| met), "{what}: {:?} {:?}", status.phase, status.cluster.members());
}

async fn until_complete(node: &Node, members: usize) {
    until(node, "complete", |status| {
        let complete = status.cluster.members().len() == members && status.is_complete();
        status.phase == Phase::Serving && complete
    })
    .await;
}

/// As many as found a cluster, one after the other, so that the third holds everything in the end. It dials the other two
/// meanwhile, in vain.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn two_that_start_again_join_the_one_that_lives() {
    let addrs = free_addrs(3);
    let (first, second) = (start(&addrs, 0).await, start(&addrs, 1).await);
    let third = start(&addrs, 2).await;
    until_complete(&third, 3).await;
    third.put("key", "value", PutOptions::default()).await.unwrap();
    for (node, left) in [(first, 2), (second, 1)] {
        assert!(node.leave(PATIENCE).await);
        drop(node);
        until_complete(&third, left).await;
    }
    tokio::time::sleep(Duration::from_millis(2_500)).await;
    let nodes = [start(&addrs, 0).await, start(&addrs, 1).await];
    for node in &nodes {
        until(node, "serves", |status| status.phase == Phase::Serving).await;
        assert_eq!(node.status().generation, third.status().generation, "another cluster");
        let found = node.get(b"key").await.unwrap().unwrap();
        assert_eq!(&found.value[..], b"value");
    }
}

/// Nobody has a handle to it, so nothing may be left of it.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_start_that_nobody_waits_for_leaves_nothing_behind() {
    let addrs = free_addrs(2);
    for pause in [0, 1, 2, 4, 8, 16] {
        let begun = tokio::time::timeout(Duration::from_millis(pause), start(&addrs, 0)).await;
        drop(begun);
        let again = async {
            while std::net::UdpSocket::bind(addrs[0]).is_err()
                || TcpListener::bind(addrs[0]).is_err()
            {
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
        };
        assert!(tokio::time::timeout(PATIENCE, again).await.is_ok(), "given up after {pause} ms");
    }
}

/// One that serves nothing any more may not keep its slots, whoever has a handle to it.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_stop_that_nobody_waits_for_goes_on() {
    let addrs = free_addrs(2);
    let (stopped, other) = (start(&addrs, 0).await, start(&addrs, 1).await);
    until_complete(&other, 2).await;
    until_complete(&stopped, 2).await;
    {
        let mut stop = Box::pin(stopped.stop());
        let polled = std::future::poll_fn(|cx| std::task::Poll::Ready(stop.as_mut().poll(cx)));
        assert!(polled.await.is_pending(), "it takes its time");
    }
    assert_ne!(stopped.status().phase, Phase::Serving);
    until(&stopped, "left", |status| status.phase == Phase::Left).await;
}
