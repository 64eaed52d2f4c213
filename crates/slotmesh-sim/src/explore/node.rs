use std::collections::{BTreeSet, VecDeque};
use std::hash::{DefaultHasher, Hash, Hasher};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use bytes::Bytes;
use parking_lot::Mutex;
use slotmesh_control::{Claim, ClusterDelta, ClusterState, Command};
use slotmesh_core::{Ack, Clock, DataConfig, DataError, DataPlane, Op, Reply, Wakers, wire};
use slotmesh_slots::{MonoTime, NodeId, Slot, Version};

/// Bytes asked of a link at a time: all that a few small writes make.
const POLL_BYTES: usize = 64 << 10;

/// One clock for all nodes; what clocks that differ do is the seeded simulation's part.
#[derive(Debug)]
pub(super) struct SharedClock(AtomicU64);

impl SharedClock {
    pub(super) fn new(now: MonoTime) -> Self {
        Self(AtomicU64::new(now.as_micros()))
    }

    pub(super) fn set(&self, now: MonoTime) {
        self.0.store(now.as_micros(), Ordering::Relaxed);
    }
}

impl Clock for SharedClock {
    fn now(&self) -> MonoTime {
        MonoTime::from_micros(self.0.load(Ordering::Relaxed))
    }
}

type Replies = Arc<Mutex<Vec<(usize, Result<Reply, DataError>)>>>;

