use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use rand::Rng;
use slotmesh_coherence::Subscriber;
use slotmesh_core::{Ack, DataError, DataPlane, Function, Op, Reply, Request, decode_replies};
use slotmesh_slots::{MonoTime, NodeId, Slot, Token};
use slotmesh_transport::{CallError, Peer};
use tokio::sync::{oneshot, watch};
use tokio::time::{Instant, sleep, timeout_at};

use super::CallOptions;
use crate::error::OpError;
use crate::lane::{LanePeers, kind};
use crate::status::NodeStatus;

/// First pause before another attempt; doubles up to [`PAUSE_MAX`]. A planned move freezes a slot for a few milliseconds.
const PAUSE_MIN: Duration = Duration::from_millis(2);

/// Longest pause between attempts: a failover takes about a second, so a call meets its end within this.
const PAUSE_MAX: Duration = Duration::from_millis(50);

/// Longest pause while the slot is being handed over, which takes some ten milliseconds: the pause comes on top of that.
const PAUSE_MOVING_MAX: Duration = Duration::from_millis(4);

/// How long an attempt at a read may take before another owner is looked for.
pub(super) const READ_ATTEMPT: Duration = Duration::from_millis(300);

/// How long a write still waits for an owner that handed its slot over and holds a copy of it: it answers within this.
const HANDOVER_GRACE: Duration = Duration::from_millis(300);

/// How long it waits for one that holds none any more: most likely it crashed, and what it answered before is long here.
const CRASH_GRACE: Duration = Duration::from_millis(30);

/// Longer timeouts count as this: clocks cannot add any number.
const TIMEOUT_MAX: Duration = Duration::from_secs(24 * 60 * 60);

/// Sends operations to the primaries of their slots.
pub(crate) struct Router {
    pub(crate) data: Arc<DataPlane>,
    pub(crate) subscriber: Arc<Subscriber>,
    pub(crate) lanes: Vec<Arc<LanePeers>>,
    pub(crate) status: watch::Receiver<Arc<NodeStatus>>,
    pub(crate) call_timeout: Duration,
}

/// How an operation is carried out, since when and until when.
#[derive(Clone, Copy)]
pub(super) struct Limits {
    pub(super) options: CallOptions,
    pub(super) began: MonoTime,
    pub(super) deadline: Instant,
    /// Whether an earlier attempt may have succeeded.
    pub(super) is_unknown: bool,
}

/// Why an attempt did not succeed.
pub(super) enum Failure {
    /// Nothing happened, and nothing better will: tell the caller.
    Final(OpError),
    /// Nothing happened; another attempt may succeed.
    Again(OpError),
    /// Nothing happened; the slot is being handed over, or was just now, and an attempt in a moment will succeed.
    Moving(OpError),
    /// Nothing happened; that node is said to be the owner.
    Redirect(NodeId),
    /// It may have happened.
    Unknown(String),
}

impl Router {
    /// Reads on this thread without waiting, if this node serves the key.
    pub(crate) fn get_now(&self, key: &[u8]) -> Option<Reply> {
        self.data.get_now(key).ok().flatten()
    }

    /// As [`Router::get_now`] for each key, in their order.
    pub(crate) fn get_many_now(&self, keys: &[Bytes]) -> Vec<Option<Reply>> {
        let keys: Vec<&[u8]> = keys.iter().map(|key| &key[..]).collect();
        self.data.get_many_now(&keys).into_iter().map(|read| read.ok().flatten()).collect()
    }

    pub(crate) fn register(&self, name: Bytes, version: u32, function: Box<Function>) {
        self.data.register(name, version, function);
    }

    /// Carries an operation out, with retries until the deadline.
    pub(crate) async fn run(&self, op: Op, options: CallOptions) -> Result<Reply, OpError> {
        let limits = self.limits(options);
        self.run_within(prepared(op, options), limits).await
    }

    /// The limits of a call that begins now.
    pub(super) fn limits(&self, options: CallOptions) -> Limits {
        let began = self.data.now();
        let timeout = options.timeout.unwrap_or(self.call_timeout).min(TIMEOUT_MAX);
        Limits { options, began, deadline: Instant::now() + timeout, is_unknown: false }
    }

