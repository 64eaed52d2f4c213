//! The replicated control log in production: openraft with in-memory storage behind a port. openraft types stay inside.
//!
//! [`Consensus`] is a node's handle to the log. It drives a [`LogMachine`] of the caller, speaks to the other voters
//! through a [`RaftWire`] of the caller, and says in [`Consensus::status`] what this node may claim of its own leadership.
//!
//! Log, vote and snapshot live in memory only. That is safe because a node's identity is drawn at each start and never
//! reused: a voter that restarts is another voter, so none ever forgets what it promised.
//!
//! [`LogMachine`]: slotmesh_control::log::LogMachine

mod config;
mod consensus;
mod error;
mod follower;
mod log_store;
mod machine;
mod message;
mod network;
mod tenure;
mod types;
mod voter_change;

pub use config::ConsensusConfig;
pub use consensus::{Clock, Consensus};
pub use error::{ConsensusError, WireError};
pub use log_store::LogSize;
pub use message::MESSAGE_BYTES_MAX;
pub use network::RaftWire;
