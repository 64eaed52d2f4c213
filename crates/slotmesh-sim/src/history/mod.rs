//! What the clients saw, and whether one copy of each key could have answered like that.
//!
//! Linearizability is local, so each key is checked alone (Herlihy and Wing 1990), by the search of Wing and Gong with
//! Lowe's memory of visited configurations.

mod edit;
mod lossy;

use std::collections::HashSet;
use std::fmt::Debug;
use std::hash::Hash;

pub use self::edit::{Edit, Only, Seen, Span};
pub use self::lossy::Lossy;

/// What clients ask of a key, what they are told, and what the key holds.
pub trait Asked: Clone + PartialEq + Debug {
    /// What a client is told.
    type Answer: Clone + PartialEq + Debug;
    /// What the key holds; the default is nothing.
    type Held: Clone + Default + Eq + Hash;

    /// What the key holds afterwards, if the answer fits what it held before.
    fn step(&self, told: Option<&Self::Answer>, held: &Self::Held) -> Option<Self::Held>;

    /// Whether it changes nothing, so that nothing follows from one without an answer.
    fn is_read(&self) -> bool;
}

/// What a client asked for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Action {
    /// Tells what the key holds.
    Get,
    /// Puts the value.
    Put(i64),
    /// Puts the value if the key holds nothing.
    PutAbsent(i64),
    /// Puts the second value if the key holds the first one.
    Cas(i64, i64),
    /// Removes what the key holds.
    Delete,
    /// Adds to what the key holds, nothing being zero.
    Increment(i64),
    /// Puts the value and tells the one before.
    Swap(i64),
    /// Deletes the value and tells it.
    Take,
}

/// What it was told.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Answer {
    /// What the key holds, or held before it was changed.
    Value(Option<i64>),
    /// An unconditional write happened, and whether the key held something before.
    Done {
        /// Whether the key held something.
        existed: bool,
    },
    /// A write happened; what was before is not told.
    Happened,
    /// Whether the condition held.
    Applied(bool),
    /// What the key holds after an increment.
    Sum(i64),
}

impl Asked for Action {
    type Answer = Answer;
    type Held = Option<i64>;

    fn step(&self, told: Option<&Answer>, held: &Option<i64>) -> Option<Option<i64>> {
        let held = *held;
        let (answer, after) = match *self {
            Self::Get => (Answer::Value(held), held),
            Self::Put(value) => (Answer::Done { existed: held.is_some() }, Some(value)),
            Self::Delete => (Answer::Done { existed: held.is_some() }, None),
            Self::PutAbsent(value) => {
                (Answer::Applied(held.is_none()), Some(held.unwrap_or(value)))
            }
            Self::Cas(expected, value) => {
                let fits = held == Some(expected);
                (Answer::Applied(fits), if fits { Some(value) } else { held })
            }
            Self::Increment(by) => {
                let sum = held.unwrap_or(0) + by;
                (Answer::Sum(sum), Some(sum))
            }
            Self::Swap(value) => (Answer::Value(held), Some(value)),
            Self::Take => (Answer::Value(held), None),
        };
        told.is_none_or(|told| *told == answer || *told == Answer::Happened).then_some(after)
    }

    fn is_read(&self) -> bool {
        *self == Self::Get
    }
}

/// One operation on a key. Without an answer its outcome is unknown: it may have happened at any time since, or never.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Operation<A: Asked = Action> {
    /// When it was asked for, by the clock that all clients share.
    pub invoked: u64,
    /// When it was answered, and how.
    pub returned: Option<(u64, A::Answer)>,
    /// What was asked for.
    pub action: A,
}

impl<A: Asked> Operation<A> {
    fn step(&self, held: &A::Held) -> Option<A::Held> {
        self.action.step(self.returned.as_ref().map(|(_, answer)| answer), held)
    }
}

/// Configurations looked at before the search gives up: far more than correct histories need, of which one with eight operations of unknown
/// outcome took more than 400,000.
const CONFIGURATIONS_MAX: usize = 4_000_000;

/// Where the explanations begin.
const ROOT: usize = 0;

/// Whether one copy of the key, empty at first, can have given these answers.
///
/// # Errors
/// When no order of the operations explains the answers; the text says where the longest explanation ends.
pub fn check<A: Asked>(operations: &[Operation<A>]) -> Result<(), String> {
    let mut operations: Vec<Operation<A>> = operations
        .iter()
        .filter(|operation| operation.returned.is_some() || !operation.action.is_read())
        .cloned()
        .collect();
    operations.sort_by_key(|operation| operation.invoked);
    Search::new(operations).run()
}

/// Which operations are explained, and what the key holds then.
#[derive(Clone, PartialEq, Eq, Hash)]
struct Configuration<H> {
    explained: Vec<u64>,
    held: H,
}

