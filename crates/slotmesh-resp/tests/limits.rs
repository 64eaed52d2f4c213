//! Clients that send too much, take too little, are too many, or have no password.

#![allow(clippy::unwrap_used, reason = "helpers of tests")]

mod client_side;

use std::time::Duration;

use client_side::{Client, command, loopback, serve, show};
use slotmesh_node::Node;
use slotmesh_resp::protocol::Frame;
use slotmesh_resp::{Resp, RespConfig, RespError};
use tokio::io::AsyncWriteExt;

#[tokio::test]
async fn a_pipeline_is_answered_in_order() {
    let resp = serve(loopback()).await;
    let mut client = Client::connect(&resp).await;
    let mut bytes = Vec::new();
    for number in 0..1_000 {
        bytes.extend(command(&[b"SET", b"key", number.to_string().as_bytes()]));
        bytes.extend(command(&[b"GET", b"key"]));
    }
    client.send(&bytes).await;
    for number in 0..1_000 {
        assert_eq!(client.reply().await, Some(Frame::OK));
        assert_eq!(client.reply().await, Some(Frame::bulk(number.to_string())));
    }
}

#[tokio::test]
async fn commands_may_come_byte_by_byte() {
    let resp = serve(loopback()).await;
    let mut client = Client::connect(&resp).await;
    client.stream.set_nodelay(true).unwrap();
    for byte in command(&[b"SET", b"key", b"a\r\nb"]) {
        client.send(&[byte]).await;
    }
    assert_eq!(client.reply().await, Some(Frame::OK));
    client.check("GET key", "\"a\r\nb\"").await;
}

/// What a hostile client gets: one error, and the end of the connection. Others do not notice.
async fn check_refused(bytes: &[u8], expected: &str) {
    let resp = serve(loopback()).await;
    let mut other = Client::connect(&resp).await;
    let mut client = Client::connect(&resp).await;
    client.send(bytes).await;
    let reply = client.reply().await.map(|frame| show(&frame));
    assert_eq!(reply.as_deref(), Some(expected), "{:?}", String::from_utf8_lossy(bytes));
    assert_eq!(client.reply().await, None);
    other.check("PING", "PONG").await;
}

#[tokio::test]
async fn what_a_browser_sends_is_not_obeyed() {
    let refusal = "-ERR this is no HTTP server";
    check_refused(b"POST / HTTP/1.1\r\nHost: x\r\n\r\nSET a 1\r\n", refusal).await;
    check_refused(b"host: x\r\nSET a 1\r\n", refusal).await;
}

#[tokio::test]
async fn lengths_that_cannot_be_are_refused() {
    check_refused(b"*1\r\n$-5\r\n", "-ERR Protocol error: invalid bulk length").await;
    check_refused(b"*1\r\n$99999999999\r\n", "-ERR Protocol error: invalid bulk length").await;
    check_refused(b"*2000000\r\n", "-ERR Protocol error: invalid multibulk length").await;
    check_refused(b"*x\r\n", "-ERR Protocol error: invalid multibulk length").await;
    check_refused(b"*1\r\n:5\r\n", "-ERR Protocol error: expected '$', got ':'").await;
    check_refused(b"GET \"a\r\n", "-ERR Protocol error: unbalanced quotes in request").await;
    check_refused(&[b'a'; 70_000], "-ERR Protocol error: too big inline request").await;
}

#[tokio::test]
async fn a_negative_array_is_no_command() {
    let resp = serve(loopback()).await;
    let mut client = Client::connect(&resp).await;
    client.send(b"*-5\r\n*0\r\n\r\nPING\r\n").await;
    assert_eq!(client.reply().await.map(|frame| show(&frame)).as_deref(), Some("PONG"));
}

/// Sends until nothing more is taken; the number of bytes that were.
async fn send_while_taken(client: &mut Client, bytes: &[u8]) -> usize {
    let mut taken = 0;
    while let Ok(Ok(written)) =
        tokio::time::timeout(Duration::from_secs(1), client.stream.write(bytes)).await
    {
        taken += written;
    }
    taken
}

