//! Two real nodes: forwarding for plain clients, redirects for clients in cluster mode.

#![allow(clippy::unwrap_used, reason = "helpers of tests")]

mod client_side;

use std::time::Duration;

use client_side::{Client, loopback, show};
use slotmesh_node::{ClusterSecret, Node, NodeConfig};
use slotmesh_resp::protocol::Frame;
use slotmesh_resp::{Resp, RespConfig};
use slotmesh_slots::Slot;

struct Pair {
    nodes: Vec<Node>,
    resps: Vec<Resp>,
}

/// Two nodes that share the slots; the second announces its Redis address if wanted.
async fn pair(redirect: bool, second_announces: bool) -> Pair {
    let secret = ClusterSecret::new("a secret of enough bytes").unwrap();
    let mut pair = Pair { nodes: Vec::new(), resps: Vec::new() };
    let mut seed = "127.0.0.1:9".parse().unwrap();
    for announces in [true, second_announces] {
        let resp = Resp::bind(RespConfig { redirect, ..loopback() }).await.unwrap();
        let mut config = NodeConfig::new(secret.clone());
        config.expect = 2;
        config.seeds = vec![seed];
        config.resp = announces.then(|| resp.addr());
        let node = Node::start(config).await.unwrap();
        seed = node.addr().unwrap();
        pair.resps.push(resp.serve(node.clone()));
        pair.nodes.push(node);
    }
    for node in &pair.nodes {
        let safe =
            node.wait_until(|status| status.is_safe() && status.cluster.members().len() == 2);
        tokio::time::timeout(Duration::from_secs(60), safe).await.expect("a cluster in a minute");
    }
    pair
}

impl Pair {
    /// A key whose slot this node is primary of.
    fn key_of(&self, node: usize) -> String {
        let id = self.nodes[node].id();
        let owned = |key: &String| self.nodes[0].owner(Slot::of_key(key.as_bytes())) == Some(id);
        (0..).map(|number| format!("key{number}")).find(owned).unwrap()
    }

    async fn clients(&self) -> [Client; 2] {
        [Client::connect(&self.resps[0]).await, Client::connect(&self.resps[1]).await]
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn any_node_answers_for_any_key() {
    let pair = pair(false, true).await;
    let [mut first, mut second] = pair.clients().await;
    let (here, there) = (pair.key_of(0), pair.key_of(1));
    first.check(&format!("MSET {here} 1 {there} 2"), "OK").await;
    second.check(&format!("MGET {here} {there} none"), "[\"1\" \"2\" nil]").await;
    first.check(&format!("INCR {there}"), ":3").await;
    second.check(&format!("SET {here} x GET"), "\"1\"").await;
    first.check(&format!("EXISTS {here} {there}"), ":2").await;
    first.check(&format!("EXPIRE {there} 100"), ":1").await;
    second.check(&format!("TTL {there}"), ":100").await;
    first.check(&format!("DEL {here} {there} none"), ":2").await;
    second.check(&format!("SET {there} 1"), "OK").await;
    first.check("FLUSHALL", "OK").await;
    second.check(&format!("EXISTS {there} {here}"), ":0").await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn redirects_lead_to_the_owner() {
    let pair = pair(true, true).await;
    let [mut first, mut second] = pair.clients().await;
    let (here, there) = (pair.key_of(0), pair.key_of(1));
    let moved = format!("-MOVED {} {}", Slot::of_key(there.as_bytes()), pair.resps[1].addr());
    first.check(&format!("SET {there} 1"), &moved).await;
    first.check(&format!("GET {there}"), &moved).await;
    second.check(&format!("SET {there} 1"), "OK").await;
    first.check(&format!("SET {here} 1"), "OK").await;
    let cross = "-CROSSSLOT Keys in request don't hash to the same slot";
    first.check(&format!("MGET {here} {there}"), cross).await;
    second.check(&format!("MSET {here} 1 {there} 2"), cross).await;
    first.check(&format!("MGET {here} {here}"), "[\"1\" \"1\"]").await;
    first.check("READONLY", "OK").await;
    first.check(&format!("GET {there}"), "\"1\"").await;
    first.check(&format!("SET {there} 1"), &moved).await;
    first.check("READWRITE", "OK").await;
    first.check(&format!("GET {there}"), &moved).await;
}

/// The slot ranges with the ports of primary and replicas.
async fn slots(client: &mut Client) -> Vec<(i64, Vec<i64>)> {
    let Frame::Array(ranges) = client.call(&[b"CLUSTER", b"SLOTS"]).await else { panic!("ranges") };
    let range = |range: &Frame| {
        let Frame::Array(parts) = range else { panic!("a range") };
        let (Frame::Integer(first), Frame::Integer(last)) = (&parts[0], &parts[1]) else {
            panic!("{}", show(range))
        };
        let port = |node: &Frame| match node {
            Frame::Array(node) => match node[1] {
                Frame::Integer(port) => port,
                _ => panic!("no port"),
            },
            _ => panic!("no node"),
        };
        (last - first + 1, parts[2..].iter().map(port).collect())
    };
    ranges.iter().map(range).collect()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_table_names_both_nodes() {
    let pair = pair(true, true).await;
    let [mut first, mut second] = pair.clients().await;
    let ranges = slots(&mut first).await;
    assert_eq!(ranges, slots(&mut second).await);
    assert_eq!(ranges.iter().map(|(count, _)| count).sum::<i64>(), 16_384);
    let mut ports: Vec<i64> = pair.resps.iter().map(|resp| resp.addr().port().into()).collect();
    ports.sort_unstable();
    for (_, mut holders) in ranges {
        holders.sort_unstable();
        assert_eq!(holders, ports, "one is primary, the other replica");
    }
    let nodes = first.show("CLUSTER NODES").await;
    assert_eq!(nodes.matches(" connected ").count(), 2, "{nodes}");
    assert_eq!(nodes.matches("myself").count(), 1, "{nodes}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn keys_of_a_node_without_an_address_are_forwarded() {
    let pair = pair(true, false).await;
    let [mut first, _] = pair.clients().await;
    let there = pair.key_of(1);
    first.check(&format!("SET {there} 1"), "OK").await;
    let port = i64::from(pair.resps[0].addr().port());
    let ranges = slots(&mut first).await;
    assert!(ranges.iter().all(|(_, holders)| holders == &[port]), "{ranges:?}");
    assert_eq!(ranges.iter().map(|(count, _)| count).sum::<i64>(), 16_384);
}
