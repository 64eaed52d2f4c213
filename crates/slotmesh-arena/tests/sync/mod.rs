//! The crate's `sync` for the scheduler. Its own atomics are larger than what they stand for, which matters in a block: these are the
//! standard library's, and another thread may go on before each use.

use std::sync::TryLockError;
use std::sync::atomic as real;

pub(crate) use std::sync::atomic::Ordering;

pub(crate) use shuttle::sync::MutexGuard;

/// Lets another thread go on.
fn switch() {
    shuttle::thread::yield_now();
}

#[derive(Debug, Default)]
pub(crate) struct Mutex<T>(shuttle::sync::Mutex<T>);

impl<T> Mutex<T> {
    pub(crate) fn new(value: T) -> Self {
        Self(shuttle::sync::Mutex::new(value))
    }

    pub(crate) fn lock(&self) -> MutexGuard<'_, T> {
        self.0.lock().expect("nobody panicked")
    }

    pub(crate) fn try_lock(&self) -> Option<MutexGuard<'_, T>> {
        match self.0.try_lock() {
            Ok(guard) => Some(guard),
            Err(TryLockError::WouldBlock) => None,
            Err(TryLockError::Poisoned(_)) => panic!("somebody panicked"),
        }
    }
}

macro_rules! atomic {
    ($name:ident, $value:ty) => {
        #[derive(Debug, Default)]
        #[repr(transparent)]
        pub(crate) struct $name(real::$name);

        impl $name {
            pub(crate) const fn new(value: $value) -> Self {
                Self(real::$name::new(value))
            }

            pub(crate) fn load(&self, order: Ordering) -> $value {
                switch();
                self.0.load(order)
            }

            pub(crate) fn store(&self, value: $value, order: Ordering) {
                switch();
                self.0.store(value, order);
            }

            pub(crate) fn compare_exchange(
                &self,
                old: $value,
                new: $value,
                success: Ordering,
                failure: Ordering,
            ) -> Result<$value, $value> {
                switch();
                self.0.compare_exchange(old, new, success, failure)
            }
        }
    };
}

macro_rules! number {
    ($name:ident, $value:ty) => {
        atomic!($name, $value);

        impl $name {
            pub(crate) fn fetch_add(&self, value: $value, order: Ordering) -> $value {
                switch();
                self.0.fetch_add(value, order)
            }

            pub(crate) fn fetch_sub(&self, value: $value, order: Ordering) -> $value {
                switch();
                self.0.fetch_sub(value, order)
            }
        }
    };
}

atomic!(AtomicBool, bool);
number!(AtomicU32, u32);
number!(AtomicU64, u64);
number!(AtomicUsize, usize);
