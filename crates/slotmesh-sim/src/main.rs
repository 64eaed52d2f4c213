//! Runs seeds: `slotmesh-sim --seeds A..B [--KIND] [--trace] [--keep-going] [--bug NAME]`, or explores small worlds in full:
//! `slotmesh-sim explore [--scope NAME] [--executions N] [--depth N] [--bug NAME]`.

use std::collections::BTreeMap;
use std::process::ExitCode;
use std::time::Instant;

use slotmesh_sim::explore::{Bounds, Scope, explore};
use slotmesh_sim::{Bug, Scenario, replay_command, run};
use slotmesh_slots::Mistake;

type Kind = fn(u64) -> Scenario;

/// Scenarios with a plot; without any of these everything is drawn from the seed.
const KINDS: [(&str, Kind); 12] = [
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
];

fn main() -> ExitCode {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let has = |name: &str| arguments.iter().any(|argument| argument == name);
    let value = |name: &str| {
        let at = arguments.iter().position(|argument| argument == name)?;
        arguments.get(at + 1).cloned()
    };
    if has("explore") {
        return explore_all(&value);
    }
    let Some(seeds) = value("--seeds").and_then(|text| parse(&text)) else {
        eprintln!(
            "usage: slotmesh-sim --seeds A..B [--trace] [--keep-going] [--bug NAME] [{}]\n       \
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
    let mut seen: BTreeMap<String, u64> = BTreeMap::new();
    let (mut clean, mut failed, mut virtual_seconds) = (0u64, Vec::new(), 0.0);
    let began = Instant::now();
    for seed in seeds {
        let scenario = KINDS
            .iter()
            .find(|(name, _)| has(name))
            .map_or(Scenario::mix as Kind, |kind| kind.1)(seed);
        let scenario = match bug {
            Some(bug) => scenario.with_bug(bug),
            None => scenario,
        };
        match run(scenario, has("--trace")) {
            Ok(mut summary) => {
                clean += 1;
                virtual_seconds += summary.ran.as_secs_f64();
                for (what, times) in std::mem::take(&mut summary.seen) {
                    *seen.entry(what).or_default() += times;
                }
                println!("{seed}: {summary:?}");
            }
            Err(problem) => {
                println!("{seed}: FAILED: {problem}\nreplay: {}", replay_command(seed));
                failed.push(seed);
                if !has("--keep-going") {
                    break;
                }
            }
        }
    }
    println!("seen: {seen:?}");
    let took = began.elapsed().as_secs_f64();
    println!(
        "{clean} clean, failed {failed:?}; {virtual_seconds:.0} s of virtual time in {took:.1} s"
    );
    if failed.is_empty() { ExitCode::SUCCESS } else { ExitCode::FAILURE }
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

fn parse(text: &str) -> Option<std::ops::Range<u64>> {
    match text.split_once("..") {
        Some((first, end)) => Some(first.parse().ok()?..end.parse().ok()?),
        None => text.parse().ok().map(|seed: u64| seed..seed + 1),
    }
}
