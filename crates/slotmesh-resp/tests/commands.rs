//! Every command against a local node over a real socket.

#![allow(clippy::unwrap_used, reason = "helpers of tests")]

mod client_side;

use std::collections::BTreeMap;
use std::time::{SystemTime, UNIX_EPOCH};

use client_side::{Client, loopback, serve, show};
use slotmesh_resp::protocol::Frame;

/// Sends line after line over one connection and compares the replies.
async fn check(dialogue: &[(&str, &str)]) {
    let resp = serve(loopback()).await;
    let mut client = Client::connect(&resp).await;
    for (line, expected) in dialogue {
        client.check(line, expected).await;
    }
}

const INTEGER: &str = "-ERR value is not an integer or out of range";
const SYNTAX: &str = "-ERR syntax error";

#[tokio::test]
async fn values_are_written_and_read() {
    check(&[
        ("GET a", "nil"),
        ("SET a 1", "OK"),
        ("GET a", "\"1\""),
        ("get a", "\"1\""),
        ("STRLEN a", ":1"),
        ("STRLEN b", ":0"),
        ("EXISTS a b a", ":2"),
        ("TYPE a", "string"),
        ("TYPE b", "none"),
        ("SETNX a 2", ":0"),
        ("SETNX b 2", ":1"),
        ("MGET a b c", "[\"1\" \"2\" nil]"),
        ("MSET a 3 b 4 a 5", "OK"),
        ("MGET a b", "[\"5\" \"4\"]"),
        ("DBSIZE", ":2"),
        ("DEL a c a", ":1"),
        ("UNLINK b", ":1"),
        ("DBSIZE", ":0"),
        ("SET a 1", "OK"),
        ("FLUSHALL", "OK"),
        ("SET a 1", "OK"),
        ("FLUSHDB ASYNC", "OK"),
        ("FLUSHALL NOW", SYNTAX),
        ("EXISTS a", ":0"),
    ])
    .await;
}

#[tokio::test]
async fn conditions_of_set() {
    check(&[
        ("SET a 1 XX", "nil"),
        ("SET a 1 NX", "OK"),
        ("SET a 2 NX", "nil"),
        ("SET a 2 XX", "OK"),
        ("SET a 3 GET", "\"2\""),
        ("SET b 3 GET", "nil"),
        ("GET b", "\"3\""),
        ("SET b 4 NX GET", "\"3\""),
        ("GET b", "\"3\""),
        ("SET c 4 XX GET", "nil"),
        ("EXISTS c", ":0"),
        ("SET c 4 NX GET EX 100", "nil"),
        ("TTL c", ":100"),
        ("SET c 5 KEEPTTL GET", "\"4\""),
        ("TTL c", ":100"),
        ("SET c 6 KEEPTTL", "OK"),
        ("TTL c", ":100"),
        ("SET c 7", "OK"),
        ("TTL c", ":-1"),
        ("SET c 7 NX XX", SYNTAX),
        ("SET c 7 EX", SYNTAX),
        ("SET c 7 EX 1 PX 1", SYNTAX),
        ("SET c 7 EX 1 KEEPTTL", SYNTAX),
        ("SET c 7 BANANA", SYNTAX),
        ("SET c 7 EX x BANANA", SYNTAX),
        ("SET c 7 PERSIST", SYNTAX),
        ("SET c 7 XX XX GET GET", "\"7\""),
        ("SET c 7 EX 100 EX 200", "OK"),
        ("TTL c", ":200"),
        ("SET c 7 KEEPTTL KEEPTTL", "OK"),
        ("TTL c", ":200"),
        ("SET c 7 PXAT 9223372036854775807", "OK"),
        ("SET c 7 EX x", INTEGER),
        ("SET c 7 EX 0", "-ERR invalid expire time in 'set' command"),
        ("SET c 7 PX -1", "-ERR invalid expire time in 'set' command"),
        ("SET c 7 EX 9223372036854775807", "-ERR invalid expire time in 'set' command"),
        ("GET c", "\"7\""),
    ])
    .await;
}

