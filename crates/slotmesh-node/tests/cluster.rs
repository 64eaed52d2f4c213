//! Three nodes of one process over real sockets: founding, routing, replication, failover, leaving.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::collections::BTreeSet;
use std::net::{SocketAddr, TcpListener};
use std::time::{Duration, Instant};

use slotmesh_node::{
    Ack, ByteRange, CallOptions, ClusterSecret, Condition, ControlError, ExpireCondition, Node,
    NodeConfig, NodeStatus, Op, OpError, Phase, PutOptions, Reply, Token, Value,
};
use slotmesh_slots::{Class, SLOT_COUNT, Slot};

const PATIENCE: Duration = Duration::from_secs(30);

fn secret() -> ClusterSecret {
    ClusterSecret::new("a secret of more than 16 bytes").unwrap()
}

/// Ports that are free on TCP now; the nodes bind UDP and TCP on them.
fn free_addrs(count: usize) -> Vec<SocketAddr> {
    let listeners: Vec<_> = (0..count).map(|_| TcpListener::bind("127.0.0.1:0").unwrap()).collect();
    listeners.iter().map(|listener| listener.local_addr().unwrap()).collect()
}

fn config(addrs: &[SocketAddr], index: usize, expect: u16) -> NodeConfig {
    NodeConfig {
        name: format!("n{index}"),
        bind: addrs[index],
        seeds: addrs.to_vec(),
        expect,
        ..NodeConfig::new(secret())
    }
}

async fn until(node: &Node, what: &str, condition: impl FnMut(&NodeStatus) -> bool) {
    let met = tokio::time::timeout(PATIENCE, node.wait_until(condition)).await;
    assert!(
        met.is_ok_and(|met| met),
        "{what}: {:?} {:?}",
        node.status().phase,
        node.status().cluster.members()
    );
}

async fn cluster(count: usize) -> Vec<Node> {
    let addrs = free_addrs(count);
    let mut nodes = Vec::new();
    for index in 0..count {
        nodes.push(Node::start(config(&addrs, index, count as u16)).await.unwrap());
    }
    for node in &nodes {
        until(node, "all slots safe", |status| {
            status.phase == Phase::Serving
                && status.cluster.members().len() == count
                && status.is_safe()
        })
        .await;
    }
    nodes
}

async fn put(node: &Node, key: &str, value: &str) -> Result<u8, OpError> {
    match node.put(key.to_owned(), value.to_owned(), PutOptions::default()).await? {
        Reply::Put { applied: true, copies, .. } => Ok(copies),
        other => panic!("{other:?}"),
    }
}

