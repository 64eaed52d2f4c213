//! Calls, messages and datagrams between two endpoints that behave.
#![allow(clippy::unwrap_used, reason = "helpers of tests count as tests")]

mod common;

use std::time::{Duration, Instant};

use bytes::Bytes;
use common::*;
use slotmesh_transport::{BusyAt, CallError, DATAGRAM_BYTES_MAX, Disconnect, TransportConfig};

#[tokio::test]
async fn echo_at_256_in_flight() {
    echo_at_256(Duration::ZERO).await;
}

#[tokio::test]
async fn echo_at_256_in_flight_with_busy_polling() {
    echo_at_256(Duration::from_micros(500)).await;
}

async fn echo_at_256(busy_poll_max: Duration) {
    let start = |number| Setup::new(number).config(|c| c.busy_poll_max = busy_poll_max).start();
    let (client, server) = (start(1), start(2));
    let peer = client.peer(&server);
    let callers: Vec<_> = (0..256u32)
        .map(|caller| {
            let peer = peer.clone();
            tokio::spawn(async move {
                for round in 0..40u32 {
                    let size = (caller * 7 + round * 31) as usize % 2000;
                    let body = Bytes::from(vec![caller as u8 ^ round as u8; size]);
                    assert_eq!(peer.call(ECHO, body.clone(), BUDGET).await, Ok(body));
                }
            })
        })
        .collect();
    for caller in callers {
        caller.await.unwrap();
    }
    assert_eq!(server.handler.requests.lock().len(), 256 * 40);
    let info = peer.info().unwrap();
    assert_eq!((info.node, info.addr, info.dialled), (server.id, server.addr(), true));
}

#[tokio::test]
async fn bodies_from_nothing_to_the_limit() {
    let (client, server) = (Node::start(1), Node::start(2));
    let peer = client.peer(&server);
    let max = TransportConfig::default().frame_bytes_max;
    for size in [0, 1, 16 * 1024 - 1, 16 * 1024, 1 << 20, max] {
        let body = Bytes::from((0..size).map(|i| (i * 7) as u8).collect::<Vec<_>>());
        assert_eq!(peer.call(ECHO, body.clone(), BUDGET).await, Ok(body), "{size} bytes");
    }
    let bytes = max + 1;
    let error = peer.call(ECHO, Bytes::from(vec![0; bytes]), BUDGET).await.unwrap_err();
    assert_eq!(error, CallError::TooLarge { bytes, max });
    assert_eq!(error.to_string(), format!("{bytes} bytes are above the limit of {max}"));
}

#[tokio::test]
async fn each_answer_has_its_error() {
    let (client, server) = (Node::start(1), Node::start(2));
    let peer = client.peer(&server);
    let body = Bytes::from_static(b"why");
    let status = peer.call(STATUS, body.clone(), BUDGET).await.unwrap_err();
    assert_eq!(status, CallError::Status(42, body.clone()));
    let dropped = peer.call(DROP, body, BUDGET).await.unwrap_err();
    assert_eq!(dropped.to_string(), "the peer gave no answer");
    assert!(dropped.may_have_executed());
}

#[tokio::test]
async fn a_budget_that_runs_out_ends_the_call_and_its_late_answer_reaches_nobody() {
    let (client, server) = (Node::start(1), Node::start(2));
    let peer = client.peer(&server);
    peer.call(ECHO, Bytes::new(), BUDGET).await.unwrap();
    let started = Instant::now();
    let budget = Duration::from_millis(40);
    let error = peer.call(HOLD, Bytes::new(), budget).await.unwrap_err();
    assert_eq!(error.to_string(), "no answer within the budget");
    assert!(error.may_have_executed() && started.elapsed() >= budget);
    let late = server.handler.held.lock().pop().unwrap();
    let next = peer.call(HOLD, Bytes::new(), BUDGET);
    let answers = async {
        let current = eventually("second request", || server.handler.held.lock().pop()).await;
        late.send(Bytes::from_static(b"late"));
        current.send(Bytes::from_static(b"in time"));
    };
    assert_eq!(tokio::join!(next, answers).0, Ok(Bytes::from_static(b"in time")));
}

