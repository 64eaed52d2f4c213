//! After the storm: everything works again, and then ends without a trace.

use std::sync::Arc;
use std::time::Duration;

use rand::Rng;
use rand::rngs::StdRng;
use slotmesh_transport::{BusyAt, CallError};
use tokio::task::JoinSet;
use tokio::time::Instant;

use super::World;
use super::calls::{self, Plan};
use super::net::Weather;

/// Longest pause between two attempts to connect.
const BACKOFF_MAX: Duration = Duration::from_secs(30);

/// How long QUIC may take to see that a path bears smaller packets than it did, for a connection that somebody happened
/// to hold when all were given up.
const NARROWED: Duration = Duration::from_secs(240);

/// Longest time that anything of the load takes by itself: a call that waits for its answer, or one that is held.
const LOAD_ENDS_WITHIN: Duration = Duration::from_secs(20);

/// How long anything waits after a connection's end until QUIC has forgotten it: three probe time-outs, at what the
/// worst weather makes of them.
const DRAINING: Duration = Duration::from_secs(10);

/// Heals the network but for paths that have become narrower, where only new connections are sure to get through: QUIC
/// may take minutes to see it when acknowledgements ride on packets that vanish, and no time-out of ours sees it at all,
/// since small packets arrive. Each process must reach each other one again within the time that the settings allow for.
pub async fn recover(world: &Arc<World>, rng: &mut StdRng) {
    world.net.heal();
    world.net.set_weather(Weather::calm(world.path_mtu()));
    if world.is_narrowed() {
        (0..world.places()).for_each(|place| world.process(place).reopen());
    }
    let redials = rng.random_bool(0.5);
    let mut probes = JoinSet::new();
    for (from, to) in pairs(world) {
        let process = world.process(from);
        process.refresh(world.whereabouts(to));
        if redials {
            process.redial();
        }
        probes.spawn(reach(world.clone(), from, to, !redials));
    }
    while let Some(ended) = probes.join_next().await {
        world.ledger.expect(ended.is_ok(), || format!("a probe panicked: {ended:?}"));
    }
}

/// Calls until an answer comes.
async fn reach(world: Arc<World>, from: u8, to: u8, with_pause: bool) {
    let (config, started) = (&world.config, Instant::now());
    // A connection may have to be found dead, a pause to pass, an attempt to fail whose first packets were lost.
    let pause = if with_pause { BACKOFF_MAX } else { Duration::from_secs(1) };
    let found_dead = config.idle_timeout + config.keep_alive_interval;
    let narrowed = if world.is_narrowed() { NARROWED } else { Duration::from_secs(1) };
    let limit = found_dead + config.handshake_timeout * 2 + pause + narrowed;
    let mut rng = rand::SeedableRng::seed_from_u64(world.seed());
    while started.elapsed() < limit {
        let (process, at) = (world.process(from), world.whereabouts(to));
        process.refresh(at);
        let handle = process.handle(at, &mut rng);
        let plan = Plan { budget: Duration::from_secs(1), ..Plan::held(0) };
        let called = calls::call(world.clone(), process, at, handle, plan).await;
        if matches!(called, Some(Ok(_))) {
            return world.ledger.tally.note("pair reached again");
        }
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    let handle = world.process(from).handle(world.whereabouts(to), &mut rng);
    let why = handle.peer.last_error();
    world.ledger.violation(format!("{from} does not reach {to} within {limit:?}: {why:?}"));
}

/// Lets the load end by itself.
pub async fn stop_load(world: &Arc<World>) {
    for place in 0..world.places() {
        world.process(place).stop();
    }
    let mut load = std::mem::take(&mut *world.tasks.lock());
    let ends = async {
        while let Some(ended) = load.join_next().await {
            world.ledger.expect(ended.is_ok(), || format!("the load panicked: {ended:?}"));
        }
    };
    let ended = tokio::time::timeout(LOAD_ENDS_WITHIN + world.config.idle_timeout, ends).await;
    world.ledger.expect(ended.is_ok(), || "the load does not end".into());
    // Answers that nobody waits for any more are still to be given.
    tokio::time::sleep(Duration::from_secs(3)).await;
    for handler in &*world.handlers.lock() {
        world.ledger.expect(handler.owed() == 0, || format!("{} replies are owed", handler.owed()));
    }
}

/// By now nobody may hold a connection but the one to each other place that it uses.
pub async fn check_connections(world: &Arc<World>) {
    tokio::time::sleep(world.config.idle_timeout + DRAINING).await;
    let others = usize::from(world.places()) - 1;
    for place in 0..world.places() {
        let process = world.process(place);
        let accepted = process.endpoint.accepted_connections();
        let open = process.handler.open_connections() as usize;
        world.ledger.expect((accepted, open) == (others, 2 * others), || {
            format!("{place} holds {accepted} accepted and {open} open connections, not {others}")
        });
    }
}

/// One call more than may be in flight: exactly as many as can be served get an answer, on every connection, whatever it
/// has been through.
pub async fn check_permits(world: &Arc<World>, rng: &mut StdRng) {
    for (from, to) in pairs(world) {
        let mut calls = JoinSet::new();
        for _ in 0..=world.config.in_flight_max {
            let (process, at) = (world.process(from), world.whereabouts(to));
            let handle = process.handle(at, rng);
            calls.spawn(calls::call(world.clone(), process, at, handle, Plan::held(100)));
        }
        let outcomes = calls.join_all().await;
        let count = |wanted: fn(&CallError) -> bool| {
            let errors = outcomes.iter().flatten().filter_map(|outcome| outcome.as_ref().err());
            errors.filter(|error| wanted(error)).count()
        };
        let here = count(|error| *error == CallError::Busy(BusyAt::Here));
        let peer = count(|error| *error == CallError::Busy(BusyAt::Peer));
        let answered = outcomes.iter().flatten().filter(|outcome| outcome.is_ok()).count();
        let (in_flight, serving) = (world.config.in_flight_max, world.config.serving_max);
        world.ledger.expect((here, peer, answered) == (1, in_flight - serving, serving), || {
            format!("{from} to {to}: {here} busy here, {peer} there, {answered} answered")
        });
    }
}

/// Ends all processes, some in an orderly way; nothing of them may stay.
pub async fn end(world: &Arc<World>, rng: &mut StdRng) {
    let processes = std::mem::take(&mut *world.running.lock());
    for process in processes {
        if rng.random_bool(0.5) {
            process.close(&world.ledger, rng.random_bool(0.5)).await;
        }
    }
    tokio::time::sleep(world.config.idle_timeout + DRAINING).await;
    for handler in std::mem::take(&mut *world.handlers.lock()) {
        let (open, holders) = (handler.open_connections(), Arc::strong_count(&handler));
        world.ledger.expect(open == 0 && holders == 1, || {
            format!("after the end {open} connections are open and {holders} hold the handler")
        });
    }
}

fn pairs(world: &World) -> Vec<(u8, u8)> {
    let all = 0..world.places();
    let others = |from| all.clone().filter(move |to| *to != from).map(move |to| (from, to));
    all.clone().flat_map(others).collect()
}
