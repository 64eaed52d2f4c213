use std::collections::VecDeque;

use bytes::Bytes;
use slotmesh_slots::{NodeId, Record, Slot, Version, Writer};

use crate::error::LinkError;
use crate::pace::Share;
use crate::ring::Ring;
use crate::slot_map::SlotMap;
use crate::snapshot::{Shadow, SnapshotEntry};
use crate::wire::{Refusal, Up};

/// Names a piece of work that a replica handed out.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Ticket {
    pub(crate) from: NodeId,
    pub(crate) session: u64,
    pub(crate) position: u64,
    pub(crate) slot: Slot,
    pub(crate) attach: u64,
}

impl Ticket {
    /// The slot whose lock the caller takes for it.
    #[must_use]
    pub const fn slot(&self) -> Slot {
        self.slot
    }
}

/// Work for the caller, to be done under the store's slot lock, for each slot in the order handed out. It asks
/// [`Replica::admits`](crate::Replica::admits) first, under that lock, and skips what is not admitted any more.
#[derive(Debug, Clone, PartialEq, Eq)]
#[must_use]
pub enum ReplicaAction {
    /// Call [`Replica::report`](crate::Replica::report) with the slot's version and digest.
    Report {
        /// Names the work.
        ticket: Ticket,
    },
    /// Apply the record, then call [`Replica::applied`](crate::Replica::applied).
    Apply {
        /// Names the work.
        ticket: Ticket,
        /// What to apply.
        record: Record,
    },
    /// Compare the slot with what it is on the primary, then call [`Replica::applied`](crate::Replica::applied):
    /// [`ApplyError::Corrupt`](crate::ApplyError::Corrupt) when the version is the same and the digest is not.
    Audit {
        /// Names the work.
        ticket: Ticket,
        /// The slot's version on the primary.
        version: Version,
        /// Its digest there.
        digest: u128,
    },
    /// Replace all the slot holds, then call [`Replica::applied`](crate::Replica::applied):
    /// [`ApplyError::Corrupt`](crate::ApplyError::Corrupt), and the old content kept, when the digest does not match.
    Install {
        /// Names the work.
        ticket: Ticket,
        /// By what.
        filled: Filled,
    },
}

/// What a slot is filled with.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Filled {
    /// The slot's version afterwards.
    pub version: Version,
    /// The slot's digest afterwards.
    pub digest: u128,
    /// The answers that go with it: [`SnapshotStart::answers`](crate::SnapshotStart::answers) of the primary.
    pub answers: Bytes,
    /// All the slot holds afterwards.
    pub entries: Vec<SnapshotEntry>,
}

/// The replica's end of a link.
#[derive(Debug)]
pub(crate) struct Inbound {
    pub(crate) opened: bool,
    pub(crate) session: u64,
    /// Everything up to here is done.
    acked: u64,
    ack_sent: u64,
    /// One entry for each position after `acked` that was received.
    pending: VecDeque<Pending>,
    pub(crate) shadow: Option<Shadow>,
    /// The attachment of each slot that was refused: one refusal is enough, the rest of it is skipped.
    refused: SlotMap<u64>,
    answers: Vec<Up>,
    /// What this node holds too much, to be said once.
    pressure: Option<u64>,
    /// The share of the link's time that snapshots may take, to be said once.
    share: Option<Share>,
    /// Heartbeats to send back once everything before them is done.
    echoes: VecDeque<(u64, u64)>,
}

#[derive(Debug)]
struct Pending {
    done: bool,
    work: Work,
}

/// What the ring has to learn when the work is done.
#[derive(Debug)]
pub(crate) enum Work {
    Nothing,
    Apply { record: Record, prev: Version },
    Install(Slot),
}

impl Inbound {
    pub(crate) fn new(session: u64) -> Self {
        Self {
            opened: false,
            session,
            acked: 0,
            ack_sent: 0,
            pending: VecDeque::new(),
            shadow: None,
            refused: SlotMap::new(),
            answers: Vec::new(),
            pressure: None,
            share: None,
            echoes: VecDeque::new(),
        }
    }

    pub(crate) fn open(&mut self, first: u64) {
        self.opened = true;
        self.acked = first.saturating_sub(1);
        self.ack_sent = self.acked;
    }

    /// The position of the next message.
    fn next(&self) -> u64 {
        self.acked.saturating_add(self.pending.len() as u64).saturating_add(1)
    }

