use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::ops::{Deref, DerefMut};
use std::sync::Arc;
use std::sync::atomic::{AtomicU8, AtomicU64, Ordering};

use bytes::Bytes;
use parking_lot::{Mutex, MutexGuard, RwLock};
use slotmesh_slots::{
    Epoch, MonoTime, NodeId, NodeList, Record, SLOT_COUNT, Seq, Slot, SlotSet, Version,
};

use crate::config::Config;
use crate::error::{AppendError, LinkError};
use crate::event::{Outcome, PrimaryEvent};
use crate::link::{Audit, Link, StreamState};
use crate::outbox;
use crate::pace::Share;
use crate::ring::Ring;
use crate::role::{After, Fault, Role};
use crate::snapshot::{Outgoing, SnapshotStart};
use crate::timers::Suspects;

/// The primary side of a node's replication: the logs of the slots it owns and the links to their replicas.
///
/// Every method may be called by any thread; those that say so want the store's slot lock to be held.
pub struct Primary {
    pub(crate) config: Config,
    pub(crate) ring: Arc<Ring>,
    slots: Box<[Mutex<Option<Box<Role>>>]>,
    /// For readers without the lock: one more than each slot's committed seq, 0 when this node is not its primary.
    committed: Box<[AtomicU64]>,
    pub(crate) links: RwLock<BTreeMap<NodeId, Arc<Link>>>,
    /// Without duplicates, so it is bounded by slots and replicas.
    pub(crate) events: Mutex<BTreeSet<PrimaryEvent>>,
    pub(crate) suspects: Mutex<Suspects>,
    pub(crate) next_attach: AtomicU64,
    /// What links may spend on snapshots, in percent of their time.
    share: AtomicU8,
    /// When [`Primary::handle_timeout`] was called last, and when the driver said last that it has its turns.
    pub(crate) timed: AtomicU64,
    pub(crate) driver_seen: AtomicU64,
    wake: Box<dyn Fn(NodeId) + Send + Sync>,
}

/// A slot that this node owns, as the table has it.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct PrimarySlot {
    /// The slot's epoch.
    pub epoch: Epoch,
    /// The replicas that acknowledgements wait for.
    pub in_sync: NodeList,
    /// The replicas being filled.
    pub copying: NodeList,
    /// Frozen for a planned move: waiters are told nothing until the epoch changes.
    pub moving: bool,
    /// The round of the filling of `copying`.
    pub round: u32,
    /// What the log had when the role was last handed over by a planned move: whoever was in sync then had all of it, so it
    /// is committed in every later epoch.
    pub base: Seq,
}

impl Primary {
    /// The primary side of a node that owns nothing yet. The ring is the one of its [`Replica`](crate::Replica).
    ///
    /// `wake` is called, under no lock of this engine, when a link's output goes from none to some: the driver then
    /// calls [`Primary::poll_frames`] until it returns nothing. The caller may hold a store's slot lock at that moment.
    pub fn new(
        config: Config,
        ring: Arc<Ring>,
        wake: impl Fn(NodeId) + Send + Sync + 'static,
    ) -> Self {
        Self {
            config,
            ring,
            slots: (0..SLOT_COUNT).map(|_| Mutex::new(None)).collect(),
            committed: (0..SLOT_COUNT).map(|_| AtomicU64::new(0)).collect(),
            links: RwLock::default(),
            events: Mutex::default(),
            suspects: Mutex::default(),
            next_attach: AtomicU64::new(1),
            share: AtomicU8::new(Share::FULL.as_percent()),
            timed: AtomicU64::new(0),
            driver_seen: AtomicU64::new(0),
            wake: Box::new(wake),
        }
    }

