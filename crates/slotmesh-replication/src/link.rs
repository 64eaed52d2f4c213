use std::collections::VecDeque;
use std::sync::atomic::{AtomicUsize, Ordering};

use parking_lot::{Mutex, MutexGuard};
use slotmesh_slots::{Epoch, MonoTime, NodeId, Record, Seq, Slot, SlotSet, Version};

use crate::config::Config;
use crate::error::LinkError;
use crate::pace::{Pace, Share};
use crate::ring::cost;
use crate::rota::Rota;
use crate::slot_map::SlotMap;
use crate::snapshot::{Outgoing, SnapshotEntry, SnapshotSource, SourceGone};

/// The way to one replica node. Exists while a slot names that node or the driver has it open.
#[derive(Debug)]
pub(crate) struct Link {
    pub(crate) node: NodeId,
    /// A copy of [`LinkState::load`] that writers read without the lock.
    load: AtomicUsize,
    state: Mutex<LinkState>,
}

impl Link {
    /// A link that was never up: it counts as silent from `silent_after` on.
    pub(crate) fn new(node: NodeId, silent_after: MonoTime, share: Share) -> Self {
        let state = Mutex::new(LinkState::new(silent_after, share));
        Self { node, load: AtomicUsize::new(0), state }
    }

    /// Runs `work` under the link's lock.
    pub(crate) fn with<T>(&self, work: impl FnOnce(&mut LinkState) -> T) -> T {
        let mut state: MutexGuard<'_, LinkState> = self.state.lock();
        let result = work(&mut state);
        self.load.store(state.load, Ordering::Relaxed);
        result
    }

    /// Bytes of records queued or unacknowledged, perhaps a moment ago.
    pub(crate) fn load(&self) -> usize {
        self.load.load(Ordering::Relaxed)
    }
}

/// What is queued, on its way and known on a link. Everything but silence and `members` starts anew when the link does.
#[derive(Debug)]
pub(crate) struct LinkState {
    pub(crate) up: bool,
    pub(crate) opened: bool,
    /// When the replica counts as silent, or when that is to be said again.
    pub(crate) silent_after: MonoTime,
    /// It counted as silent, and was not heard since.
    pub(crate) is_silent: bool,
    pub(crate) next_heartbeat: MonoTime,
    pub(crate) heartbeat_due: bool,
    /// The last position that was sent when the last heartbeat was due.
    sent_at_heartbeat: u64,
    /// The replica owed no answer when it was heard last, so it may stay silent for longer.
    rests: bool,
    /// Send time of the newest heartbeat that came back.
    pub(crate) echoed: Option<MonoTime>,
    /// Slots of ours that name this node as a replica.
    pub(crate) members: SlotSet,
    pub(crate) streams: SlotMap<Stream>,
    /// Slots to be attached.
    pub(crate) asks: Rota,
    /// Records in order; bounded by the window.
    pub(crate) queue: VecDeque<Queued>,
    /// Slots whose next records are read from the ring.
    pub(crate) behind: Rota,
    /// Slots that wait for their turn to be copied.
    wanted: Rota,
    /// The slot whose snapshot the caller was asked for.
    pub(crate) requested: Option<Slot>,
    pub(crate) outgoing: Option<Outgoing>,
    /// What was sent after position `acked`, one entry per position.
    pub(crate) in_flight: VecDeque<InFlight>,
    pub(crate) acked: u64,
    /// Bytes of records queued or in flight.
    pub(crate) load: usize,
    pub(crate) snapshot_in_flight: usize,
    pub(crate) pace: Pace,
    /// The driver was told that there is output and has not found the queue empty since.
    awake: bool,
}

/// A slot on a link.
#[derive(Debug)]
pub(crate) struct Stream {
    pub(crate) attach: u64,
    pub(crate) epoch: Epoch,
    pub(crate) state: StreamState,
    /// Bytes the slot wrote since this stream last kept up.
    pub(crate) held_bytes: usize,
}

/// How far a slot got on a link.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum StreamState {
    /// The query is to be sent, or its answer is awaited, or the copy has to wait for its turn.
    Held,
    /// A snapshot is on its way; records after it wait in the ring.
    Copying,
    /// Records from here on are read from the ring.
    Behind { next: Seq, cursor: u64 },
    /// Records from here on go straight to the queue.
    Live { next: Seq },
}

