//! All that can happen in the smallest worlds: three nodes, one slot, two writes, at most one crash and one partition.
//!
//! Where the seeded simulation runs whole nodes through a few of very many orders, this runs data planes, the table's
//! commands, failovers and the lease ledger, all of them the real ones, through every order of a few steps. A
//! [`Scope`] says where it starts and what may happen; [`explore`] tries it all.

mod clients;
mod cluster;
mod decider;
mod node;
mod scope;
mod search;
mod watch;
mod way;

use slotmesh_slots::Mistake;

pub use self::scope::Scope;
pub use self::search::{Bounds, Report, Violation};

/// Explores the scope within the bounds, with a mistake planted or none.
#[must_use]
pub fn explore(scope: &Scope, bounds: Bounds, mistake: Option<Mistake>) -> Report {
    Mistake::plant(mistake);
    let report = search::search(scope, bounds);
    Mistake::plant(None);
    report
}
