//! Clients that read, write, count and delete, and what they were told, checked for an order that explains it.

use std::fmt::{self, Write};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use slotmesh_sim::history::{self, Action, Operation};

use super::{Answer, Client, Door, until};

/// Few keys, so that operations meet; spread over all slots, so that every node has some.
const KEYS: usize = 48;

/// Pause of a client between two operations: what is recorded has to be checked, key by key.
const PACE: Duration = Duration::from_millis(4);

/// Errors that a report shows; it counts all.
const SHOWN_MAX: usize = 8;

/// What the clients share.
struct Shared {
    began: Instant,
    doors: Mutex<Vec<Door>>,
    keys: Vec<String>,
    over: AtomicBool,
}

/// Clients at work; each keeps to one node while that is listed, and goes to another when it is not or does not answer.
pub struct Load {
    shared: Arc<Shared>,
    clients: Vec<JoinHandle<Seen>>,
}

/// What happened to an operation.
#[derive(Debug, PartialEq, Eq)]
enum Outcome {
    Told(history::Answer),
    /// The node says that nothing was changed.
    Refused(String),
    /// It may have happened.
    Unknown(String),
    /// The connection broke, so it may have happened.
    Broken(String),
}

impl Load {
    /// Begins with so many clients, on keys whose names begin so.
    pub fn start(doors: Vec<Door>, clients: usize, keys: &str) -> Self {
        let shared = Arc::new(Shared {
            began: Instant::now(),
            doors: Mutex::new(doors),
            keys: (0..KEYS).map(|number| format!("{keys}-{number}")).collect(),
            over: AtomicBool::new(false),
        });
        let start = |number| {
            let worker = Worker::new(Arc::clone(&shared), number);
            std::thread::spawn(move || worker.run())
        };
        let clients = (0..clients).map(start).collect();
        Self { shared, clients }
    }

    /// Sends the clients to other nodes: those of nodes that are not listed finish what they are at first.
    pub fn go_to(&self, doors: Vec<Door>) {
        *self.shared.doors.lock().unwrap() = doors;
    }

    /// Lets the clients work on.
    pub fn run_for(&self, time: Duration) {
        let end = Instant::now() + time;
        until("the load's time", || Instant::now() >= end);
    }

    /// Ends the clients, reads every key once more, and sums up.
    pub fn finish(self) -> Report {
        self.shared.over.store(true, Ordering::Relaxed);
        let mut report = Report::new(self.shared.keys.clone(), self.shared.began);
        for client in self.clients {
            report.add(client.join().unwrap());
        }
        let doors = self.shared.doors.lock().unwrap().clone();
        report.read_all(&doors);
        report
    }
}

struct Worker {
    shared: Arc<Shared>,
    number: usize,
    random: u64,
    next_value: i64,
    connection: Option<(Door, Client)>,
    seen: Seen,
}

/// What one client saw.
#[derive(Default)]
struct Seen {
    operations: Vec<(usize, Operation)>,
    answered: usize,
    refused: usize,
    unknown: usize,
    broken: usize,
    longest: Duration,
    errors: Vec<String>,
}

impl Worker {
    fn new(shared: Arc<Shared>, number: usize) -> Self {
        let random = 0x2545_f491_4f6c_dd1d_u64.wrapping_mul(number as u64 * 2 + 1);
        let next_value = number as i64 * 1_000_000_000_000;
        Self { shared, number, random, next_value, connection: None, seen: Seen::default() }
    }

    fn run(mut self) -> Seen {
        while !self.shared.over.load(Ordering::Relaxed) {
            self.settle();
            if let Some((door, client)) = self.connection.take() {
                self.ask(&door, client);
            }
            std::thread::sleep(PACE);
        }
        self.seen
    }

    /// Goes to another node when its own is none any more.
    fn settle(&mut self) {
        let doors = self.shared.doors.lock().unwrap().clone();
        if self.connection.as_ref().is_some_and(|(door, _)| doors.contains(door))
            || doors.is_empty()
        {
            return;
        }
        // The first time by number, so that every node has clients; later anywhere.
        let first = self.seen.operations.is_empty();
        let choice = if first { self.number } else { self.draw() as usize };
        let door = &doors[choice % doors.len()];
        self.connection = Client::connect(door).ok().map(|client| (door.clone(), client));
    }

