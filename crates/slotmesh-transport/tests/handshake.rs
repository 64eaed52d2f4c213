//! Who may talk to whom, and what those who may not are told.
#![allow(clippy::unwrap_used, reason = "helpers of tests count as tests")]

mod common;

use bytes::Bytes;
use common::*;
use slotmesh_slots::{Generation, NodeId};
use slotmesh_transport::{BindError, CallError, Disconnect, RefusedReason, TransportConfig};

/// Dials and checks what each side is told; neither may believe in a connection.
async fn check_refused(
    client: Node,
    server: Node,
    expect: Option<NodeId>,
    told: [RefusedReason; 2],
) {
    let [to_client, to_server] = told;
    let peer = client.endpoint.peer(server.addr(), expect);
    let error = peer.call(ECHO, Bytes::new(), BUDGET).await.unwrap_err();
    assert_eq!(error, CallError::Refused(to_client.clone()));
    assert!(!error.may_have_executed());
    let seen = eventually("refusal at the server", || server.handler.refusal()).await;
    assert_eq!(seen, Disconnect::Refused(to_server));
    assert_eq!(client.handler.refusal(), Some(Disconnect::Refused(to_client)));
    assert!(!client.handler.ever_connected() && !server.handler.ever_connected());
    assert!(server.handler.requests.lock().is_empty());
}

#[tokio::test]
async fn another_secret() {
    let client = Setup { secret: "another secret of enough bytes", ..Setup::new(1) }.start();
    let told = [RefusedReason::OtherSecret, RefusedReason::OtherSecret];
    assert_eq!(told[0].to_string(), "the peer does not share this cluster's secret");
    check_refused(client, Node::start(2), None, told).await;
}

#[tokio::test]
async fn another_cluster_name() {
    let mut client = Setup::new(1);
    client.hello.cluster = "users".into();
    let theirs = |name: &str| RefusedReason::OtherCluster { theirs: name.into() };
    assert_eq!(theirs("users").to_string(), "the peer belongs to the cluster \"users\"");
    check_refused(client.start(), Node::start(2), None, [theirs(CLUSTER), theirs("users")]).await;
}

#[tokio::test]
async fn another_generation() {
    let theirs =
        |cluster| RefusedReason::OtherGeneration { theirs: Generation { cluster, reform: 0 } };
    let (client, server) = (Setup::new(1).generation(5), Setup::new(2).generation(6));
    check_refused(client.start(), server.start(), None, [theirs(6), theirs(5)]).await;
}

#[tokio::test]
async fn a_generation_meets_none_and_later_connections_tell_it() {
    let (client, server) = (Setup::new(1).generation(5).start(), Node::start(2));
    let peer = client.peer(&server);
    peer.call(ECHO, Bytes::new(), BUDGET).await.unwrap();
    assert_eq!(peer.info().unwrap().generation, None);
    let generation = Some(Generation { cluster: 5, reform: 0 });
    server.endpoint.set_hello(generation, Bytes::from_static(b"zone b")).unwrap();
    drop(peer);
    let peer = client.peer(&server);
    peer.call(ECHO, Bytes::new(), BUDGET).await.unwrap();
    let info = peer.info().unwrap();
    assert_eq!((info.generation, &info.info[..]), (generation, &b"zone b"[..]));
}

#[tokio::test]
async fn another_node_than_expected() {
    let told = [RefusedReason::NotThePeer, RefusedReason::NotThePeer];
    let expect = Some(NodeId::from_random(3));
    check_refused(Node::start(1), Node::start(2), expect, told).await;
}

#[tokio::test]
async fn a_client_of_another_protocol_version() {
    let (server, raw) = (Node::start(2), RawPeer::new(1, Default::default()));
    let connection = raw.connect(server.addr()).await;
    let (mut send, _recv) = connection.open_bi().await.unwrap();
    send.write_all(&raw_hello(9, CLUSTER, 1)).await.unwrap();
    assert_eq!(closed_with(&connection).await, (3, "1".into()));
    let why = eventually("refusal", || server.handler.refusal()).await;
    assert_eq!(why.to_string(), "refused: the peer speaks protocol version 9");
}

#[tokio::test]
async fn a_server_of_another_protocol_version() {
    let (client, raw) = (Node::start(1), RawPeer::new(2, Default::default()));
    let peer = client.endpoint.peer(raw.addr(), None);
    let answer = async {
        let connection = raw.endpoint.accept().await.unwrap().await.unwrap();
        let (mut send, _recv) = connection.accept_bi().await.unwrap();
        send.write_all(&raw_hello(9, CLUSTER, 2)).await.unwrap();
        closed_with(&connection).await
    };
    let (called, closed) = tokio::join!(peer.call(ECHO, Bytes::new(), BUDGET), answer);
    let refused = RefusedReason::OtherProtocol { theirs: 9 };
    assert_eq!(called, Err(CallError::Refused(refused)));
    assert_eq!(closed, (3, "1".into()));
}