#[tokio::test]
async fn lifetimes() {
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_secs();
    let soon = format!("SET e 1 EXAT {}", now + 1_000);
    check(&[
        ("TTL a", ":-2"),
        ("PTTL a", ":-2"),
        ("EXPIRE a 10", ":0"),
        ("PERSIST a", ":0"),
        ("SET a 1", "OK"),
        ("TTL a", ":-1"),
        ("PTTL a", ":-1"),
        ("PERSIST a", ":0"),
        ("EXPIRE a 100", ":1"),
        ("TTL a", ":100"),
        ("PEXPIRE a 50000", ":1"),
        ("TTL a", ":50"),
        ("PERSIST a", ":1"),
        ("TTL a", ":-1"),
        ("EXPIRE a x", INTEGER),
        ("EXPIRE a 9223372036854775807", "-ERR invalid expire time in 'expire' command"),
        ("PEXPIRE a 9223372036854775807", "-ERR invalid expire time in 'pexpire' command"),
        ("EXISTS a", ":1"),
        ("EXPIRE a -1", ":1"),
        ("EXISTS a", ":0"),
        ("SETEX b 100 v", "OK"),
        ("TTL b", ":100"),
        ("PSETEX b 200000 v", "OK"),
        ("TTL b", ":200"),
        ("SETEX b 0 v", "-ERR invalid expire time in 'setex' command"),
        ("PSETEX b -5 v", "-ERR invalid expire time in 'psetex' command"),
        ("SET c 1 EXAT 1", "OK"),
        ("GET c", "nil"),
        (soon.as_str(), "OK"),
        ("PEXPIRE e 0", ":1"),
        ("GET e", "nil"),
    ])
    .await;
}

#[tokio::test]
async fn conditions_of_lifetimes() {
    check(&[
        ("SET a 1", "OK"),
        ("EXPIRE a 100 XX", ":0"),
        ("EXPIRE a 100 GT", ":0"),
        ("EXPIRE a 100 XX LT", ":0"),
        ("EXPIRE a 100 NX", ":1"),
        ("EXPIRE a 200 nx", ":0"),
        ("EXPIRE a 50 GT", ":0"),
        ("EXPIRE a 200 GT", ":1"),
        ("TTL a", ":200"),
        ("PEXPIRE a 300000 LT", ":0"),
        ("PEXPIRE a 100000 LT LT", ":1"),
        ("TTL a", ":100"),
        ("EXPIRE a -5 GT", ":0"),
        ("EXPIRE a -5 XX LT", ":1"),
        ("EXISTS a", ":0"),
        ("EXPIRE a 10 NX", ":0"),
        ("SET a 1", "OK"),
        ("EXPIRE a 100 LT", ":1"),
        ("TTL a", ":100"),
        (
            "EXPIRE a 10 NX GT",
            "-ERR NX and XX, GT or LT options at the same time are not compatible",
        ),
        ("EXPIRE a x GT LT", "-ERR GT and LT options at the same time are not compatible"),
        ("EXPIRE a x NX BANANA", "-ERR Unsupported option BANANA"),
        ("EXPIRE a x NX", INTEGER),
    ])
    .await;
}

