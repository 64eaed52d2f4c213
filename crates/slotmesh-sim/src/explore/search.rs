//! Every order of a scope's actions, once: depth first, from the start again for every branch, because engines cannot be
//! copied.
//!
//! A state that was met before is not gone on from. States are told apart by the lives of their parts, which is sound because
//! the engines are deterministic. Of actions that touch nothing in common only one order is tried: sleep sets, with
//! the sets of each state kept, as in Godefroid, "Partial-Order Methods for the Verification of Concurrent Systems" (1996), §5.

use std::collections::hash_map::Entry;
use std::collections::{BTreeMap, HashMap};
use std::fmt;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::time::{Duration, Instant};

use super::cluster::{Action, Cluster};
use super::scope::Scope;
use super::watch;

/// How far a search goes.
#[derive(Clone, Copy, Debug)]
pub struct Bounds {
    /// Actions of one execution.
    pub depth: usize,
    /// Executions.
    pub executions: u64,
    /// Whether of actions that touch nothing in common one order is enough. Without it more executions come to the same states:
    /// that they do is a test.
    pub reduced: bool,
}

/// What a search did.
#[derive(Clone, Debug, Default)]
pub struct Report {
    /// Runs from the start.
    pub executions: u64,
    /// Actions carried out.
    pub actions: u64,
    /// States met, each counted once.
    pub states: u64,
    /// States in which more than one action was to be tried.
    pub choices: u64,
    /// How often the last execution left the usual order; all that leave it less often are done.
    pub deviations: usize,
    /// Actions of the longest execution.
    pub deepest: usize,
    /// Whether nothing is left to try within the scope.
    pub exhausted: bool,
    /// The first thing that was wrong.
    pub violation: Option<Violation>,
    /// How long it took.
    pub took: Duration,
}

/// What is wrong, and the shortest way there that leaving out actions finds.
#[derive(Clone, Debug)]
pub struct Violation {
    /// Which check failed.
    pub problem: String,
    /// The actions from the start of the scope.
    pub actions: Vec<String>,
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let end = if self.exhausted { "exhausted" } else { "not exhausted" };
        write!(
            f,
            "{end}; {} executions, {} actions, {} states, {} choices, at most {} actions deep, {} deviations, {:.1} s",
            self.executions,
            self.actions,
            self.states,
            self.choices,
            self.deepest,
            self.deviations,
            self.took.as_secs_f64()
        )?;
        match &self.violation {
            None => Ok(()),
            Some(Violation { problem, actions }) => {
                write!(f, "\nFAILED: {problem}\nby: {}", actions.join(", "))
            }
        }
    }
}

/// An execution to be begun.
struct Branch {
    path: Vec<Action>,
    /// What need not be tried after it.
    asleep: Vec<Action>,
    /// What was passed over once and waits until time has gone on. Only the order of the executions depends on it.
    put_off: Vec<Action>,
}

/// Executions to be begun, those first that leave the usual order least often: what is wrong shows early, and by a short way.
#[derive(Default)]
struct Open(BTreeMap<usize, Vec<Branch>>);

impl Open {
    fn push(&mut self, deviations: usize, branch: Branch) {
        self.0.entry(deviations).or_default().push(branch);
    }

    fn pop(&mut self) -> Option<(usize, Branch)> {
        let mut first = self.0.first_entry()?;
        let (deviations, branch) = (*first.key(), first.get_mut().pop());
        if first.get().is_empty() {
            first.remove();
        }
        branch.map(|branch| (deviations, branch))
    }
}

struct Search<'a> {
    scope: &'a Scope,
    bounds: Bounds,
    report: Report,
    /// What was left out in each state.
    seen: HashMap<u64, Vec<Action>>,
    open: Open,
    cut_short: bool,
}

/// Tries all that can happen in the scope, until something is wrong.
pub(super) fn search(scope: &Scope, bounds: Bounds) -> Report {
    let began = Instant::now();
    let mut open = Open::default();
    open.push(0, Branch { path: Vec::new(), asleep: Vec::new(), put_off: Vec::new() });
    let mut search = Search {
        scope,
        bounds,
        report: Report::default(),
        seen: HashMap::new(),
        open,
        cut_short: false,
    };
    let mut wrong = None;
    while wrong.is_none()
        && search.report.executions < bounds.executions
        && let Some((deviations, branch)) = search.open.pop()
    {
        search.report.deviations = deviations;
        wrong = search.execute(deviations, branch);
    }
    search.report.exhausted = wrong.is_none() && search.open.0.is_empty() && !search.cut_short;
    let mut report = search.report;
    report.violation = wrong.map(|(path, problem)| shortened(scope, path, problem));
    report.took = began.elapsed();
    report
}