    /// Carries an operation out that may have been tried before.
    pub(super) async fn run_within(&self, mut op: Op, limits: Limits) -> Result<Reply, OpError> {
        let Limits { options, began, deadline, mut is_unknown } = limits;
        let mut hint = None;
        let mut pause = PAUSE_MIN;
        let mut read_attempt = READ_ATTEMPT;
        let mut error = unavailable("the time of the call was over before its turn came");
        while Instant::now() < deadline {
            if is_unknown {
                // By the clock of leases, which goes on while the host is suspended.
                op.note_age(self.data.now().saturating_since(began));
            }
            let until = (deadline, read_attempt);
            let failure = match self.attempt(&op, options.ack, hint.take(), until).await {
                Ok(reply) => return Ok(reply),
                Err(failure) => failure,
            };
            error = match failure {
                Failure::Final(last) => {
                    error = last;
                    break;
                }
                Failure::Redirect(owner) => {
                    hint = Some(owner);
                    unavailable("redirected without end")
                }
                Failure::Again(error) => error,
                Failure::Moving(error) => {
                    pause = pause.min(PAUSE_MOVING_MAX);
                    error
                }
                Failure::Unknown(why) if retries(&op, options) => {
                    is_unknown |= !op.is_read();
                    // A large value may have been on its way.
                    read_attempt *= 2;
                    unavailable(why)
                }
                Failure::Unknown(why) => return Err(OpError::Ambiguous { why }),
            };
            let wait = if hint.is_some() { Duration::ZERO } else { jittered(pause) };
            if Instant::now() + wait >= deadline {
                break;
            }
            sleep(wait).await;
            pause = (pause * 2).min(PAUSE_MAX);
        }
        // That the last attempt did nothing says nothing of those before.
        Err(if is_unknown { OpError::Ambiguous { why: error.to_string() } } else { error })
    }

    async fn attempt(
        &self,
        op: &Op,
        ack: Ack,
        hint: Option<NodeId>,
        (deadline, read_attempt): (Instant, Duration),
    ) -> Result<Reply, Failure> {
        let slot = op.slot();
        let Some(owner) = hint.or_else(|| self.data.owner(slot).0) else {
            return Err(Failure::Again(unavailable("the slot has no owner yet")));
        };
        // Each owner tells of its writes on a stream of its own.
        let watch = match op {
            Op::Watch { key, .. } => {
                Some(Op::Watch { key: key.clone(), by: self.subscriber.watcher(owner) })
            }
            Op::Load { key, by: Some(_), terms } => {
                let by = self.subscriber.watcher(owner);
                Some(Op::Load { key: key.clone(), by, terms: *terms })
            }
            _ => None,
        };
        let op = watch.as_ref().unwrap_or(op);
        if owner == self.data.node() {
            return self.attempt_here(op.clone(), ack, deadline).await;
        }
        let answers = self
            .attempt_there((owner, slot), ack, std::slice::from_ref(op), (deadline, read_attempt))
            .await?;
        match answers.into_iter().next() {
            Some(answer) => answer.map_err(|error| self.failure(error)),
            None => Err(Failure::Unknown("the owner answered nothing".to_owned())),
        }
    }

    pub(super) async fn attempt_here(
        &self,
        op: Op,
        ack: Ack,
        deadline: Instant,
    ) -> Result<Reply, Failure> {
        let (sender, mut receiver) = oneshot::channel();
        // A caller that has gone does not want the answer any more.
        self.data.execute(op, ack, Box::new(move |answer| drop(sender.send(answer))));
        if let Ok(answer) = receiver.try_recv() {
            // Nothing had to be waited for, so no timer is needed.
            return answer.map_err(|error| self.failure(error));
        }
        match timeout_at(deadline, receiver).await {
            Ok(Ok(answer)) => answer.map_err(|error| self.failure(error)),
            Ok(Err(_)) => Err(Failure::Unknown("the operation was dropped".to_owned())),
            Err(_) => Err(Failure::Unknown("the replicas did not answer in time".to_owned())),
        }
    }

