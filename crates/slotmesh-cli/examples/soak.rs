//! Five processes under a checked load, and each 20 seconds a fault: one is killed, stopped for a while, or replaced.
//!
//! `cargo run --release --example soak -- --minutes 60` prints a line a minute and a line `RESULT …` at the end; it fails when
//! an acknowledged write was lost, a key's history is not linearizable, or the cluster did not heal. `--seed` repeats the choice
//! of faults.

#[path = "../tests/processes/mod.rs"]
#[allow(
    dead_code,
    unreachable_pub,
    clippy::unwrap_used,
    reason = "support of several tests, not an interface"
)]
mod processes;

use std::net::SocketAddr;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::process::ExitCode;
use std::time::{Duration, Instant, SystemTime};

use processes::load::{Load, Report};
use processes::{Door, Process, Setup, addresses, build_binary, cluster, doors, is_whole, until};
use rustix::process::Signal;

const NODES: usize = 5;

const CLIENTS: usize = 6;

const ROUND: Duration = Duration::from_secs(60);

const BETWEEN_FAULTS: Duration = Duration::from_secs(20);

const PAUSE_MIN_MS: u64 = 500;
const PAUSE_RANGE_MS: u64 = 29_500;

fn main() -> ExitCode {
    let args: Vec<String> = std::env::args().collect();
    let number = |name: &str| {
        let at = args.iter().position(|arg| arg == name)?;
        args.get(at + 1)?.parse::<u64>().ok()
    };
    let clock = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
    let seed = number("--seed").unwrap_or(clock.as_secs());
    let minutes = number("--minutes").unwrap_or(60);
    if !build_binary() {
        println!("RESULT failed: the binary does not build");
        return ExitCode::FAILURE;
    }
    println!("soak: {minutes} minutes, --seed {seed}");
    let mut soak = Soak::new(seed);
    // What cannot be waited for any longer panics; the line at the end is wanted nevertheless.
    let healed = catch_unwind(AssertUnwindSafe(|| soak.run(minutes))).is_ok();
    let verdict = if healed && soak.violations == 0 { "ok" } else { "failed" };
    println!(
        "RESULT {verdict}: {} minutes, {} operations answered, {} not, {} faults, {} keys not linearizable, healed {healed}, --seed {seed}",
        soak.minutes, soak.answered, soak.errors, soak.faults, soak.violations
    );
    if verdict == "ok" { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}

struct Soak {
    random: u64,
    nodes: Vec<Process>,
    /// The round before, whose keys are read once more a minute later.
    last: Option<Report>,
    minutes: u64,
    answered: usize,
    errors: usize,
    faults: usize,
    violations: usize,
}

impl Soak {
    fn new(seed: u64) -> Self {
        let random = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1;
        Self {
            random,
            nodes: Vec::new(),
            last: None,
            minutes: 0,
            answered: 0,
            errors: 0,
            faults: 0,
            violations: 0,
        }
    }

    fn run(&mut self, minutes: u64) {
        self.nodes = cluster(NODES);
        while self.minutes < minutes {
            self.round();
            self.minutes += 1;
        }
        self.check_last();
    }

    /// A minute's load on keys of its own, so that histories stay short enough to be checked.
    fn round(&mut self) {
        let began = Instant::now();
        let load = Load::start(self.doors(), CLIENTS, &format!("minute-{}", self.minutes));
        let mut faults = Vec::new();
        while began.elapsed() < ROUND {
            let fault_began = Instant::now();
            faults.push(self.fault(&load));
            let rest = ROUND.saturating_sub(began.elapsed());
            load.run_for(BETWEEN_FAULTS.saturating_sub(fault_began.elapsed()).min(rest));
        }
        let report = load.finish();
        let found = self.note(&report.violations());
        self.answered += report.answered();
        self.errors += report.errors();
        self.faults += faults.len();
        let kinds = report.to_string();
        let counts = kinds.lines().next().unwrap_or_default();
        println!("minute {}: {counts}; {}; {found}", self.minutes + 1, faults.join(", "));
        self.check_last();
        self.last = Some(report);
    }

    /// Reads the keys of the round before once more: nothing of it may have been lost meanwhile.
    fn check_last(&mut self) {
        let Some(mut last) = self.last.take() else { return };
        if last.violations().is_empty() {
            last.read_all(&self.doors());
            self.note(&last.violations());
        }
    }

    fn note(&mut self, violations: &[String]) -> String {
        self.violations += violations.len();
        violations.iter().for_each(|violation| println!("{violation}"));
        if violations.is_empty() { "linearizable".to_owned() } else { "VIOLATED".to_owned() }
    }

    /// Does something bad to a node and waits until the cluster has healed; tells what and how long that took.
    fn fault(&mut self, load: &Load) -> String {
        let index = self.draw() as usize % self.nodes.len();
        let what = match self.draw() % 3 {
            0 => self.kill(index, load),
            1 => self.pause(index, load),
            _ => self.replace(index, load),
        };
        let began = Instant::now();
        until("the cluster to heal", || is_whole(&self.nodes));
        load.go_to(self.doors());
        format!("{what}, safe in {:.1?}", began.elapsed())
    }

    fn kill(&mut self, index: usize, load: &Load) -> String {
        let victim = self.nodes.remove(index);
        let leads = if victim.leads() { "kill the leader" } else { "kill" };
        victim.signal(Signal::KILL);
        load.go_to(self.doors());
        drop(victim);
        self.start();
        leads.to_owned()
    }

    fn pause(&mut self, index: usize, load: &Load) -> String {
        // Mostly short ones, so that there are more.
        let drawn = (self.draw() % PAUSE_RANGE_MS).min(self.draw() % PAUSE_RANGE_MS);
        let time = PAUSE_MIN_MS + drawn;
        self.nodes[index].signal(Signal::STOP);
        load.run_for(Duration::from_millis(time));
        self.nodes[index].signal(Signal::CONT);
        format!("stop for {time} ms")
    }

    fn replace(&mut self, index: usize, load: &Load) -> String {
        let mut leaver = self.nodes.remove(index);
        load.go_to(self.doors());
        let began = Instant::now();
        leaver.signal(Signal::TERM);
        let code = leaver.exit_code();
        assert_eq!(code, Some(0), "a node that leaves ends well");
        let left = began.elapsed();
        self.start();
        format!("replace, left in {left:.1?}")
    }

    fn start(&mut self) {
        let seeds: Vec<SocketAddr> = self.nodes.iter().map(|node| node.control).collect();
        self.nodes.push(Process::start(addresses(1)[0], &Setup::new(&seeds, NODES)));
    }

    fn doors(&self) -> Vec<Door> {
        doors(&self.nodes)
    }

    fn draw(&mut self) -> u64 {
        self.random ^= self.random << 13;
        self.random ^= self.random >> 7;
        self.random ^= self.random << 17;
        self.random >> 16
    }
}
