//! Ordered streams beside the calls.
#![allow(clippy::unwrap_used, reason = "helpers of tests count as tests")]

mod common;

use std::time::Duration;

use bytes::Bytes;
use common::*;
use slotmesh_transport::{CallError, Disconnect, FrameStream, StreamError};

const REPLICATION: u8 = 6;

/// Both ends of a new stream, and the nodes that keep it alive.
async fn open() -> (Node, Node, slotmesh_transport::Peer, FrameStream, FrameStream) {
    let (client, server) = (Node::start(1), Node::start(2));
    let peer = client.peer(&server);
    let near = peer.open_stream(REPLICATION).await.unwrap();
    let far = eventually("stream", || server.handler.streams.lock().pop()).await;
    assert_eq!(far.kind(), REPLICATION);
    (client, server, peer, near, far)
}

#[tokio::test]
async fn frames_arrive_in_order_in_both_directions() {
    let (_client, _server, _peer, near, mut far) = open().await;
    let (mut sender, mut receiver) = near.into_split();
    let frame = |number: u32| {
        let size =
            number as usize * 37 % 3000 + if number.is_multiple_of(500) { 60_000 } else { 0 };
        Bytes::from([&number.to_be_bytes()[..], &vec![number as u8; size]].concat())
    };
    let send = async {
        for first in (0..5000).step_by(10) {
            sender.send_all((first..first + 10).map(frame).collect()).await.unwrap();
        }
        drop(sender);
    };
    let echo = async {
        while let Some(frame) = far.recv().await.unwrap() {
            far.send(frame).await.unwrap();
        }
    };
    let check = async {
        for number in 0..5000 {
            assert_eq!(receiver.recv().await.unwrap().unwrap(), frame(number), "frame {number}");
        }
    };
    tokio::join!(send, echo, check);
    drop(far);
    assert_eq!(receiver.recv().await, Ok(None), "the far end has finished");
}

#[tokio::test]
async fn a_reader_that_stops_holds_the_writer_up_but_not_the_calls() {
    let (_client, _server, peer, mut near, mut far) = open().await;
    let frame = Bytes::from(vec![1; 100_000]);
    let mut sent = 0u32;
    let flood = async {
        while sent < 1000 {
            near.send(frame.clone()).await.unwrap();
            sent += 1;
        }
    };
    assert!(tokio::time::timeout(Duration::from_millis(500), flood).await.is_err());
    assert!((40..=130).contains(&sent), "{sent} frames of 100 kB into a 4 MiB window");
    peer.call(ECHO, Bytes::from_static(b"through"), BUDGET).await.expect("calls go on");
    // The send that was cancelled left its frame queued: it must come once, whole, before the next.
    let last = Bytes::from_static(b"last");
    let drain = async {
        for _ in 0..=sent {
            assert_eq!(far.recv().await.unwrap().unwrap().len(), frame.len());
        }
        assert_eq!(far.recv().await.unwrap().unwrap(), last);
    };
    let (sent_last, ()) = tokio::join!(near.send(last.clone()), drain);
    sent_last.unwrap();
}

#[tokio::test]
async fn frames_up_to_the_limit() {
    let (_client, _server, _peer, near, mut far) = open().await;
    let (mut sender, _receiver) = near.into_split();
    let max = 16 << 20;
    let error = sender.send(Bytes::from(vec![0; max + 1])).await.unwrap_err();
    assert_eq!(error.to_string(), "16777217 bytes are above the limit of 16777216");
    let largest = Bytes::from((0..max).map(|i| (i >> 9) as u8).collect::<Vec<_>>());
    let (sent, received) = tokio::join!(sender.send(largest.clone()), far.recv());
    assert_eq!((sent, received), (Ok(()), Ok(Some(largest))));
}

#[tokio::test]
async fn the_ends_tell_how_it_ended() {
    let (client, server, peer, near, far) = open().await;
    let (mut sender, receiver) = near.into_split();
    let (far_sender, mut far_receiver) = far.into_split();
    drop(receiver);
    tokio::time::timeout(BUDGET, far_sender.closed()).await.expect("its reader is gone");
    sender.send(Bytes::from_static(b"before")).await.unwrap();
    assert_eq!(far_receiver.recv().await, Ok(Some(Bytes::from_static(b"before"))));
    sender.abort();
    assert_eq!(far_receiver.recv().await, Err(StreamError::Aborted));
    let mut second = peer.open_stream(REPLICATION).await.unwrap();
    let _far = eventually("stream", || server.handler.streams.lock().pop()).await;
    server.endpoint.close(true).await;
    assert_eq!(second.recv().await, Err(StreamError::Lost(Disconnect::Leaving)));
    drop(client);
}

#[tokio::test]
async fn a_stream_that_does_not_say_its_kind_is_broken_off() {
    let (server, raw) = (Node::start(2), RawPeer::new(1, Default::default()));
    let (connection, _send, _recv) = raw.greet(server.addr(), 1).await;
    let (mut send, mut recv) = connection.open_bi().await.unwrap();
    send.reset(0u32.into()).unwrap();
    // An end in good order would say that the peer has told everything.
    let ended = tokio::time::timeout(BUDGET, recv.read_to_end(1)).await.expect("an end");
    assert!(ended.is_err(), "{ended:?}");
    assert!(server.handler.streams.lock().is_empty());
}

#[tokio::test]
async fn streams_above_the_limit_are_busy() {
    let short = Duration::from_millis(300);
    let client = Setup::new(1).config(|config| config.handshake_timeout = short).start();
    let server = Node::start(2);
    let peer = client.peer(&server);
    let mut open = Vec::new();
    // Sixteen at once, one of which carries the calls.
    for _ in 0..15 {
        open.push(peer.open_stream(REPLICATION).await.unwrap());
    }
    let error = peer.open_stream(REPLICATION).await.unwrap_err();
    assert!(matches!(error, CallError::Busy(_)), "{error:?}");
    peer.call(ECHO, Bytes::new(), BUDGET).await.unwrap();
    open.clear();
    server.handler.streams.lock().clear();
    peer.open_stream(REPLICATION).await.expect("their places are free again");
}
