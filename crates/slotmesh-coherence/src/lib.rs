//! Coherence of local tiers: how a node that keeps values of slots which others own learns that they were overwritten,
//! and how it knows for how long it may go without hearing so.
//!
//! A node reads a value that it wants to keep with a [`Watcher`]. The slot's primary notes the watcher, under the slot's lock
//! and before it reads ([`Publisher::subscribe`]). From then on every write to the slot is put, under the same lock, into the
//! watcher's stream ([`Publisher::publish`]), also where the key had no entry. One ordered stream per pair of nodes carries the
//! invalidations of all their slots, and the echoes of the watcher's pings behind them. What a node keeps of its own slots is
//! invalidated by the write itself ([`Publisher::attach`]).
//!
//! **The bound.** A value is served only as long as the last echoed ping is young: it was *sent* less than `max_staleness`
//! ago, by the watcher's own clock. Say a value was overwritten and that was acknowledged at time T. A ping that was sent
//! after T finds the invalidation in the stream already, so its echo comes behind it. Therefore whoever still serves the old
//! value rests on a ping sent before T, and stops at T + `max_staleness`, whether messages are delayed, lost, cut off in
//! one direction, or the node was stopped. What makes it so:
//!
//! * a primary echoes only while it holds its lease, and a lease ends before anybody else may serve its slots;
//! * a primary that stops serving a slot, or begins to hand it over, says so in the stream first ([`Publisher::drop_slot`]), and
//!   the next owner serves later than that;
//! * a watcher whose stream ends drops all that it keeps of that peer, and what was read for an earlier stream is not taken in
//!   ([`Subscriber::admit`]);
//! * a primary that cannot keep up with a watcher ends its stream: no echo comes then, and nothing waits for anybody.
//!
//! Dropping is raising a number: each slot has a generation, a value carries the one that it came with, and values of
//! another generation are not served. Values, their index and their eviction are the caller's ([`Sink`]).
//!
//! Sans-IO: bytes in, bytes out, time is an argument. A publisher and a subscriber are called by many threads.

mod frame;
mod hash;
mod publisher;
mod streams;
mod subscriber;

pub use self::frame::FrameError;
pub use self::hash::{KeyHasher, key_hash};
pub use self::publisher::{Publisher, Wake};
pub use self::subscriber::{Readable, Sink, Stamp, Subscriber, Ticket};

use slotmesh_slots::NodeId;

/// Who wants to hear of writes, and on which of its streams.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub struct Watcher {
    /// The node.
    pub node: NodeId,
    /// Number of its stream to the primary; each stream has a higher one than those before.
    pub stream: u64,
}
