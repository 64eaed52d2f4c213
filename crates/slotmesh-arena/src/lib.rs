//! Memory of a store in blocks of its own, counted to the byte, that can be moved so that it goes back to the system.
//!
//! A general allocator serves a store badly: what grows in small steps leaves holes between what stays, sizes that go out
//! of use leave memory that nobody else gets, and what it keeps for itself shows in no count. Here blocks of one size class lie
//! together in **spans** of 64 KiB (slabs; Bonwick, USENIX Summer 1994), and what uses them can be asked to move: a span that few
//! blocks are left in is **evacuated** and then serves another class or goes back to the system. For that each block begins with its
//! **owner**, a word by which the caller finds whose it is.
//!
//! * [`Buffer`]: bytes that one owner may write.
//! * [`Shared`]: bytes that do not change, read by any number of holders; the last of them frees the block.
//! * [`Evacuation`]: the blocks to move next.
//!
//! Memory is mapped two megabytes at a time and, once there is enough of it, in huge pages: a read of a large store then misses
//! the processor's address cache less often. A block holds the arena's memory alive, whoever outlives whom.
//!
//! A few blocks of every size would take several times their own memory in spans, so who knows that there are only few may have them
//! come from the global allocator: [`Arena::use_heap`].
//!
//! The only crate with unsafe code. It is in `region` (mapping), `span` (blocks of a span), `heap` (the global allocator's), `buffer`
//! and `shared` (handles); `tests/interleavings.rs` runs its threads under a scheduler.
//!
//! ```
//! use slotmesh_arena::{Arena, Owner, Shared};
//!
//! let arena = Arena::new();
//! let mut buffer = arena.buffer(100, Owner::new(7));
//! buffer[..5].copy_from_slice(b"hello");
//! let shared = arena.share(b"hello", 42, Owner::new(8)).expect("it is small");
//! assert_eq!((&buffer[..5], shared.word()), (&shared[..], 42));
//! ```

mod arena;
mod buffer;
mod class;
mod compact;
mod evacuation;
mod heap;
mod list;
mod owner;
mod region;
mod shared;
mod span;
mod spare;
mod sync;
#[cfg(test)]
mod tests;

pub use arena::Arena;
pub use buffer::Buffer;
pub use compact::Compact;
pub use evacuation::{Evacuation, SpanId};
pub use owner::Owner;
pub use shared::Shared;