#[tokio::test]
async fn lifetimes_end_at_points_in_time() {
    let soon = SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_secs() + 1_000;
    let line = |command: &str, unit: &str| format!("{command} a {soon}{unit}");
    let (seconds, millis) = (line("EXPIREAT", ""), line("PEXPIREAT", "000"));
    let (getex, told) = (line("GETEX", ""), format!(":{soon}"));
    check(&[
        ("EXPIRETIME a", ":-2"),
        ("PEXPIRETIME a", ":-2"),
        (&seconds, ":0"),
        ("SET a 1", "OK"),
        ("EXPIRETIME a", ":-1"),
        ("PEXPIRETIME a", ":-1"),
        (&seconds, ":1"),
        ("EXPIRETIME a", &told),
        ("PERSIST a", ":1"),
        ("PERSIST a", ":0"),
        (&millis, ":1"),
        ("EXPIRETIME a", &told),
        (&getex.replace("a ", "a EXAT "), "\"1\""),
        ("EXPIRETIME a", &told),
        ("EXPIREAT a 9223372036854776", "-ERR invalid expire time in 'expireat' command"),
        ("PEXPIREAT a 9223372036854775807", ":1"),
        ("EXPIREAT a 1 GT", ":0"),
        ("EXPIREAT a -1", ":1"),
        ("EXISTS a", ":0"),
        ("SET a 1", "OK"),
        ("PEXPIREAT a -9223372036854775808", ":1"),
        ("EXISTS a", ":0"),
    ])
    .await;
    let resp = serve(loopback()).await;
    let mut client = Client::connect(&resp).await;
    client.check("SET a 1", "OK").await;
    client.check(&millis, ":1").await;
    let Frame::Integer(end) = client.call(&[b"PEXPIRETIME", b"a"]).await else { panic!("a time") };
    assert!((0..1_000).contains(&(end - soon as i64 * 1_000)), "{end} is no {soon}");
}

#[tokio::test]
async fn values_are_read_and_changed_in_one_step() {
    check(&[
        ("GETSET a 1", "nil"),
        ("EXPIRE a 100", ":1"),
        ("GETSET a 2", "\"1\""),
        ("TTL a", ":-1"),
        ("GETEX a", "\"2\""),
        ("GETEX a EX 100", "\"2\""),
        ("TTL a", ":100"),
        ("GETEX a", "\"2\""),
        ("TTL a", ":100"),
        ("GETEX a PERSIST", "\"2\""),
        ("TTL a", ":-1"),
        ("GETEX a PX 200000 PX 300000", "\"2\""),
        ("TTL a", ":300"),
        ("GETEX a EX 1 PX 1", SYNTAX),
        ("GETEX a EX 1 PERSIST", SYNTAX),
        ("GETEX a KEEPTTL", SYNTAX),
        ("GETEX a NX", SYNTAX),
        ("GETEX a EX", SYNTAX),
        ("GETEX a EX x", INTEGER),
        ("GETEX a EX 0", "-ERR invalid expire time in 'getex' command"),
        ("GETEX b EX 0", "nil"),
        ("GETEX b", "nil"),
        ("GETEX b EX 100", "nil"),
        ("GETEX a PXAT 1", "\"2\""),
        ("GETEX a", "nil"),
        ("SET a 3", "OK"),
        ("GETDEL a", "\"3\""),
        ("GETDEL a", "nil"),
        ("MSET a 1 b 2", "OK"),
        ("TOUCH a b c a", ":3"),
        ("TOUCH c", ":0"),
    ])
    .await;
}

