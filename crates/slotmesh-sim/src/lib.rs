//! Seeded simulation of whole nodes in virtual time, with faults, invariants and a history checker.
//!
//! A world holds real brains and data planes. Their time, network, control log and clients are models driven by
//! one seed: processes crash, stop, restart, join, leave, fall into parts; messages are late, lost, out of order or come
//! twice. After every event the invariants of ARCHITECTURE.md are checked, at the end that all heals and that the clients'
//! histories are linearizable. The same seed gives the same run, bit by bit.
//!
//! [`explore`](explore::explore) does the opposite: every order of a few steps, in worlds of one slot.

mod clock;
pub mod explore;
pub mod history;
mod log;
mod network;
mod process;
mod scenario;
mod trace;
mod world;

use std::panic::{AssertUnwindSafe, catch_unwind};

pub use scenario::{Bug, Scenario};
use slotmesh_slots::Mistake;
pub use world::Summary;

/// Runs a scenario to its end; `print` writes the trace to standard error as it grows.
///
/// # Errors
/// Says which check failed, when, and what happened before.
pub fn run(scenario: Scenario, print: bool) -> Result<Summary, String> {
    Mistake::plant(match scenario.bug {
        Some(Bug::Planted(mistake)) => Some(mistake),
        _ => None,
    });
    let outcome = catch_unwind(AssertUnwindSafe(|| world::World::new(scenario, print).run()));
    Mistake::plant(None);
    outcome.unwrap_or_else(|panic| {
        let text = panic.downcast_ref::<String>().cloned();
        let text = text.or_else(|| panic.downcast_ref::<&str>().map(|text| (*text).to_owned()));
        Err(format!("panic: {}", text.unwrap_or_default()))
    })
}

/// The command that repeats the run of one seed.
#[must_use]
pub fn replay_command(seed: u64) -> String {
    format!("cargo run --release -p slotmesh-sim -- --seeds {seed} --trace")
}