/// What reaches a node.
#[derive(Debug)]
pub(super) enum Input<'a> {
    PrimaryOpen(NodeId),
    PrimaryClose(NodeId),
    LinkUp(NodeId),
    LinkDown(NodeId),
    /// A frame of the link on which the other node is the primary.
    FromPrimary(NodeId, &'a Bytes),
    FromReplica(NodeId, &'a Bytes),
    /// The next committed change of the table.
    Learn,
    /// The lease lasts until then, once this version is known.
    Granted(u64, MonoTime),
    Execute(usize, Op),
    Timeout,
}

/// What a node wants after an input.
#[derive(Debug, Default)]
pub(super) struct Wishes {
    /// Frames for replicas, and answers to the primary whose frame came.
    pub(super) down: Vec<(NodeId, Bytes)>,
    pub(super) up: Vec<Bytes>,
    pub(super) commands: Vec<Command>,
    pub(super) replies: Vec<(usize, Result<Reply, DataError>)>,
    /// The link the input came by has to be closed.
    pub(super) broken: bool,
}

/// A data plane and what its brain would keep for it.
pub(super) struct Node {
    pub(super) id: NodeId,
    pub(super) data: DataPlane,
    view: ClusterState,
    /// Committed, and not known here yet.
    pub(super) unseen: VecDeque<Arc<ClusterDelta>>,
    /// A lease that counts once the version is known.
    pending: Option<(u64, MonoTime)>,
    woken: Arc<Mutex<BTreeSet<NodeId>>>,
    replies: Replies,
    /// Hash of all that happened to this node. Engines are deterministic, so equal lives make equal nodes.
    life: DefaultHasher,
}

impl Node {
    /// A node that has the view and holds nothing of what it names.
    pub(super) fn new(
        id: NodeId,
        view: ClusterState,
        clock: Arc<SharedClock>,
        config: DataConfig,
    ) -> Self {
        let woken: Arc<Mutex<BTreeSet<NodeId>>> = Arc::default();
        let waking = Arc::clone(&woken);
        let wakers = Wakers {
            link: Box::new(move |node| {
                waking.lock().insert(node);
            }),
            ..Wakers::default()
        };
        Self {
            id,
            data: DataPlane::new(id, config, clock, wakers),
            view,
            unseen: VecDeque::new(),
            pending: None,
            woken,
            replies: Arc::default(),
            life: DefaultHasher::new(),
        }
    }

    pub(super) fn life(&self) -> u64 {
        self.life.finish()
    }

    /// Whether the node is primary as far as it knows, or will be after the next change.
    pub(super) fn is_primary(&self, slot: Slot) -> bool {
        self.view.table().slot(slot).primary == Some(self.id)
    }

    /// Whether the next change of the table makes it primary or ends that.
    pub(super) fn turns_primary(&self, slot: Slot) -> bool {
        let next = self.unseen.front();
        let names = next.and_then(|delta| {
            let change = delta
                .table
                .changes
                .iter()
                .find(|(slots, _)| slots.iter().any(|changed| changed == slot));
            change.and_then(|(_, held)| held.primary)
        });
        self.is_primary(slot) || names == Some(self.id)
    }

    /// Takes an input in and says what the node wants done.
    pub(super) fn take(&mut self, input: Input<'_>, now: MonoTime) -> Wishes {
        now.as_micros().hash(&mut self.life);
        std::mem::discriminant(&input).hash(&mut self.life);
        let mut wishes = Wishes::default();
        match input {
            Input::PrimaryOpen(primary) => {
                primary.hash(&mut self.life);
                self.data.primary_open(primary);
            }
            Input::PrimaryClose(primary) => {
                primary.hash(&mut self.life);
                self.data.primary_close(primary);
            }
            Input::LinkUp(replica) => {
                replica.hash(&mut self.life);
                self.woken.lock().insert(replica);
                self.data.link_up(replica);
            }
            Input::LinkDown(replica) => {
                replica.hash(&mut self.life);
                self.data.link_down(replica);
            }
            Input::FromPrimary(primary, frame) => {
                (primary, &frame[..]).hash(&mut self.life);
                match self.data.handle_primary_frame(primary, frame) {
                    Ok(answers) => wishes.up = answers,
                    Err(_) => wishes.broken = true,
                }
            }
            Input::FromReplica(replica, frame) => {
                (replica, &frame[..]).hash(&mut self.life);
                wishes.broken = self.data.handle_replica_frame(replica, frame).is_err();
            }
            Input::Learn => self.learn(now),
            Input::Granted(version, until) => {
                (version, until.as_micros()).hash(&mut self.life);
                self.pending = Some((version, until));
                self.count_grant();
            }
            Input::Execute(number, op) => {
                number.hash(&mut self.life);
                let replies = Arc::clone(&self.replies);
                let done = move |result| replies.lock().push((number, result));
                self.data.execute(op, Ack::All, Box::new(done));
            }
            Input::Timeout => self.data.handle_timeout(now),
        }
        self.settle(&mut wishes);
        wishes
    }

    /// Promises to take nothing below the epoch after the named one.
    pub(super) fn promise(&mut self, claims: &[Claim], now: MonoTime) -> Vec<(Slot, Version)> {
        (2u8, now.as_micros(), claims).hash(&mut self.life);
        self.data.promise(claims)
    }

    fn learn(&mut self, now: MonoTime) {
        let Some(delta) = self.unseen.pop_front() else { return };
        wire::encode(&*delta).hash(&mut self.life);
        assert!(self.view.advance(&delta), "deltas come in order");
        self.data.apply_view(&self.view, &delta, now);
        self.count_grant();
    }

    fn count_grant(&mut self) {
        if let Some((version, until)) = self.pending
            && version <= self.view.version()
        {
            self.pending = None;
            self.data.extend_lease(until);
        }
    }

    /// Collects what there is to write and to tell.
    fn settle(&mut self, wishes: &mut Wishes) {
        loop {
            let woken = std::mem::take(&mut *self.woken.lock());
            if woken.is_empty() {
                break;
            }
            for replica in woken {
                while let frames = self.data.poll_link(replica, POLL_BYTES)
                    && !frames.is_empty()
                {
                    wishes.down.extend(frames.into_iter().map(|frame| (replica, frame)));
                }
            }
        }
        while let Some(event) = self.data.poll_event() {
            wishes.commands.push(event.command(self.id, self.view.table()));
        }
        wishes.replies.append(&mut self.replies.lock());
    }
}
