//! Peers that break the protocol, stop reading, crash or leave: each harms its own connection only.
#![allow(clippy::unwrap_used, reason = "helpers of tests count as tests")]

mod common;

use std::net::{SocketAddr, UdpSocket};
use std::time::Duration;

use bytes::Bytes;
use common::*;
use quinn::VarInt;
use slotmesh_transport::{BusyAt, CallError, Disconnect, FrameError, FrameType, TransportConfig};

#[tokio::test]
async fn garbage_datagrams_at_the_port_while_calls_go_on() {
    let (client, server) = (Node::start(1), Node::start(2));
    let peer = client.peer(&server);
    peer.call(ECHO, Bytes::new(), BUDGET).await.unwrap();
    let noise = UdpSocket::bind(LOOPBACK).unwrap();
    // A simple generator is noise enough; its first byte covers both of QUIC's packet forms.
    let mut random = 0x2545_f491_4f6c_dd1du64;
    for round in 0..2000usize {
        let packet: Vec<u8> = (0..1 + round % 1400)
            .map(|_| {
                random ^= random << 13;
                random ^= random >> 7;
                random ^= random << 17;
                random as u8
            })
            .collect();
        noise.send_to(&packet, server.addr()).unwrap();
        if round.is_multiple_of(10) {
            let body = Bytes::from(packet);
            assert_eq!(peer.call(ECHO, body.clone(), BUDGET).await, Ok(body));
        }
    }
    assert_eq!(server.handler.disconnect(), None);
    assert_eq!(server.endpoint.accepted_connections(), 1);
}

/// What an authenticated peer sends on its RPC stream, and what both sides get to know.
async fn check_bad_frame(bytes: Vec<u8>, finish: bool, error: FrameError) {
    let (server, raw) = (Node::start(2), RawPeer::new(1, Default::default()));
    let other = Node::start(3);
    let bystander = other.peer(&server);
    bystander.call(ECHO, Bytes::new(), BUDGET).await.unwrap();
    let (connection, mut send, _recv) = raw.greet(server.addr(), 1).await;
    send.write_all(&raw_frame(1, ECHO, 5, b"fine")).await.unwrap();
    send.write_all(&bytes).await.unwrap();
    if finish {
        send.finish().unwrap();
    }
    assert_eq!(closed_with(&connection).await, (7, error.to_string()));
    let why = eventually("disconnect", || server.handler.disconnect()).await;
    assert_eq!(why, Disconnect::BadFrame(error));
    bystander.call(ECHO, Bytes::new(), BUDGET).await.expect("other connections are unharmed");
    assert_eq!(server.endpoint.accepted_connections(), 1);
}

#[tokio::test]
async fn garbage_frames() {
    check_bad_frame(raw_frame(77, 0, 0, b"?"), false, FrameError::UnknownType(77)).await;
    check_bad_frame(vec![0, 0, 0, 2, 1, 1], false, FrameError::TooShort { bytes: 2 }).await;
}

#[tokio::test]
async fn a_frame_above_the_limit() {
    let max = TransportConfig::default().frame_bytes_max + 10;
    let error = FrameError::Oversized { bytes: max + 1, max };
    check_bad_frame((max as u32 + 1).to_be_bytes().to_vec(), false, error).await;
}

#[tokio::test]
async fn a_stream_that_ends() {
    check_bad_frame(vec![0, 0, 0, 20, 1], true, FrameError::Truncated { bytes: 5 }).await;
    check_bad_frame(Vec::new(), true, FrameError::Ended).await;
}

#[tokio::test]
async fn answers_to_nobodys_question() {
    let error = FrameError::WrongDirection(FrameType::Reply);
    check_bad_frame(raw_frame(4, 0, 0, b""), false, error).await;
}

