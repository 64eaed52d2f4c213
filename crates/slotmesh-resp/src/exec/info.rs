use std::fmt::{Display, Write};
use std::sync::atomic::Ordering;
use std::time::{SystemTime, UNIX_EPOCH};

use super::Call;
use super::connection::REDIS_VERSION;
use crate::protocol::Frame;
use crate::topology::redis_id;

/// Writes a section's fields.
type Fill = fn(&Call<'_>, &mut Section);

/// The sections, in the order in which they are shown.
const SECTIONS: &[(&str, Fill)] = &[
    ("Server", server),
    ("Clients", clients),
    ("Memory", memory),
    ("Stats", stats),
    ("Replication", replication),
    ("Cluster", cluster),
    ("Keyspace", keyspace),
];

/// `INFO [section …]`: the fields that exporters and dashboards read, as far as a node knows them.
pub(super) fn report(call: &Call<'_>) -> Frame {
    let wanted: Vec<String> = (1..call.args.len()).map(|index| call.word(index)).collect();
    let all = wanted.is_empty()
        || wanted.iter().any(|word| matches!(word.as_str(), "default" | "all" | "everything"));
    let mut text = String::new();
    for (title, fill) in SECTIONS {
        if all || wanted.iter().any(|word| word.eq_ignore_ascii_case(title)) {
            let mut section = Section(String::new());
            fill(call, &mut section);
            let gap = if text.is_empty() { "" } else { "\r\n" };
            text.push_str(&format!("{gap}# {title}\r\n{}", section.0));
        }
    }
    Frame::Text(text)
}

/// The lines of one section.
struct Section(String);

impl Section {
    fn field(&mut self, name: &str, value: impl Display) {
        // Writing into a string cannot fail.
        let _ = write!(self.0, "{name}:{value}\r\n");
    }
}

fn server(call: &Call<'_>, out: &mut Section) {
    let uptime = call.gateway.started.elapsed().as_secs();
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    out.field("redis_version", REDIS_VERSION);
    out.field("server_name", "slotmesh");
    out.field("slotmesh_version", env!("CARGO_PKG_VERSION"));
    out.field("redis_mode", "cluster");
    out.field("os", std::env::consts::OS);
    out.field("arch_bits", usize::BITS);
    out.field("process_id", std::process::id());
    out.field("run_id", redis_id(call.gateway.node.id()));
    out.field("tcp_port", call.session.local.port());
    out.field("server_time_usec", now.as_micros());
    out.field("uptime_in_seconds", uptime);
    out.field("uptime_in_days", uptime / 86_400);
}

fn clients(call: &Call<'_>, out: &mut Section) {
    out.field("connected_clients", call.gateway.counters.connected.load(Ordering::Relaxed));
    out.field("maxclients", call.gateway.config.connections_max);
    out.field("blocked_clients", 0);
}

fn memory(call: &Call<'_>, out: &mut Section) {
    let max = call.gateway.node.max_memory_bytes();
    let stats = call.gateway.node.stats();
    let overhead = (max as u64).saturating_sub(stats.budget_bytes);
    let used = stats.used_bytes + overhead;
    out.field("used_memory", used);
    out.field("used_memory_dataset", stats.used_bytes);
    out.field("used_memory_overhead", overhead);
    out.field("used_memory_human", human(used));
    out.field("maxmemory", max);
    out.field("maxmemory_human", human(max as u64));
    out.field("maxmemory_policy", "allkeys-lfu");
}

fn stats(call: &Call<'_>, out: &mut Section) {
    let counters = &call.gateway.counters;
    let node = call.gateway.node.stats();
    out.field("total_connections_received", counters.accepted.load(Ordering::Relaxed));
    out.field("total_commands_processed", counters.commands.load(Ordering::Relaxed));
    out.field("total_error_replies", counters.errors.load(Ordering::Relaxed));
    out.field("total_net_input_bytes", counters.bytes_in.load(Ordering::Relaxed));
    out.field("total_net_output_bytes", counters.bytes_out.load(Ordering::Relaxed));
    out.field("rejected_connections", counters.refused.load(Ordering::Relaxed));
    out.field("expired_keys", node.expired);
    out.field("evicted_keys", node.evicted);
    out.field("keyspace_hits", counters.hits.load(Ordering::Relaxed));
    out.field("keyspace_misses", counters.misses.load(Ordering::Relaxed));
}

/// Every node is primary of some slots and replica of others, so it calls itself a master; replicas are per slot and
/// shown by `CLUSTER SHARDS`.
fn replication(call: &Call<'_>, out: &mut Section) {
    out.field("role", "master");
    out.field("connected_slaves", 0);
    out.field("master_replid", redis_id(call.gateway.node.id()));
    out.field("master_repl_offset", 0);
}

fn cluster(_: &Call<'_>, out: &mut Section) {
    out.field("cluster_enabled", 1);
}

/// How many of the keys have a lifetime is not counted; exporters need the field.
fn keyspace(call: &Call<'_>, out: &mut Section) {
    let keys = call.gateway.node.primary_entries();
    if keys > 0 {
        out.field("db0", format_args!("keys={keys},expires=0,avg_ttl=0"));
    }
}

fn human(bytes: u64) -> String {
    let (mut value, mut unit) = (bytes as f64, 0);
    while value >= 1024.0 && unit < 4 {
        value /= 1024.0;
        unit += 1;
    }
    let unit = ["B", "K", "M", "G", "T"].get(unit).copied().unwrap_or_default();
    format!("{value:.2}{unit}")
}
