use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::time::Duration;

use slotmesh_slots::NodeId;
use tokio::net::TcpStream;
use tokio::sync::mpsc;
use tokio::task::JoinHandle;
use tokio::time::{sleep, timeout};

use super::Input;
use super::guard::{Guard, is_with_itself, until_closed};

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
        if let Ok(Ok(stream)) = timeout(CONNECT_TIMEOUT, TcpStream::connect(addr)).await
            && !is_with_itself(&stream, addr)
        {
            until_closed(stream).await;
            if refuses_soon(addr).await && inputs.send(Input::Guard(node, true)).await.is_err() {
                return;
            }
        }
        sleep(RETRY_PAUSE).await;
    }
}

/// Whether the host refuses connections now, or in a moment: a process that ends may close its connections before it stops to listen.
async fn refuses_soon(addr: SocketAddr) -> bool {
    for pause in SECOND_LOOKS {
        if Guard::is_refused(addr).await {
            return true;
        }
        sleep(pause).await;
    }
    Guard::is_refused(addr).await
}

/// Pauses between the looks at a host that closed the connection.
const SECOND_LOOKS: [Duration; 3] =
    [Duration::from_millis(2), Duration::from_millis(10), Duration::from_millis(50)];

/// Members watched at a time: each takes a file descriptor at both ends.
const WATCHED_MAX: usize = 64;

const CONNECT_TIMEOUT: Duration = Duration::from_secs(3);

/// After a connection that failed or ended.
const RETRY_PAUSE: Duration = Duration::from_secs(1);

#[cfg(test)]
mod tests {
    use std::net::Ipv4Addr;

    use tokio::net::TcpListener;

    use super::*;

    /// As a process does that is killed: its files are closed one after the other.
    #[tokio::test]
    async fn an_end_is_noticed_also_where_the_connection_closes_before_the_listener() {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap();
        let (me, other) = (NodeId::from_random(1), NodeId::from_random(2));
        let addr = listener.local_addr().unwrap();
        let (inputs, mut told) = mpsc::channel(4);
        let mut watches = Watches::new(inputs);
        watches.follow(me, &BTreeMap::from([(other, addr)]));
        drop(listener.accept().await.unwrap());
        let _second_look = listener.accept().await.unwrap();
        drop(listener);
        let input = timeout(Duration::from_secs(20), told.recv()).await.unwrap();
        assert!(matches!(input, Some(Input::Guard(node, true)) if node == other));
    }
}
