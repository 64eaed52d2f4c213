//! Typed cache over a node: a local tier of decoded values, detached single-flight loads and codecs.
//!
//! [`Caches`] adds `cache::<K, V>("name")` to a [`Node`](slotmesh_node::Node); the builder it returns makes a [`Cache`].
//! A read looks into the local tier (L1: decoded values of this process), then asks the cluster;
//! [`Cache::get_or_load`] goes on to the caller's loader.
//!
//! Four rules hold everywhere:
//! * a load belongs to the cache, not to its caller: dropping a waiter never cancels it, and all waiters, on all nodes, share its outcome;
//! * a slow load never overwrites what was written or invalidated since it began, neither in the cluster (a conditional
//!   fill) nor in L1 (tickets, see `near`);
//! * after an acknowledged write no node's L1 serves an older value for longer than [`L1::max_staleness`]: owners of slots tell who
//!   keeps values of them, and who hears nothing of an owner asks (`slotmesh-coherence`);
//! * a fault of the cluster never fails a read that L1 or the loader can serve.
//!
//! A Redis server can be in the cluster's place (`slotmesh-redis`), with the same rules.
//!
//! ```
//! use slotmesh_cache::{CacheError, Caches};
//! use slotmesh_node::Node;
//!
//! # #[tokio::main(flavor = "current_thread")]
//! # async fn main() -> Result<(), CacheError> {
//! let node = Node::local(16 << 20);
//! let squares = node.cache::<u64, u64>("squares").build()?;
//! let loaded = squares.get_or_load(&7, |n| async move { Ok::<_, CacheError>(Some(n * n)) }).await?;
//! assert_eq!(loaded.as_deref(), Some(&49));
//! # Ok(())
//! # }
//! ```

mod backing;
mod batch;
mod behind;
mod builder;
mod cache;
mod chain;
mod change;
mod codec;
pub mod codecs;
mod envelope;
mod error;
mod flight;
mod function;
mod guard;
mod key;
mod known;
mod load;
mod loaded;
mod marks;
// For the benchmarks, which drive it without a node.
#[doc(hidden)]
pub mod near;
mod obtain;
mod question;
mod stats;
mod store;
#[cfg(feature = "testing")]
pub mod testing;
mod tier;
mod write;

// For what stands in a node's place.
#[doc(hidden)]
pub use backing::{Answer, Remote, Work};
pub use builder::{CacheBuilder, Caches, L1};
pub use cache::{Cache, Written};
pub use change::{Peeked, Tier};
pub use codec::{Codec, CodecError, DECODE_BYTES_MAX};
pub use error::CacheError;
pub use function::Function;
pub use key::CacheKey;
pub use loaded::Loaded;
pub use stats::CacheStats;
pub use store::Change;