impl<H> Configuration<H> {
    fn has(&self, at: usize) -> bool {
        self.explained[at / 64] >> (at % 64) & 1 == 1
    }

    fn with(&self, at: usize, held: H) -> Self {
        let mut explained = self.explained.clone();
        explained[at / 64] |= 1 << (at % 64);
        Self { explained, held }
    }
}

/// One operation of an explanation, and what came before it.
struct Step {
    before: usize,
    at: usize,
    /// Operations with an answer up to here.
    answered: usize,
}

struct Search<A: Asked> {
    operations: Vec<Operation<A>>,
    seen: HashSet<Configuration<A::Held>>,
    /// All explanations, each step with its predecessor: a list for each would take memory by the square.
    steps: Vec<Step>,
    /// The step that ends the best explanation.
    best: usize,
}

impl<A: Asked> Search<A> {
    fn new(operations: Vec<Operation<A>>) -> Self {
        let root = Step { before: ROOT, at: usize::MAX, answered: 0 };
        Self { operations, seen: HashSet::new(), steps: vec![root], best: ROOT }
    }

    fn run(&mut self) -> Result<(), String> {
        let explained = vec![0; self.operations.len().div_ceil(64).max(1)];
        let first = Configuration { explained, held: A::Held::default() };
        // Each with the position of the first operation that is not explained.
        let mut open: Vec<(Configuration<A::Held>, usize, usize)> = vec![(first, 0, ROOT)];
        while let Some((configuration, start, step)) = open.pop() {
            let start = (start..self.operations.len())
                .find(|&at| !configuration.has(at))
                .unwrap_or(self.operations.len());
            let candidates = self.candidates(&configuration, start);
            let Some(candidates) = candidates else { return Ok(()) };
            if self.steps[step].answered > self.steps[self.best].answered {
                self.best = step;
            }
            // The last one is tried first: what returns earliest.
            for at in candidates {
                let Some(held) = self.operations[at].step(&configuration.held) else { continue };
                let next = configuration.with(at, held);
                if self.seen.len() >= CONFIGURATIONS_MAX {
                    return Err(format!(
                        "no explanation among {CONFIGURATIONS_MAX} orders: {}",
                        self.report()
                    ));
                }
                if self.seen.insert(next.clone()) {
                    let told = usize::from(self.operations[at].returned.is_some());
                    let answered = self.steps[step].answered + told;
                    self.steps.push(Step { before: step, at, answered });
                    open.push((next, start, self.steps.len() - 1));
                }
            }
        }
        Err(self.report())
    }

    /// The operations of the best explanation, in its order.
    fn explanation(&self) -> Vec<usize> {
        let mut order = Vec::new();
        let mut step = self.best;
        while step != ROOT {
            order.push(self.steps[step].at);
            step = self.steps[step].before;
        }
        order.reverse();
        order
    }

    /// What may come next, in the order worst first; `None` when all that was answered is explained.
    fn candidates(
        &self,
        configuration: &Configuration<A::Held>,
        start: usize,
    ) -> Option<Vec<usize>> {
        let open = || (start..self.operations.len()).filter(|&at| !configuration.has(at));
        let returns = |at: usize| self.operations[at].returned.as_ref().map(|(at, _)| *at);
        let horizon = open().filter_map(returns).min()?;
        let mut candidates: Vec<usize> = Vec::new();
        for at in open().take_while(|&at| self.operations[at].invoked < horizon) {
            // Of equal operations whose outcome is unknown the earliest does as well as any.
            let unknown = returns(at).is_none();
            let twin = |&other: &usize| {
                returns(other).is_none()
                    && self.operations[other].action == self.operations[at].action
            };
            if !(unknown && candidates.iter().any(twin)) {
                candidates.push(at);
            }
        }
        candidates.sort_by_key(|&at| std::cmp::Reverse(returns(at).unwrap_or(u64::MAX)));
        Some(candidates)
    }

