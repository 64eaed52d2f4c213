//! Local tiers: each process keeps what it read of others' slots, and serves nothing older than the bound (I10).
//!
//! Draws its own random numbers, so that worlds without local tiers run as they did before there were any.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use parking_lot::Mutex;
use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};
use slotmesh_coherence::{Readable, Sink, Stamp, Subscriber, Ticket, Watcher, key_hash};
use slotmesh_core::{Ack, DataConfig, DataError, DataPlane, Op, Reply};
use slotmesh_slots::{MonoTime, NodeId, Seq, Slot, Version};

use super::conduit::{Conduit, Course};
use super::{Event, World};
use crate::network::Plane;
use crate::process::{Call, Input};

/// No value is served longer than this after another was acknowledged, by the clock of whoever serves it.
const BOUND: Duration = Duration::from_millis(100);

/// The same by the world's time: clocks run apart by at most so much.
const BOUND_MEASURED: Duration = Duration::from_millis(106);

/// Between two reads through the local tiers of the cluster, and between two looks at what the streams want.
const READS: std::ops::Range<u64> = 200..4_000;
const PINGS: Duration = Duration::from_millis(30);

/// The client whose calls are reads that fill a tier.
pub(crate) const FILLS: usize = usize::MAX;

fn hash_of(key: &[u8]) -> u64 {
    key_hash(DataConfig::default().key_seed, key)
}

/// What one process keeps.
pub(crate) struct Near {
    subscriber: Arc<Subscriber>,
    tier: Arc<Tier>,
}

#[derive(Default)]
struct Tier(Mutex<Kept>);

#[derive(Default)]
struct Kept {
    values: BTreeMap<u64, (Version, Stamp)>,
    /// How often each key was invalidated: what was asked for before is not taken in.
    invalidated: BTreeMap<u64, u64>,
}

impl Sink for Tier {
    fn invalidate(&self, _slot: Slot, seq: Seq, hash: u64) {
        let mut kept = self.0.lock();
        *kept.invalidated.entry(hash).or_default() += 1;
        if kept.values.get(&hash).is_some_and(|(known, _)| known.seq < seq) {
            kept.values.remove(&hash);
        }
    }
}

impl Near {
    pub(crate) fn new(data: &DataPlane) -> Self {
        let tier = Arc::new(Tier::default());
        let subscriber = Arc::new(Subscriber::new(data.node(), Box::new(|_| {})));
        subscriber.register(&(Arc::clone(&tier) as Arc<dyn Sink>), BOUND);
        data.attach(Arc::clone(&subscriber));
        Self { subscriber, tier }
    }
}

/// A stream from a watcher to a primary.
struct Stream {
    by: Watcher,
    conduit: Conduit,
    /// The primary has taken the hello.
    is_open: bool,
}

/// A read under way.
struct Asked {
    node: NodeId,
    key: usize,
    ticket: Ticket,
    invalidated: u64,
}

/// All local tiers of the world.
pub(super) struct Nears {
    rng: StdRng,
    streams: BTreeMap<(NodeId, NodeId), Stream>,
    asked: BTreeMap<u64, Asked>,
    next: u64,
    /// For each key the versions that were acknowledged, and when.
    acked: BTreeMap<usize, Vec<(Version, MonoTime)>>,
    pub(super) hits: u64,
}

impl Nears {
    pub(super) fn new(seed: u64) -> Self {
        Self {
            rng: StdRng::seed_from_u64(seed ^ 0x6e65_6172),
            streams: BTreeMap::new(),
            asked: BTreeMap::new(),
            next: 0,
            acked: BTreeMap::new(),
            hits: 0,
        }
    }

    fn delay(&mut self) -> Duration {
        let most = if self.rng.random_bool(0.03) { 300_000 } else { 2_000 };
        Duration::from_micros(self.rng.random_range(50..most))
    }

    /// A write of this version was acknowledged: whoever serves an older one now has so long for it.
    pub(super) fn note_acked(&mut self, key: usize, version: Version, now: MonoTime) {
        self.acked.entry(key).or_default().push((version, now));
    }

    /// How long ago a newer version was acknowledged.
    fn age(&self, key: usize, version: Version, now: MonoTime) -> Option<Duration> {
        let newer = self.acked.get(&key)?.iter().filter(|(other, _)| *other > version);
        newer.map(|(_, at)| now.saturating_since(*at)).max()
    }
}

impl World {
    /// Some process reads some key through its local tier.
    pub(super) fn near_turn(&mut self) {
        let pause = Duration::from_micros(self.nears.rng.random_range(READS));
        self.schedule(self.now + pause, Event::NearTurn);
        let nodes: Vec<NodeId> = self.processes.keys().copied().collect();
        let keys = self.work.len();
        if nodes.is_empty() || keys == 0 {
            return;
        }
        let node = nodes[self.nears.rng.random_range(0..nodes.len())];
        // Few keys, so that they are read again while they are kept.
        let key = self.nears.rng.random_range(0..keys.min(6));
        self.schedule(self.now, Event::Input(node, Input::NearRead { key }));
    }