#[derive(Debug)]
pub(crate) struct Queued {
    pub(crate) attach: u64,
    pub(crate) part: Part,
}

#[derive(Debug)]
pub(crate) enum Part {
    Record(Record),
    /// The slot as it has to be behind the records before.
    Audit(Audit),
}

/// What a copy of a slot has to be like.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Audit {
    pub(crate) slot: Slot,
    pub(crate) version: Version,
    pub(crate) digest: u128,
}

impl Part {
    pub(crate) fn slot(&self) -> Slot {
        match self {
            Self::Record(record) => record.slot,
            Self::Audit(audit) => audit.slot,
        }
    }

    /// Bytes charged to the records' window.
    pub(crate) fn cost(&self) -> usize {
        match self {
            Self::Record(record) => cost(record),
            Self::Audit(_) => 0,
        }
    }
}

/// What one position holds.
#[derive(Debug, Clone, Copy)]
pub(crate) struct InFlight {
    pub(crate) slot: Slot,
    pub(crate) attach: u64,
    /// Bytes charged to the records' window.
    pub(crate) record_bytes: usize,
    /// Bytes charged to the snapshots' window.
    pub(crate) snapshot_bytes: usize,
    /// What the replica has of the slot when it acknowledges this position.
    pub(crate) confirms: Option<Seq>,
}

/// What an acknowledgement says about one slot.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Progress {
    pub(crate) slot: Slot,
    pub(crate) attach: u64,
    pub(crate) seq: Seq,
}

impl LinkState {
    fn new(silent_after: MonoTime, share: Share) -> Self {
        Self {
            up: false,
            opened: false,
            silent_after,
            is_silent: false,
            next_heartbeat: MonoTime::ZERO,
            heartbeat_due: false,
            sent_at_heartbeat: 0,
            rests: false,
            echoed: None,
            members: SlotSet::new(),
            streams: SlotMap::new(),
            asks: Rota::default(),
            queue: VecDeque::new(),
            behind: Rota::default(),
            wanted: Rota::default(),
            requested: None,
            outgoing: None,
            in_flight: VecDeque::new(),
            acked: 0,
            load: 0,
            snapshot_in_flight: 0,
            pace: Pace::new(share),
            awake: false,
        }
    }

    /// Starts or ends the connection: nothing of the one before is left, except that positions go on, so that a late
    /// acknowledgement of it means nothing.
    pub(crate) fn reset(&mut self, up: bool, now: MonoTime, config: &Config) {
        self.stir(now, config);
        let sent = self.sent();
        let members = std::mem::take(&mut self.members);
        let (echoed, is_silent) = (self.echoed, self.is_silent);
        *self = Self::new(self.silent_after, self.pace.own());
        self.is_silent = is_silent;
        (self.up, self.members, self.acked, self.echoed) = (up, members, sent, echoed);
        (self.next_heartbeat, self.heartbeat_due) = (now, up);
    }

    /// The last position that was sent.
    fn sent(&self) -> u64 {
        self.acked + self.in_flight.len() as u64
    }

    /// A heartbeat is due, and the next one soon, or later where nothing was sent since the one before.
    pub(crate) fn beat(&mut self, now: MonoTime, config: &Config) {
        let sent = self.sent();
        let rests = !self.owes() && sent == self.sent_at_heartbeat;
        (self.heartbeat_due, self.sent_at_heartbeat) = (true, sent);
        self.next_heartbeat = now + if rests { config.resting_heartbeat } else { config.heartbeat };
    }

    /// Takes note that the replica is alive.
    pub(crate) fn heard(&mut self, now: MonoTime, config: &Config) {
        self.rests = !self.owes();
        self.is_silent = false;
        self.silent_after = now + if self.rests { config.resting_silence } else { config.silence };
    }

    /// Whether the replica has something to acknowledge, or will have.
    pub(crate) fn owes(&self) -> bool {
        !(self.in_flight.is_empty() && self.queue.is_empty() && self.behind.is_empty())
    }

    /// Its rest is over: from now on the replica owes an answer, or cannot give any.
    pub(crate) fn stir(&mut self, now: MonoTime, config: &Config) {
        if std::mem::take(&mut self.rests) {
            self.silent_after = self.silent_after.min(now + config.silence);
        }
    }

