use std::collections::BTreeMap;
use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicU8, AtomicU64, Ordering};

use bytes::Bytes;
use parking_lot::{Mutex, RwLock};
use slotmesh_slots::{Epoch, MonoTime, NodeId, Reader, Record, SLOT_COUNT, Slot, Version};

use crate::config::Config;
use crate::error::{AlreadyHigher, ApplyError, LinkError};
use crate::fence::{Admission, Fence, Fit};
use crate::inbound::{Filled, Inbound, ReplicaAction, Ticket, Work};
use crate::link::Audit;
use crate::pace::Share;
use crate::ring::Ring;
use crate::snapshot::Shadow;
use crate::wire::{Down, LINK_VERSION, Refusal, Up};

/// The replica side of a node's replication: what other primaries may do to the slots it copies.
///
/// Every method may be called by any thread; those that say so want the store's slot lock to be held.
pub struct Replica {
    config: Config,
    ring: Arc<Ring>,
    slots: Box<[Mutex<Fence>]>,
    links: RwLock<BTreeMap<NodeId, Arc<Mutex<Inbound>>>>,
    next_session: AtomicU64,
    /// What this node asks for, in percent.
    share: AtomicU8,
    snapshots: AtomicU64,
}

/// A slot that this node copies, or owns itself, as the table has it.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct ReplicaSlot {
    /// The slot's epoch.
    pub epoch: Epoch,
    /// Its primary at that epoch; nobody else may write at that epoch. This node itself when it owns the slot.
    pub primary: Option<NodeId>,
}

impl Replica {
    /// The replica side of a node that copies nothing yet. The ring is the one of its [`Primary`](crate::Primary).
    #[must_use]
    pub fn new(config: Config, ring: Arc<Ring>) -> Self {
        Self {
            config,
            ring,
            slots: (0..SLOT_COUNT).map(|_| Mutex::default()).collect(),
            links: RwLock::default(),
            next_session: AtomicU64::new(1),
            share: AtomicU8::new(Share::FULL.as_percent()),
            snapshots: AtomicU64::new(0),
        }
    }

    /// Takes over what the table says of a slot, in table order; `None` when this node has no part in it. Call it under
    /// the store's slot lock. The epoch counts as promised; a promise never goes back.
    pub fn set_slot(&self, slot: Slot, role: Option<ReplicaSlot>) {
        let mut fence = self.slots[slot.index()].lock();
        fence.table = role;
        match role {
            Some(role) => {
                fence.promised = fence.promised.max(role.epoch);
                // An attachment by anyone else at this epoch was not named by this table.
                fence.source = fence.source.filter(|source| {
                    source.epoch != role.epoch || Some(source.from) == role.primary
                });
            }
            None => fence.source = None,
        }
    }

    /// Promises to take nothing of the slot below that epoch. Call it under the store's slot lock, together with reading
    /// the version that the promise is answered with. The same epoch may be promised again.
    ///
    /// # Errors
    /// When a higher epoch was promised.
    pub fn promise(&self, slot: Slot, epoch: Epoch) -> Result<(), AlreadyHigher> {
        let mut fence = self.slots[slot.index()].lock();
        if fence.promise(epoch) { Ok(()) } else { Err(AlreadyHigher { promised: fence.promised }) }
    }

    /// The highest epoch promised or seen in the table. A node that owns the slot below it is deposed: it must neither
    /// write nor read nor acknowledge it, for the content may be its successor's. Ask under the store's slot lock.
    #[must_use]
    pub fn promised(&self, slot: Slot) -> Epoch {
        self.slots[slot.index()].lock().promised
    }

    /// The epoch of the primary whose attachment feeds the slot, if there is one; for tests and the simulator.
    #[must_use]
    pub fn fed_by(&self, slot: Slot) -> Option<Epoch> {
        self.slots[slot.index()].lock().source.map(|source| source.epoch)
    }

    /// A primary has opened its link; the one before it, if any, is over, and a half-received snapshot with it.
    pub fn open(&self, from: NodeId) {
        let session = self.next_session.fetch_add(1, Ordering::Relaxed);
        let mut inbound = Inbound::new(session);
        let mut links = self.links.write();
        let share = Share::percent(self.share.load(Ordering::Relaxed));
        if share < Share::FULL {
            inbound.ask_share(share);
        }
        links.insert(from, Arc::new(Mutex::new(inbound)));
    }

    /// The link from that primary is over.
    pub fn close(&self, from: NodeId) {
        self.links.write().remove(&from);
    }

    /// Takes a frame and hands out checked work for the caller, which does it in order and says so by
    /// [`Replica::applied`] or [`Replica::report`]; only then it is acknowledged.
    ///
    /// # Errors
    /// When the frame is malformed, breaks the protocol, or the link is not open: close the link then. Work of the same
    /// frame is dropped; the primary sends it again on the next link.
    pub fn handle_frame(
        &self,
        from: NodeId,
        frame: &Bytes,
        now: MonoTime,
    ) -> Result<Vec<ReplicaAction>, LinkError> {
        let link = self.link(from)?;
        let mut inbound = link.lock();
        let mut input = Reader::shared(frame);
        let mut actions = Vec::new();
        while input.remaining() > 0 {
            let message = Down::decode(&mut input, now)?;
            actions.extend(self.message(&mut inbound, from, message)?);
        }
        Ok(actions)
    }

