use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use rustix::net::sockopt;
use tokio::io::AsyncReadExt;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

/// The exclusive TCP listener on the number of the control port (ARCHITECTURE.md): while it is held, no other process can be
/// taken for this one, and once the process is gone, its host refuses connections.
pub(crate) struct Guard {
    listener: TcpListener,
}

/// How long a probe of another node's guard port waits.
const PROBE_TIMEOUT: Duration = Duration::from_millis(200);

/// Pause after a failed accept (out of file descriptors, for example), so that the loop does not spin.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

impl Guard {
    pub(crate) async fn bind(addr: SocketAddr) -> io::Result<Self> {
        Ok(Self { listener: TcpListener::bind(addr).await? })
    }

    /// Accepts for ever, and keeps connections until their other end closes them: they tell it that this process lives. Of
    /// more than [`KEPT_MAX`] the new ones are closed.
    pub(crate) async fn run(self) {
        let room = Arc::new(Semaphore::new(KEPT_MAX));
        loop {
            match self.listener.accept().await {
                Ok((stream, _)) => {
                    if let Ok(place) = Arc::clone(&room).try_acquire_owned() {
                        tokio::spawn(keep(stream, place));
                    }
                }
                Err(_) => tokio::time::sleep(ACCEPT_PAUSE).await,
            }
        }
    }

    /// Whether the host at this address says that nobody listens there. Silence is no answer.
    pub(crate) async fn is_refused(addr: SocketAddr) -> bool {
        let attempt = tokio::time::timeout(PROBE_TIMEOUT, TcpStream::connect(addr)).await;
        match attempt {
            Ok(Err(error)) => error.kind() == io::ErrorKind::ConnectionRefused,
            Ok(Ok(stream)) => is_with_itself(&stream, addr),
            Err(_) => false,
        }
    }
}

/// Where nobody listens, a socket that the system gave the same port is connected with itself.
pub(super) fn is_with_itself(stream: &TcpStream, addr: SocketAddr) -> bool {
    stream.local_addr().is_ok_and(|local| local == addr)
}

async fn keep(stream: TcpStream, _place: OwnedSemaphorePermit) {
    until_closed(stream).await;
}

/// Holds the connection until the other end closes it or says anything, for it has nothing to say; or until its host is gone
/// for a while.
pub(super) async fn until_closed(mut stream: TcpStream) {
    if probe_when_idle(&stream).is_ok() {
        // How it ends does not matter.
        let _ = stream.read(&mut [0]).await;
    }
}

/// Nothing is sent on the connection, so only the kernel can notice that the other host is gone.
fn probe_when_idle(stream: &TcpStream) -> rustix::io::Result<()> {
    sockopt::set_socket_keepalive(stream, true)?;
    sockopt::set_tcp_keepidle(stream, KEEPALIVE_INTERVAL)?;
    sockopt::set_tcp_keepintvl(stream, KEEPALIVE_INTERVAL)?;
    sockopt::set_tcp_keepcnt(stream, KEEPALIVES_LOST_MAX)
}

/// Connections of others kept at a time; they are not authenticated, so they must be few and cost little.
const KEPT_MAX: usize = 128;

const KEEPALIVE_INTERVAL: Duration = Duration::from_secs(15);

const KEEPALIVES_LOST_MAX: u32 = 4;
