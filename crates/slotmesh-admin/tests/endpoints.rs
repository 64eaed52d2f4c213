//! Every endpoint over a real socket.

#![allow(clippy::unwrap_used, reason = "helpers of tests")]

use std::net::SocketAddr;

use slotmesh_admin::{Admin, AdminConfig, AdminError, CONNECTIONS_MAX, REQUEST_PATIENCE};
use slotmesh_node::{ClusterSecret, Node, NodeConfig};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

fn secret() -> ClusterSecret {
    ClusterSecret::new("a secret of enough bytes").unwrap()
}

fn loopback() -> AdminConfig {
    AdminConfig { bind: SocketAddr::from(([127, 0, 0, 1], 0)), token: None }
}

/// Status and body of a question.
async fn get(addr: SocketAddr, path: &str, header: &str) -> (u16, String) {
    ask(addr, "GET", path, header, "").await
}

const JSON: &str = "content-type: application/json\r\n";

async fn set_replicas(addr: SocketAddr, header: &str, body: &str) -> (u16, String) {
    post(addr, "/api/replicas", header, body).await
}

async fn post(addr: SocketAddr, path: &str, header: &str, body: &str) -> (u16, String) {
    let header = format!("{header}content-length: {}\r\n", body.len());
    ask(addr, "POST", path, &header, body).await
}

async fn ask(
    addr: SocketAddr,
    method: &str,
    path: &str,
    header: &str,
    body: &str,
) -> (u16, String) {
    let mut stream = TcpStream::connect(addr).await.unwrap();
    let request =
        format!("{method} {path} HTTP/1.1\r\nhost: x\r\nconnection: close\r\n{header}\r\n{body}");
    stream.write_all(request.as_bytes()).await.unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).await.unwrap();
    let (head, body) = answer.split_once("\r\n\r\n").unwrap();
    let status = head.split(' ').nth(1).and_then(|status| status.parse().ok());
    (status.unwrap(), body.to_owned())
}

#[tokio::test]
async fn a_local_node_is_alive_ready_and_safe() {
    let node = Node::local(1 << 20);
    let admin = Admin::serve(node, loopback()).await.unwrap();
    for path in ["/healthz", "/readyz", "/safez"] {
        assert_eq!(get(admin.addr(), path, "").await.0, 200, "{path}");
    }
    assert_eq!(get(admin.addr(), "/banana", "").await.0, 404);
}

#[tokio::test]
async fn clients_that_say_nothing_do_not_keep_the_others_out() {
    let admin = Admin::serve(Node::local(1 << 20), loopback()).await.unwrap();
    let mut idle = Vec::new();
    for _ in 0..2 * CONNECTIONS_MAX {
        let mut stream = TcpStream::connect(admin.addr()).await.unwrap();
        stream.write_all(b"GET /healthz HTTP/1.1\r\n").await.unwrap();
        idle.push(stream);
    }
    let answer = get(admin.addr(), "/healthz", "");
    // Long before they are given up.
    let (code, _) = tokio::time::timeout(REQUEST_PATIENCE / 4, answer).await.unwrap();
    assert_eq!(code, 200);
}

#[tokio::test]
async fn numbers_and_status_tell_of_the_node() {
    let node = Node::local(1 << 20);
    node.put("key", "value", slotmesh_node::PutOptions::default()).await.unwrap();
    let admin = Admin::serve(node.clone(), loopback()).await.unwrap();
    let (code, metrics) = get(admin.addr(), "/metrics", "").await;
    assert_eq!(code, 200);
    for line in [
        "# TYPE slotmesh_ready gauge",
        "slotmesh_ready 1",
        "slotmesh_primary_slots 16384",
        "slotmesh_primary_entries 1",
        // A mebibyte less what the slots take while they are empty.
        "slotmesh_memory_budget_bytes 587776",
        "slotmesh_failovers_total 0",
    ] {
        assert!(metrics.lines().any(|have| have == line), "{line} in {metrics}");
    }
    let (code, json) = get(admin.addr(), "/api/status", "").await;
    let status: serde_json::Value = serde_json::from_str(&json).unwrap();
    assert_eq!(code, 200);
    assert_eq!(status["node"], node.id().to_string());
    assert_eq!(status["phase"], "serving");
    assert_eq!(status["owned_slots"], 16_384);
    assert_eq!(status["members"][0]["primary_slots"], 16_384);
}

