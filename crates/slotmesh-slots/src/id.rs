use std::fmt;
use std::num::NonZeroU64;

use serde::{Deserialize, Serialize};

/// A node's identity: drawn at random by each process start and never reused, so a restarted process is a new node.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct NodeId(NonZeroU64);

impl NodeId {
    /// The identity with this number, or `None` for zero.
    #[must_use]
    pub const fn new(number: u64) -> Option<Self> {
        match NonZeroU64::new(number) {
            Some(number) => Some(Self(number)),
            None => None,
        }
    }

    /// The identity made from a random number; zero, which is no identity, becomes one.
    #[must_use]
    pub const fn from_random(number: u64) -> Self {
        match NonZeroU64::new(number) {
            Some(number) => Self(number),
            None => Self(NonZeroU64::MIN),
        }
    }

    /// The identity as a number, never zero.
    #[must_use]
    pub const fn get(self) -> u64 {
        self.0.get()
    }
}

impl fmt::Display for NodeId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:016x}", self.0)
    }
}

impl fmt::Debug for NodeId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "n{:016x}", self.0)
    }
}

/// How often a slot changed its primary; every change of primary raises it by one.
#[derive(
    Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Default, Serialize, Deserialize,
)]
pub struct Epoch(pub u32);

impl Epoch {
    /// The epoch after this one.
    #[must_use]
    pub const fn next(self) -> Self {
        Self(self.0 + 1)
    }
}

/// Position of a mutation in the history of its slot; continues across epochs.
#[derive(
    Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Default, Serialize, Deserialize,
)]
pub struct Seq(pub u64);

impl Seq {
    /// The position after this one.
    #[must_use]
    pub const fn next(self) -> Self {
        Self(self.0 + 1)
    }
}

/// `(slot epoch, seq)` of the mutation that wrote an entry: a total order within its slot, and the token for
/// compare-and-set and fencing.
#[derive(
    Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Default, Serialize, Deserialize,
)]
pub struct Version {
    /// The slot's epoch at the time of the write.
    pub epoch: Epoch,
    /// The write's position in the slot's history.
    pub seq: Seq,
}

impl Version {
    /// The version made of these two.
    #[must_use]
    pub const fn new(epoch: Epoch, seq: Seq) -> Self {
        Self { epoch, seq }
    }
}

impl fmt::Display for Version {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}.{}", self.epoch.0, self.seq.0)
    }
}

/// Which founding of which cluster a node belongs to. Frames of another generation are refused, so two clusters never
/// merge by accident.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Serialize, Deserialize)]
pub struct Generation {
    /// Random number drawn by the founder. Its upper half stays for the life of the cluster, the lower one is drawn anew by
    /// whoever reforms it, so that two sides that reform apart from each other are told apart.
    pub cluster: u128,
    /// How often the cluster was reformed without a majority.
    pub reform: u32,
}

/// Bits of [`Generation::cluster`] that tell one reform from another.
const REFORM_BITS: u32 = 64;

impl Generation {
    /// The next generation of the same cluster; `draw` is a random number of whoever makes it.
    #[must_use]
    pub const fn reformed(self, draw: u64) -> Self {
        let cluster = (self.cluster >> REFORM_BITS << REFORM_BITS) | draw as u128;
        Self { cluster, reform: self.reform.saturating_add(1) }
    }

    /// Whether both come from one founding.
    #[must_use]
    pub const fn is_of_same_cluster(self, other: Self) -> bool {
        self.cluster >> REFORM_BITS == other.cluster >> REFORM_BITS
    }

    /// Whether this one was reformed later out of the same cluster: nodes of the other give up and join it.
    #[must_use]
    pub const fn supersedes(self, other: Self) -> bool {
        self.is_of_same_cluster(other) && self.reform > other.reform
    }
}

impl fmt::Display for Generation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:08x}.{}", (self.cluster >> 96) as u32, self.reform)?;
        match self.reform {
            0 => Ok(()),
            _ => write!(f, "-{:04x}", self.cluster as u16),
        }
    }
}
