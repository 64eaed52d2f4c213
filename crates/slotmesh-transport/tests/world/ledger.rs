use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use parking_lot::Mutex;
use slotmesh_slots::NodeId;
use slotmesh_transport::StreamError;

/// How often each thing happened.
#[derive(Default)]
pub struct Tally(Mutex<BTreeMap<&'static str, u64>>);

impl Tally {
    pub fn note(&self, what: &'static str) {
        *self.0.lock().entry(what).or_default() += 1;
    }

    pub fn count(&self, what: &str) -> u64 {
        self.0.lock().get(what).copied().unwrap_or(0)
    }

    pub fn lines(&self) -> Vec<String> {
        self.0.lock().iter().map(|(what, count)| format!("{count:>9} {what}")).collect()
    }
}

/// What was asked, done and answered in one run, and every promise that was seen broken.
pub struct Ledger {
    pub tally: Arc<Tally>,
    books: Mutex<Books>,
}

#[derive(Default)]
struct Books {
    next: u64,
    calls: BTreeMap<u64, CallRecord>,
    streams: BTreeMap<u64, StreamRecord>,
    messages: BTreeMap<Thread, u32>,
    datagrams: BTreeSet<u64>,
    /// Processes that have told their peers that they leave.
    left: BTreeSet<NodeId>,
    /// Processes that run no more.
    gone: BTreeSet<NodeId>,
    violations: Vec<String>,
}

#[derive(Default)]
struct CallRecord {
    executed: bool,
    verdict: Option<Verdict>,
}

#[derive(Default)]
struct StreamRecord {
    arrived: u32,
    /// How many frames the sender had sent when it ended the stream in an orderly way.
    finished: Option<u32>,
    /// Dropped somewhere in the middle, so any end is fair.
    given_up: bool,
}

/// What its caller may conclude about a call.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Verdict {
    Executed,
    NotExecuted,
    Unknown,
}

/// Messages of one process on one connection: sender, place of the receiver, and the how-manyeth connection there.
pub type Thread = (NodeId, u8, u32);

impl Ledger {
    pub fn new(tally: Arc<Tally>) -> Arc<Self> {
        Arc::new(Self { tally, books: Mutex::default() })
    }

    pub fn violation(&self, what: String) {
        self.books.lock().violations.push(what);
    }

    /// Notes a violation unless the condition holds.
    pub fn expect(&self, holds: bool, what: impl FnOnce() -> String) {
        if !holds {
            self.violation(what());
        }
    }

    /// A number that nothing else in the run has.
    pub fn number(&self) -> u64 {
        let mut books = self.books.lock();
        books.next += 1;
        books.next
    }

    pub fn call_begins(&self) -> u64 {
        let call = self.number();
        self.books.lock().calls.insert(call, CallRecord::default());
        call
    }

    pub fn call_executed(&self, call: u64, by: NodeId) {
        let mut books = self.books.lock();
        let record = books.calls.get_mut(&call);
        let problem = match record.map(|record| std::mem::replace(&mut record.executed, true)) {
            Some(false) => return,
            Some(true) => "executed twice",
            None => "was never made",
        };
        books.violations.push(format!("call {call} at {by}: {problem}"));
    }

    pub fn call_ended(&self, call: u64, verdict: Verdict) {
        if let Some(record) = self.books.lock().calls.get_mut(&call) {
            record.verdict = Some(verdict);
        }
    }

    /// A frame has arrived; false when it is not the next of its stream.
    pub fn stream_frame(&self, stream: u64, number: u32) -> bool {
        let mut books = self.books.lock();
        let record = books.streams.entry(stream).or_default();
        let expected = record.arrived;
        record.arrived += 1;
        if number != expected {
            let problem = format!("stream {stream}: frame {number} instead of {expected}");
            books.violations.push(problem);
        }
        number == expected
    }

    pub fn stream_finished(&self, stream: u64, frames: u32) {
        self.books.lock().streams.entry(stream).or_default().finished = Some(frames);
    }

    pub fn stream_given_up(&self, stream: u64) {
        self.tally.note("stream given up");
        self.books.lock().streams.entry(stream).or_default().given_up = true;
    }

    /// The reader was told that the sender broke off.
    pub fn stream_broke(&self, stream: Option<u64>, why: &StreamError) {
        let books = self.books.lock();
        let record = stream.and_then(|stream| books.streams.get(&stream));
        let given_up = record.is_none_or(|record| record.given_up);
        drop(books);
        let fair = given_up || matches!(why, StreamError::Aborted | StreamError::Lost(_));
        self.expect(fair, || format!("stream {stream:?} broke: {why}"));
    }

    /// The reader was told that the stream is complete.
    pub fn stream_complete(&self, stream: u64) {
        let mut books = self.books.lock();
        let record = books.streams.entry(stream).or_default();
        let (arrived, finished) = (record.arrived, record.finished);
        if finished != Some(arrived) && !record.given_up {
            let problem = format!("stream {stream}: ended after {arrived} of {finished:?} frames");
            books.violations.push(problem);
        }
    }

    /// A message has arrived: within one connection they come in order, without gaps.
    pub fn message(&self, thread: Thread, number: u32) {
        let mut books = self.books.lock();
        let next = books.messages.entry(thread).or_default();
        let expected = *next;
        *next += 1;
        if number != expected {
            let problem = format!("messages {thread:?}: {number} instead of {expected}");
            books.violations.push(problem);
        }
    }

    pub fn datagram(&self, number: u64) {
        if !self.books.lock().datagrams.insert(number) {
            self.violation(format!("datagram {number} arrived twice"));
        }
    }

    pub fn leaves(&self, node: NodeId) {
        self.books.lock().left.insert(node);
    }

    pub fn has_left(&self, node: NodeId) -> bool {
        self.books.lock().left.contains(&node)
    }

    pub fn is_gone(&self, node: NodeId) {
        self.books.lock().gone.insert(node);
    }

    /// A connection with this node was reset by whoever is at its address.
    pub fn reset(&self, node: NodeId) {
        let gone = self.books.lock().gone.contains(&node);
        self.tally.note(if gone { "reset by a successor" } else { "reset by who had given it up" });
    }

    /// Everything that is wrong now that the run is over.
    pub fn violations(&self) -> Vec<String> {
        let books = self.books.lock();
        let mut found = books.violations.clone();
        for (call, record) in &books.calls {
            let problem = match (record.verdict, record.executed) {
                (None, _) => "never ended",
                (Some(Verdict::Executed), false) => "was answered but not executed",
                (Some(Verdict::NotExecuted), true) => "was executed against its error's word",
                _ => continue,
            };
            found.push(format!("call {call} {problem}"));
        }
        found
    }
}