    fn report(&self) -> String {
        let best = self.explanation();
        let last = best.iter().rev().take(8).rev().map(|&at| format!("{:?}", self.operations[at]));
        let rest = (0..self.operations.len()).filter(|at| !best.contains(at)).take(10);
        let rest = rest.map(|at| format!("{:?}", self.operations[at]));
        format!(
            "{} of {} operations explained, the last:\n  {}\nnot explained:\n  {}",
            best.len(),
            self.operations.len(),
            last.collect::<Vec<_>>().join("\n  "),
            rest.collect::<Vec<_>>().join("\n  ")
        )
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn op(invoked: u64, returned: u64, action: Action, answer: Answer) -> Operation {
        Operation { invoked, returned: Some((returned, answer)), action }
    }

    fn lost(invoked: u64, action: Action) -> Operation {
        Operation { invoked, returned: None, action }
    }

    fn read(invoked: u64, returned: u64, value: i64) -> Operation {
        op(invoked, returned, Action::Get, Answer::Value((value != 0).then_some(value)))
    }

    const NEW: Answer = Answer::Done { existed: false };
    const OLD: Answer = Answer::Done { existed: true };

    #[track_caller]
    fn good(operations: &[Operation]) {
        check(operations).unwrap();
    }

    #[track_caller]
    fn bad(operations: &[Operation]) {
        assert!(check(operations).is_err());
    }

    #[test]
    fn sequential_histories() {
        good(&[
            op(1, 2, Action::Put(7), NEW),
            read(3, 4, 7),
            op(5, 6, Action::Delete, OLD),
            read(7, 8, 0),
        ]);
        bad(&[op(1, 2, Action::Put(7), NEW), read(3, 4, 0)]);
        bad(&[op(1, 2, Action::Put(7), NEW), op(3, 4, Action::Put(8), OLD), read(5, 6, 7)]);
        bad(&[op(1, 2, Action::Put(7), OLD)]);
        good(&[op(1, 2, Action::PutAbsent(7), Answer::Applied(true)), read(3, 4, 7)]);
        bad(&[read(1, 2, 3)]);
    }

    #[test]
    fn overlapping_writes_take_any_order_but_only_one() {
        let writes = [op(1, 10, Action::Put(7), NEW), op(2, 9, Action::Put(8), OLD)];
        good(&[writes[0], writes[1], read(11, 12, 8)]);
        bad(&[writes[0], writes[1], read(11, 12, 7)]);
        bad(&[writes[0], writes[1], read(3, 4, 8), read(5, 6, 7)]);
        good(&[writes[0], writes[1], read(3, 4, 7), read(5, 6, 8)]);
    }

    #[test]
    fn a_read_never_goes_back() {
        let write = op(1, 20, Action::Put(7), NEW);
        good(&[write, read(2, 4, 0), read(5, 6, 7)]);
        bad(&[write, read(2, 4, 7), read(5, 6, 0)]);
    }

    #[test]
    fn unknown_outcomes_happen_late_or_never() {
        let put = lost(1, Action::Put(7));
        good(&[put, read(2, 3, 0), read(4, 5, 7)]);
        good(&[put, read(2, 3, 0)]);
        bad(&[put, read(2, 3, 7), read(4, 5, 0)]);
        bad(&[read(2, 3, 7), lost(4, Action::Put(7))]);
    }

    #[test]
    fn an_increment_happens_once() {
        let sum = |at, sum| op(at, at + 1, Action::Increment(1), Answer::Sum(sum));
        good(&[sum(1, 1), sum(3, 2), lost(4, Action::Increment(1)), sum(6, 4)]);
        bad(&[sum(1, 1), sum(3, 3)]);
        bad(&[sum(1, 1), lost(2, Action::Increment(1)), sum(4, 4)]);
        let lost: Vec<_> = (0..40).map(|at| lost(at, Action::Increment(1))).collect();
        good(&[&lost[..], &[sum(50, 41)]].concat());
        bad(&[&lost[..], &[sum(50, 42)]].concat());
    }

    #[test]
    fn a_write_may_tell_nothing_of_what_was_before() {
        let put = |at, value| op(at, at + 1, Action::Put(value), Answer::Happened);
        good(&[put(1, 7), put(3, 8), read(5, 6, 8)]);
        bad(&[put(1, 7), put(3, 8), read(5, 6, 7)]);
    }

    #[test]
    fn a_compare_and_set_needs_what_it_expects() {
        let put = op(1, 2, Action::Put(7), NEW);
        let cas =
            |at, from, to, applied| op(at, at + 1, Action::Cas(from, to), Answer::Applied(applied));
        good(&[put, cas(3, 7, 8, true), cas(5, 7, 9, false), read(7, 8, 8)]);
        bad(&[put, cas(3, 7, 8, true), cas(5, 7, 9, true)]);
        bad(&[put, cas(3, 7, 8, false)]);
    }

    #[test]
    fn a_value_is_taken_once() {
        let put = op(1, 2, Action::Put(7), NEW);
        let told = |at, action, value| op(at, at + 1, action, Answer::Value(value));
        good(&[put, told(3, Action::Swap(8), Some(7)), told(5, Action::Take, Some(8))]);
        good(&[put, lost(3, Action::Take), told(5, Action::Swap(8), None), read(7, 8, 8)]);
        bad(&[put, told(3, Action::Take, Some(7)), told(5, Action::Take, Some(7))]);
        bad(&[put, told(3, Action::Swap(8), None)]);
        bad(&[put, told(3, Action::Swap(8), Some(7)), read(5, 6, 7)]);
        bad(&[put, told(3, Action::Take, Some(7)), read(5, 6, 7)]);
    }
}