    /// Takes over what the table says of a slot; `None` when this node does not own it. Call it under the store's slot
    /// lock, in table order, with the store's version in `start`.
    ///
    /// At a new epoch all between `base` and `start` is uncommitted until every in-sync replica is known to have it, unless
    /// this node owned the slot before, too. Waiters of the epoch before get [`Outcome::Committed`] when all its in-sync replicas
    /// had their write, else [`Outcome::Ambiguous`]. An epoch below the known one changes nothing; one
    /// below `start` belongs to an owner that was deposed before it learned of its role, and counts as `None`.
    pub fn set_slot(&self, slot: Slot, role: Option<PrimarySlot>, start: Version, now: MonoTime) {
        let mut after = After::default();
        let mut place = self.slot(slot);
        match role.filter(|role| role.epoch >= start.epoch) {
            None => self.retire(slot, place.take(), &mut after),
            Some(new) if place.as_ref().is_some_and(|old| old.epoch > new.epoch) => {}
            Some(new) => {
                let old = place.take_if(|old| old.epoch != new.epoch);
                // What was committed stays so while the history is the same.
                let committed =
                    old.as_ref().filter(|old| old.last == start).map(|old| old.committed);
                self.retire(slot, old, &mut after);
                let role = place.get_or_insert_with(|| {
                    self.ring.align(slot, start);
                    let committed = committed.unwrap_or_default().max(new.base.min(start.seq));
                    Box::new(Role::new(slot, new.epoch, start, committed))
                });
                self.update(role, &new, now, &mut after);
            }
        }
        drop(place);
        self.finish(after);
    }

    /// Takes a record that the caller has just applied, while it still holds the store's slot lock: into the ring and to
    /// every replica that keeps up.
    ///
    /// # Errors
    /// When this node is not the slot's primary at that epoch or the record does not follow the log. Nothing changed; the
    /// caller should have checked before it applied.
    pub fn append(&self, record: &Record) -> Result<(), AppendError> {
        let mut wakes = NodeList::EMPTY;
        {
            let mut place = self.slot(record.slot);
            let role = place.as_mut().filter(|role| role.epoch == record.epoch);
            let role = role.ok_or(AppendError::NotPrimary)?;
            if record.seq != role.last.seq.next() {
                return Err(AppendError::Gap { last: role.last });
            }
            let ring_place = self.ring.push(record.clone(), role.last);
            role.last = record.version();
            for peer in &role.peers {
                if peer.link.with(|link| {
                    link.offer(record, ring_place, self.config.window_bytes);
                    link.wakes(&self.config)
                }) {
                    wakes.insert(peer.link.node);
                }
            }
            if !role.peers.iter().any(|peer| peer.counts()) {
                let mut after = After::default();
                role.advance(&mut after);
                drop(place);
                self.finish(after);
            }
        }
        wakes.iter().for_each(|node| (self.wake)(node));
        Ok(())
    }

    /// Calls `done` once: as soon as the write is committed, or its epoch ended; at once when that is known. It is called
    /// under no lock of this engine, by whichever thread learns it. There is no cancelling; `done` may ignore it.
    pub fn wait(&self, slot: Slot, version: Version, done: Box<dyn FnOnce(Outcome) + Send>) {
        let told = match self.slot(slot).as_mut() {
            Some(role) => role.wait(version, done),
            None => Some((done, Outcome::NotOwner)),
        };
        if let Some((done, outcome)) = told {
            done(outcome);
        }
    }

    /// The seq up to which every in-sync replica has the slot; `None` when this node is not its primary. Takes no lock.
    #[must_use]
    pub fn committed(&self, slot: Slot) -> Option<Seq> {
        self.committed[slot.index()].load(Ordering::Acquire).checked_sub(1).map(Seq)
    }

    /// The last version of the slot's log; `None` when this node is not its primary.
    #[must_use]
    pub fn last(&self, slot: Slot) -> Option<Version> {
        self.slot(slot).as_ref().map(|role| role.last)
    }

    /// Whether the slot may be written now: false while the link to a replica that acknowledgements wait for has more
    /// than its window outstanding, or a replica being filled would fall off the ring. The caller then waits, at most
    /// until its deadline, or answers `Busy`. Ask before taking the store's slot lock.
    #[must_use]
    pub fn credit(&self, slot: Slot) -> bool {
        self.slot(slot).as_ref().is_none_or(|role| {
            role.peers.iter().all(|peer| {
                if peer.counts() {
                    return peer.link.load() < self.config.window_bytes;
                }
                peer.link.with(|link| {
                    link.stream(slot, peer.attach).is_none_or(|stream| {
                        stream.state == StreamState::Held
                            || stream.held_bytes < self.config.copy_lag_bytes
                    })
                })
            })
        })
    }

