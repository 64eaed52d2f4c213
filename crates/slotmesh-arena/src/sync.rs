//! What threads meet at, from one place: `tests/interleavings.rs` compiles this crate with another such module.

pub(crate) use std::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, AtomicUsize, Ordering};

pub(crate) use parking_lot::{Mutex, MutexGuard};
