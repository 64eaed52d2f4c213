//! Runs seeds: `slotmesh-sim --seeds A..B [--KIND] [--jobs N] [--trace] [--keep-going] [--bug NAME]`, or explores small worlds in full:
//! `slotmesh-sim explore [--scope NAME] [--executions N] [--depth N] [--bug NAME]`.

use std::collections::BTreeMap;
use std::ops::Range;
use std::process::ExitCode;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, PoisonError};
use std::thread;
use std::time::Instant;

use slotmesh_sim::explore::{Bounds, Scope, explore};
use slotmesh_sim::{Bug, Scenario, Summary, replay_command, run};
use slotmesh_slots::Mistake;

type Kind = fn(u64) -> Scenario;

/// Scenarios with a plot; without any of these everything is drawn from the seed.
const KINDS: [(&str, Kind); 14] = [
    ("--three", Scenario::three_nodes),
    ("--copies", Scenario::changing_copies),
    ("--witness", Scenario::two_and_a_witness),
    ("--reform", Scenario::reformed),
    ("--group", Scenario::reformed_group),
    ("--overtaken", Scenario::overtaken_reform),
    ("--paused", Scenario::paused),
    ("--rolling", Scenario::rolling_restart),
    ("--skewed", Scenario::skewed),
    ("--sides", Scenario::two_sides),
    ("--near", Scenario::near),
    ("--growing", Scenario::growing),
    ("--parted", Scenario::parted),
    ("--estranged", Scenario::estranged),
];

fn main() -> ExitCode {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let value = |name: &str| {
        let at = arguments.iter().position(|argument| argument == name)?;
        arguments.get(at + 1).cloned()
    };
    if arguments.iter().any(|argument| argument == "explore") {
        return explore_all(&value);
    }
    let jobs = value("--jobs").map_or(Some(1), |text| text.parse().ok());
    let (Some(seeds), Some(jobs)) = (value("--seeds").and_then(|text| parse(&text)), jobs) else {
        eprintln!(
            "usage: slotmesh-sim --seeds A..B [--jobs N] [--trace] [--keep-going] [--bug NAME] [{}]\n       \
             slotmesh-sim explore [--scope NAME] [--executions N] [--depth N] [--bug NAME]",
            KINDS.map(|(name, _)| name).join(" | ")
        );
        return ExitCode::FAILURE;
    };
    let bug = match value("--bug") {
        Some(name) => match Bug::named(&name) {
            Some(bug) => Some(bug),
            None => {
                eprintln!("there is no bug {name}, but: {:?}", Bug::all().collect::<Vec<_>>());
                return ExitCode::FAILURE;
            }
        },
        None => None,
    };
    let has = |name: &str| arguments.iter().any(|argument| argument == name);
    let kind = KINDS.iter().find(|(name, _)| has(name)).copied();
    let runs = Runs { kind, bug, trace: has("--trace"), keep_going: has("--keep-going") };
    runs.all(seeds, jobs)
}

/// How seeds are run.
struct Runs {
    kind: Option<(&'static str, Kind)>,
    bug: Option<Bug>,
    trace: bool,
    keep_going: bool,
}

/// What came of them.
#[derive(Default)]
struct Tally {
    seen: BTreeMap<String, u64>,
    clean: u64,
    failed: Vec<u64>,
    virtual_seconds: f64,
}

impl Runs {
    /// Runs all seeds on so many threads, and prints what comes of each as it ends.
    fn all(&self, seeds: Range<u64>, jobs: usize) -> ExitCode {
        let (began, next) = (Instant::now(), AtomicU64::new(seeds.start));
        let tally = Mutex::new(Tally::default());
        let work = || {
            loop {
                let seed = next.fetch_add(1, Ordering::Relaxed);
                if seed >= seeds.end {
                    return;
                }
                let outcome = run(self.scenario(seed), self.trace);
                let mut tally = tally.lock().unwrap_or_else(PoisonError::into_inner);
                if !self.count(&mut tally, seed, outcome) {
                    next.store(seeds.end, Ordering::Relaxed);
                }
            }
        };
        thread::scope(|scope| (0..jobs.max(1)).for_each(|_| drop(scope.spawn(work))));
        let Tally { seen, clean, mut failed, virtual_seconds } =
            tally.into_inner().unwrap_or_else(PoisonError::into_inner);
        failed.sort_unstable();
        println!("seen: {seen:?}");
        let took = began.elapsed().as_secs_f64();
        println!(
            "{clean} clean, failed {failed:?}; {virtual_seconds:.0} s of virtual time in {took:.1} s"
        );
        if failed.is_empty() { ExitCode::SUCCESS } else { ExitCode::FAILURE }
    }

    fn scenario(&self, seed: u64) -> Scenario {
        let scenario = self.kind.map_or(Scenario::mix as Kind, |kind| kind.1)(seed);
        match self.bug {
            Some(bug) => scenario.with_bug(bug),
            None => scenario,
        }
    }

    /// Whether to go on.
    fn count(&self, tally: &mut Tally, seed: u64, outcome: Result<Summary, String>) -> bool {
        match outcome {
            Ok(mut summary) => {
                tally.clean += 1;
                tally.virtual_seconds += summary.ran.as_secs_f64();
                for (what, times) in std::mem::take(&mut summary.seen) {
                    *tally.seen.entry(what).or_default() += times;
                }
                println!("{seed}: {summary:?}");
                true
            }
            Err(problem) => {
                let kind = self.kind.map_or(String::new(), |(name, _)| format!(" {name}"));
                println!("{seed}: FAILED: {problem}\nreplay: {}{kind}", replay_command(seed));
                tally.failed.push(seed);
                self.keep_going
            }
        }
    }
}

/// Explores one scope or all, until a check fails.
fn explore_all(value: &dyn Fn(&str) -> Option<String>) -> ExitCode {
    let number = |name: &str| value(name).map(|text| text.parse::<u64>());
    let (Ok(executions), Ok(depth)) =
        (number("--executions").unwrap_or(Ok(100_000)), number("--depth").unwrap_or(Ok(200)))
    else {
        eprintln!("--executions and --depth want numbers");
        return ExitCode::FAILURE;
    };
    let bounds = Bounds { depth: depth as usize, executions, reduced: true };
    let mistake = match value("--bug").map(|name| Bug::named(&name)) {
        None => None,
        Some(Some(Bug::Planted(mistake))) => Some(mistake),
        Some(_) => {
            eprintln!("mistakes that can be explored: {:?}", Mistake::ALL);
            return ExitCode::FAILURE;
        }
    };
    let scopes = match value("--scope") {
        None => Scope::all(),
        Some(name) => Scope::named(&name).into_iter().collect(),
    };
    if scopes.is_empty() {
        let names: Vec<_> = Scope::all().iter().map(|scope| scope.name).collect();
        eprintln!("the scopes are {names:?}");
        return ExitCode::FAILURE;
    }
    for scope in scopes {
        let report = explore(&scope, bounds, mistake);
        println!("{}: {report}", scope.name);
        if report.violation.is_some() {
            return ExitCode::FAILURE;
        }
    }
    ExitCode::SUCCESS
}

fn parse(text: &str) -> Option<Range<u64>> {
    match text.split_once("..") {
        Some((first, end)) => Some(first.parse().ok()?..end.parse().ok()?),
        None => text.parse().ok().map(|seed: u64| seed..seed + 1),
    }
}