    /// Whether the work may still be done. Ask under the store's slot lock that it is then done under: a promise given
    /// in between shuts it out.
    #[must_use]
    pub fn admits(&self, ticket: &Ticket) -> bool {
        self.admission(ticket) == Admission::Yes
    }

    /// Answers [`ReplicaAction::Report`] with what the slot holds, under the store's slot lock.
    pub fn report(&self, ticket: Ticket, version: Version, digest: u128) {
        let admission = {
            let mut fence = self.slots[ticket.slot.index()].lock();
            let admission = fence.admit(ticket.from, ticket.attach);
            if admission == Admission::Yes {
                fence.has(version);
            }
            admission
        };
        self.end(ticket, |inbound| match admission {
            Admission::Yes => {
                let Ticket { slot, attach, .. } = ticket;
                inbound.answer(Up::Status { slot, attach, version, digest });
            }
            Admission::Old => {}
            Admission::No(why) => inbound.refuse(ticket.slot, ticket.attach, why),
        });
    }

    /// Says how the work ended, best still under the store's slot lock. A failure is told to the primary, and nothing more
    /// of the slot is taken until it has asked anew.
    pub fn applied(&self, ticket: Ticket, result: Result<(), ApplyError>) {
        let admission = self.admission(&ticket);
        let work = self.end(ticket, |inbound| match (result, admission) {
            (Err(ApplyError::Corrupt), Admission::Yes) => {
                inbound.refuse(ticket.slot, ticket.attach, Refusal::Corrupt);
            }
            (_, Admission::No(why)) => inbound.refuse(ticket.slot, ticket.attach, why),
            // Done but not admitted: an attachment that was replaced confirms nothing.
            _ => {}
        });
        if let (Ok(()), Some(work)) = (result, work) {
            work.teach(&self.ring);
        }
    }

    /// What to write back to that primary: answers, one cumulative acknowledgement, and the heartbeats that are due.
    /// Call it after the work of a frame is done, and after every [`Replica::applied`] that comes later.
    #[must_use]
    pub fn poll_frames(&self, from: NodeId) -> Vec<Bytes> {
        self.link(from).ok().and_then(|link| link.lock().write()).into_iter().collect()
    }

    /// Whether another node has a link to this one.
    #[must_use]
    pub fn has_primaries(&self) -> bool {
        !self.links.read().is_empty()
    }

    /// This node holds so many bytes more than it should: each of its primaries is told of an equal part of them with its next
    /// frame, and asked to evict from what this node copies. This node's own slots count as one part more.
    pub fn press(&self, bytes: u64) {
        let links = self.links.read();
        let part = bytes / (links.len() as u64 + 1);
        if part > 0 {
            links.values().for_each(|link| link.lock().press(part));
        }
    }

    /// Every primary hears with its next frame that snapshots are to take no more than this share of its link's time.
    pub fn ask_copy_share(&self, share: Share) {
        // Links are made under this lock, so none misses it.
        let links = self.links.write();
        if self.share.swap(share.as_percent(), Ordering::Relaxed) != share.as_percent() {
            links.values().for_each(|link| link.lock().ask_share(share));
        }
    }

    /// Snapshots that began to arrive since the start.
    #[must_use]
    pub fn snapshots(&self) -> u64 {
        self.snapshots.load(Ordering::Relaxed)
    }

    /// Whether [`Replica::poll_frames`] has something to write.
    #[must_use]
    pub fn has_output(&self, from: NodeId) -> bool {
        self.link(from).is_ok_and(|link| link.lock().has_output())
    }

    /// Checks the bookkeeping of all slots and links; for tests and the simulator, between calls.
    ///
    /// # Panics
    /// When it is wrong.
    pub fn check_invariants(&self) {
        self.slots.iter().for_each(|fence| fence.lock().check_invariants());
        self.links.read().values().for_each(|link| link.lock().check_invariants());
    }

    fn link(&self, from: NodeId) -> Result<Arc<Mutex<Inbound>>, LinkError> {
        self.links.read().get(&from).cloned().ok_or(LinkError::NotOpen(from))
    }

    fn admission(&self, ticket: &Ticket) -> Admission {
        self.slots[ticket.slot.index()].lock().admit(ticket.from, ticket.attach)
    }

    /// Ends a ticket's work, unless its link is over.
    fn end(&self, ticket: Ticket, answer: impl FnOnce(&mut Inbound)) -> Option<Work> {
        let link = self.link(ticket.from).ok()?;
        let mut inbound = link.lock();
        if inbound.session != ticket.session {
            return None;
        }
        answer(&mut inbound);
        inbound.finish(ticket.position)
    }