    /// Puts a slot on the link; false when the link is down.
    pub(crate) fn attach(&mut self, slot: Slot, epoch: Epoch, attach: u64) -> bool {
        self.detach(slot);
        if self.up {
            let state = StreamState::Held;
            self.streams.insert(slot, Stream { attach, epoch, state, held_bytes: 0 });
            self.asks.insert(slot);
        }
        self.up
    }

    /// Takes a slot off the link. What is queued of it is skipped, what is in flight counts no more.
    pub(crate) fn detach(&mut self, slot: Slot) {
        self.streams.remove(slot);
        for rota in [&mut self.asks, &mut self.behind, &mut self.wanted] {
            rota.remove(slot);
        }
        if self.requested == Some(slot) {
            self.requested = None;
        }
        if self.outgoing.as_ref().is_some_and(|outgoing| outgoing.slot == slot) {
            self.outgoing = None;
        }
    }

    /// The slot's stream, if it is still that attachment.
    pub(crate) fn stream(&mut self, slot: Slot, attach: u64) -> Option<&mut Stream> {
        self.streams.get_mut(slot).filter(|stream| stream.attach == attach)
    }

    /// Sends what follows in the ring from `next` on.
    pub(crate) fn resume(&mut self, slot: Slot, attach: u64, next: Seq) {
        if let Some(stream) = self.stream(slot, attach) {
            stream.state = StreamState::Behind { next, cursor: 0 };
            self.behind.insert(slot);
        }
    }

    /// Puts the slot among those that wait for a snapshot.
    pub(crate) fn want_snapshot(&mut self, slot: Slot) {
        self.wanted.insert(slot);
    }

    /// The slot whose snapshot to ask the caller for next; one at a time.
    pub(crate) fn next_snapshot(&mut self) -> Option<Slot> {
        if self.requested.is_some() || self.outgoing.is_some() {
            return None;
        }
        let slot = self.wanted.next()?;
        self.wanted.remove(slot);
        self.requested = Some(slot);
        Some(slot)
    }

    /// The snapshot that was asked for is here, or not needed.
    pub(crate) fn answered(&mut self, slot: Slot) {
        self.requested.take_if(|wanted| *wanted == slot);
    }

    /// Starts to send the snapshot that was asked for; records after it wait in the ring until its end is sent.
    pub(crate) fn copy(&mut self, outgoing: Outgoing) {
        self.answered(outgoing.slot);
        if let Some(stream) = self.stream(outgoing.slot, outgoing.attach) {
            stream.state = StreamState::Copying;
            stream.held_bytes = 0;
            self.outgoing = Some(outgoing);
        }
    }

    /// Snapshot bytes that may be sent now.
    pub(crate) fn snapshot_room(&self, config: &Config) -> usize {
        match self.pace.rests() {
            true => 0,
            false => config.snapshot_window_bytes.saturating_sub(self.snapshot_in_flight),
        }
    }

    /// Whether a copy is on its way or waits for its turn.
    pub(crate) fn is_copying(&self) -> bool {
        let turn = self.requested.is_some() || self.outgoing.is_some();
        turn || self.snapshot_in_flight > 0 || !self.wanted.is_empty()
    }

    /// The snapshot's source, if the window lets more through than is ready: to be called without the link's lock and given
    /// back with [`LinkState::feed`].
    pub(crate) fn hungry(&mut self, config: &Config) -> Option<(Slot, u64, SnapshotSource)> {
        let room = self.snapshot_room(config);
        let outgoing = self.outgoing.as_mut()?;
        Some((outgoing.slot, outgoing.attach, outgoing.hungry(room)?))
    }

    /// What the source said; of one whose slot is gone, another is asked for.
    pub(crate) fn feed(
        &mut self,
        (slot, attach, source): (Slot, u64, SnapshotSource),
        said: Result<Option<Vec<SnapshotEntry>>, SourceGone>,
    ) {
        let outgoing = self.outgoing.as_mut();
        let outgoing = outgoing.filter(|it| (it.slot, it.attach) == (slot, attach));
        if outgoing.is_some_and(|outgoing| !outgoing.feed(source, said)) {
            self.outgoing = None;
            if let Some(stream) = self.stream(slot, attach) {
                stream.state = StreamState::Held;
                self.want_snapshot(slot);
            }
        }
    }

