use crate::{File, Tree};

/// Lines of production code that one file may have; half of it is plenty.
const PRODUCTION_LINES_MAX: usize = 600;

/// Channels without a bound, in the spellings of the crates that have them.
const UNBOUNDED: &[&str] = &[concat!("unbounded_", "channel"), concat!("unbounded", "(")];

/// What marks unfinished work or a test that is switched off.
const LEFTOVERS: &[&str] = &[
    concat!("to", "do!"),
    concat!("un", "implemented!"),
    concat!("FIX", "ME"),
    concat!("XX", "X"),
    concat!("#[", "ignore"),
];

/// Where something may sleep, and why that is no hope for the best.
const SLEEPERS: &[(&str, &str)] = &[
    ("crates/slotmesh-admin/src/listener.rs", "pause after a failed accept"),
    ("crates/slotmesh-cache/src/guard.rs", "the bound after which all know of a new filter"),
    (
        "crates/slotmesh-cache/tests/guard.rs",
        "the pace of a writer and of a source; the bound itself",
    ),
    ("crates/slotmesh-cache/tests/coherence.rs", "the pace of writers; the bound itself"),
    (
        "crates/slotmesh-cache/tests/partitions.rs",
        "the pace of writers; how long cuts last, and the bound itself",
    ),
    ("crates/slotmesh-cache/tests/single_flight.rs", "a loader that takes time"),
    (
        "crates/slotmesh-cache/tests/loads.rs",
        "loaders that take time; the clock is paused or the order awaited",
    ),
    ("crates/slotmesh-cache/tests/reads_and_writes.rs", "polls until an entry has expired"),
    ("crates/slotmesh-redis/src/server.rs", "the pace of pings, and of attempts to connect"),
    ("crates/slotmesh-redis/src/servers.rs", "the pace of questions for a cluster's slots"),
    ("crates/slotmesh-redis/src/tier.rs", "pause before a call is tried again"),
    ("crates/slotmesh-redis/tests/cluster.rs", "the pace of writers and of a reshard"),
    (
        "crates/slotmesh-redis/tests/one_server.rs",
        "the pace of writers, and a loader that takes time",
    ),
    ("crates/slotmesh-redis/tests/servers/mod.rs", "polls a server for a condition"),
    ("examples/redis_tier.rs", "stands for a database"),
    ("crates/slotmesh-cache/src/testing.rs", "the delay that a test asks for"),
    ("crates/slotmesh-cli/tests/processes/load.rs", "the pace of a load"),
    ("crates/slotmesh-cli/tests/processes/mod.rs", "polls other processes for a condition"),
    (
        "crates/slotmesh-consensus/src/voter_change.rs",
        "pause before asking again while another change is under way",
    ),
    (
        "crates/slotmesh-consensus/tests/fabric/mod.rs",
        "delay of modelled messages, and polls for a condition",
    ),
    (
        "crates/slotmesh-consensus/tests/leadership.rs",
        "the clock is paused: this is how it advances",
    ),
    (
        "crates/slotmesh-consensus/tests/storm/fault.rs",
        "the clock is paused: how long a fault lasts",
    ),
    (
        "crates/slotmesh-consensus/tests/storm/mod.rs",
        "the clock is paused: this is how it advances",
    ),
    (
        "crates/slotmesh-consensus/tests/storm/voters.rs",
        "the clock is paused: this is how it advances",
    ),
    ("crates/slotmesh-consensus/tests/storm/wire.rs", "delay of modelled messages"),
    (
        "crates/slotmesh-consensus/tests/storm/world.rs",
        "the clock is paused: nodes start one after the other",
    ),
    ("crates/slotmesh-consensus/tests/voters.rs", "the clock is paused: this is how it advances"),
    (
        "crates/slotmesh-node/src/client/router.rs",
        "back-off between attempts, bounded by the call's deadline",
    ),
    ("crates/slotmesh-node/src/control/driver.rs", "the brain's one timer"),
    ("crates/slotmesh-node/src/control/guard.rs", "pause after a failed accept"),
    ("crates/slotmesh-node/src/control/watch.rs", "pause before a guard port is dialled again"),
    (
        "crates/slotmesh-node/src/lane/links.rs",
        "review of links and pause before a lost one is opened again",
    ),
    (
        "crates/slotmesh-node/src/lane/watch.rs",
        "review of streams and pause before a lost one is opened again",
    ),
    ("crates/slotmesh-node/src/lane/peers.rs", "review of connections to nodes that may be gone"),
    ("crates/slotmesh-node/src/lane/throttle.rs", "a timer whose lateness is what is measured"),
    ("crates/slotmesh-node/src/node/local.rs", "the upkeep thread of a node without a runtime"),
    (
        "crates/slotmesh-node/tests/watch.rs",
        "for how long each value stays, and polls for the last one",
    ),
    ("crates/slotmesh-node/tests/restarts.rs", "the time for which nobody is at an address"),
    ("crates/slotmesh-resp/src/listener.rs", "pause after a failed accept"),
    ("crates/slotmesh-resp/tests/commands.rs", "polls until an entry has expired"),
    (
        "crates/slotmesh-resp/tests/limits.rs",
        "polls until a connection is gone; clients that are slow",
    ),
    ("crates/slotmesh-transport/src/drive.rs", "sweep of connections"),
    ("crates/slotmesh-transport/src/peer.rs", "deadline of a call and back-off between dials"),
    (
        "crates/slotmesh-transport/tests/common/mod.rs",
        "a handler that blocks on purpose, and polls for a condition",
    ),
    ("crates/slotmesh-transport/tests/faults.rs", "polls until a port is free and a peer is back"),
    (
        "crates/slotmesh-transport/tests/world/calls.rs",
        "the clock is paused: pauses between calls, and a caller's patience",
    ),
    (
        "crates/slotmesh-transport/tests/world/faults.rs",
        "the clock is paused: time between faults, and a process that is down",
    ),
    (
        "crates/slotmesh-transport/tests/world/flows.rs",
        "the clock is paused: pauses between frames and messages",
    ),
    (
        "crates/slotmesh-transport/tests/world/recorder.rs",
        "the clock is paused: an answer that takes time",
    ),
    (
        "crates/slotmesh-transport/tests/world/rest.rs",
        "the clock is paused: pauses between probes, and the time until nothing is left",
    ),
    (
        "crates/slotmesh-transport/tests/world/scenes.rs",
        "the clock is paused: this is how it advances",
    ),
];