#[tokio::test]
async fn parts_of_values() {
    let too_long = "-ERR string exceeds maximum allowed size (proto-max-bulk-len)";
    check(&[
        ("APPEND a Hello", ":5"),
        ("EXPIRE a 100", ":1"),
        ("APPEND a , you", "-ERR wrong number of arguments for 'append' command"),
        ("APPEND a !", ":6"),
        ("SETRANGE a 5 ,you", ":9"),
        ("TTL a", ":100"),
        ("GET a", "\"Hello,you\""),
        ("GETRANGE a 0 -1", "\"Hello,you\""),
        ("GETRANGE a -3 -2", "\"yo\""),
        ("SUBSTR a 6 100", "\"you\""),
        ("GETRANGE a 9 10", "\"\""),
        ("GETRANGE a -1 -2", "\"\""),
        ("GETRANGE b 0 -1", "\"\""),
        ("GETRANGE b x 1", INTEGER),
        ("GETRANGE a 0 1.5", INTEGER),
        ("SETRANGE a -1 x", "-ERR offset is out of range"),
        ("SETRANGE a x x", INTEGER),
        ("SETRANGE a 8388608 x", too_long),
        ("SETRANGE a 9223372036854775807 x", too_long),
        ("SETRANGE a 9223372036854775807 ", ":9"),
        ("SETRANGE b 7 ", ":0"),
        ("EXISTS b", ":0"),
        ("SETRANGE b 2 x", ":3"),
        ("GET b", "\"\0\0x\""),
        ("APPEND c ", ":0"),
        ("EXISTS c", ":1"),
    ])
    .await;
    let resp = serve(loopback()).await;
    let mut client = Client::connect(&resp).await;
    let big = vec![7; 8 << 20];
    assert_eq!(client.call(&[b"SET", b"k", &big]).await, Frame::OK);
    client.check("APPEND k x", too_long).await;
    let reply = client.call(&[b"APPEND", &vec![b'k'; 5_000], b"x"]).await;
    assert_eq!(show(&reply), "-ERR 5000 bytes are too many, 4096 are allowed");
    let reply = client.call(&[b"GETRANGE", b"k", b"-1", b"-1"]).await;
    assert_eq!(reply, Frame::Bulk(vec![7].into()));
}

#[tokio::test]
async fn an_entry_expires_by_itself() {
    let resp = serve(loopback()).await;
    let mut client = Client::connect(&resp).await;
    client.check("SET a 1 PX 30", "OK").await;
    while client.show("GET a").await != "nil" {
        tokio::time::sleep(std::time::Duration::from_millis(2)).await;
    }
    client.check("TTL a", ":-2").await;
}

#[tokio::test]
async fn counting() {
    check(&[
        ("INCR a", ":1"),
        ("INCRBY a 41", ":42"),
        ("DECR a", ":41"),
        ("DECRBY a 2", ":39"),
        ("INCRBY a x", INTEGER),
        ("INCRBY a +1", INTEGER),
        ("SET b x", "OK"),
        ("INCR b", INTEGER),
        ("SET c 9223372036854775807", "OK"),
        ("INCR c", "-ERR increment or decrement would overflow"),
        ("DECRBY c -9223372036854775808", "-ERR decrement would overflow"),
    ])
    .await;
}

#[tokio::test]
async fn errors_read_like_those_of_redis() {
    check(&[
        ("FOO a b", "-ERR unknown command 'FOO', with args beginning with: 'a' 'b' "),
        ("GET", "-ERR wrong number of arguments for 'get' command"),
        ("get a b", "-ERR wrong number of arguments for 'get' command"),
        ("SET a", "-ERR wrong number of arguments for 'set' command"),
        ("MSET a 1 b", "-ERR wrong number of arguments for 'mset' command"),
        ("PING a b", "-ERR wrong number of arguments for 'ping' command"),
        ("CLUSTER KEYSLOT", "-ERR wrong number of arguments for 'cluster|keyslot' command"),
        ("CLUSTER BANANA", "-ERR unknown subcommand 'BANANA'. Try CLUSTER HELP."),
        ("CLIENT BANANA", "-ERR unknown subcommand 'BANANA'. Try CLIENT HELP."),
        ("SELECT 1", "-ERR SELECT is not allowed in cluster mode"),
        ("SELECT x", INTEGER),
        ("HELLO 4", "-NOPROTO unsupported protocol version"),
        ("HELLO x", "-ERR Protocol version is not an integer or out of range"),
        ("HELLO 2 BANANA", "-ERR Syntax error in HELLO option 'BANANA'"),
    ])
    .await;
    let resp = serve(loopback()).await;
    let mut client = Client::connect(&resp).await;
    let reply = client.call(&[b"F\r\nOO", &[b'x'; 300]]).await;
    let expected =
        format!("-ERR unknown command 'F  OO', with args beginning with: '{}' ", "x".repeat(128));
    assert_eq!(show(&reply), expected);
    let reply = client.call(&[b"SET", &vec![b'k'; 5_000], b"v"]).await;
    assert_eq!(show(&reply), "-ERR 5000 bytes are too many, 4096 are allowed");
    let reply = client.call(&[b"SET", b"k", &vec![0; (8 << 20) + 1]]).await;
    assert_eq!(show(&reply), "-ERR 8388609 bytes are too many, 8388608 are allowed");
    let big = vec![7; 8 << 20];
    assert_eq!(client.call(&[b"SET", b"k", &big]).await, Frame::OK);
    assert_eq!(client.call(&[b"GET", b"k"]).await, Frame::Bulk(big.into()));
}

