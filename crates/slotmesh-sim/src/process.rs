use std::collections::{BTreeSet, VecDeque};
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use bytes::Bytes;
use parking_lot::Mutex;
use slotmesh_coherence::Watcher;
use slotmesh_control::log::LogStatus;
use slotmesh_core::{
    Ack, Brain, BrainConfig, DataConfig, DataError, DataPlane, Op, Reply, Share, Wakers,
};
use slotmesh_slots::{Generation, MonoTime, NodeId};

use crate::clock::NodeClock;
use crate::log::{LogMessage, LogNode};
use crate::world::Near;

/// What part of the time nodes let copies take, in percent.
const SHARES: [u8; 3] = [100, 50, 10];

/// Names one try of one client.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Hash)]
pub(crate) struct Call {
    pub(crate) client: usize,
    pub(crate) attempt: u64,
}

/// What arrives at a process. Times are the world's.
#[derive(Clone, Debug)]
pub(crate) enum Input {
    Timer {
        due: MonoTime,
    },
    Datagram {
        from: SocketAddr,
        body: Bytes,
    },
    Message {
        from: NodeId,
        body: Bytes,
    },
    Log {
        from: NodeId,
        generation: Generation,
        message: LogMessage,
    },
    Guard {
        node: NodeId,
        refused: bool,
    },
    Disconnect {
        node: NodeId,
        departed: bool,
    },
    PrimaryOpen {
        primary: NodeId,
        link: u64,
    },
    PrimaryClose {
        primary: NodeId,
        link: u64,
    },
    LinkUp {
        replica: NodeId,
        link: u64,
    },
    LinkDown {
        replica: NodeId,
        link: u64,
    },
    /// A frame of a replication link, towards the replica or back.
    Frame {
        peer: NodeId,
        link: u64,
        down: bool,
        frame: Bytes,
    },
    /// An application reads a key through the local tier.
    NearRead {
        key: usize,
    },
    /// A frame of a stream of invalidations, down from the primary or up to it.
    StreamFrame {
        peer: NodeId,
        by: Watcher,
        down: bool,
        frame: Bytes,
    },
    /// The stream ended.
    StreamEnd {
        peer: NodeId,
        by: Watcher,
        down: bool,
    },
    /// A client of this node begins a try.
    Call {
        call: Call,
        op: Op,
        ack: Ack,
    },
    /// Another node's client asks.
    Request {
        from: NodeId,
        call: Call,
        op: Op,
        ack: Ack,
    },
    /// What came of the try of a client of this node.
    Answer {
        call: Call,
        result: Result<Reply, DataError>,
    },
}

impl Input {
    /// Whether an application's own thread does it, which may run before any other after a stop.
    pub(crate) fn is_application(&self) -> bool {
        matches!(self, Self::Call { .. } | Self::Request { .. } | Self::NearRead { .. })
    }

    /// The same once more, if it may arrive twice: packets do, and what a sender does not know to have arrived it sends again
    /// when it is connected anew. Streams are ordered, and calls are not sent again unasked.
    pub(crate) fn twin(&self) -> Option<Self> {
        let twice = matches!(self, Self::Datagram { .. } | Self::Message { .. } | Self::Log { .. });
        twice.then(|| self.clone())
    }
}

/// Who waits for a reply: this node's own client, or another node's.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Waiter {
    pub(crate) home: NodeId,
    pub(crate) call: Call,
    /// Who has to have a write before the answer.
    pub(crate) ack: Ack,
}

type Replies = Arc<Mutex<Vec<(Waiter, Result<Reply, DataError>)>>>;

/// One process: a brain, its data plane, its part in the log, and what its driver keeps.
pub(crate) struct Process {
    pub(crate) node: NodeId,
    /// The number of its address.
    pub(crate) place: usize,
    pub(crate) clock: Arc<NodeClock>,
    pub(crate) data: Arc<DataPlane>,
    pub(crate) brain: Brain,
    pub(crate) log: Option<LogNode>,
    /// A log that it takes no part in for now.
    pub(crate) parked: Option<LogNode>,
    pub(crate) told: LogStatus,
    pub(crate) woken: Arc<Mutex<BTreeSet<NodeId>>>,
    pub(crate) woken_watchers: Arc<Mutex<BTreeSet<NodeId>>>,
    /// Its local tier, where the world has such.
    pub(crate) near: Option<Near>,
    pub(crate) has_events: Arc<AtomicBool>,
    pub(crate) replies: Replies,
    pub(crate) timer: Option<MonoTime>,
    pub(crate) paused: bool,
    pub(crate) inbox: VecDeque<Input>,
    /// Links open towards this node, by their number.
    pub(crate) feeds: std::collections::BTreeMap<NodeId, u64>,
    /// The highest version checked, so that only new ones are.
    pub(crate) checked: u64,
    /// It was told to leave.
    pub(crate) leaves: bool,
    /// It left, and is about to end.
    pub(crate) ends: bool,
}

/// Memory of a process.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Sizes {
    pub(crate) log_bytes: usize,
    pub(crate) budget_bytes: usize,
}

impl Process {
    pub(crate) fn start(
        node: NodeId,
        place: usize,
        clock: NodeClock,
        (config, memory): (BrainConfig, Sizes),
        seed: u64,
    ) -> Self {
        let clock = Arc::new(clock);
        let woken: Arc<Mutex<BTreeSet<NodeId>>> = Arc::default();
        let woken_watchers: Arc<Mutex<BTreeSet<NodeId>>> = Arc::default();
        let has_events: Arc<AtomicBool> = Arc::default();
        let wakers = Wakers {
            link: Box::new({
                let woken = Arc::clone(&woken);
                move |node| {
                    woken.lock().insert(node);
                }
            }),
            events: Box::new({
                let has_events = Arc::clone(&has_events);
                move || has_events.store(true, Ordering::Relaxed)
            }),
            watchers: Box::new({
                let woken = Arc::clone(&woken_watchers);
                move |node| {
                    woken.lock().insert(node);
                }
            }),
        };
        let log_bytes = memory.log_bytes;
        let mut sizes = DataConfig { log_bytes, ..DataConfig::default() };
        sizes.store.log_bytes = log_bytes;
        sizes.store.hash_seed = Some(seed);
        sizes.store.budget_bytes = memory.budget_bytes;
        sizes.replication.window_bytes = sizes.replication.window_bytes.min(log_bytes / 2);
        sizes.replication.copy_lag_bytes = sizes.replication.copy_lag_bytes.min(log_bytes / 4);
        let data = Arc::new(DataPlane::new(node, sizes, clock.clone(), wakers));
        data.set_copy_share(Share::percent(SHARES[seed as usize % SHARES.len()]));
        let now = data.now();
        let brain = Brain::new(node, config, Arc::clone(&data), seed, now);
        Self {
            node,
            place,
            clock,
            data,
            brain,
            log: None,
            parked: None,
            told: LogStatus::default(),
            woken,
            woken_watchers,
            near: None,
            has_events,
            replies: Arc::default(),
            timer: None,
            paused: false,
            inbox: VecDeque::new(),
            feeds: std::collections::BTreeMap::new(),
            checked: 0,
            leaves: false,
            ends: false,
        }
    }

    pub(crate) fn now(&self) -> MonoTime {
        self.data.now()
    }

    /// Has the data plane carry it out; the reply is collected with the others.
    pub(crate) fn execute(&self, waiter: Waiter, op: Op, ack: Ack) {
        let replies = Arc::clone(&self.replies);
        self.data.execute(op, ack, Box::new(move |result| replies.lock().push((waiter, result))));
    }
}
