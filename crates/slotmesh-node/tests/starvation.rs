//! An application that leaves its node no processor; alone in its program, so that it disturbs no other test.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::net::{SocketAddr, TcpListener};
use std::time::{Duration, Instant};

use slotmesh_node::{ClusterSecret, Node, NodeConfig, NodeStatus, PutOptions};
use slotmesh_slots::Slot;

const PATIENCE: Duration = Duration::from_secs(30);

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_application_that_burns_every_core_causes_no_failover() {
    let addrs: Vec<SocketAddr> = {
        let free = || TcpListener::bind("127.0.0.1:0").unwrap();
        let listeners = [free(), free(), free()];
        listeners.iter().map(|listener| listener.local_addr().unwrap()).collect()
    };
    let mut nodes = Vec::new();
    for (index, &bind) in addrs.iter().enumerate() {
        let secret = ClusterSecret::new("a secret of more than 16 bytes").unwrap();
        let (name, seeds) = (format!("n{index}"), addrs.clone());
        let config = NodeConfig { name, bind, seeds, expect: 3, ..NodeConfig::new(secret) };
        nodes.push(Node::start(config).await.unwrap());
    }
    for node in &nodes {
        let safe = node.wait_until(NodeStatus::is_safe);
        assert!(tokio::time::timeout(PATIENCE, safe).await.unwrap());
    }
    nodes[0].put("key", "value", PutOptions::default()).await.unwrap();
    let epochs = |node: &Node| {
        let status = node.status();
        let table = status.cluster.table();
        Slot::all().map(|slot| table.slot(slot).epoch).collect::<Vec<_>>()
    };
    let before = epochs(&nodes[0]);
    let until = Instant::now() + Duration::from_secs(3);
    let burn = move || while Instant::now() < until {};
    // Both threads of this runtime, and more of the application's own than there are cores.
    let threads: Vec<_> = (0..4).map(|_| std::thread::spawn(burn)).collect();
    let blocked = (0..2).map(|_| tokio::spawn(async move { burn() })).collect::<Vec<_>>();
    burn();
    threads.into_iter().for_each(|thread| thread.join().unwrap());
    for task in blocked {
        task.await.unwrap();
    }
    assert_eq!(epochs(&nodes[0]), before, "no slot changed hands");
    assert_eq!(nodes[1].get(b"key").await.unwrap().unwrap().value, "value");
}
