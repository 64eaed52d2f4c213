use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::time::Duration;

use slotmesh_slots::NodeId;
use tokio::net::TcpStream;
use tokio::sync::mpsc;
use tokio::task::JoinHandle;
use tokio::time::{sleep, timeout};

use super::Input;
use super::guard::{Guard, until_closed};

/// Connections to the guard ports of other members, which break the moment that a process ends: its host says so, however it
/// ended. Whose connection broke, and whose host refuses another one, has ended; all else is no evidence of anything.
pub(crate) struct Watches {
    inputs: mpsc::Sender<Input>,
    tasks: BTreeMap<NodeId, JoinHandle<()>>,
}

impl Watches {
    /// What is found out is told there.
    pub(crate) fn new(inputs: mpsc::Sender<Input>) -> Self {
        Self { inputs, tasks: BTreeMap::new() }
    }

    /// Watches these nodes and no others: of many those that come after this one, so that each has its watchers.
    pub(crate) fn follow(&mut self, me: NodeId, others: &BTreeMap<NodeId, SocketAddr>) {
        let after = others.range(me..).chain(others.range(..me));
        let wanted: BTreeMap<NodeId, SocketAddr> =
            after.take(WATCHED_MAX).map(|(node, addr)| (*node, *addr)).collect();
        self.tasks.retain(|node, task| {
            let keep = wanted.contains_key(node);
            if !keep {
                task.abort();
            }
            keep
        });
        for (node, addr) in wanted {
            let inputs = &self.inputs;
            let start = || tokio::spawn(watch(node, addr, inputs.clone()));
            self.tasks.entry(node).or_insert_with(start);
        }
    }
}

impl Drop for Watches {
    fn drop(&mut self) {
        self.tasks.values().for_each(JoinHandle::abort);
    }
}

async fn watch(node: NodeId, addr: SocketAddr, inputs: mpsc::Sender<Input>) {
    loop {
        if let Ok(Ok(stream)) = timeout(CONNECT_TIMEOUT, TcpStream::connect(addr)).await {
            until_closed(stream).await;
            let refused = Guard::is_refused(addr).await;
            if refused && inputs.send(Input::Guard(node, true)).await.is_err() {
                return;
            }
        }
        sleep(RETRY_PAUSE).await;
    }
}

/// Members watched at a time: each takes a file descriptor at both ends.
const WATCHED_MAX: usize = 64;

const CONNECT_TIMEOUT: Duration = Duration::from_secs(3);

/// After a connection that failed or ended.
const RETRY_PAUSE: Duration = Duration::from_secs(1);