    /// Sends operations of one owner in one frame.
    pub(super) async fn attempt_there(
        &self,
        (owner, slot): (NodeId, Slot),
        ack: Ack,
        ops: &[Op],
        (deadline, read_attempt): (Instant, Duration),
    ) -> Result<Vec<Result<Reply, DataError>>, Failure> {
        let Some(peer) = self.peer(owner, slot) else {
            return Err(Failure::Again(unavailable("the owner is not known here yet")));
        };
        let reads = ops.iter().all(Op::is_read);
        let left = deadline.saturating_duration_since(Instant::now());
        let budget = if reads { left.min(read_attempt) } else { left };
        let call = call(&peer, Request::encode(ack, ops), budget);
        let answer = if reads {
            call.await
        } else {
            tokio::select! {
                biased;
                answer = call => answer,
                () = self.owner_changes(slot, owner) => {
                    return Err(Failure::Unknown("the slot changed hands before an answer came".to_owned()));
                }
            }
        }?;
        decode_replies(&answer).map_err(|error| Failure::Unknown(error.to_string()))
    }

    /// What an owner's refusal means for the next attempt.
    pub(super) fn failure(&self, error: DataError) -> Failure {
        if let Some(error) = OpError::definite(&error) {
            return Failure::Final(error);
        }
        match error {
            DataError::Ambiguous => Failure::Unknown(error.to_string()),
            DataError::Busy => Failure::Again(OpError::Busy),
            DataError::TooFewCopies { have, wanted } => {
                Failure::Again(OpError::TooFewCopies { have, wanted })
            }
            DataError::Moving => Failure::Moving(unavailable(error.to_string())),
            DataError::NotOwner { owner: Some(owner), version }
                if version > self.data.version() =>
            {
                Failure::Redirect(owner)
            }
            // It or this node has not heard yet what is decided.
            DataError::NotOwner { .. } => Failure::Moving(unavailable(error.to_string())),
            error => Failure::Again(unavailable(error.to_string())),
        }
    }

    fn peer(&self, owner: NodeId, slot: Slot) -> Option<Peer> {
        self.lanes.get(slot.index() % self.lanes.len().max(1))?.peer(owner)
    }

    async fn owner_changes(&self, slot: Slot, owner: NodeId) {
        let mut status = self.status.clone();
        while status.changed().await.is_ok() {
            let held = *status.borrow_and_update().cluster.table().slot(slot);
            // What is published is a moment behind what this node goes by, and after a redirect both are behind the owner.
            let owns = || self.data.owner(slot).0 == Some(owner);
            if held.primary == Some(owner) || owns() {
                continue;
            }
            let stays = held.in_sync.contains(owner);
            sleep(if stays { HANDOVER_GRACE } else { CRASH_GRACE }).await;
            if !owns() {
                return;
            }
        }
        // The node has stopped; the call itself ends with it.
        std::future::pending().await
    }
}

async fn call(peer: &Peer, body: Bytes, budget: Duration) -> Result<Bytes, Failure> {
    peer.call(kind::OPERATIONS, body, budget).await.map_err(|error| match error {
        CallError::Busy(_) => Failure::Again(OpError::Busy),
        CallError::Refused(reason) => Failure::Again(OpError::Refused(reason)),
        CallError::TooLarge { bytes, max } => {
            Failure::Final(OpError::TooLarge { bytes: bytes as u64, max: max as u64 })
        }
        error if error.may_have_executed() => Failure::Unknown(error.to_string()),
        error => Failure::Again(unavailable(error.to_string())),
    })
}

/// The operation with what its options add to it.
pub(super) fn prepared(op: Op, options: CallOptions) -> Op {
    if options.once { op.once(Token(rand::rng().random())) } else { op }
}

/// Whether it is sent again when its outcome is unknown.
pub(super) fn retries(op: &Op, options: CallOptions) -> bool {
    op.is_read() || op.is_once() || (options.retry_ambiguous && op.is_idempotent())
}

pub(super) fn unavailable(why: impl Into<String>) -> OpError {
    OpError::Unavailable { why: why.into() }
}

/// Half to all of it, so that callers do not come back together.
fn jittered(pause: Duration) -> Duration {
    pause.mul_f64(rand::rng().random_range(0.5..1.0))
}
