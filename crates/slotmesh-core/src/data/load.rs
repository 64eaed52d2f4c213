use bytes::Bytes;
use slotmesh_coherence::Watcher;
use slotmesh_slots::{MonoTime, NodeId, Slot};

use super::loads::{Asked, Ready};
use super::read::{is_expired, value};
use super::{DataPlane, Done};
use crate::request::{DataError, LoadEnd, LoadTerms, Reply};

/// Somebody who asks to load a key.
pub(super) struct Asking {
    slot: Slot,
    key: Bytes,
    /// The stream on which it is told of the slot's writes.
    by: Option<Watcher>,
    terms: LoadTerms,
    patience: MonoTime,
    done: Done,
}

impl DataPlane {
    /// Reads for somebody who loads what is not there.
    pub(super) fn load(
        &self,
        slot: Slot,
        key: Bytes,
        by: Option<Watcher>,
        terms: LoadTerms,
        done: Done,
    ) {
        let by = by.filter(|by| self.subscribe(slot, *by));
        let patience = self.gate.now() + terms.patience;
        self.ask_to_load(Asking { slot, key, by, terms, patience, done });
    }

    /// A load wrote nothing.
    pub(super) fn end_load(&self, slot: Slot, key: &Bytes, token: u64, end: LoadEnd) -> Reply {
        let held = self.loads.end((slot, key), token, end, self.gate.now());
        self.answer_loads();
        Reply::EndedLoad { held }
    }

    /// Answers those who wait for a load no longer. Under no lock, after whatever may have ended a wait.
    pub(super) fn answer_loads(&self) {
        for (asking, ready) in self.loads.take_ready() {
            match ready {
                Ready::Again => self.ask_to_load(asking),
                Ready::Ended(end) => asking.answer(self.me, Ok(Reply::LoadEnded(end))),
            }
        }
    }

    /// Leases end that are over, or of nodes that are gone.
    pub(super) fn sweep_loads(&self, is_gone: impl Fn(NodeId) -> bool) {
        self.loads.sweep(self.gate.now(), is_gone);
        self.answer_loads();
    }

    fn ask_to_load(&self, asking: Asking) {
        let slot = asking.slot;
        // Writes come under this lock: what is not there stays so until the lease is given.
        let guard = self.store.lock(slot);
        let confirmed =
            self.gate.serving(slot).and_then(|role| Ok((role, self.gate.confirm(slot, role)?)));
        let (role, now) = match confirmed {
            Ok(confirmed) => confirmed,
            Err(error) => {
                drop(guard);
                return asking.answer(self.me, Err(error));
            }
        };
        let entry = guard.get(&asking.key, MonoTime::ZERO);
        let entry = entry.filter(|entry| !is_expired(entry, now));
        if let Some(entry) = entry.filter(|entry| Some(entry.version) != asking.terms.stale) {
            drop(guard);
            let seq = entry.version.seq;
            let (me, reply) = (self.me, Reply::Value(value(entry, now)));
            if self.is_committed(slot, seq) {
                return asking.answer(me, Ok(reply));
            }
            let done = Box::new(move |found| asking.answer(me, found));
            return self.when_committed((slot, role, seq), Ok(reply), 0, done);
        }
        let version = guard.version();
        let (key, terms, patience) = (asking.key.clone(), asking.terms, asking.patience);
        let asked = self.loads.ask((slot, &key), &terms, patience, now, asking);
        drop(guard);
        match asked {
            Asked::Granted(asking) => asking.answer(self.me, Ok(Reply::MayLoad { slot: version })),
            Asked::Ended(asking, end) => asking.answer(self.me, Ok(Reply::LoadEnded(end))),
            Asked::Waits => {}
        }
    }
}

impl Asking {
    fn answer(self, owner: NodeId, found: Result<Reply, DataError>) {
        let watched = |found: Reply| match self.by {
            Some(by) => Reply::Watched { owner, stream: by.stream, found: Box::new(found) },
            None => found,
        };
        (self.done)(found.map(watched));
    }
}
