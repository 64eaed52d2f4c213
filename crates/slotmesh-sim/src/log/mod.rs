//! A model of the control log: a small Raft without disks, whose messages the world carries, delays and loses.
//!
//! What a brain is told of it ([`LogStatus`]) is computed as the port demands, so that the simulation also finds brains
//! that lean on more than the port promises.

mod entries;
mod message;
mod node;
mod reign;
#[cfg(test)]
mod tests;

pub(crate) use self::message::{LogMessage, NodeSet};
pub(crate) use self::node::{LogEvent, LogNode};
