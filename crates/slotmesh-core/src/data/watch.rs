use std::sync::Arc;

use bytes::Bytes;
use slotmesh_coherence::{FrameError, Subscriber, Watcher, key_hash};
use slotmesh_slots::{Effect, Mistake, MonoTime, NodeId, Record, Slot};

use super::gate::RoleWord;
use super::{DataPlane, Done};
use crate::request::Reply;

impl DataPlane {
    /// Tells this node's own subscriber of the writes to its own slots; once, at the start.
    pub fn attach(&self, subscriber: Arc<Subscriber>) {
        self.publisher.attach(subscriber);
    }

    /// Tells the subscriber, which keeps values of this node's own slots, that these are known to be right at this time of the
    /// subscriber's clock, which is now; unless the lease is over, when somebody else may own the slots by now.
    pub fn vouch(&self, subscriber: &Subscriber, now: MonoTime) {
        if self.gate.has_lease() || Mistake::EchoWithoutLease.is_planted() {
            subscriber.vouch(now);
        }
    }

    /// A node opened a stream on which it wants to be told of writes, and this is its first frame.
    ///
    /// # Errors
    /// When it is no hello of a new stream: close it.
    pub fn watcher_open(&self, node: NodeId, hello: &[u8]) -> Result<Watcher, FrameError> {
        self.publisher.open(node, hello)
    }

    /// Another frame came on the stream.
    ///
    /// # Errors
    /// When it breaks the protocol: close the stream.
    pub fn handle_watcher_frame(&self, watcher: Watcher, frame: &[u8]) -> Result<(), FrameError> {
        // Without a lease somebody else may own the slots by now, and be writing.
        let leased = self.gate.has_lease() || Mistake::EchoWithoutLease.is_planted();
        self.publisher.handle_frame(watcher, frame, leased)
    }

    /// Frames to write on the stream to the watcher; `None` when it has ended: close it.
    #[must_use]
    pub fn poll_watcher(&self, watcher: Watcher) -> Option<Vec<Bytes>> {
        self.publisher.poll_frames(watcher)
    }

    /// The stream to the watcher is lost.
    pub fn watcher_close(&self, watcher: Watcher) {
        self.publisher.close(watcher);
    }

    /// Reads for somebody who keeps what is found.
    pub(super) fn watch(&self, slot: Slot, key: &Bytes, by: Option<Watcher>, done: Done) {
        let Some(by) = by.filter(|by| self.subscribe(slot, *by)) else {
            return self.read(slot, key, done);
        };
        let (owner, stream) = (self.me, by.stream);
        let watched = move |found: Reply| Reply::Watched { owner, stream, found: Box::new(found) };
        self.read(slot, key, Box::new(move |found| done(found.map(watched))));
    }

    /// Has the watcher told of the slot's writes from now on; false if this node does not serve it, or has no such stream.
    pub fn subscribe(&self, slot: Slot, by: Watcher) -> bool {
        if self.publisher.is_subscribed(slot, by) {
            return true;
        }
        // Roles change under this lock only, and whoever loses one drops its watchers.
        let _guard = self.store.lock(slot);
        self.gate.serving(slot).is_ok() && self.publisher.subscribe(slot, by)
    }

    /// Tells watchers of a write, under the slot's lock.
    pub(super) fn publish(&self, record: &Record) {
        if Mistake::WriteUntold.is_planted() && record.seq.0 % 20 == 7 {
            return;
        }
        match &record.effect {
            Effect::Put { key, .. } | Effect::Delete { key } | Effect::Expire { key, .. } => {
                self.loads.key_changed(record.slot, key);
                let hash = || key_hash(self.key_seed, key);
                self.publisher.publish(record.slot, record.seq, hash);
            }
            // Watchers are told of a clearing also where it changes nothing: see [`DataPlane::write`].
            Effect::Clear | Effect::Nothing => {}
        }
    }

    /// The role changes from one to the other, under the slot's lock: watchers of a reign that ends, or is about to, are told.
    pub(super) fn note_reign(&self, slot: Slot, before: RoleWord, after: RoleWord) {
        let goes_on = after.is_primary() && !after.is_frozen() && after.epoch() == before.epoch();
        if !before.is_primary() || goes_on {
            return;
        }
        self.loads.slot_changed(slot);
        if !Mistake::WatchersKept.is_planted() {
            self.publisher.drop_slot(slot);
        }
    }
}
