//! The bound under random schedules: two owners that take a slot over from each other, a node that keeps values of it, messages
//! that are late, streams that break, and stops. And that the check finds what breaks the bound.

// The lint knows `#[test]` functions only, not their helpers.
#![allow(clippy::unwrap_used)]

use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use parking_lot::Mutex;
use rand::rngs::StdRng;
use rand::seq::IndexedRandom;
use rand::{Rng, SeedableRng};
use slotmesh_coherence::{Publisher, Readable, Sink, Stamp, Subscriber, Ticket, Watcher};
use slotmesh_slots::{MonoTime, NodeId, Seq, Slot};

const BOUND: Duration = Duration::from_millis(100);
const KEYS: usize = 3;

/// What the world leaves out of the protocol.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Mistake {
    /// Some writes are not published.
    WriteUntold,
    /// A primary echoes without a lease.
    EchoWithoutLease,
    /// A primary that hands the slot over does not say so.
    HandedOverSilently,
    /// It is subscribed after the value was read.
    SubscribedLate,
    /// A value is taken in whatever its ticket says.
    TicketIgnored,
    /// The time of a hit is one that a thread wrote down, which stops as the node does.
    CachedClock,
}

const MISTAKES: [Mistake; 6] = [
    Mistake::WriteUntold,
    Mistake::EchoWithoutLease,
    Mistake::HandedOverSilently,
    Mistake::SubscribedLate,
    Mistake::TicketIgnored,
    Mistake::CachedClock,
];

/// The local tier: values by key, and how often each key was invalidated.
#[derive(Default)]
struct Tier(Mutex<Kept>);

#[derive(Default)]
struct Kept {
    values: BTreeMap<u64, (Seq, Stamp)>,
    invalidated: BTreeMap<u64, u64>,
}

impl Sink for Tier {
    fn invalidate(&self, _slot: Slot, seq: Seq, hash: u64) {
        let mut kept = self.0.lock();
        *kept.invalidated.entry(hash).or_default() += 1;
        if kept.values.get(&hash).is_some_and(|(known, _)| *known < seq) {
            kept.values.remove(&hash);
        }
    }
}

/// What arrives at some time.
enum Event {
    /// Something on the stream from or to a primary.
    Up(usize, Watcher, Bytes),
    Down(usize, Watcher, Bytes),
    UpEnds(usize, Watcher),
    DownEnds(usize, Watcher),
    /// A read at a primary, and its answer.
    Ask(usize, Asked),
    Answer(usize, Asked, Seq),
    /// A primary learns that it lost the slot.
    Learns(usize),
    Leased(usize),
    Owns(usize),
}

#[derive(Clone, Copy)]
struct Asked {
    key: u64,
    invalidated: u64,
    ticket: Ticket,
    watcher: Watcher,
}

struct Primary {
    node: NodeId,
    publisher: Publisher,
    leased: bool,
    stream: Option<Watcher>,
    /// Nothing more arrives on it.
    broken: Option<Watcher>,
    /// The last arrival on its stream, each way: nothing overtakes.
    last: [MonoTime; 2],
}

struct World {
    rng: StdRng,
    now: MonoTime,
    queue: BTreeMap<(MonoTime, u64), Event>,
    events: u64,
    primaries: [Primary; 2],
    /// Who serves the slot.
    owner: Option<usize>,
    seq: Seq,
    /// For each key its writes and when they were acknowledged.
    writes: [VecDeque<(Seq, MonoTime)>; KEYS],
    subscriber: Subscriber,
    tier: Arc<Tier>,
    mistake: Option<Mistake>,
    hits: u64,
    written_down: MonoTime,
}

fn slot() -> Slot {
    Slot::of_key(b"foo")
}

fn millis(millis: u64) -> Duration {
    Duration::from_millis(millis)
}

impl World {
    fn new(seed: u64, mistake: Option<Mistake>) -> Self {
        let node = |number| NodeId::new(number).unwrap();
        let primary = |number| Primary {
            node: node(number),
            publisher: Publisher::new(Box::new(|_| {})),
            leased: true,
            stream: None,
            broken: None,
            last: [MonoTime::ZERO; 2],
        };
        let tier = Arc::new(Tier::default());
        let subscriber = Subscriber::new(node(9), Box::new(|_| {}));
        subscriber.register(&(Arc::clone(&tier) as Arc<dyn Sink>), BOUND);
        Self {
            rng: StdRng::seed_from_u64(seed),
            now: MonoTime::from_micros(1_000_000),
            queue: BTreeMap::new(),
            events: 0,
            primaries: [primary(1), primary(2)],
            owner: Some(0),
            seq: Seq(0),
            writes: Default::default(),
            subscriber,
            tier,
            mistake,
            hits: 0,
            written_down: MonoTime::ZERO,
        }
    }

    fn makes(&self, mistake: Mistake) -> bool {
        self.mistake == Some(mistake)
    }

    fn schedule(&mut self, after: Duration, event: Event) {
        self.schedule_at(self.now + after, event);
    }

    fn schedule_at(&mut self, at: MonoTime, event: Event) {
        self.queue.insert((at, self.events), event);
        self.events += 1;
    }

