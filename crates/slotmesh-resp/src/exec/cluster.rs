use std::fmt::Write;
use std::net::SocketAddr;

use slotmesh_node::Phase;
use slotmesh_slots::{NodeId, SLOT_COUNT, Slot};

use super::Call;
use crate::protocol::Frame;
use crate::topology::{Shard, Topology, redis_id};

pub(super) fn run(call: &Call<'_>) -> Frame {
    let subcommand = call.word(1);
    let wanted = match subcommand.as_str() {
        "info" | "nodes" | "slots" | "shards" | "myid" => 2,
        "keyslot" => 3,
        _ => return call.unknown_subcommand(),
    };
    if call.args.len() != wanted {
        return call.wrong_arity(&subcommand);
    }
    let topology = || Topology::new(&call.gateway.node, call.session.local);
    match subcommand.as_str() {
        "info" => Frame::Text(info(&topology())),
        "nodes" => Frame::Text(nodes(&topology())),
        "slots" => slots(&topology()),
        "shards" => shards(&topology()),
        "keyslot" => Frame::Integer(Slot::of_key(call.arg(2)).number().into()),
        _ => Frame::bulk(redis_id(call.gateway.node.id())),
    }
}

fn info(topology: &Topology) -> String {
    let status = &topology.status;
    let owned = status.owned_slots();
    let serves = matches!(status.phase, Phase::Serving | Phase::Draining);
    let state = if serves && owned == SLOT_COUNT { "ok" } else { "fail" };
    let version = status.cluster.version();
    let mut text = String::new();
    let fields = [
        ("cluster_slots_assigned", owned as u64),
        ("cluster_slots_ok", owned as u64),
        ("cluster_slots_pfail", 0),
        ("cluster_slots_fail", 0),
        ("cluster_known_nodes", status.cluster.members().len() as u64),
        ("cluster_size", topology.by_primary().len() as u64),
        ("cluster_current_epoch", version),
        ("cluster_my_epoch", version),
    ];
    let _ = write!(text, "cluster_enabled:1\r\ncluster_state:{state}\r\n");
    for (name, value) in fields {
        // Writing into a string cannot fail.
        let _ = write!(text, "{name}:{value}\r\n");
    }
    text
}

/// One line a member: `<id> <ip:port@cport> <flags> <primary> <ping> <pong> <epoch> <link> <slots>`. Every member is a master,
/// because replicas are per slot; one that announces no Redis address is there without an address and without slots.
fn nodes(topology: &Topology) -> String {
    let held = topology.by_primary();
    let epoch = topology.status.cluster.version();
    let mut text = String::new();
    for (node, member) in topology.members() {
        let id = redis_id(node);
        let control = member.info.control.port();
        let myself = if node == topology.me { "myself," } else { "" };
        let _ = match topology.address(node) {
            Some(addr) => {
                write!(text, "{id} {}:{}@{control} {myself}master", addr.ip(), addr.port())
            }
            None => write!(text, "{id} :0@0 {myself}master,noaddr"),
        };
        let _ = write!(text, " - 0 0 {epoch} connected");
        for (first, last) in held.get(&node).into_iter().flatten() {
            let _ = match first == last {
                true => write!(text, " {first}"),
                false => write!(text, " {first}-{last}"),
            };
        }
        text.push('\n');
    }
    text
}

fn slots(topology: &Topology) -> Frame {
    let range = |range: crate::topology::Range| {
        let mut entry = vec![number(range.first), number(range.last)];
        let nodes = std::iter::once(range.primary).chain(range.replicas);
        entry.extend(nodes.filter_map(|node| Some(endpoint(node, topology.address(node)?))));
        Frame::Array(entry)
    };
    Frame::Array(topology.ranges().into_iter().map(range).collect())
}

fn endpoint(node: NodeId, addr: SocketAddr) -> Frame {
    Frame::Array(vec![
        Frame::bulk(addr.ip().to_string()),
        Frame::Integer(addr.port().into()),
        Frame::bulk(redis_id(node)),
        Frame::Array(Vec::new()),
    ])
}

fn shards(topology: &Topology) -> Frame {
    Frame::Array(topology.shards().iter().map(|held| shard(topology, held)).collect())
}

fn shard(topology: &Topology, shard: &Shard) -> Frame {
    let ranges = shard.ranges.iter().flat_map(|(first, last)| [number(*first), number(*last)]);
    let primary = shard_node(topology, shard.primary, "master");
    let replicas = shard.replicas.iter().map(|node| shard_node(topology, *node, "replica"));
    let nodes = std::iter::once(primary).chain(replicas).flatten();
    Frame::Map(vec![
        (Frame::bulk("slots"), Frame::Array(ranges.collect())),
        (Frame::bulk("nodes"), Frame::Array(nodes.collect())),
    ])
}

fn shard_node(topology: &Topology, node: NodeId, role: &str) -> Option<Frame> {
    let addr = topology.address(node)?;
    let ip = || Frame::bulk(addr.ip().to_string());
    let pair = |key, value| (Frame::bulk(key), value);
    Some(Frame::Map(vec![
        pair("id", Frame::bulk(redis_id(node))),
        pair("port", Frame::Integer(addr.port().into())),
        pair("ip", ip()),
        pair("endpoint", ip()),
        pair("role", Frame::bulk(role)),
        pair("replication-offset", Frame::Integer(0)),
        pair("health", Frame::bulk("online")),
    ]))
}

fn number(slot: Slot) -> Frame {
    Frame::Integer(slot.number().into())
}
