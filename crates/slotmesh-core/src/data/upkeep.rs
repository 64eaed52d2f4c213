use std::collections::BTreeSet;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use slotmesh_replication::{
    PrimaryEvent, SnapshotEntry, SnapshotSource, SnapshotStart, SourceGone,
};
use slotmesh_slots::{Epoch, Mistake, MonoTime, NodeId, SLOT_COUNT, Seq, Slot, Version};
use slotmesh_store::{SlotView, Store};

use super::debts::{PAID_PER_ROUND, PAID_PER_WRITE};
use super::gate::RoleWord;
use super::{DataEvent, DataPlane, DataStats};

/// Entries evicted after one write at most: more than a write of ordinary size needs, bounded for the sake of its
/// latency.
const EVICTIONS_PER_WRITE: usize = 64;

/// As many where others are to evict as well, because this node copies slots of theirs: more than one write brings.
const EVICTIONS_SHARED: usize = 2;

/// Searches for something to evict that end a write's eviction when they find nothing: each goes on where the last ended, past
/// a thousand entries of which none may be evicted.
const SEARCHES_IN_VAIN: usize = 8;

/// Expired entries removed in one round of 50 ms: up to 80,000 a second.
const EXPIRIES_PER_ROUND: usize = 4_096;

/// Slots whose copies are compared in one round of 50 ms: all of them in 26 seconds.
const AUDITS_PER_ROUND: usize = 32;

/// Events kept for the brain; it takes them every 50 ms at the latest. What does not fit comes again.
const EVENTS_MAX: usize = 65_536;

/// How often a slot that can be handed over is told again while the table does not answer it.
const READY_INTERVAL: Duration = Duration::from_millis(250);

impl DataPlane {
    /// What the brain has to hear next.
    #[must_use]
    pub fn poll_event(&self) -> Option<DataEvent> {
        self.events.lock().pop_front()
    }

    /// Regular work: heartbeats, silent replicas, expired entries, what is to be told again. Called every 50 ms or so.
    pub fn handle_timeout(&self, now: MonoTime) {
        self.primary.handle_timeout(now);
        self.remove_expired(now);
        self.sweep_loads(|_| false);
        self.store.release_retired();
        self.answers.sweep(now);
        self.store.set_side_bytes(self.answers.bytes());
        self.audit_some();
        self.survey_some(now);
        self.say_pressure();
        self.pay_debts(PAID_PER_ROUND);
        let later = std::mem::take(&mut *self.snapshots_later.lock());
        later.into_iter().for_each(|(replica, slot)| self.give_snapshot(replica, slot));
        self.pump(now);
    }

    /// Numbers for metrics.
    #[must_use]
    pub fn stats(&self) -> DataStats {
        let primary = Slot::all().filter(|&slot| self.gate.role(slot).is_primary()).count();
        DataStats {
            used_bytes: self.store.used_bytes() as u64,
            budget_bytes: self.store.budget_bytes() as u64,
            entries: self.store.len() as u64,
            primary_slots: primary as u64,
            evicted: self.evicted.load(Ordering::Relaxed),
            expired: self.expired.load(Ordering::Relaxed),
            applied: self.applied.load(Ordering::Relaxed),
            corrupted: self.corrupted.load(Ordering::Relaxed),
            lost_slots: self.lost_slots.load(Ordering::Relaxed),
            copy_share: self.primary.copy_share().as_percent().into(),
        }
    }

    /// Entries in the slots this node is primary of.
    #[must_use]
    pub fn primary_entries(&self) -> u64 {
        let owned = Slot::all().filter(|&slot| self.gate.role(slot).is_primary());
        owned.map(|slot| self.store.lock(slot).len() as u64).sum()
    }

    /// Version, digest and entries of a slot; for tests and the simulator.
    #[must_use]
    pub fn inspect(&self, slot: Slot) -> (Version, u128, usize) {
        let guard = self.store.lock(slot);
        (guard.version(), guard.digest(), guard.len())
    }

    /// The epoch promised for a slot, and that of the primary whose stream fills it; for tests and the simulator.
    #[must_use]
    pub fn fence(&self, slot: Slot) -> (Epoch, Option<Epoch>) {
        (self.replica.promised(slot), self.replica.fed_by(slot))
    }