#[tokio::test]
async fn connections_talk() {
    check(&[
        ("PING", "PONG"),
        ("PING hi", "\"hi\""),
        ("ECHO hi", "\"hi\""),
        ("SELECT 0", "OK"),
        ("READONLY", "OK"),
        ("READWRITE", "OK"),
        ("CLIENT ID", ":1"),
        ("CLIENT GETNAME", "nil"),
        ("CLIENT SETNAME me", "OK"),
        ("CLIENT GETNAME", "\"me\""),
        ("CLIENT SETINFO LIB-NAME x", "OK"),
        ("CLIENT SETINFO BANANA x", "-ERR Unrecognized option 'BANANA'"),
        ("CLIENT NO-EVICT on", "OK"),
        ("CLIENT NO-TOUCH off", "OK"),
        ("CLIENT NO-EVICT maybe", SYNTAX),
        (
            "CLIENT SETNAME a\u{7}b",
            "-ERR Client names cannot contain spaces, newlines or special characters.",
        ),
        ("HELLO", "[\"server\" \"redis\" \"version\" \"7.2.4\" \"proto\" :2 \"id\" :1 \"mode\" \"cluster\" \"role\" \"master\" \"modules\" []]"),
        ("HELLO 3 SETNAME you", "{\"server\"=\"redis\" \"version\"=\"7.2.4\" \"proto\"=:3 \"id\"=:1 \"mode\"=\"cluster\" \"role\"=\"master\" \"modules\"=[]}"),
        ("CLIENT GETNAME", "\"you\""),
        ("CONFIG GET save", "{\"save\"=\"\"}"),
        ("RESET", "RESET"),
        ("CLIENT GETNAME", "nil"),
        ("CONFIG GET save", "[\"save\" \"\"]"),
        ("AUTH x", "-ERR AUTH <password> called without any password configured for the default user. Are you sure your configuration is correct?"),
        ("AUTH default x", "OK"),
    ])
    .await;
}

#[tokio::test]
async fn numbers_are_written_as_redis_writes_them() {
    check(&[
        ("INCRBY a 01", INTEGER),
        ("INCRBY a -0", INTEGER),
        ("INCRBY a +1", INTEGER),
        ("INCRBY a -1", ":-1"),
        ("SET a 1 EX 010", INTEGER),
        ("SET a 1 PX 9223372036854775807", "-ERR invalid expire time in 'set' command"),
        ("SET a 1", "OK"),
        ("EXPIRE a 9223372036854775", "-ERR invalid expire time in 'expire' command"),
        ("PEXPIRE a 9000000000000000000", ":1"),
    ])
    .await;
}

#[tokio::test]
async fn quit_ends_the_connection_after_its_reply() {
    let resp = serve(loopback()).await;
    let mut client = Client::connect(&resp).await;
    client.send(b"PING\r\nQUIT\r\nPING\r\n").await;
    assert_eq!(client.reply().await.map(|frame| show(&frame)).as_deref(), Some("PONG"));
    assert_eq!(client.reply().await, Some(Frame::OK));
    assert_eq!(client.reply().await, None);
}

