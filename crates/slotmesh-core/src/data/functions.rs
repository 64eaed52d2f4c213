//! Functions that run at a key's primary: named and versioned, registered by each node at its start.
//!
//! A function sees the entry under its slot's lock and says what becomes of it. What it decided is replicated, not the function, so it runs
//! once and need not come to the same on every node. Nothing can stop one that takes too long; but then what it decided is dropped, and
//! it is not run again for a while.

use std::any::Any;
use std::collections::BTreeMap;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use bytes::Bytes;
use parking_lot::RwLock;
use slotmesh_slots::MonoTime;

use crate::request::{DataError, Value};

/// How long a call of a function may take. Others wait for the slot meanwhile, and whoever else shares the thread.
pub const FUNCTION_BUDGET: Duration = Duration::from_millis(10);

/// How long a function that took longer is not run.
const REST: Duration = Duration::from_secs(1);

/// The longest reason of a failure that is told.
const REASON_BYTES_MAX: usize = 1 << 10;

/// A function, as it is registered: given the entry of a key, if there is one, and the caller's input it says what becomes of the entry. An
/// error changes nothing and goes to the caller.
pub type Function = dyn Fn(Call<'_>) -> Result<Called, String> + Send + Sync;

/// What a function is called with.
#[derive(Clone, Copy, Debug)]
#[non_exhaustive]
pub struct Call<'a> {
    /// The key.
    pub key: &'a Bytes,
    /// What it holds.
    pub entry: Option<&'a Value>,
    /// What the caller sent.
    pub input: &'a Bytes,
}

impl<'a> Call<'a> {
    /// For those that call a function by themselves.
    #[must_use]
    pub const fn new(key: &'a Bytes, entry: Option<&'a Value>, input: &'a Bytes) -> Self {
        Self { key, entry, input }
    }
}

/// What a function comes to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Called {
    /// What becomes of the entry.
    pub effect: CallEffect,
    /// What the caller is answered.
    pub output: Bytes,
}

/// What a function makes of an entry.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum CallEffect {
    /// It stays as it is.
    Keep,
    /// It has this value now, and lives for so long; `None` is for ever.
    Put {
        /// The value.
        value: Bytes,
        /// How long it lives from now on.
        ttl: Option<Duration>,
    },
    /// It is no more.
    Delete,
}

/// All that are registered.
#[derive(Default)]
pub(super) struct Functions(RwLock<BTreeMap<(Bytes, u32), Arc<Registered>>>);

struct Registered {
    run: Box<Function>,
    /// Until when it is not run, in microseconds.
    rests_until: AtomicU64,
}

impl Functions {
    pub(super) fn register(&self, name: Bytes, version: u32, run: Box<Function>) {
        let registered = Registered { run, rests_until: AtomicU64::new(0) };
        self.0.write().insert((name, version), Arc::new(registered));
    }

    /// Runs a function, under the lock of the key's slot.
    ///
    /// # Errors
    /// [`DataError::NoFunction`] and [`DataError::FunctionFailed`].
    pub(super) fn run(
        &self,
        (name, version): (&Bytes, u32),
        call: Call<'_>,
        now: &dyn Fn() -> MonoTime,
    ) -> Result<Called, DataError> {
        let registered = self.0.read().get(&(name.clone(), version)).cloned();
        let registered = registered.ok_or(DataError::NoFunction)?;
        let began = now();
        if began.as_micros() < registered.rests_until.load(Ordering::Relaxed) {
            return Err(DataError::NoFunction);
        }
        // What it was given is not changed by it, whatever it did: nothing is left half done.
        let called = catch_unwind(AssertUnwindSafe(|| (registered.run)(call)));
        let ended = now();
        if ended.saturating_since(began) > FUNCTION_BUDGET {
            registered.rests_until.store((ended + REST).as_micros(), Ordering::Relaxed);
            return Err(DataError::NoFunction);
        }
        let called =
            called.unwrap_or_else(|panic| Err(format!("it panicked: {}", message(&*panic))));
        called.map_err(|why| DataError::FunctionFailed { why: shortened(why) })
    }
}

/// What a panic says.
fn message(panic: &(dyn Any + Send)) -> &str {
    let text = panic.downcast_ref::<String>().map(String::as_str);
    text.or_else(|| panic.downcast_ref::<&str>().copied()).unwrap_or("no message")
}

fn shortened(mut why: String) -> String {
    let end = (0..=REASON_BYTES_MAX.min(why.len())).rev().find(|&end| why.is_char_boundary(end));
    why.truncate(end.unwrap_or(0));
    why
}

#[cfg(test)]
mod tests {
    use std::cell::Cell;

    use super::*;

    const NAME: Bytes = Bytes::from_static(b"double");

    fn run(
        functions: &Functions,
        version: u32,
        now: &dyn Fn() -> MonoTime,
    ) -> Result<Called, DataError> {
        let (key, input) = (Bytes::from_static(b"key"), Bytes::from_static(b"ab"));
        functions.run((&NAME, version), Call::new(&key, None, &input), now)
    }

    fn double(call: Call<'_>) -> Result<Called, String> {
        let output = Bytes::from(call.input.repeat(2));
        Ok(Called { effect: CallEffect::Keep, output })
    }

    #[test]
    fn a_function_is_found_by_name_and_version_and_the_last_one_counts() {
        let functions = Functions::default();
        let clock = || MonoTime::ZERO;
        functions.register(NAME, 1, Box::new(|_| Err("the first".to_owned())));
        assert_eq!(run(&functions, 2, &clock), Err(DataError::NoFunction));
        let why = "the first".to_owned();
        assert_eq!(run(&functions, 1, &clock), Err(DataError::FunctionFailed { why }));
        functions.register(NAME, 1, Box::new(double));
        assert_eq!(run(&functions, 1, &clock).unwrap().output, "abab");
    }

    #[test]
    fn one_that_panics_says_so_and_long_reasons_are_cut() {
        let functions = Functions::default();
        let clock = || MonoTime::ZERO;
        functions.register(NAME, 1, Box::new(|_| panic!("at {}", 7)));
        let why = "it panicked: at 7".to_owned();
        assert_eq!(run(&functions, 1, &clock), Err(DataError::FunctionFailed { why }));
        functions.register(NAME, 1, Box::new(|_| Err("é".repeat(REASON_BYTES_MAX))));
        let Err(DataError::FunctionFailed { why }) = run(&functions, 1, &clock) else {
            panic!("it fails")
        };
        assert_eq!(why.len(), REASON_BYTES_MAX);
    }

    #[test]
    fn one_that_takes_too_long_decides_nothing_and_rests() {
        let functions = Functions::default();
        functions.register(NAME, 1, Box::new(double));
        let time = Cell::new(MonoTime::from_micros(5));
        let slow = || {
            let now = time.get();
            time.set(now + FUNCTION_BUDGET + Duration::from_micros(1));
            now
        };
        assert_eq!(run(&functions, 1, &slow), Err(DataError::NoFunction));
        let ended = MonoTime::from_micros(5) + FUNCTION_BUDGET + Duration::from_micros(1);
        let at = |now: MonoTime| run(&functions, 1, &|| now);
        assert_eq!(at(ended + (REST - Duration::from_micros(1))), Err(DataError::NoFunction));
        assert!(at(ended + REST).is_ok());
    }
}
