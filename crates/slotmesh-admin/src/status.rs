use serde::Serialize;
use slotmesh_node::{MemberState, Node, Phase, Progress, Rebalance};

/// What `/api/status` answers.
#[derive(Debug, Serialize)]
pub(crate) struct StatusReport {
    node: String,
    phase: &'static str,
    ready: bool,
    safe: bool,
    leading: bool,
    leader: Option<String>,
    generation: Option<String>,
    cluster_version: u64,
    wanted_replicas: u8,
    owned_slots: usize,
    safe_slots: usize,
    copying: usize,
    moving: usize,
    rebalance: &'static str,
    progress: ProgressReport,
    lost_slots: u64,
    alive_peers: usize,
    met_other_generation: bool,
    primary_entries: u64,
    used_bytes: u64,
    max_memory_bytes: usize,
    members: Vec<MemberReport>,
}

/// What is still to be done; see [`Progress`].
#[derive(Debug, Serialize)]
struct ProgressReport {
    copies_missing: usize,
    draining: usize,
    copies_to_balance: usize,
    primaries_to_balance: usize,
}

impl ProgressReport {
    fn of(progress: Progress) -> Self {
        let Progress { copies_missing, draining, copies_to_balance, primaries_to_balance, .. } =
            progress;
        Self { copies_missing, draining, copies_to_balance, primaries_to_balance }
    }
}

#[derive(Debug, Serialize)]
struct MemberReport {
    node: String,
    name: String,
    zone: String,
    witness: bool,
    weight: u32,
    state: &'static str,
    control: String,
    resp: Option<String>,
    votes: bool,
    primary_slots: usize,
    replica_slots: usize,
}

impl StatusReport {
    pub(crate) fn of(node: &Node) -> Self {
        let (status, stats) = (node.status(), node.stats());
        let generation = status.generation;
        Self {
            node: status.node.to_string(),
            phase: phase(status.phase),
            ready: node.is_ready(),
            safe: status.is_safe(),
            leading: status.leading,
            leader: status.leader.map(|node| node.to_string()),
            generation: generation.map(|is| format!("{:032x}.{}", is.cluster, is.reform)),
            cluster_version: status.cluster.version(),
            wanted_replicas: status.cluster.replicas(),
            owned_slots: status.owned_slots(),
            safe_slots: status.safe_slots(),
            copying: status.copying_slots(),
            moving: status.moving_slots(),
            rebalance: rebalance(status.cluster.rebalance()),
            progress: ProgressReport::of(status.progress()),
            lost_slots: status.cluster.lost_slots(),
            alive_peers: status.alive_peers,
            met_other_generation: status.met_other_generation,
            primary_entries: node.primary_entries(),
            used_bytes: stats.used_bytes,
            max_memory_bytes: node.max_memory_bytes(),
            members: members(&status),
        }
    }
}

fn members(status: &slotmesh_node::NodeStatus) -> Vec<MemberReport> {
    let table = status.cluster.table();
    let report = |(id, member): (&slotmesh_slots::NodeId, &slotmesh_node::Member)| MemberReport {
        node: id.to_string(),
        name: member.info.name.clone(),
        zone: member.info.zone.clone(),
        witness: member.info.witness,
        weight: member.info.weight,
        state: match member.state {
            MemberState::Up => "up",
            MemberState::Draining => "draining",
            MemberState::Lost => "lost",
        },
        control: member.info.control.to_string(),
        resp: member.info.resp.map(|addr| addr.to_string()),
        votes: status.voters.contains(id),
        primary_slots: table.iter().filter(|(_, held)| held.primary == Some(*id)).count(),
        replica_slots: table.iter().filter(|(_, held)| held.in_sync.contains(*id)).count(),
    };
    status.cluster.members().iter().map(report).collect()
}

fn rebalance(rebalance: Rebalance) -> &'static str {
    match rebalance {
        Rebalance::On => "on",
        Rebalance::Paused => "paused",
        Rebalance::Aborted => "aborted",
    }
}

fn phase(phase: Phase) -> &'static str {
    match phase {
        Phase::Joining => "joining",
        Phase::Serving => "serving",
        Phase::CutOff => "cut off",
        Phase::Draining => "draining",
        Phase::Superseded => "superseded",
        Phase::Left => "left",
    }
}