    /// The driver has opened a link to the node: all shared slots are attached anew.
    pub fn link_up(&self, replica: NodeId, now: MonoTime) {
        let mut after = After::default();
        let link = {
            let mut links = self.links.write();
            let link = self.link_or_new(&mut links, replica, now);
            link.with(|link| link.reset(true, now, &self.config));
            link
        };
        for slot in link.with(|link| link.members.clone()).iter() {
            if let Some(role) = self.slot(slot).as_mut() {
                let epoch = role.epoch;
                role.peer(replica).into_iter().for_each(|peer| self.attach(slot, epoch, peer));
            }
        }
        after.links.push(link);
        self.finish(after);
    }

    /// The driver has lost or closed the link to the node. A copy that was not proposed yet no longer counts.
    pub fn link_down(&self, replica: NodeId, now: MonoTime) {
        let mut after = After::default();
        let Ok(link) = self.link(replica) else { return };
        link.with(|link| link.reset(false, now, &self.config));
        for slot in link.with(|link| link.members.clone()).iter() {
            if let Some(role) = self.slot(slot).as_mut() {
                if let Some(peer) = role.peer(replica) {
                    peer.detach();
                }
                role.advance(&mut after);
            }
        }
        after.links.push(link);
        self.finish(after);
    }

    /// Takes a frame that the replica sent on its link.
    ///
    /// # Errors
    /// When the frame is malformed, breaks the protocol, or the link is not open: close the link then.
    pub fn handle_frame(
        &self,
        replica: NodeId,
        frame: &Bytes,
        now: MonoTime,
    ) -> Result<(), LinkError> {
        let link = self.link(replica)?;
        if !link.with(|link| link.up) {
            return Err(LinkError::NotOpen(replica));
        }
        let mut after = After::default();
        let result = self.answers(&link, frame, now, &mut after);
        link.with(|link| link.heard(now, &self.config));
        after.links.push(link);
        self.finish(after);
        result
    }

    /// What to write on the link to the node now, about `bytes_max` of it; empty when there is nothing or the windows are
    /// full. Frames must arrive whole and in order or the link be closed. Calls the source of a snapshot, if one is under way:
    /// do not hold a lock that it takes.
    #[must_use]
    pub fn poll_frames(&self, replica: NodeId, bytes_max: usize, now: MonoTime) -> Vec<Bytes> {
        let Ok(link) = self.link(replica) else { return Vec::new() };
        link.with(|link| link.pace.wake(now));
        while let Some((slot, attach, mut source)) = link.with(|link| link.hungry(&self.config)) {
            let said = source();
            link.with(|link| link.feed((slot, attach, source), said));
        }
        let written =
            link.with(|link| outbox::write(link, &self.ring, &self.config, bytes_max, now));
        let mut after = After::default();
        for (slot, attach) in written.lost {
            self.fault(&link, (slot, attach), Fault::Lacks, &mut after);
        }
        after.links.push(link);
        self.finish(after);
        written.frames
    }

    /// Whether [`Primary::poll_frames`] has something to write to the node.
    #[must_use]
    pub fn has_output(&self, replica: NodeId) -> bool {
        self.link(replica).is_ok_and(|link| link.with(|link| link.has_output(&self.config)))
    }

    /// From now on snapshots take at most this share of each link's time, or less where the replica asks for less.
    pub fn set_copy_share(&self, share: Share) {
        let mut after = After::default();
        // Links are made under this lock, so none misses it.
        let links = self.links.write();
        self.share.store(share.as_percent(), Ordering::Relaxed);
        after.links.extend(links.values().cloned());
        drop(links);
        after.links.iter().for_each(|link| link.with(|link| link.pace.allow(share)));
        self.finish(after);
    }