#[tokio::test]
async fn the_number_of_copies_changes_by_post_alone() {
    let node = Node::start(NodeConfig::new(secret())).await.unwrap();
    assert!(node.wait_until(|status| status.is_safe()).await);
    let admin = Admin::serve(node.clone(), loopback()).await.unwrap();
    let wanted = r#"{"replicas":2}"#;
    assert_eq!(set_replicas(admin.addr(), JSON, wanted).await, (200, wanted.to_owned()));
    assert!(node.wait_until(|status| status.cluster.replicas() == 2).await);
    // A page in a browser may send a form here, but not JSON without having asked.
    assert_eq!(set_replicas(admin.addr(), "", r#"{"replicas":0}"#).await.0, 415);
    let (code, text) = set_replicas(admin.addr(), JSON, r#"{"replicas":4}"#).await;
    assert_eq!((code, &*text), (400, r#"{"error":"4 replicas cannot be had, 0 to 3 can"}"#));
    assert_eq!(set_replicas(admin.addr(), JSON, r#"{"replicas":-1}"#).await.0, 422);
    assert_eq!(set_replicas(admin.addr(), JSON, "2").await.0, 422);
    assert_eq!(get(admin.addr(), "/api/replicas", "").await.0, 405);
    let status: serde_json::Value =
        serde_json::from_str(&get(admin.addr(), "/api/status", "").await.1).unwrap();
    assert_eq!(status["wanted_replicas"], 2, "nothing of that changed anything");
    assert_eq!((&status["copying"], &status["moving"]), (&0.into(), &0.into()));
    let alone = Admin::serve(Node::local(1 << 20), loopback()).await.unwrap();
    assert_eq!(set_replicas(alone.addr(), JSON, wanted).await.0, 503);
    node.stop().await;
    assert_eq!(set_replicas(admin.addr(), JSON, wanted).await.0, 503);
}

#[tokio::test]
async fn moves_for_balance_are_paused_and_a_member_is_drained_by_post() {
    let node = Node::start(NodeConfig { name: "one".to_owned(), ..NodeConfig::new(secret()) });
    let node = node.await.unwrap();
    assert!(node.wait_until(|status| status.is_safe()).await);
    let admin = Admin::serve(node.clone(), loopback()).await.unwrap();
    let balance = async |body: &str| post(admin.addr(), "/api/rebalance", JSON, body).await;
    let paused = r#"{"action":"pause"}"#;
    assert_eq!(balance(paused).await, (200, paused.to_owned()));
    assert_eq!(balance(r#"{"action":"stop"}"#).await.0, 422);
    let config = NodeConfig {
        name: "two".to_owned(),
        seeds: vec![node.addr().unwrap()],
        ..NodeConfig::new(secret())
    };
    let two = Node::start(NodeConfig { expect: 2, ..config }).await.unwrap();
    let both = |status: &slotmesh_node::NodeStatus| status.cluster.members().len() == 2;
    assert!(node.wait_until(|status| both(status) && status.is_safe()).await);
    let json = async || -> serde_json::Value {
        serde_json::from_str(&get(admin.addr(), "/api/status", "").await.1).unwrap()
    };
    let status = json().await;
    assert_eq!(status["rebalance"], "paused");
    assert_eq!(status["progress"]["copies_missing"], 0);
    assert_eq!(status["progress"]["primaries_to_balance"], 8_192, "the newcomer has copies only");
    let (_, metrics) = get(admin.addr(), "/metrics", "").await;
    assert!(metrics.contains("slotmesh_primaries_to_balance 8192"), "{metrics}");
    assert!(metrics.contains("slotmesh_rebalance_paused 1"), "{metrics}");
    assert_eq!(balance(r#"{"action":"resume"}"#).await.0, 200);
    let even = |status: &slotmesh_node::NodeStatus| status.progress() == Default::default();
    assert!(node.wait_until(|status| even(status) && status.is_safe()).await);
    // Whom it does not know, and then one of the two: the other is the last.
    let drain = async |body: &str| post(admin.addr(), "/api/drain", JSON, body).await;
    assert_eq!(drain(r#"{"node":"three"}"#).await.0, 404);
    for list in ["[]", "[null]"] {
        assert_eq!(drain(list).await.0, 422, "{list} names no field");
        assert_eq!(post(admin.addr(), "/api/reform", JSON, list).await.0, 422);
    }
    let id = two.id();
    assert_eq!(drain(r#"{"node":"two"}"#).await, (200, format!(r#"{{"node":"{id}"}}"#)));
    assert!(two.wait_until(|status| status.phase == slotmesh_node::Phase::Left).await);
    assert!(node.wait_until(|status| status.cluster.members().len() == 1).await);
    assert_eq!(drain("{}").await.0, 409, "nobody is left to take its slots");
    assert_eq!(node.status().owned_slots(), 16_384);
    two.stop().await;
    node.stop().await;
}

#[tokio::test]
async fn a_node_that_waits_for_others_says_so() {
    let mut config = NodeConfig::new(secret());
    config.expect = 2;
    config.seeds = vec!["127.0.0.1:9".parse().unwrap()];
    let node = Node::start(config).await.unwrap();
    let admin = Admin::serve(node.clone(), loopback()).await.unwrap();
    assert_eq!(get(admin.addr(), "/healthz", "").await.0, 200);
    let (code, text) = get(admin.addr(), "/readyz", "").await;
    assert_eq!(code, 503);
    assert_eq!(text, "not ready: it looks for its cluster, or waits for others to found one\n");
    let (code, text) = get(admin.addr(), "/safez", "").await;
    assert_eq!(code, 503);
    assert_eq!(text, "not safe: it looks for its cluster, or waits for others to found one\n");
    node.stop().await;
}

#[tokio::test]
async fn with_a_token_nothing_is_said_without_it() {
    let config = AdminConfig { token: Some("correct horse".to_owned()), ..loopback() };
    let admin = Admin::serve(Node::local(1 << 20), config).await.unwrap();
    for path in ["/healthz", "/readyz", "/safez", "/metrics", "/api/status"] {
        for header in ["", "authorization: Bearer correct\r\n", "authorization: correct horse\r\n"]
        {
            assert_eq!(get(admin.addr(), path, header).await.0, 401, "{path} {header}");
            let json = format!("{header}{JSON}");
            assert_eq!(set_replicas(admin.addr(), &json, r#"{"replicas":1}"#).await.0, 401);
        }
        let right = "authorization: Bearer correct horse\r\n";
        assert_eq!(get(admin.addr(), path, right).await.0, 200, "{path}");
    }
}

#[tokio::test]
async fn a_taken_address_is_told() {
    let admin = Admin::serve(Node::local(1 << 20), loopback()).await.unwrap();
    let config = AdminConfig { bind: admin.addr(), ..loopback() };
    let refused = Admin::serve(Node::local(1 << 20), config).await;
    assert!(matches!(refused, Err(AdminError::Bind { addr, .. }) if addr == admin.addr()));
}

#[tokio::test]
async fn stopping_closes_the_listener() {
    let admin = Admin::serve(Node::local(1 << 20), loopback()).await.unwrap();
    let addr = admin.addr();
    admin.stop().await;
    assert!(TcpStream::connect(addr).await.is_err());
}
