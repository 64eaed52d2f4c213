//! The whole transport in virtual time: real QUIC, real TLS and all of this crate, over a network and a clock of the
//! test's own.
//!
//! Each seed is a life of two to four processes that call each other, open streams and send messages, while datagrams are
//! lost, doubled, delayed and overtaken, ways are cut, and processes vanish, close and start anew under the same address.
//! A paused runtime moves its clock only when nobody has anything to do, so a minute passes in a fraction of a second,
//! and what would take longer than it may is seen to the millisecond.
//!
//! A run is not repeated bit by bit: keys, connection ids and the jitter of redialling come from the system, and the
//! draws for a datagram depend on what was sent before it. A failure names its seed, and the same seed again gives the
//! same settings, load and faults at the same times; a defect that depends on luck may need a few attempts:
//!
//! ```text
//! SLOTMESH_VIRTUAL_SEEDS=17 cargo test -p slotmesh-transport --test virtual_time
//! SLOTMESH_VIRTUAL_SEEDS=1000..2000 cargo test -p slotmesh-transport --test virtual_time -- --nocapture
//! ```
#![allow(clippy::unwrap_used, reason = "helpers of tests count as tests")]

mod world;

use std::ops::Range;
use std::sync::Arc;
use std::time::{Duration, Instant};

use world::{Tally, scenes};

/// Which seeds to run: a number, or a range such as `0..500`.
const SEEDS_VARIABLE: &str = "SLOTMESH_VIRTUAL_SEEDS";

/// As many as take a few seconds in a debug build.
const SEEDS: Range<u64> = 0..24;

/// From this many seeds on everything has to happen at least once.
const ENOUGH: u64 = SEEDS.end - SEEDS.start;

/// What no run of enough seeds may be without.
const MUST_HAPPEN: &[&str] = &[
    "call answered",
    "call answered with a status",
    "call busy at the peer",
    "call busy here",
    "call dropped",
    "call given up",
    "call lost with its connection",
    "call refused",
    "call too large",
    "call without a connection",
    "call without answer in time",
    "connected",
    "connection idle",
    "datagram arrived",
    "datagram cut off",
    "datagram duplicated",
    "datagram lost",
    "datagram reordered",
    "datagram to nobody",
    "datagram too large",
    "frame arrived",
    "message arrived",
    "pair reached again",
    "partition",
    "path narrowed",
    "partition one way",
    "peers reopened",
    "process closed",
    "process killed",
    "process left",
    "reconnected",
    "reset by a successor",
    "stream aborted",
    "stream broken",
    "stream complete",
    "stream given up",
    "unreliable message arrived",
];

#[test]
fn what_is_promised_holds_whatever_the_network_does() {
    let (seeds, tally, started) = (seeds(), Arc::new(Tally::default()), Instant::now());
    let mut virtual_time = Duration::ZERO;
    for seed in seeds.clone() {
        let outcome = world::run(seed, &tally);
        virtual_time += outcome.virtual_time;
        let (count, problems) = (outcome.violations.len(), outcome.violations.join("\n"));
        assert!(count == 0, "{SEEDS_VARIABLE}={seed}: {count} problems:\n{problems}");
    }
    let rate = virtual_time.as_secs_f64() / started.elapsed().as_secs_f64();
    println!("{virtual_time:?}, {rate:.0} virtual seconds a second");
    println!("{}", tally.lines().join("\n"));
    if seeds.end - seeds.start >= ENOUGH {
        let missing: Vec<_> = MUST_HAPPEN.iter().filter(|what| tally.count(what) == 0).collect();
        assert!(missing.is_empty(), "never happened, so it was not tested: {missing:?}");
    }
}

#[test]
fn an_idle_connection_stays_for_an_hour_and_costs_its_keep_alive() {
    scenes::an_idle_hour();
}

#[test]
fn a_call_ends_with_the_connection_when_its_peer_vanishes() {
    scenes::a_peer_that_vanishes();
}

#[test]
fn an_address_without_answer_is_asked_ever_more_rarely_and_for_ever() {
    scenes::an_hour_without_a_peer();
}

#[test]
fn a_peer_that_dials_is_dialled_back_at_once() {
    scenes::a_peer_that_calls_back();
}

#[test]
fn who_comes_back_as_another_process_is_reached_at_once() {
    scenes::a_peer_that_comes_back_as_another();
}

fn seeds() -> Range<u64> {
    let Ok(text) = std::env::var(SEEDS_VARIABLE) else { return SEEDS };
    let number = |text: &str| text.trim().parse::<u64>();
    let range = match text.split_once("..") {
        Some((first, end)) => number(first).and_then(|first| Ok(first..number(end)?)),
        None => number(&text).map(|seed| seed..seed + 1),
    };
    range.unwrap_or_else(|error| panic!("{SEEDS_VARIABLE}={text}: {error}"))
}