    /// Checks the bookkeeping of the store and of replication; for tests and the simulator, between calls.
    ///
    /// # Panics
    /// When it is wrong.
    pub fn check_invariants(&self) {
        self.primary.check_invariants();
        self.replica.check_invariants();
        if let Err(problem) = self.store.check_invariants() {
            panic!("{problem}");
        }
    }

    /// The version of the slot's contents; for tests and the simulator.
    #[must_use]
    pub fn held(&self, slot: Slot) -> Version {
        self.store.lock(slot).version()
    }

    /// The epoch at which this node is primary of the slot, and the seq up to which every in-sync copy has it; for tests and
    /// the simulator.
    #[must_use]
    pub fn committed(&self, slot: Slot) -> Option<(Epoch, Seq)> {
        let role = self.gate.role(slot);
        self.primary.committed(slot).filter(|_| role.is_primary()).map(|seq| (role.epoch(), seq))
    }

    /// Whether this node would serve the slot now; for tests and the simulator.
    #[must_use]
    pub fn serves(&self, slot: Slot) -> bool {
        self.gate.serving(slot).is_ok_and(|role| self.gate.confirm(slot, role).is_ok())
    }

    /// The cluster lost this many slots so far; true when that is news.
    pub(crate) fn note_lost_slots(&self, total: u64) -> bool {
        self.lost_slots.fetch_max(total, Ordering::Relaxed) < total
    }

    /// Evicts from slots this node is primary of until the budget holds; replicas learn of it by record.
    pub(super) fn evict_surplus(&self) {
        let mine = |slot| self.gate.serving(slot).is_ok();
        if self.store.over_budget() {
            // What others are asked to evict should not all be this node's own meanwhile.
            let shared = self.replica.has_primaries();
            let most = if shared { EVICTIONS_SHARED } else { EVICTIONS_PER_WRITE };
            for _ in 0..most {
                if !self.store.over_budget() || !self.evict_one(&mine) {
                    break;
                }
            }
        }
        self.pay_debts(PAID_PER_WRITE);
    }

    /// Evicts an entry of one of these slots, of which this node is primary; false when a longer search finds none.
    pub(super) fn evict_one(&self, allowed: &dyn Fn(Slot) -> bool) -> bool {
        for _ in 0..SEARCHES_IN_VAIN {
            let now = self.gate.now();
            let Some((slot, key)) = self.store.victim(allowed, now) else { continue };
            let mut guard = self.store.lock(slot);
            let Ok(role) = self.gate.serving(slot) else { continue };
            if let Some(record) = guard.evict(role.epoch(), &key, now)
                && self.append(&record).is_ok()
            {
                self.evicted.fetch_add(1, Ordering::Relaxed);
                return true;
            }
        }
        false
    }

    /// What this node holds too much is mostly others' to evict: a replica's entries go by its primary's records.
    pub(super) fn say_pressure(&self) {
        let excess = self.store.pressure_bytes().saturating_sub(self.store.budget_bytes());
        if excess > 0 {
            self.replica.press(excess as u64);
        }
    }

    /// Has replicas compare their copies, some slots each time.
    fn audit_some(&self) {
        let start = self.audited.fetch_add(AUDITS_PER_ROUND, Ordering::Relaxed);
        let slots = (start..start + AUDITS_PER_ROUND).filter_map(|at| slot_at(at % SLOT_COUNT));
        let is_copied = |slot: &Slot| {
            let role = self.gate.role(*slot);
            role.is_primary() && role.copies() > 1
        };
        for slot in slots.filter(is_copied) {
            let guard = self.store.lock(slot);
            // Also where nothing is left: a replica may have kept something.
            if guard.version() != Version::default() {
                self.primary.audit(slot, guard.version(), guard.digest());
            }
        }
    }

    fn remove_expired(&self, now: MonoTime) {
        let mine = |slot| self.gate.serving(slot).is_ok();
        if Mistake::ReplicaExpires.is_planted() {
            for (slot, key) in self.store.expired(now, EXPIRIES_PER_ROUND) {
                let mut guard = self.store.lock(slot);
                let epoch = guard.version().epoch;
                let _unheard = guard.evict_expired(epoch, &key, now);
            }
        }
        for (slot, key) in self.store.expired_where(&mine, now, EXPIRIES_PER_ROUND) {
            let mut guard = self.store.lock(slot);
            let Ok(role) = self.gate.serving(slot) else { continue };
            self.remove_if_over(&mut guard, role, &key, now);
        }
    }

