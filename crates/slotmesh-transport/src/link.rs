use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use bytes::Bytes;
use parking_lot::Mutex;
use quinn::Connection;
use tokio::sync::{Notify, oneshot};

use crate::clock;
use crate::config::TransportConfig;
use crate::disconnect::{Close, Disconnect};
use crate::error::{BusyAt, CallError};
use crate::frame::{Frame, FrameHeader, FrameType};
use crate::handler::PeerInfo;
use crate::hello::Hello;
use crate::outbox::{Outbox, Taken};
use crate::pending::{Answer, Pending};
use crate::ready::{Ended, Ready};

/// Longest budget of a call; what travels are 32 bits of milliseconds.
const BUDGET_MAX: Duration = Duration::from_secs(24 * 60 * 60);

/// One connection that stands: what callers, handlers and the connection's tasks share.
pub(crate) struct Link {
    pub(crate) connection: Connection,
    pub(crate) info: PeerInfo,
    pub(crate) config: Arc<TransportConfig>,
    ours: Hello,
    state: Mutex<LinkState>,
    ready: Ready,
    /// Requests that were handed to the handler and not answered.
    serving: AtomicUsize,
    /// Something waits for the writer, or the link has ended.
    pub(crate) written_to: Notify,
    /// The writer has got rid of something, or the link has ended.
    drained: Notify,
    /// Calls wait for answers again, or the link has ended.
    pub(crate) sweep: Notify,
}

struct LinkState {
    outbox: Outbox,
    pending: Pending,
    /// Whether the sweeper is ticking and need not be woken.
    sweeping: bool,
    ended: Option<Disconnect>,
}

impl Link {
    pub(crate) fn new(
        connection: Connection,
        info: PeerInfo,
        config: Arc<TransportConfig>,
        ours: Hello,
    ) -> Arc<Self> {
        let state = LinkState {
            outbox: Outbox::new(config.queued_bytes_max),
            pending: Pending::new(config.in_flight_max),
            sweeping: false,
            ended: None,
        };
        Arc::new(Self {
            connection,
            info,
            config,
            ours,
            state: Mutex::new(state),
            ready: Ready::default(),
            serving: AtomicUsize::new(0),
            written_to: Notify::new(),
            drained: Notify::new(),
            sweep: Notify::new(),
        })
    }

    /// Queues a request.
    pub(crate) fn call(
        self: Arc<Self>,
        kind: u8,
        body: Bytes,
        budget: Duration,
    ) -> Result<Call, CallError> {
        self.check_size(body.len())?;
        let budget = budget.min(BUDGET_MAX);
        let remaining_ms = budget.as_micros().div_ceil(1000) as u32;
        let mut state = self.state.lock();
        state.check_room(body.len())?;
        let (id, answer) = state.pending.insert(budget).ok_or(CallError::Busy(BusyAt::Here))?;
        let header = FrameHeader { frame_type: FrameType::Request, tag: kind, id, remaining_ms };
        let wake = state.outbox.push(header, body);
        let start_sweep = !std::mem::replace(&mut state.sweeping, true);
        drop(state);
        if wake {
            self.written_to.notify_one();
        }
        if start_sweep {
            self.sweep.notify_one();
        }
        Ok(Call { link: self, id, answer, answered: false })
    }

    /// Queues a frame that is not answered.
    pub(crate) fn send(
        &self,
        frame_type: FrameType,
        kind: u8,
        body: Bytes,
    ) -> Result<(), CallError> {
        self.check_size(body.len())?;
        let mut state = self.state.lock();
        state.check_room(body.len())?;
        let wake =
            state.outbox.push(FrameHeader { frame_type, tag: kind, id: 0, remaining_ms: 0 }, body);
        drop(state);
        if wake {
            self.written_to.notify_one();
        }
        Ok(())
    }

    /// Queues the answer of a request that was counted by [`Link::begin_serving`].
    ///
    /// What is above the limits becomes a bare "dropped", which is always queued: their number is bounded because the
    /// reader takes no requests while the outbox is half full.
    pub(crate) fn reply(&self, frame_type: FrameType, tag: u8, id: u32, body: Bytes) {
        self.serving.fetch_sub(1, Ordering::Relaxed);
        self.answer(frame_type, tag, id, body);
    }

    /// Queues an answer.
    pub(crate) fn answer(&self, frame_type: FrameType, tag: u8, id: u32, body: Bytes) {
        let mut state = self.state.lock();
        if state.ended.is_some() {
            return;
        }
        let fits = body.len() <= self.config.frame_bytes_max && state.outbox.fits(body.len());
        let (frame_type, tag, body) = match frame_type {
            FrameType::Reply | FrameType::Status if !fits => (FrameType::Dropped, 0, Bytes::new()),
            other => (other, tag, body),
        };
        let wake = state.outbox.push(FrameHeader { frame_type, tag, id, remaining_ms: 0 }, body);
        drop(state);
        if wake {
            self.written_to.notify_one();
        }
    }