#[tokio::test]
async fn a_request_whose_budget_ran_out_on_the_way_is_not_executed() {
    let (client, server) = (Node::start(1), Node::start(2));
    let peer = client.peer(&server);
    peer.call(ECHO, Bytes::new(), BUDGET).await.unwrap();
    // Both travel in one packet; the first holds the reader up for longer than the second's budget.
    let (blocked, expired) = tokio::join!(
        peer.call(BLOCK, Bytes::new(), BUDGET),
        peer.call(DROP, Bytes::new(), BLOCK_FOR / 2),
    );
    assert_eq!((blocked, expired), (Ok(Bytes::new()), Err(CallError::Deadline)));
    peer.call(ECHO, Bytes::new(), BUDGET).await.unwrap();
    let kinds: Vec<_> = server.handler.requests.lock().iter().map(|request| request.0).collect();
    assert_eq!(kinds, [ECHO, BLOCK, ECHO], "the expired request never reached the handler");
}

/// Holds two requests open, makes a third, and lets the two go.
async fn check_busy(client: Setup, server: Setup, busy: CallError, text: &str) {
    let (client, server) = (client.start(), server.start());
    let peer = client.peer(&server);
    peer.call(ECHO, Bytes::new(), BUDGET).await.unwrap();
    let third = async {
        let both = || (server.handler.held.lock().len() == 2).then_some(());
        eventually("two held requests", both).await;
        let error = peer.call(HOLD, Bytes::new(), BUDGET).await.unwrap_err();
        let held = std::mem::take(&mut *server.handler.held.lock());
        held.into_iter().for_each(|reply| reply.send(Bytes::new()));
        error
    };
    let hold = || peer.call(HOLD, Bytes::new(), BUDGET);
    let (first, second, error) = tokio::join!(hold(), hold(), third);
    assert_eq!((first, second), (Ok(Bytes::new()), Ok(Bytes::new())));
    assert_eq!(error.to_string(), text);
    assert!(error == busy && !error.may_have_executed());
    peer.call(ECHO, Bytes::new(), BUDGET).await.expect("the places are free again");
}

#[tokio::test]
async fn this_side_bounds_what_is_in_flight() {
    let client = Setup::new(1).config(|config| config.in_flight_max = 2);
    let text = "too much is under way to this peer";
    check_busy(client, Setup::new(2), CallError::Busy(BusyAt::Here), text).await;
}

#[tokio::test]
async fn the_other_side_bounds_what_it_serves() {
    let server = Setup::new(2).config(|config| config.serving_max = 2);
    let text = "too much is under way at the peer";
    check_busy(Setup::new(1), server, CallError::Busy(BusyAt::Peer), text).await;
}

#[tokio::test]
async fn a_dropped_call_frees_its_place() {
    let client = Setup::new(1).config(|config| config.in_flight_max = 1).start();
    let server = Node::start(2);
    let peer = client.peer(&server);
    peer.call(ECHO, Bytes::new(), BUDGET).await.unwrap();
    for _ in 0..3 {
        let held = peer.call(HOLD, Bytes::new(), BUDGET);
        let arrived = eventually("held request", || server.handler.held.lock().pop());
        tokio::select! {
            answer = held => panic!("nobody answers: {answer:?}"),
            _reply = arrived => {}
        }
    }
    assert_eq!(peer.call(ECHO, Bytes::new(), BUDGET).await, Ok(Bytes::new()));
}