#[tokio::test]
async fn a_client_that_takes_no_replies_is_not_read_any_more_and_then_cut_off() {
    let config = RespConfig { stall_timeout: Duration::from_secs(3), ..loopback() };
    let resp = serve(config).await;
    let mut other = Client::connect(&resp).await;
    let mut client = Client::connect(&resp).await;
    let big = vec![b'x'; 1 << 20];
    assert_eq!(other.call(&[b"SET", b"big", &big]).await, Frame::OK);
    // Each of these asks for thousands of times its own size.
    let asked = command(&[b"GET", b"big"]).repeat(64 << 10);
    let taken = send_while_taken(&mut client, &asked).await;
    let replies = taken / command(&[b"GET", b"big"]).len();
    assert!(taken < 16 << 20, "{taken} bytes of commands were taken, for {replies} MiB of replies");
    other.check("PING", "PONG").await;
    let cut_off = async {
        while !other.show("INFO clients").await.contains("connected_clients:1\r\n") {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    };
    tokio::time::timeout(Duration::from_secs(30), cut_off).await.expect("the end of the client");
}

#[tokio::test]
async fn a_reply_has_a_largest_size() {
    let resp = serve(loopback()).await;
    let mut client = Client::connect(&resp).await;
    assert_eq!(client.call(&[b"SET", b"big", &vec![b'x'; 4 << 20]]).await, Frame::OK);
    let mut ask = vec![&b"MGET"[..]];
    ask.resize(18, b"big");
    let reply = show(&client.call(&ask).await);
    assert_eq!(reply, "-ERR the reply would be larger than 67108864 bytes");
    client.check("PING", "PONG").await;
}

#[tokio::test]
async fn too_many_connections_are_told() {
    let resp = serve(RespConfig { connections_max: 2, ..loopback() }).await;
    let mut first = Client::connect(&resp).await;
    let mut second = Client::connect(&resp).await;
    first.check("PING", "PONG").await;
    second.check("PING", "PONG").await;
    let mut third = Client::connect(&resp).await;
    let told = third.reply().await.map(|frame| show(&frame));
    assert_eq!(told.as_deref(), Some("-ERR max number of clients reached"));
    assert_eq!(third.reply().await, None);
    first.check("QUIT", "OK").await;
    while second.show("INFO clients").await.contains("connected_clients:2\r\n") {
        tokio::task::yield_now().await;
    }
    Client::connect(&resp).await.check("PING", "PONG").await;
}

fn with_password() -> RespConfig {
    RespConfig { password: Some("correct horse".to_owned()), ..loopback() }
}

#[tokio::test]
async fn nothing_is_said_before_the_password() {
    let resp = serve(with_password()).await;
    let mut client = Client::connect(&resp).await;
    for line in ["GET a", "PING", "CLUSTER NODES", "BANANA", "COMMAND", "INFO"] {
        client.check(line, "-NOAUTH Authentication required.").await;
    }
    assert!(client.show("HELLO 3").await.starts_with("-NOAUTH HELLO must be called"));
    let wrong = "-WRONGPASS invalid username-password pair or user is disabled.";
    client.check("AUTH correct", wrong).await;
    client.check("HELLO 3 AUTH default nonsense", wrong).await;
    assert_eq!(show(&client.call(&[b"AUTH", b"root", b"correct horse"]).await), wrong);
    client.check("GET a", "-NOAUTH Authentication required.").await;
    assert_eq!(client.call(&[b"AUTH", b"correct horse"]).await, Frame::OK);
    client.check("GET a", "nil").await;
    client.check("RESET", "RESET").await;
    client.check("GET a", "-NOAUTH Authentication required.").await;
    let hello = client.call(&[b"HELLO", b"3", b"AUTH", b"default", b"correct horse"]).await;
    assert!(matches!(hello, Frame::Map(_)), "{hello:?}");
    client.check("GET a", "nil").await;
}

#[tokio::test]
async fn strangers_may_only_send_little() {
    let resp = serve(with_password()).await;
    let mut client = Client::connect(&resp).await;
    client.send(b"*11\r\n").await;
    let told = client.reply().await.map(|frame| show(&frame));
    assert_eq!(told.as_deref(), Some("-ERR Protocol error: unauthenticated multibulk length"));
    let mut client = Client::connect(&resp).await;
    client.send(b"*2\r\n$4\r\nAUTH\r\n$100000\r\n").await;
    let told = client.reply().await.map(|frame| show(&frame));
    assert_eq!(told.as_deref(), Some("-ERR Protocol error: unauthenticated bulk length"));
    // The password lifts the limits for what follows it in the same pipeline.
    let mut client = Client::connect(&resp).await;
    let mut bytes = command(&[b"AUTH", b"correct horse"]);
    bytes.extend(command(&[b"SET", b"a", &[b'x'; 100_000]]));
    client.send(&bytes).await;
    assert_eq!(client.reply().await, Some(Frame::OK));
    assert_eq!(client.reply().await, Some(Frame::OK));
}

#[tokio::test]
async fn other_addresses_than_loopback_need_a_password() {
    let open = RespConfig { bind: "0.0.0.0:0".parse().unwrap(), ..RespConfig::default() };
    let refused = Resp::serve(Node::local(1 << 20), open.clone()).await;
    assert!(matches!(refused, Err(RespError::Config { problems }) if problems.len() == 1));
    let guarded = RespConfig { password: Some("x".to_owned()), ..open };
    Resp::serve(Node::local(1 << 20), guarded).await.unwrap().stop().await;
}

#[tokio::test]
async fn a_taken_address_is_told() {
    let resp = serve(loopback()).await;
    let again = RespConfig { bind: resp.addr(), ..loopback() };
    let refused = Resp::serve(Node::local(1 << 20), again).await.unwrap_err();
    let text = refused.to_string();
    assert!(matches!(refused, RespError::Bind { addr, .. } if addr == resp.addr()));
    assert!(text.contains(&resp.addr().to_string()), "{text}");
}

#[tokio::test]
async fn stopping_closes_everything() {
    let resp = serve(loopback()).await;
    let mut client = Client::connect(&resp).await;
    client.check("PING", "PONG").await;
    let addr = resp.addr();
    resp.stop().await;
    assert_eq!(client.reply().await, None);
    assert!(tokio::net::TcpStream::connect(addr).await.is_err());
}

/// The client takes nothing yet, so that its commands are under way when the listener stops.
#[tokio::test]
async fn what_has_arrived_is_answered_before_a_stop() {
    let resp = serve(loopback()).await;
    let mut client = Client::connect(&resp).await;
    let value = vec![b'x'; 8 << 20];
    assert_eq!(client.call(&[b"SET", b"large", &value]).await, Frame::OK);
    let mut pipeline = command(&[b"GET", b"large"]);
    pipeline.extend(command(&[b"SET", b"small", b"1"]));
    client.send(&pipeline).await;
    tokio::time::sleep(Duration::from_millis(100)).await;
    let read = async {
        tokio::time::sleep(Duration::from_millis(100)).await;
        assert_eq!(client.reply().await, Some(Frame::bulk(value)));
        assert_eq!(client.reply().await, Some(Frame::OK));
        assert_eq!(client.reply().await, None);
    };
    tokio::join!(resp.stop(), read);
}