/// Accepts one connection, says hello and does nothing more.
async fn mute_server(raw: &RawPeer) -> (quinn::Connection, quinn::SendStream, quinn::RecvStream) {
    let connection = raw.endpoint.accept().await.unwrap().await.unwrap();
    let (mut send, recv) = connection.accept_bi().await.unwrap();
    send.write_all(&raw_hello(1, CLUSTER, 2)).await.unwrap();
    (connection, send, recv)
}

#[tokio::test]
async fn a_peer_that_answers_garbage() {
    let (client, raw) = (Node::start(1), RawPeer::new(2, Default::default()));
    let peer = client.endpoint.peer(raw.addr(), None);
    let answer = async {
        let (connection, mut send, _recv) = mute_server(&raw).await;
        send.write_all(&raw_frame(1, ECHO, 0, b"a request, on the wrong side")).await.unwrap();
        closed_with(&connection).await
    };
    let (called, closed) = tokio::join!(peer.call(ECHO, Bytes::new(), BUDGET), answer);
    let error = FrameError::WrongDirection(FrameType::Request);
    assert_eq!(closed, (7, error.to_string()));
    let error = Disconnect::BadFrame(error);
    // The garbage may have come before the call was queued.
    let possible = [CallError::Lost(error.clone()), CallError::NotConnected(error)];
    assert!(possible.contains(called.as_ref().unwrap_err()), "{called:?}");
}

#[tokio::test]
async fn a_peer_that_never_reads_costs_a_bounded_queue() {
    let budget_bytes = 1 << 20;
    let client = Setup::new(1).config(|config| config.queued_bytes_max = budget_bytes).start();
    let mut window = quinn::TransportConfig::default();
    window.stream_receive_window(VarInt::from_u32(64 << 10));
    let raw = RawPeer::new(2, window);
    let peer = client.endpoint.peer(raw.addr(), None);
    peer.redial();
    let _mute = mute_server(&raw).await;
    eventually("connection", || peer.connected().then_some(())).await;
    let waiting = peer.call(ECHO, Bytes::from(vec![0; 200_000]), Duration::from_millis(300));
    let flood = async {
        let message = Bytes::from(vec![0; 10_000]);
        for sent in 0..1000 {
            match peer.send(1, message.clone()) {
                Ok(()) => tokio::task::yield_now().await,
                Err(error) => return (sent * message.len(), error),
            }
        }
        panic!("10 MB were queued for a peer that does not read");
    };
    let (waited, (queued, error)) = tokio::join!(waiting, flood);
    assert_eq!(error.to_string(), "too much is under way to this peer");
    assert_eq!(error, CallError::Busy(BusyAt::Here));
    assert!(queued <= budget_bytes + (64 << 10), "{queued} bytes queued");
    assert_eq!(waited, Err(CallError::Deadline));
}

#[tokio::test]
async fn a_peer_that_does_not_read_its_answers_is_not_read_either() {
    let server = Setup::new(2).config(|config| config.queued_bytes_max = 1 << 20).start();
    let mut window = quinn::TransportConfig::default();
    window.stream_receive_window(VarInt::from_u32(64 << 10));
    let raw = RawPeer::new(1, window);
    let (_connection, mut send, _recv) = raw.greet(server.addr(), 1).await;
    let request = raw_frame(1, ECHO, 0, &[0; 50_000]);
    let flood = async {
        for _ in 0..2000 {
            send.write_all(&request).await.unwrap();
        }
    };
    let flooded = tokio::time::timeout(Duration::from_secs(1), flood).await;
    assert!(flooded.is_err(), "100 MB of requests were taken although no answer was read");
    let served = server.handler.requests.lock().len() * 50_000;
    assert!(served <= 3 << 20, "{served} bytes were answered into a 1 MiB queue");
    let other = Node::start(3);
    other.peer(&server).call(ECHO, Bytes::new(), BUDGET).await.expect("others are served");
}

