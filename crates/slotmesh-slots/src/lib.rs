//! Vocabulary of the cluster: slots, node identities, epochs, versions, the slot table and the effects that travel
//! between nodes.
//!
//! Layer 0: everything above speaks in these types, and nothing here knows a socket, a clock or a lock.

mod codec;
mod effect;
mod id;
mod mistake;
mod set;
mod slot;
mod table;
mod time;

pub use codec::{DecodeError, Reader, Writer};
pub use effect::{Answer, Class, Effect, Record, Token};
pub use id::{Epoch, Generation, NodeId, Seq, Version};
pub use mistake::Mistake;
pub use set::{SlotRanges, SlotSet};
pub use slot::{SLOT_COUNT, Slot, crc16, hash_tag};
pub use table::{NodeList, REPLICAS_MAX, SlotState, SlotTable, TableDelta};
pub use time::MonoTime;
