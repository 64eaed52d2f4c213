//! The tokio driver of a node: threads and lanes, routing client, lifecycle and the public node handle.
//!
//! [`Node::start`] opens the sockets and joins or founds a cluster; [`Node::local`] gives the same handle with no network.
//! The handle reads and writes keys wherever their slots live ([`Node::get`], [`Node::put`], [`Node::execute`]): slots
//! that this node owns are served on the caller's thread, others by one hop to their primary.
//!
//! Threads (ARCHITECTURE.md): one for the control plane (gossip, leases, consensus, decisions), so that neither bulk traffic nor
//! a blocked host application can delay a lease, and one per lane for data. The application's runtime is not used.

mod client;
mod clock;
mod coarse;
mod config;
mod control;
mod error;
mod lane;
mod node;
mod status;
#[cfg(feature = "testing")]
pub mod testing;

pub use client::{CallOptions, PutOptions};
pub use coarse::CoarseClock;
pub use config::{NodeConfig, ReadySettings};
pub use error::{ConfigError, ControlError, OpError, StartError};
pub use node::{Node, REFORM_TIMEOUT};
pub use slotmesh_control::{
    AbsenceEvent, ClusterState, Member, MemberState, NodeInfo, Progress, Rebalance, Reform,
};
pub use slotmesh_core::{
    Ack, Call, CallEffect, Called, DataError, DataStats, FUNCTION_BUDGET, Function, LoadEnd,
    LoadTerms, NodeEvent, OPS_MAX, Op, Reply, Value,
};
pub use slotmesh_slots::Token;
pub use slotmesh_store::{ByteRange, Condition, ExpireCondition};
pub use slotmesh_transport::{ClusterSecret, SecretError};
pub use status::{NodeStatus, Phase};