    /// The share that was set last.
    #[must_use]
    pub fn copy_share(&self) -> Share {
        Share::percent(self.share.load(Ordering::Relaxed))
    }

    /// When the link to the node goes on with snapshots of which it rests; nothing tells of that beside this and
    /// [`Primary::handle_timeout`].
    #[must_use]
    pub fn rests_until(&self, replica: NodeId) -> Option<MonoTime> {
        self.link(replica).ok()?.with(|link| link.pace.rest_until())
    }

    /// Whether a copy is on its way to a replica or waits for its turn.
    #[must_use]
    pub fn is_copying(&self) -> bool {
        self.links.read().values().any(|link| link.with(|link| link.is_copying()))
    }

    /// The send time of the newest heartbeat that came back over the link: what was appended before it is applied there,
    /// for slots that the replica is not being filled with.
    #[must_use]
    pub fn echoed(&self, replica: NodeId) -> Option<MonoTime> {
        self.link(replica).ok()?.with(|link| link.echoed)
    }

    /// The next thing the caller has to do.
    #[must_use]
    pub fn poll_event(&self) -> Option<PrimaryEvent> {
        self.events.lock().pop_first()
    }

    /// Answers [`PrimaryEvent::NeedSnapshot`]. Call it under the store's slot lock with the slot's version and digest;
    /// `start` is called, under the slot's log lock, only when the replica's copy differs: it makes what lists the slot as
    /// it is now, and calls nothing here. False when the snapshot is no longer wanted or `version` is not the log's last; in the second case
    /// the event comes again.
    pub fn snapshot(
        &self,
        replica: NodeId,
        slot: Slot,
        version: Version,
        digest: u128,
        start: impl FnOnce() -> SnapshotStart,
    ) -> bool {
        let Ok(link) = self.link(replica) else { return false };
        let mut after = After::default();
        let mut place = self.slot(slot);
        let taken = place.as_mut().is_some_and(|role| {
            let last = role.last;
            let Some(peer) = role.peer(replica) else { return false };
            // The request stands until it is answered, or another thread would be asked for the next one meanwhile.
            if link.with(|link| link.requested != Some(slot)) {
                return false;
            }
            if version != last {
                link.with(|link| {
                    link.answered(slot);
                    link.want_snapshot(slot);
                });
                return false;
            }
            let attach = peer.attach;
            if peer.status == Some((version, digest)) {
                peer.follow(slot, version.seq);
                link.with(|link| link.answered(slot));
                role.advance(&mut after);
            } else {
                let outgoing = Outgoing::new((slot, attach), version, digest, start());
                link.with(|link| link.copy(outgoing));
            }
            true
        });
        drop(place);
        after.links.push(link);
        self.finish(after);
        taken
    }

    /// Answers [`PrimaryEvent::Compare`], or checks at any other time, under the store's slot lock: a replica that reported
    /// this version with another digest is corrupt and has to leave the set.
    pub fn compare(&self, replica: NodeId, slot: Slot, version: Version, digest: u128) {
        let Ok(link) = self.link(replica) else { return };
        let mut after = After::default();
        let attach = self.slot(slot).as_mut().and_then(|role| {
            let peer = role.peer(replica)?;
            let (reported, its) = peer.status?;
            (reported == version && its != digest).then_some(peer.attach)
        });
        if let Some(attach) = attach {
            self.fault(&link, (slot, attach), Fault::Corrupt, &mut after);
        }
        self.finish(after);
    }

    /// Replicas of this node's slots, complete or not, of which nothing is heard.
    #[must_use]
    pub fn silent_replicas(&self) -> Vec<NodeId> {
        let links = self.links.read();
        let is_silent = |link: &Link| link.with(|it| it.is_silent && !it.members.is_empty());
        links.iter().filter(|(_, link)| is_silent(link)).map(|(node, _)| *node).collect()
    }

    /// The slots of this node that the other one copies.
    #[must_use]
    pub fn slots_copied_by(&self, replica: NodeId) -> SlotSet {
        self.link(replica).map(|link| link.with(|link| link.members.clone())).unwrap_or_default()
    }

