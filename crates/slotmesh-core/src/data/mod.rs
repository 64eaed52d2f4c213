//! The serving half of a node: what reads, writes and replication links call, on any thread.
//!
//! It glues the store to replication: a mutation is applied and appended to the log under one hold of the slot's lock,
//! so the log has the slot's order. Who may serve is decided elsewhere and pushed in: the table by
//! [`DataPlane::apply_view`], the lease by [`DataPlane::extend_lease`]; the [`gate`](self::gate) checks both again after the replicas have
//! answered and before anybody learns of it. What it wants decided leaves as [`DataEvent`]s.
//!
//! Locks: store slot lock, then whatever replication takes. Replies are given under no lock but may come on any thread.

mod answers;
mod debts;
mod functions;
mod gate;
mod links;
mod load;
mod loads;
mod read;
mod survey;
mod table;
mod upkeep;
mod watch;
mod write;

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, AtomicUsize};

use bytes::Bytes;
use parking_lot::Mutex;
use slotmesh_coherence::Publisher;
use slotmesh_control::{Claim, Command};
use slotmesh_replication::{Primary, Replica, Ring};
use slotmesh_slots::{Epoch, MonoTime, NodeId, Seq, Slot, SlotTable};
use slotmesh_store::{Store, StoreConfig};

use self::answers::Answers;
use self::debts::Debts;
use self::functions::Functions;
pub use self::functions::{Call, CallEffect, Called, FUNCTION_BUDGET, Function};
use self::gate::Gate;
use self::load::Asking;
use self::loads::Loads;
use self::survey::Survey;
use crate::request::{DataError, Reply};

/// Reads the node's monotonic clock: `CLOCK_BOOTTIME` in production, virtual time in the simulator.
///
/// The one place below the driver that asks for the time instead of being told: whether a lease still lasts must be
/// judged by the clock at the moment of the answer, not by a time that was read before the thread was stopped.
pub trait Clock: Send + Sync + 'static {
    /// The time now.
    fn now(&self) -> MonoTime;
}

/// When a write counts as done.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub enum Ack {
    /// Every in-sync replica has it: it survives the crash of the primary, if there is a replica.
    #[default]
    All,
    /// The primary has it: faster, and lost if the primary crashes right then.
    Primary,
    /// As [`Ack::All`], and so many nodes at least, the primary included, are in sync: else the write is refused with
    /// [`DataError::TooFewCopies`]. With two an acknowledged write survives the crash of any one node, and there is no writing
    /// while a slot has a single copy.
    AtLeast(u8),
}

impl Ack {
    /// Nodes that have to be in sync.
    pub(crate) const fn copies_min(self) -> u8 {
        if let Self::AtLeast(copies) = self { copies } else { 0 }
    }
}

/// Sizes of a node's data plane.
#[derive(Clone, Debug)]
pub struct DataConfig {
    /// Budget and limits of the store.
    pub store: StoreConfig,
    /// Windows and timing of replication.
    pub replication: slotmesh_replication::Config,
    /// Bytes that recent records may take; a replica that was away for less than it covers catches up without a snapshot.
    /// More bridges longer cuts. Sane: a second of writing.
    pub log_bytes: usize,
    /// What all nodes of the cluster share and users do not know: seed of the hashes of keys, see [`slotmesh_coherence::key_hash`].
    pub key_seed: u64,
}

impl Default for DataConfig {
    fn default() -> Self {
        let log_bytes = LOG_BYTES_MAX;
        let store = StoreConfig { log_bytes, ..StoreConfig::default() };
        Self { store, replication: slotmesh_replication::Config::default(), log_bytes, key_seed: 0 }
    }
}

impl DataConfig {
    /// Shares so much memory out: an eighth, but not more than 32 MiB, for recent records where there are replicas, the
    /// slots' fixed part, and the rest for entries.
    #[must_use]
    pub fn within(memory_bytes: usize, replicated: bool) -> Self {
        let log_bytes = match replicated {
            true => (memory_bytes / 8).max(LOG_BYTES_MIN).min(memory_bytes / 4).min(LOG_BYTES_MAX),
            false => 0,
        };
        let rest = memory_bytes - log_bytes;
        // Of next to nothing entries get half.
        let budget_bytes = rest.saturating_sub(slotmesh_store::FIXED_BYTES).max(rest / 2);
        let store = StoreConfig { budget_bytes, log_bytes, ..StoreConfig::default() };
        let mut replication = slotmesh_replication::Config::default();
        if replicated {
            // What waits for a link is read from the log again, so it has to be there still.
            replication.window_bytes = replication.window_bytes.min(log_bytes / 2);
            replication.copy_lag_bytes = replication.copy_lag_bytes.min(log_bytes / 4);
        }
        Self { store, replication, log_bytes, key_seed: 0 }
    }
}

