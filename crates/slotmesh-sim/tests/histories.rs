//! The checker of histories agrees with one that somebody else wrote, on thousands of small histories.

use rand::rngs::StdRng;
use rand::seq::IndexedRandom;
use rand::{Rng, SeedableRng};
use slotmesh_sim::history::{Action, Answer, Operation, check};
use stateright::semantics::{ConsistencyTester, LinearizabilityTester, SequentialSpec};

/// Histories in each of the comparisons.
const HISTORIES: u64 = 20_000;

/// Few values, so that wrong answers are often almost right.
const VALUES: i64 = 3;

/// What one key holds: the same semantics as the checker's, written apart from it.
#[derive(Clone, Debug, Default)]
struct Key(Option<i64>);

impl SequentialSpec for Key {
    type Op = Action;
    type Ret = Answer;

    fn invoke(&mut self, action: &Action) -> Answer {
        let before = self.0;
        match *action {
            Action::Get => Answer::Value(before),
            Action::Put(value) => {
                self.0 = Some(value);
                Answer::Done { existed: before.is_some() }
            }
            Action::PutAbsent(value) => {
                if before.is_none() {
                    self.0 = Some(value);
                }
                Answer::Applied(before.is_none())
            }
            Action::Cas(expected, value) => {
                if before == Some(expected) {
                    self.0 = Some(value);
                    return Answer::Applied(true);
                }
                Answer::Applied(false)
            }
            Action::Delete => {
                self.0 = None;
                Answer::Done { existed: before.is_some() }
            }
            Action::Increment(by) => {
                let sum = by + before.unwrap_or_default();
                self.0 = Some(sum);
                Answer::Sum(sum)
            }
            Action::Swap(value) => {
                self.0 = Some(value);
                Answer::Value(before)
            }
            Action::Take => Answer::Value(self.0.take()),
        }
    }

    fn is_valid_step(&mut self, action: &Action, told: &Answer) -> bool {
        let answer = self.invoke(action);
        *told == answer || *told == Answer::Happened
    }
}

/// A client: its operation under way, and what that did, if it did.
#[derive(Clone, Copy, Default)]
struct Client {
    operation: Option<usize>,
    answer: Option<Answer>,
    /// It was never answered and asks for nothing more.
    gone: bool,
}

/// What some clients were told by a key that is all right; each operation with its client.
fn honest(rng: &mut StdRng) -> Vec<(usize, Operation)> {
    let mut key = Key::default();
    let mut clients = vec![Client::default(); rng.random_range(1..=4)];
    let mut operations: Vec<(usize, Operation)> = Vec::new();
    for now in 1..rng.random_range(8..=36) {
        let at = rng.random_range(0..clients.len());
        let client = &mut clients[at];
        match (client.operation, client.answer) {
            _ if client.gone => {}
            (None, _) => {
                let operation = Operation { invoked: now, returned: None, action: draw(rng) };
                client.operation = Some(operations.len());
                operations.push((at, operation));
            }
            (Some(_), _) if rng.random_ratio(1, 12) => client.gone = true,
            (Some(number), None) => client.answer = Some(key.invoke(&operations[number].1.action)),
            (Some(number), Some(answer)) => {
                operations[number].1.returned = Some((now, answer));
                *client = Client::default();
            }
        }
    }
    operations
}

fn draw(rng: &mut StdRng) -> Action {
    let mut value = || rng.random_range(1..=VALUES);
    let (one, other) = (value(), value());
    match rng.random_range(0..11) {
        0..=2 => Action::Get,
        3 | 4 => Action::Put(one),
        5 => Action::PutAbsent(one),
        6 => Action::Cas(one, other),
        7 => Action::Delete,
        8 => Action::Increment(1),
        9 => Action::Swap(one),
        _ => Action::Take,
    }
}