#[tokio::test]
async fn settings_can_be_asked_for() {
    check(&[
        ("CONFIG GET maxmemory", "[\"maxmemory\" \"67108864\"]"),
        ("CONFIG GET max*", "[\"maxclients\" \"1024\" \"maxmemory\" \"67108864\" \"maxmemory-policy\" \"allkeys-lfu\"]"),
        ("CONFIG GET appendonly databases", "[\"appendonly\" \"no\" \"databases\" \"1\"]"),
        ("CONFIG GET banana", "[]"),
        ("CONFIG GET", "-ERR wrong number of arguments for 'config|get' command"),
        ("CONFIG SET save x", "-ERR unknown subcommand 'SET'. Try CONFIG HELP."),
        ("CONFIG RESETSTAT", "OK"),
    ])
    .await;
}

/// The commands that the table names, each sent with as many arguments as it takes: all are carried out by somebody.
#[tokio::test]
async fn every_command_of_the_catalogue_is_known_to_its_family() {
    let resp = serve(loopback()).await;
    let mut client = Client::connect(&resp).await;
    let Frame::Array(names) = client.call(&[b"COMMAND", b"LIST"]).await else { panic!("a list") };
    assert_eq!(client.show("COMMAND COUNT").await, format!(":{}", names.len()));
    let Frame::Array(described) = client.call(&[b"COMMAND"]).await else { panic!("a list") };
    assert_eq!(described.len(), names.len());
    for entry in described {
        let Frame::Array(parts) = entry else { panic!("a description") };
        let (Frame::Bulk(name), Frame::Integer(arity)) = (&parts[0], &parts[1]) else {
            panic!("{parts:?}")
        };
        let mut client = Client::connect(&resp).await;
        let mut args: Vec<&[u8]> = vec![b"1"; arity.unsigned_abs() as usize];
        args[0] = name;
        let reply = show(&client.call(&args).await);
        assert!(!reply.contains("unknown command"), "{name:?}: {reply}");
        assert!(!reply.contains("wrong number"), "{name:?}: {reply}");
    }
}

#[tokio::test]
async fn the_catalogue_tells_where_keys_are() {
    check(&[
        ("COMMAND GETKEYS MSET a 1 b 2", "[\"a\" \"b\"]"),
        ("COMMAND GETKEYS PING x", "-ERR The command has no key arguments"),
        ("COMMAND GETKEYS BANANA x", "-ERR Invalid command specified"),
        ("COMMAND GETKEYS GET", "-ERR Invalid number of arguments specified for command"),
        ("COMMAND DOCS", "[]"),
        ("COMMAND INFO banana", "[nil]"),
        (
            "COMMAND INFO get",
            "[[\"get\" :2 [readonly fast] :1 :1 :1 [] [] [[\"flags\" [\"RO\" \"access\"] \
             \"begin_search\" [\"type\" \"index\" \"spec\" [\"index\" :1]] \"find_keys\" \
             [\"type\" \"range\" \"spec\" [\"lastkey\" :0 \"keystep\" :1 \"limit\" :0]]]] []]]",
        ),
    ])
    .await;
}

fn fields(text: &str) -> BTreeMap<&str, &str> {
    text.lines().filter_map(|line| line.split_once(':')).collect()
}

#[tokio::test]
async fn info_has_what_exporters_read() {
    let resp = serve(loopback()).await;
    let mut client = Client::connect(&resp).await;
    client.check("HELLO 3", &show(&hello(3))).await;
    client.check("SET a 1", "OK").await;
    client.check("GET a", "\"1\"").await;
    client.check("GET b", "nil").await;
    let info = client.show("INFO").await;
    let fields = fields(&info);
    for (name, value) in [
        ("redis_version", "7.2.4"),
        ("connected_clients", "1"),
        ("maxmemory", "67108864"),
        ("total_connections_received", "1"),
        ("total_commands_processed", "5"),
        ("keyspace_hits", "1"),
        ("keyspace_misses", "1"),
        ("evicted_keys", "0"),
        ("role", "master"),
        ("cluster_enabled", "1"),
        ("db0", "keys=1,expires=0,avg_ttl=0"),
    ] {
        assert_eq!(fields.get(name), Some(&value), "{name} in {info}");
    }
    assert!(fields["used_memory"].parse::<u64>().unwrap() > 0);
    let memory = client.show("INFO MEMORY").await;
    assert!(memory.starts_with("# Memory\r\nused_memory:"), "{memory}");
    assert!(!memory.contains("# Server"));
    client.check("INFO banana", "").await;
    let two = client.show("INFO server stats").await;
    assert!(two.contains("\r\n\r\n# Stats\r\n"), "{two}");
}