async fn get(node: &Node, key: &str) -> Option<String> {
    let value = node.get(key.as_bytes()).await.unwrap()?;
    Some(String::from_utf8(value.value.to_vec()).unwrap())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_node_reads_what_any_node_wrote() {
    let nodes = cluster(3).await;
    for index in 0..300 {
        let (key, value) = (format!("key-{index}"), format!("value-{index}"));
        assert_eq!(put(&nodes[index % 3], &key, &value).await.unwrap(), 2, "copies of {key}");
        assert_eq!(get(&nodes[(index + 1) % 3], &key).await.as_deref(), Some(&*value));
    }
    let large = bytes::Bytes::from(vec![7; 8 << 20]);
    for (index, node) in nodes.iter().enumerate() {
        let key = format!("large {index}");
        node.put(key.clone(), large.clone(), PutOptions::default()).await.unwrap();
        for reader in &nodes {
            let found = reader.get(key.as_bytes()).await.unwrap().unwrap();
            assert!(found.value == large, "the largest value is read everywhere");
        }
    }
    assert_eq!(nodes[0].increment("counter", 5).await.unwrap(), 5);
    assert_eq!(nodes[1].increment("counter", -2).await.unwrap(), 3);
    assert!(nodes[2].delete("key-1", CallOptions::default()).await.unwrap());
    assert_eq!(get(&nodes[0], "key-1").await, None);
    nodes[1].clear().await.unwrap();
    assert_eq!(get(&nodes[2], "key-2").await, None);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_number_of_copies_changes_while_the_cluster_runs() {
    let nodes = cluster(3).await;
    let wants = |replicas: usize| {
        move |status: &NodeStatus| {
            let exact = |held: &slotmesh_slots::SlotState| held.in_sync.len() == replicas;
            status.is_safe() && status.cluster.table().iter().all(|(_, held)| exact(held))
        }
    };
    for (replicas, by) in [(2, 0), (0, 1), (1, 2)] {
        nodes[by].set_replicas(replicas).await.unwrap();
        assert_eq!(nodes[by].status().cluster.replicas(), replicas);
        for node in &nodes {
            until(node, "as many copies as wanted", wants(replicas.into())).await;
        }
        let key = format!("key-{replicas}");
        assert_eq!(put(&nodes[0], &key, "value").await.unwrap(), replicas + 1);
        assert_eq!(get(&nodes[1], "key-2").await.as_deref(), Some("value"), "nothing is lost");
    }
    let refused = nodes[0].set_replicas(4).await;
    assert_eq!(refused, Err(ControlError::OutOfRange { asked: 4, max: 3 }));
    // Dropped half-way it leaves nothing behind that would undo what comes after.
    let dropped = tokio::time::timeout(Duration::from_micros(1), nodes[1].set_replicas(2)).await;
    drop(dropped);
    nodes[1].set_replicas(0).await.or_else(superseded).unwrap();
    nodes[1].set_replicas(0).await.unwrap();
    until(&nodes[2], "no copies", wants(0)).await;
}

/// The one that was dropped was decided first.
fn superseded(error: ControlError) -> Result<(), ControlError> {
    if matches!(error, ControlError::Superseded { .. }) { Ok(()) } else { Err(error) }
}

fn text(value: Option<Value>) -> Option<bytes::Bytes> {
    value.map(|value| value.value)
}

/// Leaves `Hello\0\0you` behind.
async fn write_parts(node: &Node, key: &'static str) {
    assert_eq!(node.append(key, "Hello").await.unwrap(), 5);
    assert_eq!(node.set_range(key, 7, "you").await.unwrap(), 10);
    for (range, part) in [((0, -1), "Hello\0\0you"), ((-4, 7), "\0y"), ((10, -1), "")] {
        assert_eq!(text(node.get_range(key, range).await.unwrap()).unwrap(), part);
    }
    let bytes = (8 << 20) + 1;
    let refused = node.set_range(key, bytes - 1, "!").await;
    assert_eq!(refused, Err(OpError::TooLarge { bytes, max: 8 << 20 }));
}

async fn change_lifetimes(node: &Node, key: &'static str) {
    let (minute, hour) = (Some(Duration::from_secs(60)), Some(Duration::from_secs(3_600)));
    assert!(!node.expire(key, None).await.unwrap(), "it has no lifetime");
    for (ttl, condition, applied) in [
        (minute, ExpireCondition::Set, false),
        (hour, ExpireCondition::Unset, true),
        (minute, ExpireCondition::Later, false),
        (minute, ExpireCondition::Earlier, true),
    ] {
        assert_eq!(node.expire_if(key, ttl, condition).await.unwrap(), applied);
    }
    let lasting = node.get_and_expire(key, None).await.unwrap().unwrap();
    assert!(lasting.ttl.is_some() && lasting.ttl <= minute);
    assert!(!node.expire(key, None).await.unwrap(), "it has none again");
}

/// Ends with nothing there.
async fn exchange(node: &Node, key: &'static str) {
    let absent = PutOptions { condition: Condition::Absent, ..PutOptions::default() };
    let refused = node.get_and_put(key, "refused", absent).await.unwrap();
    assert_eq!(text(refused).unwrap(), "Hello\0\0you");
    let put = node.get_and_put(key, "new", PutOptions::default()).await.unwrap().unwrap();
    assert_eq!((&put.value[..], put.ttl), (&b"Hello\0\0you"[..], None));
    assert!(node.touch(key).await.unwrap());
    assert_eq!(text(node.get_and_delete(key).await.unwrap()).unwrap(), "new");
    assert!(!node.touch(key).await.unwrap());
    assert_eq!(text(node.get_and_delete(key).await.unwrap()), None);
    assert_eq!(text(node.get_range(key, (0, -1)).await.unwrap()), None);
}

/// The reads of a batch, whether they are forwarded or not.
async fn read_together(node: &Node, keys: &[&'static str]) {
    for key in keys {
        node.put(*key, "value", PutOptions::default()).await.unwrap();
    }
    let ops = keys.iter().flat_map(|key| {
        let (key, range) = (bytes::Bytes::from(*key), ByteRange { start: 1, end: 2 });
        let missing = Op::Touch { key: format!("{{{key:?}}}").into() };
        [Op::GetRange { key: key.clone(), range }, Op::Touch { key }, missing]
    });
    let answers = node.execute_many(ops.collect(), CallOptions::default()).await;
    for answers in answers.chunks(3) {
        assert!(matches!(&answers[0], Ok(Reply::Value(part)) if part.value == "al"), "{answers:?}");
        assert_eq!(answers[1..], [true, false].map(|existed| Ok(Reply::Touched { existed })));
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_node_changes_what_it_reads_in_one_step() {
    let nodes = cluster(2).await;
    // Some of these keys are here and some there.
    let keys = ["a", "b", "c", "d", "e", "f"];
    for node in &nodes {
        for key in keys {
            write_parts(node, key).await;
            change_lifetimes(node, key).await;
            exchange(node, key).await;
        }
        read_together(node, &keys).await;
        node.clear().await.unwrap();
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_node_that_stops_loses_nothing_and_a_leaver_fails_nothing() {
    let mut nodes = cluster(3).await;
    for index in 0..500 {
        put(&nodes[0], &format!("k{index}"), &index.to_string()).await.unwrap();
    }
    let gone = nodes.remove(1);
    let stopped = Instant::now();
    gone.stop().await;
    drop(gone);
    let owned_by_two = |status: &NodeStatus| {
        status.cluster.members().len() == 2 && status.owned_slots() == SLOT_COUNT
    };
    for node in &nodes {
        until(node, "taken over", owned_by_two).await;
    }
    println!("taken over and struck {:?} after the stop", stopped.elapsed());
    for index in 0..500 {
        assert_eq!(get(&nodes[index % 2], &format!("k{index}")).await, Some(index.to_string()));
    }
    let leaver = nodes.remove(0);
    assert!(leaver.hand_over(Duration::from_secs(20)).await, "left in time");
    assert!(put(&leaver, "handed over", "routes on").await.is_ok());
    assert_eq!(get(&leaver, "handed over").await.as_deref(), Some("routes on"));
    assert!(leaver.leave(Duration::ZERO).await, "has left");
    until(&nodes[0], "alone", |status| status.cluster.members().len() == 1).await;
    for index in 0..500 {
        assert_eq!(get(&nodes[0], &format!("k{index}")).await, Some(index.to_string()));
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_cluster_that_says_it_is_safe_survives_the_next_loss() {
    let mut nodes = cluster(3).await;
    for round in 0..3 {
        let gone = nodes.remove(0);
        gone.stop().await;
        let key = format!("written after loss {round}");
        let (timeout, retry_ambiguous) = (Some(PATIENCE), true);
        let call = CallOptions { timeout, retry_ambiguous, ..CallOptions::default() };
        let put = nodes[0].put(key.clone(), "1", PutOptions { call, ..PutOptions::default() });
        put.await.unwrap_or_else(|error| panic!("loss {round}: {error}; {:?}", nodes[0].status()));
        let mut addrs: Vec<SocketAddr> = free_addrs(1);
        addrs.extend(nodes.iter().map(|node| node.addr().unwrap()));
        nodes.push(Node::start(config(&addrs, 0, 3)).await.unwrap());
        // As an operator would who takes one node after the other: not waiting for anything else.
        until(&nodes[round % 2], "safe again", |status| {
            status.cluster.members().len() == 3 && status.is_safe()
        })
        .await;
        assert_eq!(get(&nodes[2], &key).await.as_deref(), Some("1"));
    }
}

/// However two nodes of a zone were the first to be there, and after it was lost and is back.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn no_zone_has_two_of_the_three_votes() {
    let addrs = free_addrs(6);
    let start = async |index: usize, bind: SocketAddr| {
        let zone = ["a", "b", "c"][index / 2].to_owned();
        let config = config(&addrs, 0, 6);
        Node::start(NodeConfig { bind, zone, ..config }).await.unwrap()
    };
    let mut nodes = Vec::new();
    for (index, &addr) in addrs.iter().enumerate() {
        nodes.push(start(index, addr).await);
    }
    let apart = |status: &NodeStatus| {
        let zone = |node| status.cluster.members().get(node).map(|it| it.info.zone.clone());
        let zones: BTreeSet<_> = status.voters.iter().map(zone).collect();
        zones.len() == 3
    };
    for zone in [0, 2, 4] {
        for node in &nodes {
            // While some of them change, more than three are named.
            let mut settled = Vec::new();
            until(node, "a safe cluster", |status| {
                let is_settled = status.is_safe()
                    && status.cluster.members().len() == 6
                    && status.voters.len() == 3;
                settled.extend(is_settled.then(|| (apart(status), status.voters.clone())));
                is_settled
            })
            .await;
            assert!(settled[0].0, "{settled:?}");
        }
        let lost: Vec<Node> = nodes.drain(zone..zone + 2).collect();
        let ids: Vec<_> = lost.iter().map(Node::id).collect();
        for node in lost {
            node.stop().await;
        }
        until(&nodes[0], "the others to vote", |status| {
            status.voters.len() == 3 && !status.voters.iter().any(|voter| ids.contains(voter))
        })
        .await;
        for index in [zone, zone + 1] {
            nodes.insert(index, start(index, free_addrs(1)[0]).await);
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_leaders_leave_one_after_the_other_and_the_last_node_serves() {
    let mut nodes = cluster(3).await;
    put(&nodes[0], "key", "value").await.unwrap();
    while nodes.len() > 1 {
        let leader = nodes.iter().position(|node| node.status().leading).unwrap();
        let left = nodes.remove(leader).leave(PATIENCE).await;
        assert!(left, "left in time");
        for node in &nodes {
            let members = nodes.len();
            until(node, "complete again", |status| {
                status.is_complete() && status.cluster.members().len() == members
            })
            .await;
        }
    }
    let status = nodes[0].status();
    assert!(status.is_alone() && !status.is_safe(), "all goes with it");
    put(&nodes[0], "other", "value").await.unwrap();
    assert_eq!(get(&nodes[0], "key").await.as_deref(), Some("value"));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_batch_without_a_majority_ends_in_time() {
    let mut nodes = cluster(3).await;
    let survivor = nodes.remove(0);
    for node in nodes {
        node.stop().await;
        assert_eq!(node.status().phase, Phase::Left);
    }
    let ops = (0..2_000).map(|index| Op::Get { key: format!("k{index}").into() }).collect();
    let call = CallOptions { timeout: Some(Duration::from_secs(1)), ..CallOptions::default() };
    let began = Instant::now();
    let answers = survivor.execute_many(ops, call).await;
    assert!(began.elapsed() < Duration::from_secs(5), "{:?}", began.elapsed());
    // The survivor has a third of the slots, or half of them if it got some of the first that left before the second did; and it
    // serves those only while its lease lasts.
    let failed = answers.iter().filter(|answer| answer.is_err()).count();
    assert!(failed >= 800, "{failed}");
    let endless = CallOptions { timeout: Some(Duration::MAX), ..CallOptions::default() };
    let put = survivor.put("key", "1", PutOptions { call: endless, ..PutOptions::default() });
    assert!(tokio::time::timeout(Duration::from_millis(50), put).await.is_err(), "it waits");
}

#[tokio::test]
async fn a_node_alone_waits_for_the_expected_others_and_refuses_writes() {
    let addrs = free_addrs(3);
    let node = Node::start(config(&addrs, 0, 3)).await.unwrap();
    let call = CallOptions { timeout: Some(Duration::from_millis(300)), ..CallOptions::default() };
    let refused = node.put("key", "value", PutOptions { call, ..PutOptions::default() }).await;
    assert!(matches!(refused, Err(OpError::Unavailable { .. })), "{refused:?}");
    assert_eq!(node.status().phase, Phase::Joining);
    assert_eq!(node.owner(Slot::of_key(b"key")), None);
}

#[tokio::test]
async fn a_second_process_on_the_same_address_is_refused() {
    let addrs = free_addrs(1);
    let _first = Node::start(config(&addrs, 0, 1)).await.unwrap();
    let second = Node::start(config(&addrs, 0, 1)).await;
    assert!(second.is_err());
}

#[tokio::test]
async fn what_is_never_evicted_outlasts_a_flood() {
    let node = Node::local(1 << 20);
    let kept = || PutOptions { never_evict: true, ..PutOptions::default() };
    node.put("kept", "1", kept()).await.unwrap();
    assert_eq!(node.get_and_put("kept", "2", kept()).await.unwrap().unwrap().value, "1");
    for number in 0..2_000 {
        let value = vec![1; 1_000];
        node.put(format!("cached{number}"), value, PutOptions::default()).await.unwrap();
    }
    assert!(node.stats().evicted > 1_000);
    assert_eq!(get(&node, "kept").await.as_deref(), Some("2"));
    let mut refused = None;
    for number in 0..2_000 {
        if let Err(error) = node.put(format!("kept{number}"), vec![1; 1_000], kept()).await {
            refused = Some(error);
            break;
        }
    }
    assert!(matches!(refused, Some(OpError::Full)), "{refused:?}");
    put(&node, "cached", "1").await.unwrap();
}

#[tokio::test]
async fn what_frees_memory_is_done_however_full_it_is() {
    let node = Node::local(1 << 20);
    let mut held = Vec::new();
    for number in 0..8 {
        let key = format!("cached{number}");
        node.put(key.clone(), vec![1; 50_000], PutOptions::default()).await.unwrap();
        held.push(node.get(key.as_bytes()).await.unwrap().unwrap());
    }
    // They make way for what is never evicted, but somebody still holds them.
    let mut number = 0;
    let refused = loop {
        let kept = PutOptions { never_evict: true, ..PutOptions::default() };
        if let Err(error) = node.put(format!("kept{number}"), vec![1; 300], kept).await {
            break error;
        }
        number += 1;
    };
    assert!(matches!(refused, OpError::Full) && number > 100, "{refused:?} {number}");
    assert!(matches!(put(&node, "more", "1").await, Err(OpError::Full)));
    assert!(node.delete("kept0", CallOptions::default()).await.unwrap());
    assert!(node.expire("kept1", Some(Duration::from_secs(60))).await.unwrap());
    drop(held);
    put(&node, "more", "1").await.unwrap();
}

#[tokio::test]
async fn a_local_node_needs_no_network() {
    let node = Node::local(16 << 20);
    assert_eq!(put(&node, "a", "1").await.unwrap(), 1);
    assert_eq!(get(&node, "a").await.as_deref(), Some("1"));
    assert!(node.expire("a", Some(Duration::ZERO)).await.unwrap());
    assert_eq!(get(&node, "a").await, None);
    assert!(node.is_ready());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_write_that_asks_for_copies_is_refused_while_there_are_too_few() {
    let call = |copies| CallOptions {
        ack: Ack::AtLeast(copies),
        timeout: Some(Duration::from_millis(200)),
        ..CallOptions::default()
    };
    let put = |copies| PutOptions { call: call(copies), ..PutOptions::default() };
    let alone = Node::local(16 << 20);
    alone.put("key", "1", put(1)).await.unwrap();
    let refused = alone.put("key", "2", put(2)).await;
    assert_eq!(refused, Err(OpError::TooFewCopies { have: 1, wanted: 2 }));
    assert_eq!(get(&alone, "key").await.as_deref(), Some("1"), "nothing happened");
    let nodes = cluster(3).await;
    for node in &nodes {
        let reply = node.put("key", "1", put(2)).await.unwrap();
        assert!(matches!(reply, Reply::Put { copies: 2, .. }), "{reply:?}");
        let refused = node.put("key", "2", put(3)).await;
        assert_eq!(refused, Err(OpError::TooFewCopies { have: 2, wanted: 3 }));
    }
}

/// Of two attempts the first may arrive last.
#[tokio::test]
async fn a_write_that_was_refused_is_not_carried_out_later() {
    let node = Node::local(16 << 20);
    node.put("key", "1", PutOptions::default()).await.unwrap();
    let put = Op::Put {
        key: "key".into(),
        value: "2".into(),
        ttl: None,
        keep_ttl: false,
        condition: Condition::Absent,
        class: Class::Cache,
    };
    let mut again = put.once(Token(7));
    let first = node.execute(again.clone(), CallOptions::default()).await.unwrap();
    assert!(matches!(first, Reply::Put { applied: false, .. }), "{first:?}");
    let delete = Op::Delete { key: "key".into(), condition: Condition::Always };
    node.execute(delete, CallOptions::default()).await.unwrap();
    again.note_age(Duration::from_secs(1));
    let second = node.execute(again, CallOptions::default()).await.unwrap();
    assert_eq!(second, first);
    assert_eq!(get(&node, "key").await, None);
}

/// Not waited for, but not left out either.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_the_primary_acknowledges_alone_gets_to_its_replicas() {
    let nodes = cluster(3).await;
    let call = CallOptions { ack: Ack::Primary, ..CallOptions::default() };
    let keys: Vec<String> = (0..60).map(|number| format!("alone-{number}")).collect();
    for (key, node) in keys.iter().zip(nodes.iter().cycle()) {
        let reply = node.put(key.clone(), "1", PutOptions { call, ..PutOptions::default() }).await;
        assert!(matches!(reply, Ok(Reply::Put { applied: true, copies: 1, .. })), "{reply:?}");
    }
    // Its replicas take over what it had.
    assert!(nodes[0].leave(PATIENCE).await);
    for key in &keys {
        assert_eq!(get(&nodes[1], key).await.as_deref(), Some("1"), "{key}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_small_node_that_backs_up_big_ones_stays_within_its_memory() {
    let addrs = free_addrs(3);
    let mut nodes = Vec::new();
    for (index, memory) in [128 << 20, 128 << 20, 24 << 20].into_iter().enumerate() {
        // By its memory it would get a twelfth of the slots and nobody would have to evict for it.
        let weight = Some(1);
        let config = NodeConfig { max_memory_bytes: memory, weight, ..config(&addrs, index, 3) };
        nodes.push(Node::start(config).await.unwrap());
    }
    for node in &nodes {
        until(node, "every slot has its copies", NodeStatus::is_safe).await;
    }
    // Three times what the small one can hold of its share.
    let value = vec![7; 400];
    for round in 0..200 {
        let puts = (0..1_000).map(|number| Op::Put {
            key: format!("k{round}-{number}").into(),
            value: value.clone().into(),
            ttl: None,
            keep_ttl: false,
            condition: Condition::Always,
            class: Class::Cache,
        });
        // The same twice as once; under load a slot may change hands.
        let timeout = Some(Duration::from_secs(10));
        let call = CallOptions { retry_ambiguous: true, timeout, ..CallOptions::default() };
        let answers = nodes[round % 2].execute_many(puts.collect(), call).await;
        let failed: Vec<_> = answers.iter().filter_map(|answer| answer.as_ref().err()).collect();
        assert!(failed.is_empty(), "round {round}: {} failed: {:?}", failed.len(), failed[0]);
    }
    let small = &nodes[2];
    let full = |node: &Node| {
        let stats = node.stats();
        stats.used_bytes as f64 / stats.budget_bytes as f64
    };
    // Six times what it may have was written for it.
    until(small, "bounded memory", |_| full(small) < 2.0).await;
    assert!(small.stats().entries > 500, "it was not emptied for that: {:?}", small.stats());
    assert!(nodes[0].stats().evicted > 1_000 && nodes[1].stats().evicted > 1_000);
    for node in &nodes {
        until(node, "every slot has its copies still", NodeStatus::is_safe).await;
    }
}