    /// Takes the next position for work that the caller will do.
    pub(crate) fn begin(&mut self, work: Work) -> Result<u64, LinkError> {
        if self.pending.len() >= PENDING_MAX || self.answers.len() >= PENDING_MAX {
            return Err(LinkError::Overflow);
        }
        let position = self.next();
        self.pending.push_back(Pending { done: false, work });
        Ok(position)
    }

    /// Takes the next position for a message that is done with.
    pub(crate) fn skip(&mut self) -> Result<(), LinkError> {
        let position = self.begin(Work::Nothing)?;
        self.finish(position);
        Ok(())
    }

    /// Marks work as done and hands out what the ring has to learn.
    pub(crate) fn finish(&mut self, position: u64) -> Option<Work> {
        let index = usize::try_from(position.checked_sub(self.acked)?.checked_sub(1)?).ok()?;
        let pending = self.pending.get_mut(index).filter(|pending| !pending.done)?;
        pending.done = true;
        let work = std::mem::replace(&mut pending.work, Work::Nothing);
        while self.pending.front().is_some_and(|pending| pending.done) {
            self.pending.pop_front();
            self.acked += 1;
        }
        Some(work)
    }

    /// Whether that attachment of the slot was refused already.
    pub(crate) fn is_refused(&self, slot: Slot, attach: u64) -> bool {
        self.refused.get(slot).is_some_and(|&refused| attach <= refused)
    }

    pub(crate) fn refuse(&mut self, slot: Slot, attach: u64, why: Refusal) {
        if !self.is_refused(slot, attach) {
            self.refused.insert(slot, attach);
            self.answers.push(Up::Nack { slot, attach, why });
        }
    }

    /// Has the primary hear that this node holds so many bytes more than it should.
    pub(crate) fn press(&mut self, bytes: u64) {
        self.pressure = Some(bytes);
    }

    /// Has the primary hear what share of the link's time snapshots may take.
    pub(crate) fn ask_share(&mut self, share: Share) {
        self.share = Some(share);
    }

    pub(crate) fn answer(&mut self, answer: Up) {
        self.answers.push(answer);
    }

    pub(crate) fn heartbeat(&mut self, stamp: u64) {
        // When they pile up the oldest says most about how late things are, so new ones are dropped.
        if self.echoes.len() < ECHOES_MAX {
            self.echoes.push_back((stamp, self.next() - 1));
        }
    }

    /// Writes all answers: refusals before the acknowledgement that covers them.
    pub(crate) fn write(&mut self) -> Option<Bytes> {
        let mut out = Writer::new();
        self.answers.drain(..).for_each(|answer| answer.encode(&mut out));
        if self.acked > self.ack_sent {
            self.ack_sent = self.acked;
            Up::Ack { position: self.acked }.encode(&mut out);
        }
        if let Some(bytes) = self.pressure.take() {
            Up::Pressure { bytes }.encode(&mut out);
        }
        if let Some(share) = self.share.take() {
            Up::Share { percent: share.as_percent() }.encode(&mut out);
        }
        while let Some(&(stamp, position)) = self.echoes.front()
            && position <= self.acked
        {
            self.echoes.pop_front();
            Up::Echo { stamp }.encode(&mut out);
        }
        (!out.is_empty()).then(|| out.finish())
    }

    pub(crate) fn has_output(&self) -> bool {
        let echo = self.echoes.front().is_some_and(|&(_, position)| position <= self.acked);
        let asks = self.pressure.is_some() || self.share.is_some();
        !self.answers.is_empty() || self.acked > self.ack_sent || echo || asks
    }

    /// # Panics
    /// When the bookkeeping is wrong.
    pub(crate) fn check_invariants(&self) {
        assert!(self.ack_sent <= self.acked, "acknowledged what is not done");
        assert!(self.pending.front().is_none_or(|pending| !pending.done), "done but not counted");
    }
}

impl Work {
    /// Tells the ring what became part of, or replaced, a slot's history.
    pub(crate) fn teach(self, ring: &Ring) {
        match self {
            Self::Nothing => {}
            Self::Apply { record, prev } => {
                ring.push(record, prev);
            }
            Self::Install(slot) => ring.forget(slot),
        }
    }
}

/// Most messages received and not done with: more than the primary's window holds of the smallest records, so only a
/// stuck caller or a peer without a window gets there.
const PENDING_MAX: usize = 1 << 17;

/// Most heartbeats not sent back yet: what arrives in the time after which the replica counts as silent.
const ECHOES_MAX: usize = 8;