    fn ask(&mut self, door: &Door, mut client: Client) {
        let key = self.draw() as usize % self.shared.keys.len();
        let action = self.draw_action();
        let name = self.shared.keys[key].clone();
        let invoked = self.now();
        let answer = match action {
            Action::Put(value) => client.try_ask(&["SET", &name, &value.to_string()]),
            Action::Delete => client.try_ask(&["DEL", &name]),
            Action::Increment(by) => client.try_ask(&["INCRBY", &name, &by.to_string()]),
            _ => client.try_ask(&["GET", &name]),
        };
        let returned = self.now();
        let outcome = outcome(action, answer);
        let told = match &outcome {
            Outcome::Told(answer) => Some((returned, *answer)),
            _ => None,
        };
        if !matches!(outcome, Outcome::Refused(_)) {
            self.seen.operations.push((key, Operation { invoked, returned: told, action }));
        }
        if !matches!(outcome, Outcome::Broken(_)) {
            self.connection = Some((door.clone(), client));
        }
        let took = Duration::from_nanos(returned - invoked);
        let at = Duration::from_nanos(returned);
        self.seen.count(&outcome, took, &format!("{at:.1?} {} {action:?} of {name}", door.addr));
    }

    fn draw_action(&mut self) -> Action {
        match self.draw() % 100 {
            0..45 => Action::Get,
            45..75 => {
                self.next_value += 1_000_000;
                Action::Put(self.next_value)
            }
            75..95 => Action::Increment(1),
            _ => Action::Delete,
        }
    }

    fn now(&self) -> u64 {
        self.shared.began.elapsed().as_nanos() as u64
    }

    fn draw(&mut self) -> u64 {
        self.random ^= self.random << 13;
        self.random ^= self.random >> 7;
        self.random ^= self.random << 17;
        self.random >> 16
    }
}

impl Seen {
    fn count(&mut self, outcome: &Outcome, took: Duration, what: &str) {
        let (count, why) = match outcome {
            Outcome::Told(_) => {
                self.answered += 1;
                self.longest = self.longest.max(took);
                return;
            }
            Outcome::Refused(why) => (&mut self.refused, why),
            Outcome::Unknown(why) => (&mut self.unknown, why),
            Outcome::Broken(why) => (&mut self.broken, why),
        };
        *count += 1;
        self.errors.push(format!("{what} after {took:.1?}: {why}"));
    }
}

/// What an answer says about the operation. An answer that does not fit it counts as one of unknown outcome, with its text.
fn outcome(action: Action, answer: std::io::Result<Answer>) -> Outcome {
    let definite = ["CLUSTERDOWN", "TRYAGAIN", "OOM"];
    let number = |text: &str| text.parse::<i64>().ok();
    match (action, answer) {
        (_, Err(error)) => Outcome::Broken(error.to_string()),
        (_, Ok(Answer::Error(why))) if definite.iter().any(|kind| why.starts_with(kind)) => {
            Outcome::Refused(why)
        }
        (Action::Put(_), Ok(Answer::Ok)) => Outcome::Told(history::Answer::Happened),
        (Action::Get, Ok(Answer::Nothing)) => Outcome::Told(history::Answer::Value(None)),
        (action, Ok(Answer::Value(text))) if number(&text).is_some() => {
            let number = number(&text).unwrap();
            Outcome::Told(match action {
                Action::Increment(_) => history::Answer::Sum(number),
                Action::Delete => history::Answer::Done { existed: number == 1 },
                _ => history::Answer::Value(Some(number)),
            })
        }
        (_, Ok(other)) => Outcome::Unknown(format!("{other:?}")),
    }
}

/// What all clients saw.
pub struct Report {
    keys: Vec<String>,
    began: Instant,
    histories: Vec<Vec<Operation>>,
    sum: Seen,
}

impl Report {
    fn new(keys: Vec<String>, began: Instant) -> Self {
        let histories = vec![Vec::new(); keys.len()];
        Self { keys, began, histories, sum: Seen::default() }
    }

    fn add(&mut self, seen: Seen) {
        for (key, operation) in seen.operations {
            self.histories[key].push(operation);
        }
        self.sum.answered += seen.answered;
        self.sum.refused += seen.refused;
        self.sum.unknown += seen.unknown;
        self.sum.broken += seen.broken;
        self.sum.longest = self.sum.longest.max(seen.longest);
        self.sum.errors.extend(seen.errors);
    }

