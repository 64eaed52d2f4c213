//! A cluster of real processes that grows from three nodes to many and shrinks to three again, under a checked load.
//!
//! `cargo run --release --example scale -- --nodes 30` starts the newcomers in groups of `--step` (3), waits each time until all copies are in
//! sync, then has as many leave one after the other, the oldest first. It prints how long each part took and a line `RESULT …`; it fails
//! when an acknowledged write was lost, a key's history is not linearizable, or a call failed.

#[path = "../tests/processes/mod.rs"]
#[allow(
    dead_code,
    unreachable_pub,
    clippy::unwrap_used,
    reason = "support of several tests, not an interface"
)]
mod processes;

use std::net::SocketAddr;
use std::process::ExitCode;
use std::time::{Duration, Instant};

use processes::load::Load;
use processes::{Process, Setup, addresses, build_binary, cluster, doors, is_whole, until_within};
use rustix::process::Signal;

const FOUNDERS: usize = 3;

const CLIENTS: usize = 6;

/// What dozens of processes on two cores may take for one step.
const PATIENCE: Duration = Duration::from_secs(180);

fn main() -> ExitCode {
    let args: Vec<String> = std::env::args().collect();
    let number = |name: &str, usual: usize| {
        let at = args.iter().position(|arg| arg == name);
        at.and_then(|at| args.get(at + 1)?.parse().ok()).unwrap_or(usual)
    };
    let (most, step) = (number("--nodes", 30).max(FOUNDERS), number("--step", 3).max(1));
    if !build_binary() {
        println!("RESULT failed: the binary does not build");
        return ExitCode::FAILURE;
    }
    let mut nodes = cluster(FOUNDERS);
    let load = Load::start(doors(&nodes), CLIENTS, "scale");
    let began = Instant::now();
    while nodes.len() < most {
        let count = step.min(most - nodes.len());
        grow(&mut nodes, count);
        println!("{} nodes after {:.1?}", nodes.len(), began.elapsed());
    }
    let grown = began.elapsed();
    load.go_to(doors(&nodes));
    while nodes.len() > FOUNDERS {
        let mut leaver = nodes.remove(0);
        load.go_to(doors(&nodes));
        leaver.signal(Signal::TERM);
        let code = leaver.exit_code();
        assert_eq!(code, Some(0), "a node that leaves ends well");
        wait_until_safe(&nodes);
        println!("{} nodes after {:.1?}", nodes.len(), began.elapsed());
    }
    let all = began.elapsed();
    let report = load.finish();
    let (violations, errors) = (report.violations(), report.errors());
    violations.iter().for_each(|violation| println!("{violation}"));
    println!("{report}");
    let verdict = if violations.is_empty() && errors == 0 { "ok" } else { "failed" };
    println!(
        "RESULT {verdict}: {FOUNDERS} to {most} nodes in {grown:.1?}, and back in {:.1?}; {} operations answered, {errors} not, {} keys not linearizable",
        all - grown,
        report.answered(),
        violations.len()
    );
    if verdict == "ok" { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}

fn grow(nodes: &mut Vec<Process>, count: usize) {
    let seeds: Vec<SocketAddr> = nodes.iter().map(|node| node.control).collect();
    let setup = Setup::new(&seeds, FOUNDERS);
    nodes.extend(addresses(count).into_iter().map(|addrs| Process::start(addrs, &setup)));
    wait_until_safe(nodes);
}

fn wait_until_safe(nodes: &[Process]) {
    until_within(PATIENCE, "all copies to be in sync", || is_whole(nodes));
}