fn hello(proto: i64) -> Frame {
    let pair = |key: &str, value| (Frame::bulk(key), value);
    Frame::Map(vec![
        pair("server", Frame::bulk("redis")),
        pair("version", Frame::bulk("7.2.4")),
        pair("proto", Frame::Integer(proto)),
        pair("id", Frame::Integer(1)),
        pair("mode", Frame::bulk("cluster")),
        pair("role", Frame::bulk("master")),
        pair("modules", Frame::Array(Vec::new())),
    ])
}

#[tokio::test]
async fn the_cluster_can_be_looked_at() {
    let resp = serve(loopback()).await;
    let mut client = Client::connect(&resp).await;
    let port = resp.addr().port();
    client.check("CLUSTER KEYSLOT foo", ":12182").await;
    client.check("CLUSTER KEYSLOT {foo}bar", ":12182").await;
    let Frame::Bulk(id) = client.call(&[b"CLUSTER", b"MYID"]).await else { panic!("an id") };
    let id = String::from_utf8(id.to_vec()).unwrap();
    assert!(id.len() == 40 && id.bytes().all(|digit| digit.is_ascii_hexdigit()), "{id}");
    let slots = format!("[[:0 :16383 [\"127.0.0.1\" :{port} \"{id}\" []]]]");
    client.check("CLUSTER SLOTS", &slots).await;
    let line = client.show("CLUSTER NODES").await;
    let line = line.trim_matches(['"', '\n']);
    assert!(line.starts_with(&format!("{id} 127.0.0.1:{port}@")), "{line}");
    assert!(
        line.contains(" myself,master - 0 0 ") && line.ends_with(" connected 0-16383"),
        "{line}"
    );
    let info = client.show("CLUSTER INFO").await;
    for field in ["cluster_state:ok", "cluster_slots_assigned:16384", "cluster_known_nodes:1"] {
        assert!(info.contains(&format!("{field}\r\n")), "{info}");
    }
    let shards = client.show("CLUSTER SHARDS").await;
    let node = format!("[[\"id\" \"{id}\" \"port\" :{port} \"ip\" \"127.0.0.1\" ");
    assert!(shards.starts_with(&format!("[[\"slots\" [:0 :16383] \"nodes\" {node}")), "{shards}");
}

async fn swap_fifty_times(mut client: Client, number: usize) -> Vec<bytes::Bytes> {
    let mut seen = Vec::new();
    for turn in 0..50 {
        let value = format!("{number}.{turn}");
        match client.call(&[b"SET", b"key", value.as_bytes(), b"GET"]).await {
            Frame::Bulk(old) => seen.push(old),
            Frame::Null => {}
            other => panic!("{other:?}"),
        }
    }
    seen
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn swaps_are_atomic() {
    let resp = serve(loopback()).await;
    let mut tasks = tokio::task::JoinSet::new();
    for number in 0..8 {
        tasks.spawn(swap_fifty_times(Client::connect(&resp).await, number));
    }
    let mut seen = tasks.join_all().await.concat();
    // Each value but the last was handed out exactly once, and nobody was sent away.
    assert_eq!(seen.len(), 8 * 50 - 1);
    seen.sort();
    seen.dedup();
    assert_eq!(seen.len(), 8 * 50 - 1);
}
