//! Drives the caller's machine with committed entries, and keeps one snapshot of it.

use std::io::Cursor;
use std::sync::Arc;

use openraft::storage::RaftStateMachine;
use openraft::{EntryPayload, OptionalSend, RaftSnapshotBuilder, StorageIOError};
use parking_lot::Mutex;
use slotmesh_control::log::LogMachine;

use crate::tenure::Tenure;
use crate::types::{Entry, LogId, Snapshot, SnapshotMeta, StorageError, StoredMembership, Types};

/// The caller's machine and how far it has come.
pub(crate) struct Machine<M> {
    machine: Arc<Mutex<M>>,
    node: u64,
    tenure: Arc<Tenure>,
    applied: Option<LogId>,
    membership: StoredMembership,
    snapshot: Arc<Mutex<Option<Taken>>>,
}

/// A snapshot and what the log knows of it.
#[derive(Clone)]
pub(crate) struct Taken {
    meta: SnapshotMeta,
    state: Arc<[u8]>,
}

impl Taken {
    fn to_snapshot(&self) -> Snapshot {
        let state = Box::new(Cursor::new(self.state.to_vec()));
        Snapshot { meta: self.meta.clone(), snapshot: state }
    }
}

impl<M: LogMachine> Machine<M> {
    pub(crate) fn new(node: u64, machine: Arc<Mutex<M>>, tenure: Arc<Tenure>) -> Self {
        let membership = StoredMembership::default();
        Self { machine, node, tenure, applied: None, membership, snapshot: Arc::default() }
    }

    fn apply_entry(&mut self, entry: Entry) -> Vec<u8> {
        self.applied = Some(entry.log_id);
        match entry.payload {
            EntryPayload::Blank => Vec::new(),
            EntryPayload::Normal(command) => {
                self.machine.lock().apply(entry.log_id.index, &command)
            }
            EntryPayload::Membership(membership) => {
                self.membership = StoredMembership::new(Some(entry.log_id), membership);
                Vec::new()
            }
        }
    }
}

impl<M: LogMachine> RaftStateMachine<Types> for Machine<M> {
    type SnapshotBuilder = Builder;

    async fn applied_state(&mut self) -> Result<(Option<LogId>, StoredMembership), StorageError> {
        Ok((self.applied, self.membership.clone()))
    }

    async fn apply<I>(&mut self, entries: I) -> Result<Vec<Vec<u8>>, StorageError>
    where
        I: IntoIterator<Item = Entry> + OptionalSend,
        I::IntoIter: OptionalSend,
    {
        let outcomes = entries.into_iter().map(|entry| self.apply_entry(entry)).collect();
        if let Some(last) = self.applied {
            self.tenure.applied(last);
        }
        Ok(outcomes)
    }

    async fn get_snapshot_builder(&mut self) -> Builder {
        let last = self.applied;
        let term = last.map_or(0, |last| last.leader_id.term);
        let index = last.map_or(0, |last| last.index);
        let meta = SnapshotMeta {
            last_log_id: last,
            last_membership: self.membership.clone(),
            // Names the maker too: two nodes' snapshots of one index may differ in their bytes.
            snapshot_id: format!("{:016x}-{term}-{index}", self.node),
        };
        // Taken here, where no entry can be applied meanwhile, and not when the engine calls the builder.
        let state = self.machine.lock().snapshot().into();
        Builder { taken: Taken { meta, state }, kept: Arc::clone(&self.snapshot) }
    }

    async fn begin_receiving_snapshot(&mut self) -> Result<Box<Cursor<Vec<u8>>>, StorageError> {
        Ok(Box::default())
    }

    async fn install_snapshot(
        &mut self,
        meta: &SnapshotMeta,
        snapshot: Box<Cursor<Vec<u8>>>,
    ) -> Result<(), StorageError> {
        let state = snapshot.into_inner();
        self.machine.lock().restore(&state).map_err(|refused| {
            tracing::error!(error = %refused, "the control log stops on this node");
            StorageIOError::read_snapshot(Some(meta.signature()), &refused)
        })?;
        self.applied = meta.last_log_id;
        self.membership = meta.last_membership.clone();
        if let Some(last) = meta.last_log_id {
            let index = meta.last_membership.log_id().map_or(0, |logged| logged.index);
            self.tenure.voters_restored(last.index, index, meta.last_membership.membership());
            self.tenure.applied(last);
        }
        *self.snapshot.lock() = Some(Taken { meta: meta.clone(), state: state.into() });
        Ok(())
    }

    async fn get_current_snapshot(&mut self) -> Result<Option<Snapshot>, StorageError> {
        Ok(self.snapshot.lock().as_ref().map(Taken::to_snapshot))
    }
}

/// A snapshot on its way to become the current one.
pub(crate) struct Builder {
    taken: Taken,
    kept: Arc<Mutex<Option<Taken>>>,
}

impl RaftSnapshotBuilder<Types> for Builder {
    async fn build_snapshot(&mut self) -> Result<Snapshot, StorageError> {
        let mut kept = self.kept.lock();
        // One that was received meanwhile may be newer.
        if kept.as_ref().is_none_or(|kept| kept.meta.last_log_id < self.taken.meta.last_log_id) {
            *kept = Some(self.taken.clone());
        }
        Ok(self.taken.to_snapshot())
    }
}
