//! Nodes of one cluster in this process, over real sockets.

use std::net::{SocketAddr, TcpListener};
use std::time::Duration;

use slotmesh_node::{ClusterSecret, Node, NodeConfig, Phase};

pub const PATIENCE: Duration = Duration::from_secs(30);

pub async fn cluster(count: usize) -> Vec<Node> {
    let listeners: Vec<_> = (0..count).map(|_| TcpListener::bind("127.0.0.1:0").unwrap()).collect();
    let addrs: Vec<SocketAddr> = listeners.iter().map(|it| it.local_addr().unwrap()).collect();
    drop(listeners);
    let mut nodes = Vec::new();
    for (index, bind) in addrs.iter().enumerate() {
        let secret = ClusterSecret::new("a secret of more than 16 bytes").unwrap();
        let config = NodeConfig {
            name: format!("n{index}"),
            bind: *bind,
            seeds: addrs.clone(),
            expect: count as u16,
            ..NodeConfig::new(secret)
        };
        nodes.push(Node::start(config).await.unwrap());
    }
    for node in &nodes {
        let safe = node.wait_until(|status| status.phase == Phase::Serving && status.is_safe());
        assert!(tokio::time::timeout(PATIENCE, safe).await.unwrap());
    }
    nodes
}
