//! In-memory store of 16384 independently lockable slots with versions, expiry, a byte budget and eviction. It knows no network and no clock.
//!
//! Every slot is a table of its own behind a lock of its own, so that it can be locked, scanned, snapshotted, dropped and
//! digested alone. All mutation goes through a [`SlotGuard`]: the caller keeps the lock while it appends the returned
//! [`Record`](slotmesh_slots::Record) to its log, so the order of the log is the order of the slot. Time is an argument
//! everywhere. Nothing here evicts or expires by itself: [`Store::victim`] and [`Store::expired`] name candidates and the
//! primary of the slot turns them into records.
//!
//! ```
//! use slotmesh_slots::{Epoch, MonoTime, Slot};
//! use slotmesh_store::{Put, Store, StoreConfig};
//!
//! let store = Store::new(StoreConfig::default());
//! let (slot, now) = (Slot::of_key(b"user:42"), MonoTime::ZERO);
//! let outcome = store.lock(slot).put(Epoch(1), Put::new("user:42", "Ada"), now)?;
//! assert!(outcome.applied && outcome.record.is_some());
//! assert_eq!(&store.get(slot, b"user:42", now).unwrap().value[..], b"Ada");
//! # Ok::<(), slotmesh_store::StoreError>(())
//! ```

mod batch;
mod blob;
mod blobs;
mod block;
mod cells;
mod condition;
mod config;
mod contents;
mod digest;
mod directory;
mod entry;
mod error;
mod evacuation;
mod eviction;
mod exchange;
mod expiry;
mod footprint;
mod garbage;
mod guard;
mod history;
mod home;
mod integer;
mod invariants;
mod lifetime;
mod newcomers;
mod occupancy;
mod outcome;
mod packed;
mod page;
mod pages;
mod range;
mod replica;
mod retired;
mod scan;
mod snapshot;
mod store;
mod transaction;
mod update;
mod view;

pub use batch::{Batch, EntryRef};
pub use condition::Condition;
pub use config::{KEY_BYTES_LIMIT, StoreConfig};
pub use contents::SlotContents;
pub use entry::Entry;
pub use error::{ApplyError, SnapshotGone, StoreError};
pub use guard::SlotGuard;
pub use lifetime::ExpireCondition;
pub use outcome::{
    DeleteOutcome, ExchangeOutcome, ExpireOutcome, IncrementOutcome, LengthOutcome, Put,
    PutOutcome, UpdateOutcome,
};
pub use range::ByteRange;
pub use scan::{Scan, ScanCursor};
pub use snapshot::{SlotSnapshot, SnapshotEntry};
pub use store::{ENTRY_OVERHEAD_BYTES, FIXED_BYTES, Store, StoreStats};
pub use transaction::{Mutation, TransactOutcome};
pub use update::{Change, Current};
pub use view::SlotView;