    /// Mostly a moment, sometimes long.
    fn delay(&mut self) -> Duration {
        let most = if self.rng.random_bool(0.05) { 300_000 } else { 2_000 };
        Duration::from_micros(self.rng.random_range(50..most))
    }

    /// On a stream, behind what was sent before.
    fn carry(&mut self, primary: usize, way: usize, event: Event) {
        let at = (self.now + self.delay()).max(self.primaries[primary].last[way]);
        self.primaries[primary].last[way] = at;
        self.schedule_at(at, event);
    }

    fn step(&mut self) -> Result<(), String> {
        let pause = Duration::from_micros(self.rng.random_range(10..1_500));
        let next = self.now + pause;
        while let Some(entry) = self.queue.first_entry().filter(|entry| entry.key().0 <= next) {
            let ((at, _), event) = entry.remove_entry();
            self.now = self.now.max(at);
            self.handle(event);
            self.flush();
        }
        self.now = next;
        match self.rng.random_range(0..1_000) {
            0..250 => self.write(),
            250..500 => self.read(),
            500..800 => self.hit()?,
            800..900 => self.ping(),
            900..940 => self.open(),
            940..946 => self.break_stream(),
            946..952 => self.move_slot(),
            952..956 => self.fail_over(),
            958..980 => self.written_down = self.now,
            // Stopped: time goes on.
            956..958 => self.now = self.now + millis(self.rng.random_range(1..400)),
            _ => {}
        }
        self.flush();
        Ok(())
    }

    fn flush(&mut self) {
        for index in 0..self.primaries.len() {
            let Some(watcher) = self.primaries[index].stream else { continue };
            for frame in self.primaries[index].publisher.poll_frames(watcher).unwrap_or_default() {
                self.carry(index, 1, Event::Down(index, watcher, frame));
            }
        }
    }

    fn handle(&mut self, event: Event) {
        let now = self.now;
        match event {
            Event::Up(index, watcher, _) | Event::Down(index, watcher, _)
                if self.primaries[index].broken == Some(watcher) => {}
            Event::Up(index, watcher, frame) => self.take_up(index, watcher, &frame),
            Event::Down(index, watcher, frame) => {
                let node = self.primaries[index].node;
                self.subscriber.handle_frame(node, watcher, &frame, now).unwrap();
            }
            Event::UpEnds(index, watcher) => {
                let primary = &mut self.primaries[index];
                primary.publisher.close(watcher);
                primary.stream.take_if(|stream| *stream == watcher);
            }
            Event::DownEnds(index, watcher) => {
                self.subscriber.close(self.primaries[index].node, watcher);
            }
            Event::Ask(index, asked) => self.answer(index, asked),
            Event::Answer(index, asked, seq) => self.fill(index, asked, seq),
            Event::Learns(index) => self.primaries[index].publisher.drop_slot(slot()),
            Event::Leased(index) => self.primaries[index].leased = true,
            Event::Owns(index) => self.owner = Some(index),
        }
    }

    fn take_up(&mut self, index: usize, watcher: Watcher, frame: &Bytes) {
        let without = self.makes(Mistake::EchoWithoutLease);
        let primary = &mut self.primaries[index];
        if primary.stream == Some(watcher) {
            let leased = primary.leased || without;
            primary.publisher.handle_frame(watcher, frame, leased).unwrap();
        } else if let Ok(opened) = primary.publisher.open(watcher.node, frame) {
            primary.stream = Some(opened);
        }
    }

    fn write(&mut self) {
        let Some(owner) = self.owner else { return };
        if !self.primaries[owner].leased {
            return;
        }
        let key = self.rng.random_range(0..KEYS);
        self.seq = Seq(self.seq.0 + 1);
        let untold = self.makes(Mistake::WriteUntold) && self.rng.random_bool(0.1);
        if !untold {
            self.primaries[owner].publisher.publish(slot(), self.seq, || key as u64);
        }
        self.writes[key].push_back((self.seq, self.now));
    }

    fn read(&mut self) {
        let index = match self.owner {
            Some(owner) if self.rng.random_bool(0.95) => owner,
            _ => self.rng.random_range(0..2),
        };
        let key = self.rng.random_range(0..KEYS) as u64;
        let ticket = self.subscriber.ticket(slot());
        let Some(watcher) = self.subscriber.watcher(self.primaries[index].node) else { return };
        let invalidated = self.tier.0.lock().invalidated.get(&key).copied().unwrap_or_default();
        let delay = self.delay();
        self.schedule(delay, Event::Ask(index, Asked { key, invalidated, ticket, watcher }));
    }

    fn answer(&mut self, index: usize, asked: Asked) {
        let primary = &self.primaries[index];
        if self.owner != Some(index) || !primary.leased {
            return;
        }
        let late = self.makes(Mistake::SubscribedLate);
        let known = primary.publisher.is_subscribed(slot(), asked.watcher);
        if !(late || known || primary.publisher.subscribe(slot(), asked.watcher)) {
            return;
        }
        let written = self.writes[asked.key as usize].back();
        let seq = written.map_or(Seq(0), |(seq, _)| *seq);
        let delay = self.delay();
        if late {
            // Some of the writes of the next moment are missed.
            self.writes_unheard(index);
            let _ = self.primaries[index].publisher.subscribe(slot(), asked.watcher);
        }
        self.schedule(delay, Event::Answer(index, asked, seq));
    }

