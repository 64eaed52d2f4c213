use std::net::SocketAddr;

use crate::gateway::Gateway;
use crate::protocol::{CommandLimits, Protocol};

/// What one connection has agreed on.
pub(crate) struct Session {
    pub(crate) id: u64,
    /// The address that the client has reached this node at.
    pub(crate) local: SocketAddr,
    pub(crate) protocol: Protocol,
    pub(crate) name: String,
    /// Whether the password was given, or none is needed.
    pub(crate) trusted: bool,
    /// Whether `READONLY` was said: reads are never redirected then.
    pub(crate) reads_anywhere: bool,
    /// The connection ends when the replies so far have left.
    pub(crate) closing: bool,
}

impl Session {
    pub(crate) fn new(id: u64, local: SocketAddr, gateway: &Gateway) -> Self {
        Self {
            id,
            local,
            protocol: Protocol::default(),
            name: String::new(),
            trusted: gateway.config.password.is_none(),
            reads_anywhere: false,
            closing: false,
        }
    }

    /// As it was at the beginning.
    pub(crate) fn reset(&mut self, gateway: &Gateway) {
        *self = Self::new(self.id, self.local, gateway);
    }

    /// How large the next command may be.
    pub(crate) fn limits(&self) -> CommandLimits {
        if self.trusted { CommandLimits::default() } else { CommandLimits::UNAUTHENTICATED }
    }
}
