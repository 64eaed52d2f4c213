use std::collections::BTreeSet;
use std::sync::atomic::Ordering;

use bytes::Bytes;
use slotmesh_replication::{ApplyError, Filled, LinkError, ReplicaAction, Share, SnapshotEntry};
use slotmesh_slots::{Effect, Mistake, MonoTime, NodeId, Record, Version};
use slotmesh_store::SlotSnapshot;

use super::DataPlane;
use super::answers::Installed;

impl DataPlane {
    /// Replicas of this node's slots, complete or not, of which nothing is heard.
    #[must_use]
    pub fn silent_replicas(&self) -> Vec<NodeId> {
        self.primary.silent_replicas()
    }

    /// The nodes that hold replicas of this node's slots: a link to each is wanted.
    #[must_use]
    pub fn replicas_wanted(&self) -> BTreeSet<NodeId> {
        self.replicas.lock().clone()
    }

    /// The link to the replica is open.
    pub fn link_up(&self, replica: NodeId) {
        self.primary.link_up(replica, self.now());
        self.pump(self.now());
    }

    /// The link to the replica is lost.
    pub fn link_down(&self, replica: NodeId) {
        self.primary.link_down(replica, self.now());
        self.pump(self.now());
    }

    /// The thread that carries the links has its turn: to be called each 50 ms or so where there is one of its own, so that its
    /// lateness is not taken for the silence of replicas.
    pub fn note_links_thread(&self) {
        self.primary.note_driver(self.now());
    }

    /// The replica's process has most likely ended: its removal is asked for now, not only when it was silent for long.
    pub fn give_up_replica(&self, replica: NodeId, now: MonoTime) {
        self.primary.give_up(replica, now);
        self.pump(now);
    }

    /// A frame from the replica arrived on its link.
    ///
    /// # Errors
    /// When it breaks the protocol: close the link.
    pub fn handle_replica_frame(&self, replica: NodeId, frame: &Bytes) -> Result<(), LinkError> {
        let result = self.primary.handle_frame(replica, frame, self.now());
        self.pump(self.now());
        result
    }

    /// Frames to write on the link to the replica, about `bytes_max` of them; empty when there are none now.
    #[must_use]
    pub fn poll_link(&self, replica: NodeId, bytes_max: usize) -> Vec<Bytes> {
        let frames = self.primary.poll_frames(replica, bytes_max, self.now());
        self.pump(self.now());
        frames
    }

    /// When the link to the replica goes on with copying, of which it rests for the sake of a [share](Self::set_copy_share):
    /// [`DataPlane::poll_link`] is to be called then although nobody wakes the caller.
    #[must_use]
    pub fn link_rests_until(&self, replica: NodeId) -> Option<MonoTime> {
        self.primary.rests_until(replica)
    }

    /// From now on filling replicas takes no more than this share of the time of any link from or to this node.
    pub fn set_copy_share(&self, share: Share) {
        self.primary.set_copy_share(share);
        self.replica.ask_copy_share(share);
    }

    /// Whether replicas are being filled from or on this node, or were since this was asked last.
    #[must_use]
    pub fn is_copying(&self) -> bool {
        let snapshots = self.replica.snapshots();
        let fills = self.snapshots_seen.swap(snapshots, Ordering::Relaxed) != snapshots;
        fills || self.primary.is_copying()
    }

    /// A primary opened its link to this node.
    pub fn primary_open(&self, primary: NodeId) {
        self.replica.open(primary);
    }

    /// The link from the primary is lost.
    pub fn primary_close(&self, primary: NodeId) {
        self.replica.close(primary);
    }

    /// A frame from the primary arrived: its work is done when this returns. The answer is what to write back.
    ///
    /// # Errors
    /// When it breaks the protocol: close the link.
    pub fn handle_primary_frame(
        &self,
        primary: NodeId,
        frame: &Bytes,
    ) -> Result<Vec<Bytes>, LinkError> {
        for action in self.replica.handle_frame(primary, frame, self.now())? {
            self.carry_out(action);
        }
        if self.is_far_over_budget() {
            self.say_pressure();
        }
        Ok(self.replica.poll_frames(primary))
    }

    fn carry_out(&self, action: ReplicaAction) {
        match action {
            ReplicaAction::Report { ticket } => {
                let guard = self.store.lock(ticket.slot());
                // A primary takes an interest in it: perhaps by a later table than this node's.
                if let Some(since) = self.dropped.lock().get_mut(&ticket.slot()) {
                    *since = self.now();
                }
                self.replica.report(ticket, guard.version(), guard.digest());
            }
            ReplicaAction::Apply { ticket, record } => {
                let mut guard = self.store.lock(ticket.slot());
                let record = misapplied(record);
                let result = if self.replica.admits(&ticket) {
                    let applied = guard.apply(&record).map_err(|_| ApplyError::Corrupt);
                    if let (Ok(_), Some(answer)) = (&applied, &record.answer)
                        && !Mistake::AnswersForgotten.is_planted()
                    {
                        self.answers.keep(record.slot, record.seq, answer, self.now());
                    }
                    applied
                } else {
                    Err(ApplyError::Overtaken)
                };
                self.applied.fetch_add(1, Ordering::Relaxed);
                self.replica.applied(ticket, result);
            }
            ReplicaAction::Audit { ticket, version, digest } => {
                let guard = self.store.lock(ticket.slot());
                let result = if !self.replica.admits(&ticket) {
                    Err(ApplyError::Overtaken)
                } else if guard.version() == version && guard.digest() != digest {
                    self.corrupted.fetch_add(1, Ordering::Relaxed);
                    Err(ApplyError::Corrupt)
                } else {
                    Ok(())
                };
                self.replica.applied(ticket, result);
            }
            ReplicaAction::Install { ticket, filled } => {
                let Filled { version, digest, answers, entries } = filled;
                let slot = ticket.slot();
                let prepared = self.store.prepare(slot, &snapshot(version, digest, entries));
                let now = self.now();
                let answers = Installed::decode(&answers, now).ok();
                let answers = answers.filter(|_| prepared.digest() == digest);
                // What was there before; freed after the lock is.
                let _replaced = {
                    let mut guard = self.store.lock(slot);
                    let (result, replaced) = match (self.replica.admits(&ticket), answers) {
                        (true, Some(answers)) => {
                            self.answers.install(slot, answers, now);
                            (Ok(()), guard.install(prepared))
                        }
                        // Never keep what does not match: the slot starts from nothing again.
                        (true, None) => {
                            self.answers.forget(slot);
                            (Err(ApplyError::Corrupt), guard.reset())
                        }
                        (false, _) => (Err(ApplyError::Overtaken), prepared),
                    };
                    self.replica.applied(ticket, result);
                    replaced
                };
            }
        }
    }
}

/// The record, unless the simulator wants copies that differ.
fn misapplied(mut record: Record) -> Record {
    if Mistake::CopiesDiffer.is_planted()
        && record.seq.0 % 50 == 7
        && let Effect::Put { value, .. } = &mut record.effect
    {
        value.clear();
    }
    record
}

fn snapshot(version: Version, digest: u128, entries: Vec<SnapshotEntry>) -> SlotSnapshot {
    let entry = |entry: SnapshotEntry| slotmesh_store::SnapshotEntry {
        key: entry.key,
        value: entry.value,
        version: entry.version,
        deadline: entry.deadline,
        class: entry.class,
    };
    SlotSnapshot { version, digest, entries: entries.into_iter().map(entry).collect() }
}