/// Somebody is told something else, or nothing.
fn falsified(rng: &mut StdRng, operations: &mut [(usize, Operation)]) {
    let mut answered: Vec<&mut Operation> =
        operations.iter_mut().map(|(_, it)| it).filter(|it| it.returned.is_some()).collect();
    let index = rng.random_range(0..answered.len().max(1));
    let Some(operation) = answered.get_mut(index) else { return };
    let Some((_, answer)) = &mut operation.returned else { return };
    let other = [None, Some(1), Some(2), Some(3)].choose(rng).copied().unwrap_or_default();
    *answer = match *answer {
        Answer::Value(_) => Answer::Value(other),
        Answer::Done { .. } if rng.random_ratio(1, 4) => Answer::Happened,
        Answer::Done { existed } => Answer::Done { existed: !existed },
        Answer::Applied(applied) => Answer::Applied(!applied),
        Answer::Sum(sum) => Answer::Sum(sum + rng.random_range(-1..=1)),
        Answer::Happened => Answer::Happened,
    };
}

/// An answer comes earlier or later than it did, so that other operations overlap with its.
fn shifted(rng: &mut StdRng, operations: &mut [(usize, Operation)]) {
    let index = rng.random_range(0..operations.len().max(1));
    let Some(&(client, operation)) = operations.get(index) else { return };
    let next = operations[index + 1..].iter().find(|(other, _)| *other == client);
    let end = next.map_or(40, |(_, next)| next.invoked);
    if let Some((_, answer)) = operation.returned
        && end > operation.invoked + 1
    {
        let at = match rng.random_bool(0.5) {
            true => operation.invoked + 1,
            false => rng.random_range(operation.invoked + 1..end),
        };
        operations[index].1.returned = Some((at, answer));
    }
}

/// The verdict of stateright's tester, told one event after the other. Of events at the same time the answers come first, as the
/// checker has it.
fn others_verdict(operations: &[(usize, Operation)]) -> bool {
    let mut events: Vec<(u64, u8, usize)> = Vec::new();
    for (number, (_, operation)) in operations.iter().enumerate() {
        events.push((operation.invoked, CALL, number));
        events.extend(operation.returned.map(|(at, _)| (at, ANSWER, number)));
    }
    events.sort_unstable();
    let mut tester = LinearizabilityTester::new(Key::default());
    for (_, what, number) in events {
        let (client, operation) = operations[number];
        let told = match operation.returned.filter(|_| what == ANSWER) {
            Some((_, answer)) => tester.on_return(client, answer),
            None => tester.on_invoke(client, operation.action),
        };
        told.unwrap_or_else(|problem| panic!("no history: {problem}"));
    }
    tester.is_consistent()
}

/// Events, in the order of those at the same time.
const ANSWER: u8 = 0;
const CALL: u8 = 1;

/// Compares the verdicts on histories of this kind; how many were linearizable.
fn compare(kind: &str, spoil: impl Fn(&mut StdRng, &mut [(usize, Operation)])) -> u64 {
    let mut linearizable = 0;
    for seed in 0..HISTORIES {
        let mut rng = StdRng::seed_from_u64(seed);
        let mut history = honest(&mut rng);
        spoil(&mut rng, &mut history);
        let operations: Vec<Operation> = history.iter().map(|(_, it)| *it).collect();
        let ours = check(&operations);
        let theirs = others_verdict(&history);
        assert_eq!(ours.is_ok(), theirs, "{kind}, seed {seed}: {ours:?}\n{history:#?}");
        linearizable += u64::from(theirs);
    }
    linearizable
}

#[test]
fn honest_histories_are_linearizable() {
    assert_eq!(compare("honest", |_, _| {}), HISTORIES);
}

#[test]
fn both_checkers_agree_where_an_answer_is_wrong() {
    let good = compare("falsified", falsified);
    assert!((HISTORIES / 10..HISTORIES * 9 / 10).contains(&good), "{good} are linearizable");
}

#[test]
fn both_checkers_agree_where_answers_come_at_other_times() {
    let good = compare("shifted", |rng, history| {
        (0..6).for_each(|_| shifted(rng, history));
    });
    assert!((HISTORIES / 10..HISTORIES * 9 / 10).contains(&good), "{good} are linearizable");
}

#[test]
fn both_checkers_agree_on_histories_with_many_mistakes() {
    let good = compare("many", |rng, history| {
        (0..2).for_each(|_| falsified(rng, history));
        (0..2).for_each(|_| shifted(rng, history));
    });
    assert!((HISTORIES / 50..HISTORIES * 9 / 10).contains(&good), "{good} are linearizable");
}
