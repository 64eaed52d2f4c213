use openraft::CommittedLeaderId;
use openraft::testing::{StoreBuilder, Suite};
use slotmesh_control::log::{LogMachine, RestoreError};
use slotmesh_slots::{MonoTime, NodeId};

use super::*;
use crate::machine::Machine;

struct Nothing;

impl LogMachine for Nothing {
    fn apply(&mut self, _index: u64, _command: &[u8]) -> Vec<u8> {
        Vec::new()
    }
    fn snapshot(&self) -> Vec<u8> {
        Vec::new()
    }
    fn restore(&mut self, _snapshot: &[u8]) -> Result<(), RestoreError> {
        Ok(())
    }
}

struct Builder;

impl StoreBuilder<Types, LogStore, Machine<Nothing>> for Builder {
    async fn build(&self) -> Result<((), LogStore, Machine<Nothing>), StorageError> {
        let tenure = tenure();
        let machine = Machine::new(1, Arc::new(Mutex::new(Nothing)), Arc::clone(&tenure));
        Ok(((), LogStore::new(tenure), machine))
    }
}

fn tenure() -> Arc<Tenure> {
    Arc::new(Tenure::new(NodeId::new(1).unwrap(), Arc::new(|| MonoTime::ZERO)))
}

fn entry(index: u64, bytes: usize) -> Entry {
    let log_id = LogId::new(CommittedLeaderId::new(1, 1), index);
    Entry { log_id, payload: EntryPayload::Normal(vec![0; bytes].into()) }
}

fn indexes(entries: &[Entry]) -> Vec<u64> {
    entries.iter().map(|entry| entry.log_id.index).collect()
}

#[test]
fn the_storage_does_what_the_engine_relies_on() {
    Suite::test_all(Builder).unwrap();
}

#[test]
fn a_read_is_bounded_in_bytes_but_never_empty() {
    let mut log = Log::default();
    for index in 3..9 {
        log.push(entry(index, APPEND_BYTES_MAX / 2));
    }
    log.push(entry(9, APPEND_BYTES_MAX));
    log.push(entry(11, 1));
    let read = |start, end| indexes(&log.read(start, end));
    assert_eq!(read(4, 9), [4, 5]);
    assert_eq!(read(9, 12), [9]);
    assert_eq!(read(8, 10), [8]);
    assert!(read(2, 9).is_empty(), "2 is gone: a hole");
    assert!(read(10, 12).is_empty(), "10 is missing");
    assert!(read(5, 5).is_empty());
    assert!(read(7, 5).is_empty());
}

#[test]
fn bytes_are_counted_through_every_change() {
    let mut log = Log::default();
    for index in 0..10 {
        log.push(entry(index, 10));
    }
    log.purge(entry(3, 0).log_id);
    log.truncate(8);
    log.push(entry(7, 1));
    assert_eq!(log.command_bytes, 31);
    assert_eq!(log.entries.keys().copied().collect::<Vec<_>>(), [4, 5, 6, 7]);
    log.purge(entry(50, 0).log_id);
    assert_eq!((log.command_bytes, log.purged), (0, Some(entry(50, 0).log_id)));
}