    /// Counts a request in; false when too many are being served.
    pub(crate) fn begin_serving(&self) -> bool {
        let fits = self.serving.fetch_add(1, Ordering::Relaxed) < self.config.serving_max;
        if !fits {
            self.serving.fetch_sub(1, Ordering::Relaxed);
        }
        fits
    }

    /// Hands answers to their callers; those whose caller has gone are dropped.
    pub(crate) fn deliver(&self, frames: &mut Vec<Frame>) {
        let mut state = self.state.lock();
        let answer =
            |frame: Frame| Some((state.pending.take(frame.header.id)?, read_answer(frame)));
        let answers: Vec<Ended> = frames.drain(..).filter_map(answer).collect();
        drop(state);
        self.ready.put(answers, clock::now());
    }

    /// Ends calls whose deadline has come; false once the sweeper can rest.
    pub(crate) fn sweep_deadlines(&self, may_rest: bool) -> Sweep {
        let now = clock::now();
        self.ready.sweep(now);
        let mut state = self.state.lock();
        let expired = state.pending.expire(now);
        let idle = state.pending.is_empty() && !self.ready.has_waiting();
        if state.ended.is_some() {
            return Sweep::Ended;
        }
        if idle && may_rest {
            state.sweeping = false;
        }
        drop(state);
        for caller in expired {
            let _ = caller.send(Err(CallError::Deadline));
        }
        if idle { Sweep::Idle } else { Sweep::Waiting }
    }

    /// Takes what waits for the writer; `None` once the link has ended.
    pub(crate) fn take_outbox(&self, pieces: &mut Vec<Bytes>) -> Option<Taken> {
        let mut state = self.state.lock();
        if state.ended.is_some() { None } else { Some(state.outbox.take(pieces)) }
    }

    /// QUIC has accepted this many bytes.
    pub(crate) fn wrote(&self, bytes: usize) {
        self.state.lock().outbox.written(bytes);
        self.drained.notify_one();
    }

    /// Waits until the outbox has room for answers again. A peer that does not read its answers is not read either.
    pub(crate) async fn room(&self) {
        loop {
            let full = {
                let state = self.state.lock();
                state.ended.is_none() && state.outbox.is_half_full()
            };
            if !full {
                return;
            }
            self.drained.notified().await;
        }
    }

    pub(crate) fn is_open(&self) -> bool {
        self.state.lock().ended.is_none()
    }

    /// Ends the link: waiting calls fail, tasks wake and finish, the peer is told. Only the first reason counts, and is given
    /// back: QUIC says of every close of this side the same.
    pub(crate) fn end(&self, why: &Disconnect) -> Disconnect {
        let callers = {
            let mut state = self.state.lock();
            if let Some(first) = &state.ended {
                return first.clone();
            }
            state.ended = Some(why.clone());
            state.outbox.clear();
            state.pending.drain()
        };
        Close::of(why, &self.ours).apply(&self.connection);
        self.ready.hand_out();
        for caller in callers {
            let _ = caller.send(Err(CallError::Lost(why.clone())));
        }
        self.written_to.notify_one();
        self.drained.notify_one();
        self.sweep.notify_one();
        why.clone()
    }

    fn check_size(&self, bytes: usize) -> Result<(), CallError> {
        let max = self.config.frame_bytes_max;
        if bytes > max { Err(CallError::TooLarge { bytes, max }) } else { Ok(()) }
    }

    fn forget(&self, id: u32) {
        // Bound outside the guard's scope: dropping the sender wakes nobody, but need not happen under the lock.
        let _caller = self.state.lock().pending.take(id);
    }
}

impl LinkState {
    fn check_room(&self, body_bytes: usize) -> Result<(), CallError> {
        if let Some(why) = &self.ended {
            return Err(CallError::unconnected(why.clone()));
        }
        if self.outbox.fits(body_bytes) { Ok(()) } else { Err(CallError::Busy(BusyAt::Here)) }
    }
}

/// What a look at the deadlines found.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Sweep {
    /// Calls wait.
    Waiting,
    /// No call waits.
    Idle,
    /// The link has ended.
    Ended,
}

/// A call that waits for its answer; dropped, it is forgotten.
pub(crate) struct Call {
    link: Arc<Link>,
    id: u32,
    answer: oneshot::Receiver<Answer>,
    answered: bool,
}

impl Call {
    pub(crate) async fn answer(mut self) -> Answer {
        let answer = (&mut self.answer).await;
        self.answered = true;
        self.link.ready.hand_out();
        answer.unwrap_or(Err(CallError::Lost(Disconnect::Lost)))
    }
}

impl Drop for Call {
    fn drop(&mut self) {
        if !self.answered {
            self.link.forget(self.id);
            self.link.ready.hand_out();
        }
    }
}

fn read_answer(frame: Frame) -> Answer {
    match frame.header.frame_type {
        FrameType::Reply => Ok(frame.body),
        FrameType::Status => Err(CallError::Status(frame.header.tag, frame.body)),
        FrameType::Busy => Err(CallError::Busy(BusyAt::Peer)),
        _ => Err(CallError::Dropped),
    }
}