    fn message(
        &self,
        inbound: &mut Inbound,
        from: NodeId,
        message: Down,
    ) -> Result<Option<ReplicaAction>, LinkError> {
        if !inbound.opened && !matches!(message, Down::Open { .. }) {
            return Err(LinkError::Protocol("message before the opening"));
        }
        match message {
            Down::Open { .. } if inbound.opened => Err(LinkError::Protocol("second opening")),
            Down::Open { version, .. } if version != LINK_VERSION => {
                Err(LinkError::Version(version))
            }
            Down::Open { first, .. } => {
                inbound.open(first);
                Ok(None)
            }
            Down::Heartbeat { stamp } => {
                inbound.heartbeat(stamp);
                Ok(None)
            }
            Down::Query { slot, epoch, attach } => {
                let mut fence = self.slots[slot.index()].lock();
                if let Err(why) = fence.query(from, epoch, attach) {
                    inbound.refuse(slot, attach, why);
                    return inbound.skip().map(|()| None);
                }
                let ticket = ticket(inbound, from, (slot, attach), Work::Nothing)?;
                Ok(Some(ReplicaAction::Report { ticket }))
            }
            message => self.slot_message(inbound, from, message),
        }
    }

    fn slot_message(
        &self,
        inbound: &mut Inbound,
        from: NodeId,
        message: Down,
    ) -> Result<Option<ReplicaAction>, LinkError> {
        let Some((slot, attach)) = message.attachment() else { return Ok(None) };
        if inbound.is_refused(slot, attach) {
            return inbound.skip().map(|()| None);
        }
        let mut fence = self.slots[slot.index()].lock();
        match fence.admit(from, attach) {
            Admission::Yes => {}
            Admission::Old => return inbound.skip().map(|()| None),
            Admission::No(why) => {
                inbound.refuse(slot, attach, why);
                return inbound.skip().map(|()| None);
            }
        }
        if let Down::Audit { audit: Audit { version, digest, .. }, .. } = message {
            let ticket = ticket(inbound, from, (slot, attach), Work::Nothing)?;
            return Ok(Some(ReplicaAction::Audit { ticket, version, digest }));
        }
        if let Down::Record { record, .. } = message {
            return admit_record(inbound, &mut fence, (from, attach), record);
        }
        self.admit_snapshot(inbound, &mut fence, from, message)
    }

    fn admit_snapshot(
        &self,
        inbound: &mut Inbound,
        fence: &mut Fence,
        from: NodeId,
        message: Down,
    ) -> Result<Option<ReplicaAction>, LinkError> {
        match message {
            Down::Begin { slot, attach, version, answers } => {
                self.snapshots.fetch_add(1, Ordering::Relaxed);
                inbound.shadow = Some(Shadow::new(slot, attach, version, answers));
            }
            Down::Batch { slot, attach, entries } => {
                let shadow = inbound.shadow.as_mut();
                let shadow = shadow.filter(|shadow| (shadow.slot, shadow.attach) == (slot, attach));
                if !shadow.is_some_and(|shadow| shadow.add(entries, self.config.snapshot_bytes_max))
                {
                    inbound.shadow = None;
                    inbound.refuse(slot, attach, Refusal::Corrupt);
                }
            }
            Down::End { slot, attach, version, digest, entries } => {
                let shadow = inbound.shadow.take().filter(|shadow| {
                    let named = (shadow.slot, shadow.attach, shadow.version);
                    named == (slot, attach, version) && shadow.entries.len() as u64 == entries
                });
                if let Some(Shadow { answers, entries, .. }) = shadow {
                    fence.has(version);
                    let ticket = ticket(inbound, from, (slot, attach), Work::Install(slot))?;
                    let filled = Filled { version, digest, answers, entries };
                    return Ok(Some(ReplicaAction::Install { ticket, filled }));
                }
                inbound.refuse(slot, attach, Refusal::Corrupt);
            }
            _ => return Ok(None),
        }
        inbound.skip().map(|()| None)
    }
}

fn admit_record(
    inbound: &mut Inbound,
    fence: &mut Fence,
    (from, attach): (NodeId, u64),
    record: Record,
) -> Result<Option<ReplicaAction>, LinkError> {
    let slot = record.slot;
    // Between the begin and the end of its snapshot a slot gets no records; the primary holds them back.
    let copying = inbound
        .shadow
        .as_ref()
        .is_some_and(|shadow| (shadow.slot, shadow.attach) == (slot, attach));
    match fence.fit(&record) {
        Fit::Next(prev) if !copying => {
            let work = Work::Apply { record: record.clone(), prev };
            let ticket = ticket(inbound, from, (slot, attach), work)?;
            return Ok(Some(ReplicaAction::Apply { ticket, record }));
        }
        Fit::Duplicate => {}
        Fit::Next(have) | Fit::Gap(have) => {
            inbound.refuse(slot, attach, Refusal::Gap { have });
        }
    }
    inbound.skip().map(|()| None)
}

fn ticket(
    inbound: &mut Inbound,
    from: NodeId,
    (slot, attach): (Slot, u64),
    work: Work,
) -> Result<Ticket, LinkError> {
    let position = inbound.begin(work)?;
    Ok(Ticket { from, session: inbound.session, position, slot, attach })
}

impl fmt::Debug for Replica {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Replica").field("config", &self.config).finish_non_exhaustive()
    }
}