#[tokio::test]
async fn a_node_that_claims_to_be_another() {
    let (server, raw) = (Node::start(2), RawPeer::new(1, Default::default()));
    let connection = raw.connect(server.addr()).await;
    let (mut send, _recv) = connection.open_bi().await.unwrap();
    send.write_all(&raw_hello(1, CLUSTER, 7)).await.unwrap();
    assert_eq!(closed_with(&connection).await, (5, "certificate names another node".into()));
    let why = eventually("refusal", || server.handler.refusal()).await;
    assert_eq!(why.to_string(), "refused: the peer's certificate names another node");
}

#[tokio::test]
async fn what_is_no_hello() {
    let (server, raw) = (Node::start(2), RawPeer::new(1, Default::default()));
    for (bytes, text) in [
        (b"\xff\xff\xff\xff".to_vec(), "a frame of 4294967295 bytes is above the limit of 4288"),
        (
            b"\0\0\0\x04HTTP".to_vec(),
            "the first frame is no hello: invalid input: magic number of the hello",
        ),
    ] {
        let connection = raw.connect(server.addr()).await;
        let (mut send, _recv) = connection.open_bi().await.unwrap();
        send.write_all(&bytes).await.unwrap();
        assert_eq!(closed_with(&connection).await, (7, text.into()));
    }
    assert!(!server.handler.ever_connected());
}

#[tokio::test]
async fn connections_above_the_limit() {
    let server = Setup::new(2).config(|config| config.accepted_max = 1).start();
    let (first, second) = (Node::start(1), Node::start(3));
    let kept = first.peer(&server);
    kept.call(ECHO, Bytes::new(), BUDGET).await.unwrap();
    let error = second.peer(&server).call(ECHO, Bytes::new(), BUDGET).await.unwrap_err();
    assert_eq!(
        error.to_string(),
        "not connected: refused: it ends, or has too many connections or handshakes"
    );
    kept.call(ECHO, Bytes::new(), BUDGET).await.expect("the first connection is unharmed");
    drop(kept);
    let peer = second.peer(&server);
    eventually("free place", || {
        peer.redial();
        peer.connected().then_some(())
    })
    .await;
}

#[tokio::test]
async fn nobody_at_the_address() {
    let timeout = std::time::Duration::from_millis(200);
    let client = Setup::new(1).config(|config| config.handshake_timeout = timeout).start();
    let silent = std::net::UdpSocket::bind(LOOPBACK).unwrap();
    silent.set_nonblocking(true).unwrap();
    let hurried = std::time::Duration::from_millis(20);
    let peer = client.endpoint.peer(silent.local_addr().unwrap(), None);
    let error = peer.call(ECHO, Bytes::new(), hurried).await.unwrap_err();
    assert_eq!(error, CallError::NotConnected(Disconnect::Connecting), "nothing has ended yet");
    let text = "not connected: no answer from the address: nobody answered within 200ms";
    let error = peer.call(ECHO, Bytes::new(), BUDGET).await.unwrap_err();
    assert_eq!(error.to_string(), text);
    assert!(!error.may_have_executed());
    while silent.recv(&mut [0; 2_000]).is_ok() {}
    peer.redial();
    let attempt = || silent.recv(&mut [0; 2_000]).ok();
    eventually("next attempt", attempt).await;
    let error = peer.call(ECHO, Bytes::new(), hurried).await.unwrap_err();
    assert_eq!(error.to_string(), text, "what ended the attempt before");
}

#[tokio::test]
async fn endpoints_that_cannot_open_say_why() {
    let taken = Node::start(1);
    let error = Setup { addr: taken.addr(), ..Setup::new(2) }.try_start().err().unwrap();
    assert!(error.to_string().starts_with("cannot listen on 127.0.0.1:"), "{error}");
    let config = TransportConfig { mtu_max: 9000, serving_max: 0, ..TransportConfig::default() };
    let error = Setup { config, ..Setup::new(2) }.try_start().err().unwrap();
    assert!(matches!(&error, BindError::Config(problems) if problems.len() == 2), "{error}");
    let other = Setup::new(2);
    let identity = identity(SECRET, NodeId::from_random(3));
    let handler = std::sync::Arc::new(Recorder::default());
    let bound =
        slotmesh_transport::Endpoint::bind(LOOPBACK, &identity, other.hello, other.config, handler);
    let text = "invalid hello: it names another node than the certificate";
    assert_eq!(bound.err().unwrap().to_string(), text);
}
