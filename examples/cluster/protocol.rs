//! What the processes of the example tell each other: JSON lines on the nodes' standard input and output.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

/// From the orchestrator to a node.
#[derive(Serialize, Deserialize, Debug)]
pub(crate) enum Order {
    /// Play the trace until told to end.
    Go,
    /// This node is about to be killed: tell when its slots take writes again.
    Watch { victim: String },
    /// Stop the workload and tell the totals.
    End,
    /// Read every acknowledged write again.
    Verify,
    /// Leave the cluster and exit.
    Exit,
}

/// From a node to the orchestrator.
#[derive(Serialize, Deserialize, Debug)]
pub(crate) enum Event {
    /// Started, with this identity and these addresses.
    Started { node: String, addr: String, resp: String },
    /// How far the cluster is as this node sees it.
    Cluster { members: usize, owned: usize, safe: usize, unsafe_slot: Option<String> },
    /// What happened in the last tenth of a second.
    Tick(Tick),
    /// All watched slots have taken a write from another owner; the last of them at this time.
    Recovered { unix_ms: u64 },
    /// What the workload came to.
    Total(Total),
    /// What the verification found.
    Verified { acked: u64, lost: u64 },
}

/// A tenth of a second of one node.
#[derive(Serialize, Deserialize, Debug, Clone, Default)]
pub(crate) struct Tick {
    pub(crate) unix_ms: u64,
    pub(crate) requests: u64,
    pub(crate) errors: u64,
    pub(crate) loads: u64,
    pub(crate) buckets: BTreeMap<u16, u64>,
}

/// All of one node's run.
#[derive(Serialize, Deserialize, Debug, Clone, Default)]
pub(crate) struct Total {
    pub(crate) requests: u64,
    pub(crate) l1_hits: u64,
    pub(crate) cluster_hits: u64,
    pub(crate) loads: u64,
    pub(crate) acked_writes: u64,
    pub(crate) wrong_values: u64,
    pub(crate) errors: u64,
}

impl Total {
    pub(crate) fn add(&mut self, other: &Self) {
        self.requests += other.requests;
        self.l1_hits += other.l1_hits;
        self.cluster_hits += other.cluster_hits;
        self.loads += other.loads;
        self.acked_writes += other.acked_writes;
        self.wrong_values += other.wrong_values;
        self.errors += other.errors;
    }
}

/// Milliseconds since 1970; the processes share the host's clock.
pub(crate) fn unix_ms() -> u64 {
    let since = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH);
    since.map_or(0, |since| since.as_millis() as u64)
}
