//! Small worlds, all orders of a few steps: nothing is wrong in them, and what is wrong on purpose is found.

use slotmesh_sim::explore::{Bounds, Report, Scope, explore};
use slotmesh_slots::Mistake;

/// Longer than any execution of any scope.
const DEPTH: usize = 200;

/// Executions in this test of a scope that has more; `slotmesh-sim explore` goes on.
const EXECUTIONS: u64 = 1_000;

fn run(scope: &Scope, executions: u64, mistake: Option<Mistake>) -> Report {
    let report = explore(scope, Bounds { depth: DEPTH, executions, reduced: true }, mistake);
    println!("{} {mistake:?}: {report}", scope.name);
    report
}

/// Nothing is wrong, and either all was tried or as much as was to be.
#[track_caller]
fn clean(scope: &Scope) {
    let report = run(scope, EXECUTIONS, None);
    assert!(report.violation.is_none(), "{}: {report}", scope.name);
    assert!(report.exhausted || report.executions == EXECUTIONS, "{}: {report}", scope.name);
    assert!(report.deepest < DEPTH, "{}: {report}", scope.name);
}

/// The mistake is found, by this check.
#[track_caller]
fn found(mistake: Mistake, scope: &Scope, executions: u64, by: &str) {
    let report = run(scope, executions, Some(mistake));
    let violation = report.violation.unwrap_or_else(|| panic!("{mistake:?} was not found"));
    assert!(violation.problem.contains(by), "{mistake:?}: {}", violation.problem);
}

/// Nothing is wrong, and nothing is left to try.
#[track_caller]
fn exhausted(scope: &Scope) {
    let report = run(scope, 5_000, None);
    assert!(report.violation.is_none() && report.exhausted, "{}: {report}", scope.name);
    assert!(report.states > 500 && report.choices > 100, "{}: {report}", scope.name);
}

#[test]
fn a_copy_that_is_filled_is_counted_at_the_right_time_in_every_order() {
    exhausted(&Scope::growing());
    exhausted(&Scope::short_log());
    exhausted(&Scope::planned());
}

#[test]
fn primaries_that_end_or_are_cut_off_lose_nothing() {
    let scopes =
        [Scope::ending(), Scope::parted(), Scope::isolated(), Scope::ungoverned(), Scope::struck()];
    scopes.iter().chain(&[Scope::crossed()]).for_each(clean);
}

#[test]
fn copies_that_are_filled_and_roles_that_move_lose_nothing() {
    let rest =
        [Scope::grown(), Scope::filled_alone(), Scope::deposed(), Scope::moving(), Scope::moved()];
    rest.iter().for_each(clean);
}

#[test]
fn orders_that_are_left_out_lead_to_no_state_of_their_own() {
    for scope in [Scope::growing(), Scope::short_log()] {
        let all = Bounds { depth: DEPTH, executions: 20_000, reduced: false };
        let (some, all) = (run(&scope, 5_000, None), explore(&scope, all, None));
        println!("{}, all orders: {all}", scope.name);
        assert!(some.exhausted && all.exhausted, "{}", scope.name);
        assert_eq!(some.states, all.states, "{}", scope.name);
        assert!(some.executions < all.executions, "{}", scope.name);
    }
}

#[test]
fn every_scope_has_a_name_and_no_two_the_same() {
    for scope in Scope::all() {
        assert_eq!(Scope::named(scope.name).map(|it| it.name), Some(scope.name));
    }
}

#[test]
fn acknowledging_without_an_in_sync_replica_is_found() {
    found(Mistake::AckBeforeShrink, &Scope::ending(), 500, "I3");
    found(Mistake::AckBeforeShrink, &Scope::struck(), 1_000, "I3");
    found(Mistake::ShrinkWithoutCommit, &Scope::ending(), 500, "I3");
    found(Mistake::GrowNotAwaited, &Scope::growing(), 500, "I3");
}

#[test]
fn filling_an_in_sync_replica_where_it_stands_is_found() {
    found(Mistake::RepairInPlace, &Scope::short_log(), 1_000, "I3");
}

#[test]
fn a_failover_to_an_incomplete_copy_is_found() {
    found(Mistake::FailoverByOffset, &Scope::filled_alone(), 500, "I3");
}

#[test]
fn mistakes_in_moves_and_leases_are_found() {
    found(Mistake::DeleteBeforeCommit, &Scope::moving(), 1_000, "I3");
    found(Mistake::FreezeEndsByTimer, &Scope::moving(), 1_000, "I1/I6");
    found(Mistake::OlderGrantsForgotten, &Scope::ungoverned(), 1_000, "I1/I6");
}
