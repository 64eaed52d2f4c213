use std::io;
use std::net::SocketAddr;

/// Why the listener does not listen. Nothing is left behind.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum RespError {
    /// The settings cannot work; a retry cannot help.
    #[error("invalid settings: {}", .problems.join("; "))]
    Config {
        /// Every problem found.
        problems: Vec<String>,
    },
    /// The address cannot be listened on; most often it is in use.
    #[error("the Redis listener cannot use {addr}: {source}")]
    Bind {
        /// The address.
        addr: SocketAddr,
        /// The system's reason.
        source: io::Error,
    },
}