impl Search<'_> {
    /// Runs to where nothing new can happen; or to what is wrong there.
    fn execute(&mut self, deviations: usize, branch: Branch) -> Option<(Vec<Action>, String)> {
        let Branch { mut path, mut asleep, mut put_off } = branch;
        self.report.executions += 1;
        let mut cluster = Cluster::start(self.scope);
        let replayed = path.len().saturating_sub(1);
        for (index, &action) in path.iter().enumerate() {
            self.report.actions += 1;
            if let Err(problem) = step(&mut cluster, action, index >= replayed) {
                path.truncate(index + 1);
                return Some((path, problem));
            }
        }
        loop {
            self.report.deepest = self.report.deepest.max(path.len());
            let mut tried = self.untried(&cluster, &asleep);
            tried.sort_by_key(|action| action.turn(put_off.contains(action)));
            let &next = tried.first()?;
            if path.len() >= self.bounds.depth {
                self.cut_short = true;
                return None;
            }
            self.report.choices += u64::from(tried.len() > 1);
            let after = |index: usize| {
                if !self.bounds.reduced {
                    return Vec::new();
                }
                let mark = cluster.footprint(tried[index]);
                let apart = |other: &&Action| cluster.footprint(**other) & mark == 0;
                asleep.iter().chain(&tried[..index]).filter(apart).copied().collect::<Vec<_>>()
            };
            for index in (1..tried.len()).rev() {
                let (mut path, mut put_off) = (path.clone(), put_off.clone());
                path.push(tried[index]);
                put_off.extend((index == 1).then_some(next));
                let branch = Branch { path, asleep: after(index), put_off };
                self.open.push(deviations + 1, branch);
            }
            asleep = after(0);
            put_off.retain(|action| *action != next);
            path.push(next);
            self.report.actions += 1;
            if let Err(problem) = step(&mut cluster, next, true) {
                return Some((path, problem));
            }
        }
    }

    /// What is to be tried in this state: all that is awake, or what slept at every visit before.
    fn untried(&mut self, cluster: &Cluster<'_>, asleep: &[Action]) -> Vec<Action> {
        match self.seen.entry(cluster.fingerprint()) {
            Entry::Vacant(entry) => {
                entry.insert(asleep.to_vec());
                self.report.states += 1;
                let mut enabled = cluster.enabled();
                enabled.retain(|action| !asleep.contains(action));
                enabled
            }
            Entry::Occupied(mut entry) => {
                let (left, awake) = entry.get().iter().partition(|action| asleep.contains(action));
                entry.insert(left);
                awake
            }
        }
    }
}

/// Carries the action out and checks what must hold; a panic of an engine is a failed check, too.
fn step(cluster: &mut Cluster<'_>, action: Action, checked: bool) -> Result<(), String> {
    let work = AssertUnwindSafe(|| {
        cluster.take(action);
        if checked { watch::check(cluster) } else { Ok(()) }
    });
    catch_unwind(work).unwrap_or_else(|panic| {
        let text = panic.downcast_ref::<String>().cloned();
        let text = text.or_else(|| panic.downcast_ref::<&str>().map(|text| (*text).to_owned()));
        Err(format!("panic: {}", text.unwrap_or_default()))
    })
}

/// Leaves out what is not needed to come to the same kind of problem.
fn shortened(scope: &Scope, path: Vec<Action>, problem: String) -> Violation {
    let kind = |problem: &str| problem.split(':').next().unwrap_or_default().to_owned();
    let wanted = kind(&problem);
    let (mut path, mut problem) = (path, problem);
    let mut at = path.len();
    while at > 0 {
        at -= 1;
        let mut shorter = path.clone();
        shorter.remove(at);
        if let Some((length, found)) = replay(scope, &shorter)
            && kind(&found) == wanted
        {
            shorter.truncate(length);
            (path, problem) = (shorter, found);
            at = at.min(path.len());
        }
    }
    Violation { problem, actions: in_words(scope, &path) }
}

/// Where the actions come to something wrong, if each can happen when it is its turn.
fn replay(scope: &Scope, path: &[Action]) -> Option<(usize, String)> {
    let mut cluster = Cluster::start(scope);
    for (index, action) in path.iter().enumerate() {
        if !cluster.enabled().contains(action) {
            return None;
        }
        if let Err(problem) = step(&mut cluster, *action, true) {
            return Some((index + 1, problem));
        }
    }
    None
}

/// The actions, the proposals among them as the commands they are.
fn in_words(scope: &Scope, path: &[Action]) -> Vec<String> {
    let mut cluster = Cluster::start(scope);
    let mut words = Vec::new();
    for action in path {
        let command = match action {
            Action::Commit(proposal) => cluster.decider.proposals.get(proposal),
            _ => None,
        };
        words.push(match command {
            Some(command) => format!("Commit({command:?})"),
            None => format!("{action:?}"),
        });
        // The last one may be what an engine panics at.
        let _known = step(&mut cluster, *action, false);
    }
    words
}
