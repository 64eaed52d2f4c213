//! Sans-IO replication: per-slot logs, ordered links between a primary and a replica node, in-sync acknowledgement, resync and snapshots.
//!
//! One node has one [`Ring`] of recent records, one [`Primary`] for the slots it owns and one [`Replica`] for the slots
//! it copies. Neither knows a socket, a clock or the store: the caller holds its store's slot lock, changes the slot,
//! and hands the [`Record`](slotmesh_slots::Record) over while it still holds that lock, so per-slot order is given.
//!
//! # Link
//! A link is one ordered byte stream from a primary node to a replica node, shared by all slots that the two have in
//! common. Messages are grouped into frames; every message but the opening and the heartbeats occupies one *position*.
//! The replica acknowledges positions cumulatively: everything up to there was applied, or refused by a `Nack` that
//! was sent before.
//!
//! # Attachment
//! A slot enters a link by a `Query` that carries the sender's slot epoch and a fresh *attachment* number. The replica
//! checks the epoch against its promise, raises the promise, and answers with the version it holds. From then on it takes
//! the slot's records from that attachment only. So the epoch that fences (the attachment's) is distinct from the epoch
//! of a record, and a new primary can re-send the tail of its predecessor.
//!
//! # Log matching
//! A slot's history is a chain: each record in the ring knows the version before it. A replica at version `v` holds a
//! prefix of ours exactly when `v` is our last version or the ring holds the record that follows `v`. Otherwise it
//! lacks data: it leaves the in-sync set first and is filled by a snapshot.
//!
//! # Locks
//! Caller's store slot lock, then the slot's log, then the map of links, then one link, then the ring; never the other
//! way round, and never a call out of the crate under any of ours.

mod config;
mod error;
mod event;
mod fence;
mod inbound;
mod link;
mod outbox;
mod pace;
mod peers;
mod primary;
mod replica;
mod ring;
mod role;
mod rota;
mod slot_map;
mod snapshot;
mod timers;
mod wire;

pub use config::Config;
pub use error::{AlreadyHigher, AppendError, ApplyError, LinkError};
pub use event::{Outcome, PrimaryEvent};
pub use inbound::{Filled, ReplicaAction, Ticket};
pub use pace::Share;
pub use primary::{Primary, PrimarySlot};
pub use replica::{Replica, ReplicaSlot};
pub use ring::Ring;
pub use snapshot::{SnapshotEntry, SnapshotSource, SnapshotStart, SourceGone};