/// Who wants to be woken; called from any thread, under a slot's lock at times, so they only set a flag.
pub struct Wakers {
    /// The link to this node has frames to write: [`DataPlane::poll_link`].
    pub link: Box<dyn Fn(NodeId) + Send + Sync>,
    /// There are events: [`DataPlane::poll_event`].
    pub events: Box<dyn Fn() + Send + Sync>,
    /// The stream to this watcher has frames to write, or has ended: [`DataPlane::poll_watcher`].
    pub watchers: Box<dyn Fn(NodeId) + Send + Sync>,
}

impl Default for Wakers {
    /// For those who look by themselves.
    fn default() -> Self {
        Self { link: Box::new(|_| {}), events: Box::new(|| {}), watchers: Box::new(|_| {}) }
    }
}

/// Called once with what came of an operation, on the thread that learns it.
pub type Done = Box<dyn FnOnce(Result<Reply, DataError>) + Send>;

/// What the data plane wants decided. Each comes again until the table shows an answer.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum DataEvent {
    /// The replica is silent, refuses or lacks data: strike it, so that writes need not wait for it.
    Shrink {
        /// The slot and its epoch.
        claim: Claim,
        /// The replica.
        node: NodeId,
    },
    /// The replica that was being filled is complete.
    Grow {
        /// The slot and its epoch.
        claim: Claim,
        /// The round of the filling.
        round: u32,
        /// The replica.
        node: NodeId,
    },
    /// The frozen slot's in-sync replicas have everything: the move may be committed.
    MoveReady {
        /// The slot and its epoch.
        claim: Claim,
        /// The slot's last seq.
        seq: Seq,
    },
    /// A replica promised a higher epoch to a failover that did not happen: raise the epoch, or it takes nothing more.
    RaiseEpoch {
        /// The slot and its epoch.
        claim: Claim,
        /// The replica that refused.
        refused: NodeId,
    },
}

impl DataEvent {
    /// What the node of this data plane asks the leader for, by the table as it knows it.
    #[must_use]
    pub fn command(self, me: NodeId, table: &SlotTable) -> Command {
        match self {
            Self::Shrink { claim, node } => Command::Shrink { claims: vec![claim], node },
            Self::Grow { claim: (slot, epoch), round, node } => {
                Command::Grow { claims: vec![(slot, epoch, round)], node }
            }
            Self::MoveReady { claim: (slot, epoch), seq } => {
                Command::CommitMove { moves: vec![(slot, epoch, seq)] }
            }
            Self::RaiseEpoch { claim, refused } => {
                let held = table.slot(claim.0);
                let in_sync = held.in_sync.iter().filter(|&node| node != refused).collect();
                Command::Failover { claims: vec![claim], primary: me, in_sync }
            }
        }
    }
}

/// Numbers for metrics; those that count something that happens do so since the start.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct DataStats {
    /// Bytes that count against the budget.
    pub used_bytes: u64,
    /// What they may take; more is evicted.
    pub budget_bytes: u64,
    /// Entries of all slots, replicas included.
    pub entries: u64,
    /// Slots this node is primary of.
    pub primary_slots: u64,
    /// Entries evicted for the budget.
    pub evicted: u64,
    /// Entries removed because they expired.
    pub expired: u64,
    /// Replicated records applied.
    pub applied: u64,
    /// Copies on this node that differed from their primary's and were filled again.
    pub corrupted: u64,
    /// Slots of the cluster that restarted empty.
    pub lost_slots: u64,
    /// The share of its links' time that copies may take, in percent: 100 but while they hold up calls.
    pub copy_share: u64,
}

