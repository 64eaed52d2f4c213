//! A voter that is sent whatever a broken or hostile member could send it.

// The fuzz target uses a part of it.
#![allow(dead_code, missing_docs, unreachable_pub, clippy::unwrap_used)]

use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use parking_lot::Mutex;
use slotmesh_consensus::{Consensus, ConsensusConfig, ConsensusError, RaftWire, WireError};
use slotmesh_control::log::{LogMachine, RestoreError};
use slotmesh_slots::{MonoTime, NodeId};

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

struct Nowhere;

impl RaftWire for Nowhere {
    fn call(
        &self,
        _to: NodeId,
        _body: Bytes,
        _budget: Duration,
    ) -> Pin<Box<dyn Future<Output = Result<Bytes, WireError>> + Send>> {
        Box::pin(async { Err(WireError::Timeout) })
    }
}

/// Each message of the input is one byte of length, then that many bytes; a version byte is put before each.
pub fn survives(input: &[u8]) {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_time().build().unwrap();
    runtime.block_on(async {
        let node = |number| NodeId::new(number).unwrap();
        let clock = Arc::new(|| MonoTime::ZERO);
        let (config, machine) = (ConsensusConfig::default(), Arc::new(Mutex::new(Nothing)));
        let voter =
            Consensus::start(node(1), config, Arc::new(Nowhere), machine, clock).await.unwrap();
        let mut rest = input;
        while let Some((length, tail)) = rest.split_first() {
            let (body, tail) = tail.split_at(usize::from(*length).min(tail.len()));
            let message = Bytes::from([&[1], body].concat());
            for from in 1..4 {
                let answer = voter.handle(node(from), message.clone()).await;
                assert_ne!(answer, Err(ConsensusError::Stopped), "by {message:?}");
            }
            rest = tail;
        }
        // A vote request for term 9, by node 3 without a log: answered by whatever is still alive.
        let request = Bytes::from_static(&[1, 2, 9, 3, 0, 0]);
        assert!(voter.handle(node(3), request).await.is_ok(), "the engine died");
        voter.shutdown().await;
    });
}
