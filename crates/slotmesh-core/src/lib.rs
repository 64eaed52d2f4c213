//! The deterministic node brain: composes store, gossip, replication and control; decides, never does IO.
//!
//! Two halves (ARCHITECTURE.md). The [`Brain`] decides: membership, table, leases, failovers, placement; one thread drives it.
//! The [`DataPlane`] serves: reads, writes, replication links; any thread calls it. The brain pushes the decided table and
//! the lease into the data plane and takes its wishes (a replica fell behind, a copy is complete) as events.
//! Requests and replies between nodes have a fixed layout ([`Request`], [`Reply`]); everything rarer goes through
//! [`wire`].

mod brain;
mod data;
mod machine;
mod message;
mod request;
pub mod wire;

pub use brain::{Brain, BrainConfig, NodeEvent, Output, ReformError};
pub use data::{
    Ack, Call, CallEffect, Called, Clock, DataConfig, DataEvent, DataPlane, DataStats, Done,
    FUNCTION_BUDGET, Function, Wakers,
};
pub use machine::ControlMachine;
pub use request::{
    DataError, LoadEnd, LoadTerms, OPS_MAX, Op, Reply, Request, Value, decode_replies,
    encode_replies,
};
pub use slotmesh_control::ELECTION_MIN;
pub use slotmesh_replication::Share;