    fn writes_unheard(&mut self, index: usize) {
        let heard = self.primaries[index].stream;
        if heard.is_some_and(|heard| self.primaries[index].publisher.is_subscribed(slot(), heard)) {
            return;
        }
        self.write();
    }

    fn fill(&mut self, index: usize, asked: Asked, seq: Seq) {
        let ignored = self.makes(Mistake::TicketIgnored);
        let node = self.primaries[index].node;
        let ticket = if ignored { self.subscriber.ticket(slot()) } else { asked.ticket };
        let Some(stamp) = self.subscriber.admit(slot(), ticket, node, asked.watcher) else {
            return;
        };
        let mut kept = self.tier.0.lock();
        let invalidated = kept.invalidated.get(&asked.key).copied().unwrap_or_default();
        let newer =
            kept.values.get(&asked.key).is_some_and(|(known, at)| *at == stamp && *known > seq);
        if (invalidated == asked.invalidated || ignored) && !newer {
            kept.values.insert(asked.key, (seq, stamp));
        }
    }

    /// Reads from the tier, and looks whether it was allowed to say so.
    fn hit(&mut self) -> Result<(), String> {
        let key = self.rng.random_range(0..KEYS) as u64;
        let kept = self.tier.0.lock();
        let Some((seq, stamp)) = kept.values.get(&key).copied() else { return Ok(()) };
        let now = if self.makes(Mistake::CachedClock) { self.written_down } else { self.now };
        if self.subscriber.readable(slot(), stamp, now.saturating_sub(BOUND)) != Readable::Yes {
            return Ok(());
        }
        drop(kept);
        self.hits += 1;
        let writes = &self.writes[key as usize];
        let newer = writes.iter().find(|(other, _)| *other > seq);
        match newer.map(|(other, acked)| (other, self.now.saturating_since(*acked))) {
            Some((other, age)) if age > BOUND => {
                Err(format!("{key} is served at {seq:?} {age:?} after {other:?}"))
            }
            _ => Ok(()),
        }
    }

    fn ping(&mut self) {
        for index in 0..self.primaries.len() {
            let (node, stream) = (self.primaries[index].node, self.primaries[index].stream);
            let Some(watcher) = stream else { continue };
            if let Some(ping) = self.subscriber.poll_ping(node, self.now) {
                self.carry(index, 0, Event::Up(index, watcher, ping));
            }
        }
    }

    fn open(&mut self) {
        for node in self.subscriber.wanted() {
            let index = self.primaries.iter().position(|primary| primary.node == node).unwrap();
            let Some((watcher, hello)) = self.subscriber.open(node) else { continue };
            self.carry(index, 0, Event::Up(index, watcher, hello));
        }
    }

    /// Each end notices when it does; what is under way is lost.
    fn break_stream(&mut self) {
        let index = self.rng.random_range(0..2);
        let Some(watcher) = self.primaries[index].stream else { return };
        self.primaries[index].broken = Some(watcher);
        let (up, down) = (self.delay(), self.delay());
        self.schedule(up, Event::UpEnds(index, watcher));
        self.schedule(down, Event::DownEnds(index, watcher));
    }

    fn move_slot(&mut self) {
        let Some(owner) = self.owner.take() else { return };
        if !self.makes(Mistake::HandedOverSilently) {
            self.primaries[owner].publisher.drop_slot(slot());
        }
        let next = *[owner, 1 - owner].choose(&mut self.rng).unwrap();
        let takes = millis(self.rng.random_range(1..30));
        self.schedule(takes, Event::Owns(next));
    }

    /// The owner loses its lease, and hears of its successor later than that one begins.
    fn fail_over(&mut self) {
        let Some(owner) = self.owner.take() else { return };
        self.primaries[owner].leased = false;
        let begins = millis(self.rng.random_range(1..50));
        let learns = begins + millis(self.rng.random_range(1..300));
        self.schedule(begins, Event::Owns(1 - owner));
        self.schedule(learns, Event::Learns(owner));
        self.schedule(learns, Event::Leased(owner));
    }
}

fn run(seed: u64, mistake: Option<Mistake>) -> Result<u64, String> {
    let mut world = World::new(seed, mistake);
    for _ in 0..20_000 {
        world.step()?;
    }
    Ok(world.hits)
}

#[test]
fn nothing_is_served_beyond_the_bound() {
    for seed in 0..60 {
        let hits = run(seed, None).unwrap_or_else(|problem| panic!("seed {seed}: {problem}"));
        assert!(hits > 100, "seed {seed}: {hits} hits prove little");
    }
}

#[test]
fn whatever_breaks_the_bound_is_found() {
    for mistake in MISTAKES {
        let found = (0..200).find(|&seed| run(seed, Some(mistake)).is_err());
        println!("{mistake:?}: seed {found:?}");
        assert!(found.is_some(), "{mistake:?} is not found");
    }
}
