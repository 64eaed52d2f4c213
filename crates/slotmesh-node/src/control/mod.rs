//! The control thread: one loop that feeds the brain and carries out what it wants.

mod driver;
mod guard;
mod handler;
mod log;
mod peers;
mod watch;

pub(crate) use self::driver::{ControlParts, Driver, Input};
pub(crate) use self::guard::Guard;
pub(crate) use self::handler::ControlHandler;
pub(crate) use self::log::LogSlot;
pub(crate) use self::peers::ControlPeers;
pub(crate) use self::watch::Watches;

/// Kinds of messages on the control endpoint.
pub(crate) mod kind {
    /// One-way: a brain's control message.
    pub(crate) const BRAIN: u8 = 1;
    /// Call: a consensus message, after the generation it belongs to.
    pub(crate) const CONSENSUS: u8 = 2;
}

/// Inputs that may wait for the control loop. Gossip of a thousand nodes brings some 5,000 datagrams a second; a full queue
/// drops what may get lost anyway.
pub(crate) const INPUTS_MAX: usize = 8_192;