/// One node's data plane. See the module's documentation.
pub struct DataPlane {
    me: NodeId,
    store: Arc<Store>,
    primary: Primary,
    replica: Replica,
    gate: Arc<Gate>,
    publisher: Publisher,
    loads: Loads<Asking>,
    answers: Answers,
    functions: Functions,
    events: Mutex<VecDeque<DataEvent>>,
    /// Frozen slots with their epoch, and when their readiness was last told.
    moves: Mutex<BTreeMap<Slot, (Epoch, Option<MonoTime>)>>,
    replicas: Mutex<BTreeSet<NodeId>>,
    /// Snapshots that were asked for again while nothing had changed.
    snapshots_later: Mutex<BTreeSet<(NodeId, Slot)>>,
    /// Slots that hold something although the table gives this node no part in them, and when that was last in doubt.
    dropped: Mutex<BTreeMap<Slot, MonoTime>>,
    wake_events: Box<dyn Fn() + Send + Sync>,
    evicted: AtomicU64,
    expired: AtomicU64,
    applied: AtomicU64,
    corrupted: AtomicU64,
    /// What is to be evicted for other nodes.
    debts: Debts,
    /// Where the comparing of copies goes on.
    audited: AtomicUsize,
    survey: Survey,
    lost_slots: AtomicU64,
    snapshots_seen: AtomicU64,
    max_value_bytes: u64,
    key_seed: u64,
}

impl DataPlane {
    /// A data plane that holds nothing and may serve nothing.
    #[must_use]
    pub fn new(me: NodeId, config: DataConfig, clock: Arc<dyn Clock>, wakers: Wakers) -> Self {
        let ring = Arc::new(Ring::new(config.log_bytes));
        let max_value_bytes = config.store.value_bytes_max as u64;
        let answers = Answers::new(config.store.budget_bytes / ANSWERS_SHARE);
        Self {
            me,
            store: Arc::new(Store::new(config.store)),
            primary: Primary::new(config.replication.clone(), Arc::clone(&ring), wakers.link),
            replica: Replica::new(config.replication, ring),
            gate: Arc::new(Gate::new(clock)),
            publisher: Publisher::new(wakers.watchers),
            loads: Loads::new(),
            answers,
            functions: Functions::default(),
            events: Mutex::default(),
            moves: Mutex::default(),
            replicas: Mutex::default(),
            snapshots_later: Mutex::default(),
            dropped: Mutex::default(),
            wake_events: wakers.events,
            evicted: AtomicU64::new(0),
            expired: AtomicU64::new(0),
            applied: AtomicU64::new(0),
            corrupted: AtomicU64::new(0),
            debts: Debts::default(),
            audited: AtomicUsize::new(0),
            survey: Survey::default(),
            lost_slots: AtomicU64::new(0),
            snapshots_seen: AtomicU64::new(0),
            max_value_bytes,
            key_seed: config.key_seed,
        }
    }

    /// The owner of a slot as far as this node knows, and the cluster version that is from.
    #[must_use]
    pub fn owner(&self, slot: Slot) -> (Option<NodeId>, u64) {
        (self.gate.owner(slot), self.gate.version())
    }

    /// The cluster version that this node's knowledge of owners is from.
    #[must_use]
    pub fn version(&self) -> u64 {
        self.gate.version()
    }

    /// This node's identity.
    #[must_use]
    pub const fn node(&self) -> NodeId {
        self.me
    }

    /// The time by the clock that leases are judged by.
    #[must_use]
    pub fn now(&self) -> MonoTime {
        self.gate.now()
    }

    /// Until when this node may serve.
    #[must_use]
    pub fn lease_until(&self) -> MonoTime {
        self.gate.lease_until()
    }

    /// Whether this node holds a lease now.
    #[must_use]
    pub fn has_lease(&self) -> bool {
        self.now() < self.lease_until()
    }

    /// Has [`Op::Call`](crate::Op::Call)s of this name and version run this function from now on, where this node is the key's primary. It is called
    /// under the lock of the key's slot, on a thread that serves others too: it must not wait, and take some microseconds. After one that took
    /// longer than [`FUNCTION_BUDGET`] nothing is changed, and it is not run for a second.
    pub fn register(&self, name: Bytes, version: u32, function: Box<Function>) {
        self.functions.register(name, version, function);
    }

    /// Whether this node holds a lease now and has not ended.
    #[must_use]
    pub fn may_serve(&self) -> bool {
        self.gate.has_lease()
    }

    /// The largest value the store takes.
    #[must_use]
    pub const fn value_bytes_max(&self) -> u64 {
        self.max_value_bytes
    }

    /// The seed of keys' hashes in this cluster.
    #[must_use]
    pub const fn key_seed(&self) -> u64 {
        self.key_seed
    }
}

/// Answers of writes with a token take one part in so many of the budget, in the long run.
const ANSWERS_SHARE: usize = 16;

/// Less would not hold a few large values.
const LOG_BYTES_MIN: usize = 4 << 20;

/// A second of heavy writing: connections come back within that.
const LOG_BYTES_MAX: usize = 32 << 20;