    /// Has all replicas that keep up compare their copy of the slot; one that differs is taken out and filled again. Call it under
    /// the store's slot lock with the slot's version and digest.
    pub fn audit(&self, slot: Slot, version: Version, digest: u128) {
        let mut after = After::default();
        if let Some(role) = self.slot(slot).as_mut().filter(|role| role.last == version) {
            for peer in role.peers.iter().filter(|peer| peer.in_sync) {
                peer.link.with(|link| link.audit(Audit { slot, version, digest }, peer.attach));
                after.links.push(peer.link.clone());
            }
        }
        self.finish(after);
    }

    /// Checks the bookkeeping of all slots and links; for tests and the simulator, between calls.
    ///
    /// # Panics
    /// When it is wrong.
    pub fn check_invariants(&self) {
        for slot in Slot::all() {
            if let Some(role) = self.slot(slot).as_ref() {
                role.check_invariants();
                for peer in &role.peers {
                    peer.link.with(|link| {
                        assert!(link.members.contains(slot), "{slot}: peer is no member");
                        let attached = link.stream(slot, peer.attach).is_some();
                        assert!(attached || peer.attach == 0, "{slot}: attached to no stream");
                    });
                }
            }
        }
        for link in self.links.read().values() {
            link.with(|link| link.check_invariants(&self.config));
        }
    }

    pub(crate) fn slot(&self, slot: Slot) -> Place<'_> {
        let index = slot.index();
        Place { role: self.slots[index].lock(), committed: &self.committed[index] }
    }

    pub(crate) fn link(&self, node: NodeId) -> Result<Arc<Link>, LinkError> {
        self.links.read().get(&node).cloned().ok_or(LinkError::NotOpen(node))
    }

    pub(crate) fn link_or_new(
        &self,
        links: &mut BTreeMap<NodeId, Arc<Link>>,
        node: NodeId,
        now: MonoTime,
    ) -> Arc<Link> {
        let silent_after = now + self.config.connect_grace;
        let share = self.copy_share();
        let fresh = || Arc::new(Link::new(node, silent_after, share));
        links.entry(node).or_insert_with(fresh).clone()
    }

    /// Does what was put off until the locks were released.
    pub(crate) fn finish(&self, after: After) {
        for link in after.links {
            let (next, wakes, idle) = link.with(|link| {
                let idle = !link.up && link.members.is_empty();
                (link.next_snapshot(), link.wakes(&self.config), idle)
            });
            let replica = link.node;
            let need = next.map(|slot| PrimaryEvent::NeedSnapshot { replica, slot });
            self.events.lock().extend(need);
            if wakes {
                (self.wake)(replica);
            }
            if idle {
                // Members join under this lock, so nobody can be using the link by now.
                let mut links = self.links.write();
                if link.with(|link| !link.up && link.members.is_empty()) {
                    links.remove(&replica);
                }
            }
        }
        if !after.events.is_empty() {
            self.events.lock().extend(after.events);
        }
        self.suspect(after.suspects);
        for (done, outcome) in after.ready {
            done(outcome);
        }
    }
}

/// A slot's role under its lock; what is committed is published when the lock is released.
pub(crate) struct Place<'a> {
    role: MutexGuard<'a, Option<Box<Role>>>,
    committed: &'a AtomicU64,
}

impl Deref for Place<'_> {
    type Target = Option<Box<Role>>;

    fn deref(&self) -> &Self::Target {
        &self.role
    }
}

impl DerefMut for Place<'_> {
    fn deref_mut(&mut self) -> &mut Self::Target {
        &mut self.role
    }
}

impl Drop for Place<'_> {
    fn drop(&mut self) {
        let committed = self.role.as_ref().map_or(0, |role| role.committed.0.saturating_add(1));
        // Not written in vain: readers on other cores share the line.
        if self.committed.load(Ordering::Relaxed) != committed {
            self.committed.store(committed, Ordering::Release);
        }
    }
}

impl fmt::Debug for Primary {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Primary").field("config", &self.config).finish_non_exhaustive()
    }
}
