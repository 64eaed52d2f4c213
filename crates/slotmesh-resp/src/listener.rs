use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use slotmesh_node::Node;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;
use tokio::task::{JoinHandle, JoinSet};
use tokio::time::timeout;

use crate::config::RespConfig;
use crate::connection::Connection;
use crate::error::RespError;
use crate::gateway::Gateway;
use crate::session::Session;

/// Pause after a failed accept: the usual reason, too many open files, does not pass at once.
const ACCEPT_PAUSE: Duration = Duration::from_millis(50);

/// How long commands may go on after a stop: above what a failover takes, of which their slots may be in need.
pub const STOP_PATIENCE: Duration = Duration::from_secs(2);

/// A listener that serves Redis clients until it is stopped or dropped.
#[derive(Debug)]
pub struct Resp {
    addr: SocketAddr,
    task: JoinHandle<()>,
    stopping: watch::Sender<bool>,
}

/// A listener whose address is known and that accepts nobody yet: for a node that announces the address when it starts.
#[derive(Debug)]
pub struct BoundResp {
    listener: TcpListener,
    addr: SocketAddr,
    config: RespConfig,
}

impl Resp {
    /// Listens and serves on the runtime this is called on, in one task per connection.
    ///
    /// # Errors
    /// When the settings cannot work or the address is taken.
    pub async fn serve(node: Node, config: RespConfig) -> Result<Self, RespError> {
        Ok(Self::bind(config).await?.serve(node))
    }

    /// Opens the socket only. Clients that connect before [`BoundResp::serve`] wait.
    ///
    /// # Errors
    /// When the settings cannot work or the address is taken.
    pub async fn bind(config: RespConfig) -> Result<BoundResp, RespError> {
        config.check()?;
        let addr = config.bind;
        let bind_error = |source: io::Error| RespError::Bind { addr, source };
        let listener = TcpListener::bind(addr).await.map_err(bind_error)?;
        let addr = listener.local_addr().map_err(bind_error)?;
        Ok(BoundResp { listener, addr, config })
    }

    /// Where it listens.
    #[must_use]
    pub fn addr(&self) -> SocketAddr {
        self.addr
    }

    /// Closes the listener, and each connection once the commands that have arrived on it are answered, at most [`STOP_PATIENCE`] later.
    /// Those that are not by then are dropped, so their writes may happen or not.
    pub async fn stop(mut self) {
        self.stopping.send_replace(true);
        // Late or not, there is nothing more to be waited for.
        let _ = timeout(STOP_PATIENCE, &mut self.task).await;
    }
}

impl Drop for Resp {
    fn drop(&mut self) {
        self.task.abort();
    }
}

impl BoundResp {
    /// Where it listens.
    #[must_use]
    pub fn addr(&self) -> SocketAddr {
        self.addr
    }

    /// Serves clients on the runtime this is called on, in one task per connection.
    #[must_use]
    pub fn serve(self, node: Node) -> Resp {
        let gateway = Arc::new(Gateway::new(node, self.config));
        let (stopping, stop) = watch::channel(false);
        let task = tokio::spawn(accept(self.listener, gateway, stop));
        Resp { addr: self.addr, task, stopping }
    }
}

async fn accept(listener: TcpListener, gateway: Arc<Gateway>, mut stop: watch::Receiver<bool>) {
    let mut connections = JoinSet::new();
    let mut next_id = 1;
    loop {
        let accepted = tokio::select! {
            accepted = listener.accept() => accepted,
            () = stopped(&mut stop) => break,
            Some(_) = connections.join_next() => {
                gateway.counters.connected.store(connections.len(), Ordering::Relaxed);
                continue;
            }
        };
        let stream = match accepted {
            Ok((stream, _)) => stream,
            Err(error) => {
                tracing::warn!(%error, "the Redis listener cannot accept");
                tokio::time::sleep(ACCEPT_PAUSE).await;
                continue;
            }
        };
        if connections.len() >= gateway.config.connections_max {
            refuse(&stream, &gateway);
            continue;
        }
        let Ok(local) = stream.local_addr() else { continue };
        let session = Session::new(next_id, local, &gateway);
        next_id += 1;
        let connection = Connection::new(stream, session, Arc::clone(&gateway));
        connections.spawn(connection.run(stop.clone()));
        gateway.counters.accepted.fetch_add(1, Ordering::Relaxed);
        gateway.counters.connected.store(connections.len(), Ordering::Relaxed);
    }
    drop(listener);
    while connections.join_next().await.is_some() {}
}

/// Waits until the listener is to stop.
pub(crate) async fn stopped(stop: &mut watch::Receiver<bool>) {
    // An error means that the handle is gone, and this task with it.
    let _ = stop.wait_for(|stop| *stop).await;
}

/// Says why, if the socket takes it at once, as a fresh one does.
fn refuse(stream: &TcpStream, gateway: &Gateway) {
    let said = stream.try_write(b"-ERR max number of clients reached\r\n");
    gateway.counters.refused.fetch_add(1, Ordering::Relaxed);
    tracing::debug!(said = said.is_ok(), "refused a Redis client: too many connections");
}