    /// Does what replication asks for, and passes on what the brain has to decide.
    pub(super) fn pump(&self, now: MonoTime) {
        let mut answered = BTreeSet::new();
        while let Some(event) = self.primary.poll_event() {
            match event {
                PrimaryEvent::NeedSnapshot { replica, slot } => {
                    // It comes again at once while the store is ahead of the log: another primary's work, of which this
                    // node's table does not know yet.
                    if answered.insert((replica, slot)) {
                        self.give_snapshot(replica, slot);
                    } else {
                        self.snapshots_later.lock().insert((replica, slot));
                    }
                }
                PrimaryEvent::Compare { replica, slot } => {
                    let guard = self.store.lock(slot);
                    self.primary.compare(replica, slot, guard.version(), guard.digest());
                }
                PrimaryEvent::Pressure { replica, bytes } => self.note_pressure(replica, bytes),
                PrimaryEvent::Shrink { slot, epoch, node } => {
                    self.emit(DataEvent::Shrink { claim: (slot, epoch), node });
                }
                PrimaryEvent::Grow { slot, epoch, round, node } => {
                    self.emit(DataEvent::Grow { claim: (slot, epoch), round, node });
                }
                PrimaryEvent::Refused { slot, node, promised } => {
                    self.refused(slot, node, promised)
                }
                _ => {}
            }
        }
        self.tell_ready_moves(now);
    }

    fn give_snapshot(&self, replica: NodeId, slot: Slot) {
        let mut guard = self.store.lock(slot);
        let (version, digest) = (guard.version(), guard.digest());
        let start = || SnapshotStart {
            answers: self.answers.encode(slot, self.now()),
            source: source(Arc::clone(&self.store), guard.view()),
        };
        // When it is not wanted any more nothing happens; when the log has moved on the event comes again.
        let _taken = self.primary.snapshot(replica, slot, version, digest, start);
    }

    /// A replica promised a later epoch. If nobody was given the slot at that epoch, raising it is the way out.
    fn refused(&self, slot: Slot, node: NodeId, promised: Epoch) {
        let role = self.gate.role(slot);
        if role.is_primary() && promised > role.epoch() {
            self.emit(DataEvent::RaiseEpoch { claim: (slot, role.epoch()), refused: node });
        }
    }

    /// A frozen slot whose replicas have everything can be handed over.
    fn tell_ready_moves(&self, now: MonoTime) {
        let mut moves = self.moves.lock();
        let mut ready = Vec::new();
        for (slot, (epoch, told)) in &mut *moves {
            let last = self.primary.last(*slot).map(|version| version.seq);
            let due = told.is_none_or(|at| now.saturating_since(at) >= READY_INTERVAL);
            if due && told.is_some() && Mistake::FreezeEndsByTimer.is_planted() {
                self.gate.set_role(*slot, RoleWord::primary(*epoch, 1, false));
            }
            if let Some(seq) = last.filter(|_| due)
                && self.is_committed(*slot, seq)
            {
                *told = Some(now);
                if Mistake::DeleteBeforeCommit.is_planted() {
                    drop(self.store.lock(*slot).reset());
                }
                ready.push(DataEvent::MoveReady { claim: (*slot, *epoch), seq });
            }
        }
        drop(moves);
        ready.into_iter().for_each(|event| self.emit(event));
    }

    fn emit(&self, event: DataEvent) {
        // A node that ends its links must not have its replicas struck for their silence: they are about to take over.
        if self.gate.has_ended() {
            return;
        }
        let mut events = self.events.lock();
        if events.len() < EVENTS_MAX {
            events.push_back(event);
        }
        drop(events);
        (self.wake_events)();
    }
}

fn slot_at(index: usize) -> Option<Slot> {
    Slot::new(u16::try_from(index).ok()?)
}

/// Lists a slot page by page, so that its writers never wait for long.
fn source(store: Arc<Store>, mut view: SlotView) -> SnapshotSource {
    let entry = |entry: slotmesh_store::SnapshotEntry| SnapshotEntry {
        key: entry.key,
        value: entry.value,
        version: entry.version,
        deadline: entry.deadline,
        class: entry.class,
    };
    Box::new(move || match store.read_view(&mut view) {
        Ok(part) => Ok(part.map(|entries| entries.into_iter().map(entry).collect())),
        Err(_) => Err(SourceGone),
    })
}