#[tokio::test]
async fn a_batch_of_calls_is_one_write() {
    let (client, server) = (Node::start(1), Node::start(2));
    let peer = client.peer(&server);
    peer.call(ECHO, Bytes::new(), BUDGET).await.unwrap();
    let before = peer.stats().unwrap().send_calls;
    let body = Bytes::from(vec![1; 64]);
    let callers: Vec<_> = (0..64)
        .map(|_| {
            let (peer, body) = (peer.clone(), body.clone());
            tokio::spawn(async move {
                for _ in 0..200 {
                    peer.call(ECHO, body.clone(), BUDGET).await.unwrap();
                }
            })
        })
        .collect();
    for caller in callers {
        caller.await.unwrap();
    }
    let writes = peer.stats().unwrap().send_calls - before;
    let per_call = writes as f64 / (64.0 * 200.0);
    assert!(per_call <= 0.1, "{per_call:.3} sendmsg per call at 64 in flight");
}

#[tokio::test]
async fn messages_and_datagrams_arrive() {
    let (client, server) = (Node::start(1), Node::start(2));
    let peer = client.peer(&server);
    let unconnected = peer.send(9, Bytes::new()).unwrap_err();
    assert_eq!(unconnected, CallError::NotConnected(Disconnect::Connecting));
    eventually("connection", || peer.connected().then_some(())).await;
    for number in 0..100u8 {
        peer.send(number, Bytes::from(vec![number])).unwrap();
    }
    // At once, so that the path is not yet known to bear it.
    peer.datagram(Bytes::from(vec![7; DATAGRAM_BYTES_MAX])).unwrap();
    peer.datagram(Bytes::from_static(b"small")).unwrap();
    let too_large = peer.datagram(Bytes::from(vec![0; DATAGRAM_BYTES_MAX + 1])).unwrap_err();
    assert_eq!(too_large, CallError::TooLarge { bytes: 1201, max: 1200 });
    let seen = |event: &Event| !matches!(event, Event::Connected(_));
    eventually("102 arrivals", || {
        (server.handler.events.lock().iter().filter(|event| seen(event)).count() == 102)
            .then_some(())
    })
    .await;
    let events = server.handler.events.lock();
    let kinds: Vec<_> = events
        .iter()
        .filter_map(|event| match event {
            Event::Message(kind, _) => Some(*kind),
            _ => None,
        })
        .collect();
    assert!(kinds.into_iter().eq(0..100), "messages keep their order");
    assert_eq!(events.iter().filter(|event| matches!(event, Event::Datagram(_))).count(), 2);
}

#[tokio::test]
async fn callers_need_no_runtime_of_their_own() {
    let (client, server) = (Node::start(1), Node::start(2));
    let peer = client.peer(&server);
    let (done, answer) = tokio::sync::oneshot::channel();
    std::thread::spawn(move || {
        // Neither timers nor I/O: only the ability to wait.
        let bare = tokio::runtime::Builder::new_current_thread().build().unwrap();
        let body = Bytes::from_static(b"from outside");
        let first = bare.block_on(peer.call(ECHO, body.clone(), BUDGET));
        let held = bare.block_on(peer.call(HOLD, body, Duration::from_millis(20)));
        done.send((first, held)).unwrap();
    });
    let (first, held) = answer.await.unwrap();
    assert_eq!(first, Ok(Bytes::from_static(b"from outside")));
    assert_eq!(held, Err(CallError::Deadline));
}

#[tokio::test]
async fn handles_of_one_address_share_a_connection_and_the_last_one_ends_it() {
    let (client, server) = (Node::start(1), Node::start(2));
    let (one, two) = (client.peer(&server), client.peer(&server));
    let answers =
        tokio::join!(one.call(ECHO, Bytes::new(), BUDGET), two.call(ECHO, Bytes::new(), BUDGET));
    assert!(answers.0.is_ok() && answers.1.is_ok());
    assert_eq!(server.endpoint.accepted_connections(), 1);
    drop(one);
    two.call(ECHO, Bytes::new(), BUDGET).await.unwrap();
    drop(two);
    let why = eventually("disconnect", || server.handler.disconnect()).await;
    assert_eq!(why, Disconnect::PeerClosed);
}
