use std::io;
use std::net::SocketAddr;

use bytes::Bytes;

use crate::disconnect::{Disconnect, RefusedReason};
use crate::identity::IdentityError;

/// Why a call, message, datagram or stream failed. Each variant says whether the peer may have acted on it.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum CallError {
    /// A limit is reached; nothing was executed, and a later retry can succeed.
    #[error("too much is under way {0}")]
    Busy(BusyAt),
    /// The budget ran out. The request may have been executed, be executed later, or never arrive.
    #[error("no answer within the budget")]
    Deadline,
    /// There is no connection; nothing was sent. A retry can succeed once there is one.
    #[error("not connected: {0}")]
    NotConnected(Disconnect),
    /// The connection broke while the answer was awaited. The request may have been executed.
    #[error("the connection broke before the answer: {0}")]
    Lost(Disconnect),
    /// The two processes do not belong together; nothing was sent. A retry cannot help until one of them changes.
    #[error("refused: {0}")]
    Refused(RefusedReason),
    /// The body is above the limit; nothing was sent.
    #[error("{bytes} bytes are above the limit of {max}")]
    TooLarge {
        /// Size of the body.
        bytes: usize,
        /// The limit.
        max: usize,
    },
    /// The peer gave the request up without an answer. It may have been executed.
    #[error("the peer gave no answer")]
    Dropped,
    /// The peer answered with a status of the application, which says whether anything happened.
    #[error("the peer answered with status {0}")]
    Status(u8, Bytes),
}

impl CallError {
    /// Whether the peer may have acted on the request although the call failed. A status is an answer: the application
    /// decides what it means, so it counts as acted upon.
    #[must_use]
    pub const fn may_have_executed(&self) -> bool {
        matches!(self, Self::Deadline | Self::Lost(_) | Self::Dropped | Self::Status(..))
    }

    /// The error of a call that found no connection, for this reason.
    pub(crate) fn unconnected(why: Disconnect) -> Self {
        match why {
            Disconnect::Refused(RefusedReason::Busy) => Self::NotConnected(why),
            Disconnect::Refused(reason) => Self::Refused(reason),
            why => Self::NotConnected(why),
        }
    }
}

/// Whose limit a call ran into.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum BusyAt {
    /// This side's: calls in flight or queued bytes to this peer.
    Here,
    /// The peer's: requests that it serves for this connection.
    Peer,
}

impl std::fmt::Display for BusyAt {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Self::Here => "to this peer",
            Self::Peer => "at the peer",
        })
    }
}

/// Why an endpoint could not be opened.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum BindError {
    /// The socket could not be opened.
    #[error("cannot listen on {}: {source}", port_or_host(*addr))]
    Socket {
        /// The address that was asked for.
        addr: SocketAddr,
        /// The system's reason.
        source: io::Error,
    },
    /// The call was not made inside a tokio runtime.
    #[error("an endpoint must be opened inside a tokio runtime")]
    NoRuntime,
    /// The settings contradict themselves; all problems at once.
    #[error("invalid transport settings: {}", .0.join("; "))]
    Config(Vec<String>),
    /// The identity cannot serve a QUIC endpoint.
    #[error(transparent)]
    Identity(#[from] IdentityError),
    /// The hello names another node than the identity's certificate, or a field is too long.
    #[error("invalid hello: {0}")]
    Hello(&'static str),
}

/// The address, without the port where the system was to choose it.
fn port_or_host(addr: SocketAddr) -> String {
    if addr.port() == 0 { addr.ip().to_string() } else { addr.to_string() }
}
