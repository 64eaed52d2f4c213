//! The Redis serialization protocol without IO: commands in, replies out, and replies in for clients.
//!
//! Source of the formats: the Redis documentation, "Redis serialization protocol specification" (RESP2 and RESP3).

mod command;
mod frame;
mod inline;
mod line;
mod reply;

use std::fmt;

pub use self::command::{CommandDecoder, CommandLimits};
pub use self::frame::{Frame, Protocol};
pub use self::reply::FrameDecoder;

/// What the other side sent is not the protocol; the connection cannot be used any more.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ProtocolError(pub(crate) String);

impl ProtocolError {
    pub(crate) fn new(what: impl Into<String>) -> Self {
        Self(what.into())
    }
}

impl fmt::Display for ProtocolError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Protocol error: {}", self.0)
    }
}

impl std::error::Error for ProtocolError {}