    /// Takes a new record: to the queue when the slot keeps up and the window is open, else it waits in the ring at
    /// `place`.
    pub(crate) fn offer(&mut self, record: &Record, place: u64, window_bytes: usize) {
        let Some(stream) = self.streams.get_mut(record.slot) else { return };
        let StreamState::Live { next } = stream.state else {
            stream.held_bytes += cost(record);
            return;
        };
        if record.seq < next {
            // Read from the ring before its writer came here.
            return;
        }
        if self.load >= window_bytes {
            stream.state = StreamState::Behind { next, cursor: place };
            stream.held_bytes = cost(record);
            self.behind.insert(record.slot);
            return;
        }
        stream.state = StreamState::Live { next: record.seq.next() };
        self.load += cost(record);
        let part = Part::Record(record.clone());
        self.queue.push_back(Queued { attach: stream.attach, part });
    }

    /// Has the replica compare its copy, if all up to that version was queued and nothing behind it.
    pub(crate) fn audit(&mut self, audit: Audit, attach: u64) {
        let next = audit.version.seq.next();
        if let Some(stream) = self.stream(audit.slot, attach)
            && stream.state == (StreamState::Live { next })
            && self.queue.len() < AUDIT_QUEUE_MAX
        {
            self.queue.push_back(Queued { attach, part: Part::Audit(audit) });
        }
    }

    /// Takes a cumulative acknowledgement and hands out what it says about each slot.
    pub(crate) fn acknowledge(
        &mut self,
        position: u64,
        now: MonoTime,
    ) -> Result<Vec<Progress>, LinkError> {
        let count = position.saturating_sub(self.acked);
        if count > self.in_flight.len() as u64 {
            return Err(LinkError::Protocol("acknowledged a position that was never sent"));
        }
        let mut progress: Vec<Progress> = Vec::new();
        for sent in self.in_flight.drain(..count as usize) {
            self.load -= sent.record_bytes;
            self.snapshot_in_flight -= sent.snapshot_bytes;
            let Some(seq) = sent.confirms else { continue };
            match progress.last_mut() {
                Some(last) if (last.slot, last.attach) == (sent.slot, sent.attach) => {
                    last.seq = seq
                }
                _ => progress.push(Progress { slot: sent.slot, attach: sent.attach, seq }),
            }
        }
        self.acked += count;
        self.pace.acknowledged(self.snapshot_in_flight > 0, now);
        Ok(progress)
    }

    /// Whether there is something to write that no window holds back.
    pub(crate) fn has_output(&self, config: &Config) -> bool {
        let ring = !self.behind.is_empty() && self.load < config.window_bytes;
        let snapshot = self.outgoing.as_ref().is_some_and(Outgoing::has_output)
            && self.snapshot_room(config) > 0;
        let first = !self.opened || self.heartbeat_due || !self.asks.is_empty();
        self.up && (first || !self.queue.is_empty() || ring || snapshot)
    }

    /// Whether the driver has to be told of output now.
    pub(crate) fn wakes(&mut self, config: &Config) -> bool {
        let wakes = !self.awake && self.has_output(config);
        self.awake |= wakes;
        wakes
    }

    /// Takes note of what the driver left after it wrote.
    pub(crate) fn written(&mut self, config: &Config) {
        self.awake = self.has_output(config);
    }

    /// Checks the link's bookkeeping.
    ///
    /// # Panics
    /// When it is wrong.
    pub(crate) fn check_invariants(&self, config: &Config) {
        let queued: usize = self.queue.iter().map(|queued| queued.part.cost()).sum();
        let sent: usize = self.in_flight.iter().map(|sent| sent.record_bytes).sum();
        assert_eq!(queued + sent, self.load, "link load");
        let snapshot: usize = self.in_flight.iter().map(|sent| sent.snapshot_bytes).sum();
        assert_eq!(snapshot, self.snapshot_in_flight, "snapshot bytes in flight");
        assert!(!(self.requested.is_some() && self.outgoing.is_some()), "one snapshot at a time");
        assert!(!self.has_output(config) || self.awake, "output that nobody was told of");
        for (slot, stream) in self.streams.iter() {
            assert!(self.up && self.members.contains(slot), "stream of {slot} without a member");
            let behind = matches!(stream.state, StreamState::Behind { .. });
            assert_eq!(behind, self.behind.contains(slot), "slots behind");
        }
    }
}

/// A link that has more to send than this is not asked to compare copies beside it.
const AUDIT_QUEUE_MAX: usize = 4_096;
