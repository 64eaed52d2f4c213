//! Log and vote, in memory.

use std::collections::BTreeMap;
use std::fmt::Debug;
use std::ops::RangeBounds;
use std::sync::Arc;

use openraft::storage::{LogFlushed, RaftLogStorage};
use openraft::{EntryPayload, LogState, OptionalSend, RaftLogId, RaftLogReader};
use parking_lot::Mutex;

use crate::message::{APPEND_BYTES_MAX, Request, same_log};
use crate::tenure::Tenure;
use crate::types::{Entry, LogId, StorageError, Types, Vote};

/// What a log holds in memory.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct LogSize {
    /// Entries, those of the log's own included.
    pub entries: usize,
    /// Bytes of the commands in them.
    pub command_bytes: usize,
}

/// The log of one node; clones share it.
#[derive(Clone)]
pub(crate) struct LogStore {
    log: Arc<Mutex<Log>>,
    tenure: Arc<Tenure>,
}

#[derive(Default)]
struct Log {
    /// By index; the first follows `purged`, and the engine leaves no hole.
    entries: BTreeMap<u64, Entry>,
    command_bytes: usize,
    purged: Option<LogId>,
    committed: Option<LogId>,
    vote: Option<Vote>,
    /// How often entries were taken back.
    truncations: u64,
}

impl LogStore {
    pub(crate) fn new(tenure: Arc<Tenure>) -> Self {
        Self { log: Arc::default(), tenure }
    }

    /// Whether a leader may send this: it keeps what is committed, as every elected leader does. The engine would otherwise
    /// take committed entries back, and fail. Lowers what the leader calls committed to what this message shows to be the
    /// same in both logs, as Raft has it ("min(leaderCommit, index of last new entry)", figure 2).
    pub(crate) fn admits(&self, request: &mut Request) -> bool {
        let log = self.log.lock();
        match request {
            Request::Vote(_) => true,
            Request::Snapshot(snapshot) => {
                snapshot.meta.last_log_id.is_none_or(|id| log.agrees(id))
            }
            Request::Append(append) => {
                let shown = append.entries.last().map(|entry| entry.log_id).or(append.prev_log_id);
                append.leader_commit = append.leader_commit.min(shown);
                let sent = append.entries.iter().map(|entry| entry.log_id);
                let known = sent.chain(append.prev_log_id).chain(append.leader_commit);
                known.into_iter().all(|id| log.agrees(id))
            }
        }
    }

    /// How often entries of this log were taken back, because another leader has others in their place.
    pub(crate) fn truncations(&self) -> u64 {
        self.log.lock().truncations
    }

    pub(crate) fn size(&self) -> LogSize {
        let log = self.log.lock();
        LogSize { entries: log.entries.len(), command_bytes: log.command_bytes }
    }
}

impl Log {
    /// Whether this id can be in one log with all that is committed here.
    fn agrees(&self, id: LogId) -> bool {
        // What was purged is in a snapshot, hence committed.
        let Some(committed) = self.committed.max(self.purged) else { return true };
        let held = self.entries.get(&id.index).filter(|_| id.index <= committed.index);
        same_log(id, committed) && held.is_none_or(|held| held.log_id == id)
    }

    fn push(&mut self, entry: Entry) {
        self.command_bytes += command_len(&entry);
        let replaced = self.entries.insert(entry.log_id.index, entry);
        self.command_bytes -= replaced.as_ref().map_or(0, command_len);
    }

    fn truncate(&mut self, index: u64) {
        self.truncations += 1;
        let gone = self.entries.split_off(&index);
        self.command_bytes -= gone.values().map(command_len).sum::<usize>();
    }

    fn purge(&mut self, upto: LogId) {
        let kept = self.entries.split_off(&upto.index.saturating_add(1));
        let gone = std::mem::replace(&mut self.entries, kept);
        self.command_bytes -= gone.values().map(command_len).sum::<usize>();
        self.purged = self.purged.max(Some(upto));
    }

    /// The entries from `start` to before `end`, as far as they are held without a hole: at least the first, and no more
    /// bytes than a message should have.
    fn read(&self, start: u64, end: u64) -> Vec<Entry> {
        let mut bytes = 0usize;
        let fits = |(held, wanted): &((&u64, &Entry), u64)| {
            let first = bytes == 0;
            bytes += command_len(held.1);
            *held.0 == *wanted && (first || bytes <= APPEND_BYTES_MAX)
        };
        let held = self.entries.range(start..end.max(start)).zip(start..);
        held.take_while(fits).map(|((_, entry), _)| entry.clone()).collect()
    }
}

fn command_len(entry: &Entry) -> usize {
    match &entry.payload {
        EntryPayload::Normal(command) => command.len(),
        EntryPayload::Blank | EntryPayload::Membership(_) => 0,
    }
}

impl RaftLogReader<Types> for LogStore {
    async fn try_get_log_entries<RB: RangeBounds<u64> + Clone + Debug + OptionalSend>(
        &mut self,
        range: RB,
    ) -> Result<Vec<Entry>, StorageError> {
        let log = self.log.lock();
        Ok(log.entries.range(range).map(|(_, entry)| entry.clone()).collect())
    }

    async fn limited_get_log_entries(
        &mut self,
        start: u64,
        end: u64,
    ) -> Result<Vec<Entry>, StorageError> {
        Ok(self.log.lock().read(start, end))
    }
}

impl RaftLogStorage<Types> for LogStore {
    type LogReader = Self;

    async fn get_log_state(&mut self) -> Result<LogState<Types>, StorageError> {
        let log = self.log.lock();
        let last = log.entries.values().next_back().map(|entry| entry.log_id);
        Ok(LogState { last_purged_log_id: log.purged, last_log_id: last.max(log.purged) })
    }

    async fn get_log_reader(&mut self) -> Self {
        self.clone()
    }

    async fn save_vote(&mut self, vote: &Vote) -> Result<(), StorageError> {
        self.log.lock().vote = Some(*vote);
        self.tenure.vote_saved(vote);
        Ok(())
    }

    async fn read_vote(&mut self) -> Result<Option<Vote>, StorageError> {
        Ok(self.log.lock().vote)
    }

    async fn save_committed(&mut self, committed: Option<LogId>) -> Result<(), StorageError> {
        self.log.lock().committed = committed;
        Ok(())
    }

    async fn read_committed(&mut self) -> Result<Option<LogId>, StorageError> {
        Ok(self.log.lock().committed)
    }

    async fn append<I>(
        &mut self,
        entries: I,
        callback: LogFlushed<Types>,
    ) -> Result<(), StorageError>
    where
        I: IntoIterator<Item = Entry> + OptionalSend,
        I::IntoIter: OptionalSend,
    {
        let mut log = self.log.lock();
        for entry in entries {
            // Under the log's lock, so that no reader sees the entry before the tenure knows of its voters.
            if let EntryPayload::Membership(membership) = &entry.payload {
                self.tenure.voters_logged(entry.get_log_id().index, membership);
            }
            log.push(entry);
        }
        drop(log);
        callback.log_io_completed(Ok(()));
        Ok(())
    }

    async fn truncate(&mut self, since: LogId) -> Result<(), StorageError> {
        let mut log = self.log.lock();
        log.truncate(since.index);
        self.tenure.truncated(since.index);
        Ok(())
    }

    async fn purge(&mut self, upto: LogId) -> Result<(), StorageError> {
        self.log.lock().purge(upto);
        Ok(())
    }
}

#[cfg(test)]
mod tests;
