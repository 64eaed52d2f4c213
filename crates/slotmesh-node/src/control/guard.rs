use std::io;
use std::net::SocketAddr;
use std::time::Duration;

use tokio::net::{TcpListener, TcpStream};

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

    /// Accepts and closes, for ever.
    pub(crate) async fn run(self) {
        loop {
            match self.listener.accept().await {
                Ok((stream, _)) => drop(stream),
                Err(_) => tokio::time::sleep(ACCEPT_PAUSE).await,
            }
        }
    }

    /// Whether the host at this address says that nobody listens there. Silence is no answer.
    pub(crate) async fn is_refused(addr: SocketAddr) -> bool {
        let attempt = tokio::time::timeout(PROBE_TIMEOUT, TcpStream::connect(addr)).await;
        matches!(attempt, Ok(Err(error)) if error.kind() == io::ErrorKind::ConnectionRefused)
    }
}
