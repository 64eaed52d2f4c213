//! A widely used client library, in both versions of the protocol.

#![allow(clippy::unwrap_used, reason = "helpers of tests")]

mod client_side;

use client_side::{loopback, serve};
use redis::{Commands, Connection, ProtocolVersion};

fn talk(connection: &mut Connection) -> redis::RedisResult<()> {
    let () = connection.set_ex("a", "1", 100)?;
    assert_eq!(connection.get::<_, String>("a")?, "1");
    assert_eq!(connection.get::<_, Option<String>>("b")?, None);
    assert_eq!(connection.incr::<_, _, i64>("a", 4)?, 5);
    assert!((99..=100).contains(&connection.ttl::<_, i64>("a")?));
    let () = connection.mset(&[("b", "2"), ("c", "3")])?;
    let values: Vec<Option<String>> = connection.mget(&["a", "b", "c", "d"])?;
    assert_eq!(values, [Some("5".into()), Some("2".into()), Some("3".into()), None]);
    assert_eq!(connection.del::<_, i64>(&["a", "b", "d"])?, 2);
    let (first, second): (String, i64) =
        redis::pipe().set("p", 6).ignore().get("p").incr("p", 1).query(connection)?;
    assert_eq!((first.as_str(), second), ("6", 7));
    let info: redis::InfoDict = redis::cmd("INFO").query(connection)?;
    assert_eq!(info.get::<String>("redis_mode").as_deref(), Some("cluster"));
    let error = connection.incr::<_, _, i64>("c", i64::MAX).unwrap_err();
    assert!(error.to_string().contains("overflow"), "{error}");
    redis::cmd("FLUSHALL").query(connection)
}

async fn check(protocol: ProtocolVersion) {
    let resp = serve(loopback()).await;
    let addr = resp.addr();
    let talked = tokio::task::spawn_blocking(move || {
        let suffix = if protocol == ProtocolVersion::RESP3 { "?protocol=resp3" } else { "" };
        let client = redis::Client::open(format!("redis://{addr}/{suffix}"))?;
        talk(&mut client.get_connection()?)
    });
    talked.await.unwrap().unwrap();
}

#[tokio::test]
async fn the_client_works_in_resp2() {
    check(ProtocolVersion::RESP2).await;
}

#[tokio::test]
async fn the_client_works_in_resp3() {
    check(ProtocolVersion::RESP3).await;
}