    pub(super) fn near_read(&mut self, node: NodeId, key: usize) {
        let name = self.work.name(key).clone();
        let (slot, hash) = (Slot::of_key(&name), hash_of(&name));
        let Some(process) = self.processes.get(&node) else { return };
        let Some(near) = &process.near else { return };
        let now = process.now();
        let ticket = near.subscriber.ticket(slot);
        let (held, invalidated) = {
            let kept = near.tier.0.lock();
            let held = kept.values.get(&hash).copied();
            let served = held.filter(|(_, stamp)| {
                let since = now.saturating_sub(BOUND);
                near.subscriber.readable(slot, *stamp, since) == Readable::Yes
            });
            (served, kept.invalidated.get(&hash).copied().unwrap_or_default())
        };
        if let Some((version, _)) = held {
            self.nears.hits += 1;
            if let Some(age) =
                self.nears.age(key, version, self.now).filter(|age| *age > BOUND_MEASURED)
            {
                let problem = format!("I10: {node} serves {key} at {version:?}, {age:?} too late");
                self.watch.problem.get_or_insert(problem);
            }
            return;
        }
        let Some(owner) = process.data.owner(slot).0 else { return };
        let by = near.subscriber.watcher(owner);
        let attempt = self.nears.next;
        self.nears.next += 1;
        self.nears.asked.insert(attempt, Asked { node, key, ticket, invalidated });
        let (op, call) = (Op::Watch { key: name, by }, Call { client: FILLS, attempt });
        self.near_send(node, owner, Input::Request { from: node, call, op, ack: Ack::All });
    }

    /// Sends something that is no part of a stream.
    fn near_send(&mut self, from: NodeId, to: NodeId, input: Input) {
        let (Some(a), Some(b)) = (self.place(from), self.place(to)) else { return };
        let delay = self.nears.delay();
        if self.network.is_open((Plane::Lanes, a, b)) {
            self.schedule(self.now + delay, Event::Input(to, input));
        }
    }

    /// The owner has answered a read that fills a tier; the answer is on its way.
    pub(super) fn near_reply(
        &mut self,
        owner: NodeId,
        home: NodeId,
        call: Call,
        result: Result<Reply, DataError>,
    ) {
        self.near_send(owner, home, Input::Answer { call, result });
    }

    pub(super) fn near_answered(&mut self, attempt: u64, result: Result<Reply, DataError>) {
        let Some(asked) = self.nears.asked.remove(&attempt) else { return };
        let Ok(Reply::Watched { owner, stream, found }) = result else { return };
        let Reply::Value(value) = *found else { return };
        let Some(process) = self.processes.get(&asked.node) else { return };
        let Some(near) = &process.near else { return };
        let name = self.work.name(asked.key);
        let (slot, hash) = (Slot::of_key(name), hash_of(name));
        let by = Watcher { node: asked.node, stream };
        let Some(stamp) = near.subscriber.admit(slot, asked.ticket, owner, by) else { return };
        let mut kept = near.tier.0.lock();
        let invalidated = kept.invalidated.get(&hash).copied().unwrap_or_default();
        let newer = kept
            .values
            .get(&hash)
            .is_some_and(|(known, at)| *at == stamp && *known > value.version);
        if invalidated == asked.invalidated && !newer {
            kept.values.insert(hash, (value.version, stamp));
        }
    }

    /// Opens the streams that are wanted, pings on the open ones, and sends what waited.
    pub(super) fn near_tick(&mut self) {
        self.schedule(self.now + PINGS, Event::NearTick);
        let nodes: Vec<NodeId> = self.processes.keys().copied().collect();
        for node in nodes {
            self.open_streams(node);
            self.vouch(node);
        }
        for pair in self.nears.streams.keys().copied().collect::<Vec<_>>() {
            self.tend_stream(pair);
        }
    }

    /// For the own slots.
    fn vouch(&self, node: NodeId) {
        let process = self.processes.get(&node).filter(|process| !process.paused);
        if let Some((process, near)) = process.and_then(|it| Some((it, it.near.as_ref()?)))
            && near.subscriber.wants_voucher()
        {
            process.data.vouch(&near.subscriber, process.now());
        }
    }

    fn open_streams(&mut self, node: NodeId) {
        let Some(process) = self.processes.get(&node).filter(|process| !process.paused) else {
            return;
        };
        let Some(near) = &process.near else { return };
        let here = process.place;
        for peer in near.subscriber.wanted() {
            let linked = self
                .place(peer)
                .is_some_and(|there| self.network.is_linked(Plane::Lanes, here, there));
            let Some((by, hello)) = linked.then(|| near.subscriber.open(peer)).flatten() else {
                continue;
            };
            let conduit = Conduit::new([self.now; 2]);
            let stream = Stream { by, conduit, is_open: false };
            self.nears.streams.insert((node, peer), stream);
            self.nears.rng.random::<u64>();
            return self.stream_frame((node, peer), by, false, hello);
        }
    }

