use std::fmt::Write;

use slotmesh_node::{Node, Phase, Rebalance};

/// The node's numbers in Prometheus' text format, version 0.0.4.
pub(crate) fn text(node: &Node) -> String {
    let (status, stats) = (node.status(), node.stats());
    let is = u64::from;
    let progress = status.progress();
    let paused = is(status.cluster.rebalance() != Rebalance::On);
    let serving = is(status.phase == Phase::Serving);
    let gauges = [
        ("ready", "Whether traffic may be sent to this node.", is(node.is_ready())),
        (
            "safe",
            "Whether every slot has its copies in sync and nothing moves.",
            is(status.is_safe()),
        ),
        ("serving", "Whether this node is a member with a lease.", serving),
        ("leading", "Whether this node leads the control plane.", is(status.leading)),
        ("members", "Members of the cluster.", status.cluster.members().len() as u64),
        ("alive_peers", "Other nodes that gossip finds alive.", status.alive_peers as u64),
        ("owned_slots", "Slots of the cluster that have a primary.", status.owned_slots() as u64),
        ("safe_slots", "Slots of the cluster with all copies in sync.", status.safe_slots() as u64),
        ("copying_slots", "Slots having a copy made.", status.copying_slots() as u64),
        ("moving_slots", "Slots being handed to another primary.", status.moving_slots() as u64),
        ("missing_copies", "Copies that slots lack.", progress.copies_missing as u64),
        ("draining_slots", "Slots that draining members still hold.", progress.draining as u64),
        (
            "copies_to_balance",
            "Copies that nodes have beyond their share.",
            progress.copies_to_balance as u64,
        ),
        (
            "primaries_to_balance",
            "Primary roles that nodes have beyond their share.",
            progress.primaries_to_balance as u64,
        ),
        ("rebalance_paused", "Whether moves for balance are paused or aborted.", paused),
        ("primary_slots", "Slots that this node is primary of.", stats.primary_slots),
        (
            "primary_entries",
            "Entries in the slots that this node is primary of.",
            node.primary_entries(),
        ),
        ("entries", "Entries of this node, replicas included.", stats.entries),
        ("memory_used_bytes", "Bytes that count against the budget.", stats.used_bytes),
        ("memory_budget_bytes", "Bytes that entries may take.", stats.budget_bytes),
        ("cluster_version", "Version of the decided cluster state.", status.cluster.version()),
        (
            "copy_share_percent",
            "Part of the time that copies may take; less than 100 while they hold up calls.",
            stats.copy_share,
        ),
    ];
    let counters = [
        ("evicted_total", "Entries evicted for the budget.", stats.evicted),
        ("expired_total", "Entries removed because they expired.", stats.expired),
        (
            "corrupted_copies_total",
            "Copies that differed from their primary's and were filled again.",
            stats.corrupted,
        ),
        ("replicated_total", "Replicated records applied.", stats.applied),
        ("lost_slots_total", "Slots that restarted empty for want of a copy.", stats.lost_slots),
        ("failovers_total", "Failovers this node finished as leader.", status.failovers),
    ];
    let mut out = String::new();
    for (kind, numbers) in [("gauge", &gauges[..]), ("counter", &counters[..])] {
        for (name, help, value) in numbers {
            // Writing into a string cannot fail.
            let _ = writeln!(out, "# HELP slotmesh_{name} {help}");
            let _ = writeln!(out, "# TYPE slotmesh_{name} {kind}\nslotmesh_{name} {value}");
        }
    }
    out
}
