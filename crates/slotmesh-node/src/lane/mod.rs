//! The lanes: threads that carry data between nodes. Each has its own socket and runtime.

mod directory;
mod handler;
mod links;
mod peers;
mod throttle;
mod watch;

pub(crate) use self::directory::Directory;
pub(crate) use self::handler::LaneHandler;
pub(crate) use self::links::{LinkWakers, Links};
pub(crate) use self::peers::LanePeers;
pub(crate) use self::throttle::run as throttle_copies;
pub(crate) use self::watch::Watches;

/// Kinds of requests and streams on a lane.
pub(crate) mod kind {
    /// Call: operations on slots.
    pub(crate) const OPERATIONS: u8 = 1;
    /// Stream: replication, from the primary to the replica.
    pub(crate) const REPLICATION: u8 = 2;
    /// Stream: what is written, from the primary to who keeps values of its slots.
    pub(crate) const WATCH: u8 = 3;
    /// Status of a reply: the request could not be read.
    pub(crate) const MALFORMED: u8 = 1;
}