    /// Reads every key through each of these nodes until it is told, as part of the history.
    pub fn read_all(&mut self, doors: &[Door]) {
        for (key, name) in self.keys.iter().enumerate() {
            let door = &doors[key % doors.len()];
            let mut client = None;
            until("every key to be read", || {
                client = client.take().or_else(|| Client::connect(door).ok());
                let Some(open) = &mut client else { return false };
                let invoked = self.began.elapsed().as_nanos() as u64;
                let answer = outcome(Action::Get, open.try_ask(&["GET", name]));
                let returned = self.began.elapsed().as_nanos() as u64;
                if matches!(answer, Outcome::Broken(_)) {
                    client = None;
                }
                let Outcome::Told(answer) = answer else { return false };
                let returned = Some((returned, answer));
                self.histories[key].push(Operation { invoked, returned, action: Action::Get });
                true
            });
        }
    }

    /// Operations that were answered.
    pub fn answered(&self) -> usize {
        self.sum.answered
    }

    /// Operations that a node refused, that had an unknown outcome, or whose connection broke.
    pub fn errors(&self) -> usize {
        self.sum.errors.len()
    }

    /// The longest time until an operation was answered.
    pub fn longest(&self) -> Duration {
        self.sum.longest
    }

    /// The keys whose answers no order of the operations explains, each with its whole history.
    pub fn violations(&self) -> Vec<String> {
        let told = |(name, operations): (&String, &Vec<Operation>)| {
            let why = history::check(operations).err()?;
            let mut text = format!("key {name} is not linearizable: {why}\nits whole history:\n");
            let mut operations = operations.clone();
            operations.sort_by_key(|operation| operation.invoked);
            for operation in operations {
                let _ = writeln!(text, "  {operation:?}");
            }
            Some(text)
        };
        self.keys.iter().zip(&self.histories).filter_map(told).collect()
    }

    /// Fails the test when an acknowledged write was lost, came twice, or a read went back.
    #[track_caller]
    pub fn check(&self) {
        println!("{self}");
        let violations = self.violations();
        assert!(violations.is_empty(), "{}", violations.join("\n"));
        assert!(self.answered() > 100, "hardly anything was answered: {self}");
    }
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Seen { answered, refused, unknown, broken, longest, errors, .. } = &self.sum;
        write!(
            f,
            "{answered} operations answered, {refused} refused, {unknown} of unknown outcome, {broken} connections broken, longest answer after {longest:.0?}"
        )?;
        errors.iter().take(SHOWN_MAX).try_for_each(|error| write!(f, "\n  {error}"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn told(at: u64, action: Action, answer: Answer) -> Operation {
        let Outcome::Told(answer) = outcome(action, Ok(answer)) else { panic!("no answer") };
        Operation { invoked: at, returned: Some((at + 1, answer)), action }
    }

    fn violations(operations: Vec<Operation>) -> Vec<String> {
        let mut report = Report::new(vec!["a-key".to_owned()], Instant::now());
        let seen = operations.into_iter().map(|operation| (0, operation)).collect();
        report.add(Seen { operations: seen, ..Seen::default() });
        report.violations()
    }

    #[test]
    fn a_lost_write_and_a_lost_count_are_found_and_shown() {
        let one = || Answer::Value("1".to_owned());
        let put = told(1, Action::Put(7), Answer::Ok);
        assert_eq!(violations(vec![put, told(3, Action::Delete, one())]), Vec::<String>::new());
        let lost = violations(vec![put, told(3, Action::Get, Answer::Nothing)]);
        assert!(lost[0].contains("key a-key") && lost[0].contains("Put(7)"), "{lost:?}");
        let count = |at| told(at, Action::Increment(1), one());
        assert_eq!(violations(vec![count(1), count(3)]).len(), 1);
        let stale = told(5, Action::Get, Answer::Value("7".to_owned()));
        assert_eq!(violations(vec![put, told(3, Action::Put(8), Answer::Ok), stale]).len(), 1);
    }

    #[test]
    fn what_may_have_happened_is_told_from_what_did_not() {
        let error = |text: &str| outcome(Action::Put(7), Ok(Answer::Error(text.to_owned())));
        assert!(matches!(error("CLUSTERDOWN no node may serve"), Outcome::Refused(_)));
        assert!(matches!(error("ERR outcome unknown, the write"), Outcome::Unknown(_)));
        let broken = outcome(Action::Put(7), Err(std::io::ErrorKind::UnexpectedEof.into()));
        assert!(matches!(broken, Outcome::Broken(_)));
    }
}