    fn tend_stream(&mut self, pair: (NodeId, NodeId)) {
        let (node, peer) = pair;
        let Some(stream) = self.nears.streams.get_mut(&pair) else { return };
        let by = stream.by;
        let late = stream.conduit.is_over(self.now);
        let (Some(here), Some(there)) = (self.place(node), self.place(peer)) else {
            return self.break_stream(pair);
        };
        if late {
            return self.break_stream(pair);
        }
        self.send_waiting(pair, (here, there));
        let Some(process) = self.processes.get(&node).filter(|process| !process.paused) else {
            return;
        };
        let ping =
            process.near.as_ref().and_then(|near| near.subscriber.poll_ping(peer, process.now()));
        if let Some(ping) = ping {
            self.stream_frame(pair, by, false, ping);
        }
    }

    /// Sends what waited on a stream, if both ways are open again.
    fn send_waiting(&mut self, pair: (NodeId, NodeId), (here, there): (usize, usize)) {
        if !self.network.is_linked(Plane::Lanes, here, there) {
            return;
        }
        let Some(stream) = self.nears.streams.get_mut(&pair) else { return };
        let (by, waited) = (stream.by, stream.conduit.reopen());
        for (frames, down) in waited.into_iter().zip([true, false]) {
            for frame in frames {
                self.stream_frame(pair, by, down, frame);
            }
        }
    }

    /// Writes what a process has for those who watch it.
    pub(super) fn settle_watchers(&mut self, node: NodeId) -> bool {
        let Some(process) = self.processes.get(&node) else { return false };
        let woken: BTreeSet<NodeId> = std::mem::take(&mut *process.woken_watchers.lock());
        let data = Arc::clone(&process.data);
        let mut busy = false;
        for watcher in woken {
            let pair = (watcher, node);
            let Some(stream) = self.nears.streams.get(&pair).filter(|stream| stream.is_open) else {
                continue;
            };
            let by = stream.by;
            match data.poll_watcher(by) {
                Some(frames) => {
                    busy |= !frames.is_empty();
                    for frame in frames {
                        self.stream_frame(pair, by, true, frame);
                    }
                }
                None => self.break_stream(pair),
            }
        }
        busy
    }

    /// Sends a frame on a stream, down from the primary or up to it.
    fn stream_frame(&mut self, pair: (NodeId, NodeId), by: Watcher, down: bool, frame: Bytes) {
        let (Some(watcher), Some(primary)) = (self.place(pair.0), self.place(pair.1)) else {
            return;
        };
        let (from, to) = if down { (primary, watcher) } else { (watcher, primary) };
        let times = (self.now, self.nears.delay());
        let Some(stream) = self.nears.streams.get_mut(&pair).filter(|stream| stream.by == by)
        else {
            return;
        };
        let course = Course { from, to, down };
        let Some(at) = stream.conduit.send(&frame, course, times, &self.network) else { return };
        let (receiver, peer) = if down { pair } else { (pair.1, pair.0) };
        self.schedule(at, Event::Input(receiver, Input::StreamFrame { peer, by, down, frame }));
    }

    /// A frame of a stream arrives.
    pub(super) fn take_stream(
        &mut self,
        node: NodeId,
        peer: NodeId,
        by: Watcher,
        down: bool,
        frame: &Bytes,
    ) {
        let pair = if down { (node, peer) } else { (peer, node) };
        let Some(stream) = self.nears.streams.get_mut(&pair).filter(|stream| stream.by == by)
        else {
            return;
        };
        let is_open = stream.is_open;
        stream.is_open |= !down;
        let Some(process) = self.processes.get(&node) else { return };
        let taken = match (&process.near, down) {
            (Some(near), true) => {
                near.subscriber.handle_frame(peer, by, frame, process.now()).is_ok()
            }
            (_, true) => false,
            (_, false) if is_open => process.data.handle_watcher_frame(by, frame).is_ok(),
            (_, false) => process.data.watcher_open(peer, frame).is_ok(),
        };
        if !taken {
            self.break_stream(pair);
        }
    }

    /// Ends a stream; both ends learn of it in their time.
    fn break_stream(&mut self, pair: (NodeId, NodeId)) {
        let Some(stream) = self.nears.streams.remove(&pair) else { return };
        let by = stream.by;
        for (node, peer, down) in [(pair.0, pair.1, true), (pair.1, pair.0, false)] {
            let at = self.now + self.nears.delay();
            self.schedule(at, Event::Input(node, Input::StreamEnd { peer, by, down }));
        }
    }

    /// Ends all streams of a node, by a fault that breaks connections.
    pub(super) fn break_streams_of(&mut self, node: NodeId) {
        let pairs: Vec<_> = self.nears.streams.keys().copied().collect();
        for pair in pairs.into_iter().filter(|pair| pair.0 == node || pair.1 == node) {
            self.break_stream(pair);
        }
    }

    pub(super) fn end_stream(&mut self, node: NodeId, peer: NodeId, by: Watcher, down: bool) {
        let Some(process) = self.processes.get(&node) else { return };
        match &process.near {
            Some(near) if down => near.subscriber.close(peer, by),
            _ => process.data.watcher_close(by),
        }
    }
}
