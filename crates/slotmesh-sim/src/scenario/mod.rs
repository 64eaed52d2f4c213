//! What happens in a run, all of it decided by the seed before the run begins.

mod bug;
mod draw;
mod fault;
mod kinds;

use std::time::Duration;

use slotmesh_control::{LoadFloor, Reform};
use slotmesh_slots::Mistake;

pub use self::bug::Bug;
pub(crate) use self::fault::{Fault, Filler, Moment, Planned, Resize, Target, Want, Wish};

/// All that distinguishes one run from another.
#[derive(Clone, Debug)]
pub struct Scenario {
    pub(crate) seed: u64,
    /// How many found the cluster.
    pub(crate) nodes: usize,
    /// Nodes that join at addresses of their own after them, and nodes that leave for good.
    pub(crate) resizes: Vec<Resize>,
    /// The node's weight at each address; one where nothing is said.
    pub(crate) weights: Vec<u32>,
    /// How many of them, the last ones, only vote.
    pub(crate) witnesses: usize,
    pub(crate) replicas: u8,
    pub(crate) expect: u16,
    /// The nodes lie in so many zones, in turn.
    pub(crate) zones: usize,
    pub(crate) clients_per_node: usize,
    pub(crate) keys: usize,
    pub(crate) filler: Option<Filler>,
    /// Memory for entries at each address; plenty where nothing is said.
    pub(crate) budgets: Vec<usize>,
    pub(crate) loss: f64,
    /// Share of control messages and datagrams that arrive a second time.
    pub(crate) twice: f64,
    /// What every message takes at least.
    pub(crate) latency: Duration,
    /// Clocks run up to this much fast or slow.
    pub(crate) drift_ppm: u64,
    /// What recent records may take on each node; with little a replica that was away has to be filled.
    pub(crate) log_bytes: usize,
    /// Entries that the control log keeps; who lacks older ones gets the whole state.
    pub(crate) control_log_keeps: u64,
    /// How long faults happen and clients work, from the moment every slot is served.
    pub(crate) safety: Duration,
    pub(crate) faults: Vec<Planned>,
    pub(crate) wishes: Vec<Wish>,
    /// How long lost copies are waited for.
    pub(crate) recopy_after: Duration,
    /// Differences in load that move nothing.
    pub(crate) load_floor: LoadFloor,
    /// Whether a guard port that refuses proves a death.
    pub(crate) refused_is_death: bool,
    /// What the nodes do without a majority.
    pub(crate) reform: Reform,
    /// From when on an operator has the survivors go on, asking again and again until they have.
    pub(crate) operator: Option<Duration>,
    /// Whether processes keep what they read of others' slots.
    pub(crate) near: bool,
    /// Whether one that does not reach one other is to give its slots away all the same.
    pub(crate) parts: bool,
    /// Whether two sides go on without each other, so that they meet as strangers.
    pub(crate) two_sides: bool,
    pub(crate) bug: Option<Bug>,
}

impl Scenario {
    /// Whether copies go wrong without anything else being wrong.
    pub(crate) fn copies_differ(&self) -> bool {
        self.bug == Some(Bug::Planted(Mistake::CopiesDiffer))
    }

    /// Addresses at which there is a node at some time.
    pub(crate) fn places(&self) -> usize {
        self.nodes + self.resizes.iter().filter(|resize| resize.joins).count()
    }

    /// Whether the node at this address only votes.
    pub(crate) fn is_witness(&self, place: usize) -> bool {
        (self.nodes - self.witnesses..self.nodes).contains(&place)
    }

    /// Whether there is less memory than all values take.
    pub(crate) fn is_tight(&self) -> bool {
        !self.budgets.is_empty()
    }

    /// The same with a mistake in it.
    #[must_use]
    pub fn with_bug(self, bug: Bug) -> Self {
        Self { bug: Some(bug), ..self }
    }
}