/// A file has more production code than fits one concept.
pub(crate) fn file_sizes(tree: &Tree) -> Vec<String> {
    let mut problems = Vec::new();
    for file in tree.rust("").filter(|file| !is_test(&file.path)) {
        let lines = production_lines(&file.text);
        if lines > PRODUCTION_LINES_MAX {
            let path = &file.path;
            problems.push(format!(
                "{path}: {lines} lines of production code, at most {PRODUCTION_LINES_MAX}"
            ));
        }
    }
    problems
}

/// A channel without a bound.
pub(crate) fn unbounded_channels(tree: &Tree) -> Vec<String> {
    find(tree.rust("crates/"), UNBOUNDED, "give the channel a named bound")
}

/// Unfinished work or a test that is switched off.
pub(crate) fn leftovers(tree: &Tree) -> Vec<String> {
    find(tree.rust(""), LEFTOVERS, "finish it, or say in ROADMAP.md what is missing")
}

/// A sleep in a file without a reason for it, or a reason without a sleep.
pub(crate) fn sleeps(tree: &Tree) -> Vec<String> {
    let mut problems = Vec::new();
    for file in tree.rust("crates/") {
        let place = file.lines().find(|(_, line)| line.contains(concat!("sleep", "(")));
        let excused = SLEEPERS.iter().any(|(path, _)| *path == file.path);
        match place {
            Some((line, _)) if !excused => problems.push(format!(
                "{}:{line}: sleeps; await a condition, or give the reason in tidy/src/sources.rs",
                file.path
            )),
            None if excused => {
                problems.push(format!("{}: sleeps no more; delete its reason", file.path));
            }
            _ => {}
        }
    }
    problems
}

fn find<'a>(files: impl Iterator<Item = &'a File>, needles: &[&str], advice: &str) -> Vec<String> {
    let mut problems = Vec::new();
    for file in files {
        for (number, line) in file.lines() {
            if let Some(needle) = needles.iter().find(|needle| line.contains(**needle)) {
                problems.push(format!("{}:{number}: `{needle}`: {advice}", file.path));
            }
        }
    }
    problems
}

fn is_test(path: &str) -> bool {
    path.split('/').any(|part| part == "tests" || part == "tests.rs")
}

/// Lines before the inline module of tests, which comes last in a file.
fn production_lines(text: &str) -> usize {
    let lines: Vec<&str> = text.lines().collect();
    let opens_tests = |pair: &[&str]| {
        pair[0] == "#[cfg(test)]" && pair[1].contains("mod ") && pair[1].ends_with('{')
    };
    lines.windows(2).position(opens_tests).unwrap_or(lines.len())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::check;

    #[test]
    fn only_production_lines_count() {
        let code = "fn f() {}\n".repeat(PRODUCTION_LINES_MAX);
        let tests = format!("{code}#[cfg(test)]\nmod tests {{\n{code}}}\n");
        check(file_sizes, &[("crates/a/src/a.rs", &tests)], &[]);
        let long = format!("#[cfg(test)]\nmod testing;\n{code}");
        check(file_sizes, &[("crates/a/src/a.rs", &long)], &["602 lines"]);
        check(file_sizes, &[("crates/a/tests/a.rs", &long)], &[]);
    }

    #[test]
    fn unbounded_channels_are_found() {
        for needle in UNBOUNDED {
            check(unbounded_channels, &[("crates/a/src/a.rs", needle)], &[needle]);
        }
        check(unbounded_channels, &[("crates/a/src/a.rs", "channel(4); Bound::Unbounded")], &[]);
    }

    #[test]
    fn leftovers_are_found() {
        for needle in LEFTOVERS {
            check(leftovers, &[("examples/a.rs", needle)], &[needle]);
        }
        check(leftovers, &[("examples/a.rs", "fn done() {}")], &[]);
    }

    #[test]
    fn sleeps_need_a_reason_and_reasons_a_sleep() {
        let sleep = concat!("tokio::time::sleep", "(pause).await;");
        check(sleeps, &[("crates/a/src/a.rs", sleep)], &["a.rs:1: sleeps"]);
        check(sleeps, &[("crates/slotmesh-node/src/control/guard.rs", sleep)], &[]);
        check(sleeps, &[("crates/slotmesh-node/src/control/guard.rs", "")], &["no more"]);
    }
}