#[tokio::test]
async fn a_handler_that_panics_ends_its_connection_only() {
    let (client, server) = (Node::start(1), Node::start(2));
    let other = Node::start(3);
    let bystander = other.peer(&server);
    bystander.call(ECHO, Bytes::new(), BUDGET).await.unwrap();
    let peer = client.peer(&server);
    let error = peer.call(PANIC, Bytes::new(), BUDGET).await.unwrap_err();
    assert!(matches!(error, CallError::Lost(_)), "{error:?}");
    bystander.call(ECHO, Bytes::new(), BUDGET).await.expect("other connections are unharmed");
    assert_eq!(server.handler.disconnect(), Some(Disconnect::Lost));
}

#[tokio::test]
async fn a_peer_that_leaves_says_so() {
    let (client, server) = (Node::start(1), Node::start(2));
    let peer = client.peer(&server);
    peer.call(ECHO, Bytes::new(), BUDGET).await.unwrap();
    let waiting = peer.call(HOLD, Bytes::new(), BUDGET);
    let leave = async {
        eventually("request", || (!server.handler.held.lock().is_empty()).then_some(())).await;
        server.endpoint.close(true).await;
    };
    let (waited, ()) = tokio::join!(waiting, leave);
    assert_eq!(waited, Err(CallError::Lost(Disconnect::Leaving)));
    let why = eventually("disconnect", || client.handler.disconnect()).await;
    assert_eq!(why, Disconnect::Leaving);
    assert_eq!(server.handler.disconnect(), Some(Disconnect::Closed));
    let late = client.peer(&server).call(ECHO, Bytes::new(), Duration::from_millis(50)).await;
    assert!(matches!(late, Err(CallError::NotConnected(_))), "{late:?}");
    client.endpoint.close(false).await;
    let closed = peer.call(ECHO, Bytes::new(), BUDGET).await.unwrap_err();
    assert_eq!(closed, CallError::NotConnected(Disconnect::Closed));
}

/// A server on a thread of its own, so that it can vanish without a word.
fn start_apart(addr: SocketAddr, number: u64) -> (tokio::runtime::Runtime, SocketAddr) {
    let builder =
        tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build();
    let runtime = builder.unwrap();
    let started = std::time::Instant::now();
    loop {
        let setup = Setup { addr, ..Setup::new(number) };
        let entered = runtime.enter();
        match setup.try_start() {
            Ok(node) => {
                drop(entered);
                let addr = node.addr();
                // Kept by the runtime: it ends with it.
                runtime.spawn(async move {
                    std::future::pending::<()>().await;
                    drop(node);
                });
                return (runtime, addr);
            }
            // The predecessor's socket is closed when its last task is gone.
            Err(error) => assert!(started.elapsed() < BUDGET, "{error}"),
        }
        std::thread::sleep(Duration::from_millis(5));
    }
}

#[tokio::test]
async fn a_peer_that_crashes_and_comes_back_on_its_port_is_found_again() {
    let client = Node::start(1);
    let (first, addr) = start_apart(LOOPBACK, 2);
    let peer = client.endpoint.peer(addr, None);
    peer.call(ECHO, Bytes::new(), BUDGET).await.unwrap();
    let before = peer.info().unwrap().node;
    let crashed = std::time::Instant::now();
    tokio::task::spawn_blocking(move || first.shutdown_timeout(Duration::ZERO)).await.unwrap();
    let second = tokio::task::spawn_blocking(move || start_apart(addr, 3)).await.unwrap();
    loop {
        assert!(crashed.elapsed() < BUDGET, "not found again: {:?}", peer.last_error());
        let call = peer.call(ECHO, Bytes::new(), Duration::from_millis(200)).await;
        if call.is_ok() {
            break;
        }
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    assert_ne!(peer.info().unwrap().node, before);
    let why = client.handler.disconnect().unwrap();
    assert!(matches!(why, Disconnect::Restarted | Disconnect::PeerClosed), "{why:?}");
    assert!(crashed.elapsed() < Duration::from_secs(5), "the idle time need not pass first");
    tokio::task::spawn_blocking(move || drop(second)).await.unwrap();
}
