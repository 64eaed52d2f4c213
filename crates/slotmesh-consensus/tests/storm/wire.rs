//! The wire between the voters: late, lossy, repeating, and now and then lying, all drawn from the seed.

use std::collections::{BTreeMap, BTreeSet};
use std::future::Future;
use std::hash::{DefaultHasher, Hash, Hasher};
use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use parking_lot::Mutex;
use rand::Rng;
use rand::rngs::StdRng;
use slotmesh_consensus::{Consensus, ConsensusError, RaftWire, WireError};
use slotmesh_slots::NodeId;
use tokio::sync::{Notify, oneshot};
use tokio::time::{Instant, sleep};

use super::clocks::Rate;
use super::oracle::{Oracle, Sight};

/// How long a voter may take for an answer: it waits for nothing.
const HANDLE_MAX: Duration = Duration::from_millis(50);

/// First bytes of a message: its version, and its kind where that is an append.
const VERSION: u8 = 1;
const APPEND: u8 = 1;

/// The answer to an append that was taken.
const TAKEN: [u8; 3] = [VERSION, 129, 0];

/// Chances in a thousand, and delays in milliseconds.
#[derive(Clone, Copy, Default)]
pub struct Weather {
    pub delay_max: u64,
    /// Of messages that take up to ten times as long.
    pub straggling: u32,
    pub lost: u32,
    pub doubled: u32,
    pub spoiled: u32,
}

impl Weather {
    pub const CALM: Self = Self { delay_max: 2, straggling: 0, lost: 0, doubled: 0, spoiled: 0 };
}

pub struct Net {
    pub rng: StdRng,
    pub peers: BTreeMap<NodeId, Peer>,
    /// From, to.
    pub cut: BTreeSet<(NodeId, NodeId)>,
    pub paused: BTreeSet<NodeId>,
    pub weather: Weather,
    /// When the newest message that arrived had been sent: from, to.
    arrived: BTreeMap<(NodeId, NodeId), u64>,
    trace: DefaultHasher,
}

#[derive(Clone)]
pub struct Peer {
    pub consensus: Consensus,
    pub rate: Rate,
}

/// What joins the nodes, and shows the oracle what passes.
pub struct Air {
    pub net: Mutex<Net>,
    pub oracle: Oracle,
    resumed: Notify,
}

/// What becomes of a message.
enum Fate {
    Arrives,
    Silence,
    Error,
}

impl Air {
    pub fn new(rng: StdRng, oracle: Oracle) -> Self {
        let net = Net {
            rng,
            peers: BTreeMap::new(),
            cut: BTreeSet::new(),
            paused: BTreeSet::new(),
            weather: Weather::CALM,
            arrived: BTreeMap::new(),
            trace: DefaultHasher::new(),
        };
        Self { net: Mutex::new(net), oracle, resumed: Notify::new() }
    }

    /// Shows the oracle all live nodes as of now.
    pub fn sample(&self) {
        let net = self.net.lock();
        let sight = |(node, peer): (&NodeId, &Peer)| Sight {
            node: *node,
            rate: peer.rate,
            status: peer.consensus.status(),
        };
        let sights: Vec<Sight> = net.peers.iter().map(sight).collect();
        self.oracle.sample(&sights);
    }

    pub fn resume(&self, node: NodeId) {
        self.net.lock().paused.remove(&node);
        self.resumed.notify_waiters();
    }

    /// Mixes what happened into the fingerprint of the run.
    pub fn trace(&self, what: impl Hash) {
        let now = self.oracle.now();
        (now, what).hash(&mut self.net.lock().trace);
    }

    pub fn fingerprint(&self) -> u64 {
        self.net.lock().trace.finish()
    }

    /// A way of one message that takes its time; whether it gets there.
    async fn cross(&self, from: NodeId, to: NodeId) -> bool {
        let delay = self.net.lock().delay();
        sleep(delay).await;
        loop {
            let resumed = self.resumed.notified();
            let held = {
                let net = self.net.lock();
                net.paused.contains(&from) || net.paused.contains(&to)
            };
            if !held {
                break;
            }
            self.oracle.count("message held by a pause");
            resumed.await;
        }
        let cut = self.net.lock().cut.contains(&(from, to));
        if cut {
            self.oracle.count("message cut off");
        }
        !cut
    }

    /// Carries one request, and its answer back.
    async fn deliver(&self, from: NodeId, to: NodeId, body: Bytes) -> Option<Delivered> {
        let sent = self.oracle.now();
        if !self.cross(from, to).await {
            return None;
        }
        if self.net.lock().overtaken(from, to, sent) {
            self.oracle.count("message overtaken");
        }
        self.trace((from, to, &body[..]));
        let Some(peer) = self.net.lock().peers.get(&to).cloned() else {
            return Some(Err(WireError::Unreachable(String::from("gone"))));
        };
        let started = Instant::now();
        let answer = peer.consensus.handle(from, body.clone()).await;
        self.sample();
        let alive = self.net.lock().peers.contains_key(&to);
        // What a former leader sends late may clash with what is committed meanwhile.
        let fits = matches!(answer, Ok(_) | Err(ConsensusError::Malformed(_)));
        self.oracle.ensure(fits || !alive, || format!("{to} answered {from} with {answer:?}"));
        self.oracle.ensure(started.elapsed() <= HANDLE_MAX, || format!("{to} took long to answer"));
        if !self.cross(to, from).await {
            return None;
        }
        self.trace((to, from, answer.as_deref().unwrap_or_default()));
        let answer = answer.map_err(|error| WireError::Unreachable(error.to_string()));
        Some(self.spoil(answer))
    }

    /// Perhaps another answer, which no correct peer gives.
    fn spoil(&self, answer: Delivered) -> Delivered {
        let mut net = self.net.lock();
        let (spoiled, way) = (net.weather.spoiled, net.rng.random_range(0..5));
        if !net.chance(spoiled) {
            return answer;
        }
        let body = answer.as_deref().unwrap_or_default();
        let (what, spoiled) = match way {
            0 => ("answer: garbage", vec![VERSION, net.rng.random_range(0..128), 0]),
            1 => ("answer: another version", [&[VERSION + 1], body].concat()),
            2 => ("answer: of another kind", of_another_kind(body)),
            3 => ("answer: too long", [body, &[0]].concat()),
            _ => {
                self.oracle.count("answer: an error");
                return Err(WireError::Unreachable(String::from("an error")));
            }
        };
        self.oracle.count(what);
        Ok(Bytes::from(spoiled))
    }
}

type Delivered = Result<Bytes, WireError>;

/// A vote that was not granted for an answer to an append, and the other way round a success.
fn of_another_kind(body: &[u8]) -> Vec<u8> {
    match body.get(1) {
        Some(&130) => TAKEN.to_vec(),
        _ => vec![VERSION, 130, 0, 0, 0, 0, 0],
    }
}

impl Net {
    pub fn chance(&mut self, in_thousand: u32) -> bool {
        self.rng.random_range(0..1000) < in_thousand
    }

    fn delay(&mut self) -> Duration {
        let straggles = self.chance(self.weather.straggling);
        let longest = self.weather.delay_max * if straggles { 10 } else { 1 };
        Duration::from_millis(self.rng.random_range(1..=longest.max(1)))
    }

    fn fate(&mut self) -> Fate {
        let lost = self.chance(self.weather.lost);
        match (lost, self.rng.random()) {
            (false, _) => Fate::Arrives,
            (true, true) => Fate::Silence,
            (true, false) => Fate::Error,
        }
    }

    fn overtaken(&mut self, from: NodeId, to: NodeId, sent: u64) -> bool {
        let newest = self.arrived.entry((from, to)).or_default();
        let overtaken = sent < *newest;
        *newest = sent.max(*newest);
        overtaken
    }
}

/// One node's end of the wire.
pub struct End {
    pub from: NodeId,
    pub air: Arc<Air>,
}

impl End {
    /// Carries a message that lives on when its sender has lost interest.
    fn send(&self, to: NodeId, body: Bytes, answer: Option<oneshot::Sender<Delivered>>) {
        let (air, from) = (Arc::clone(&self.air), self.from);
        tokio::spawn(async move {
            let sent = air.oracle.now();
            let append = body.get(..2) == Some(&[VERSION, APPEND]);
            let delivered = air.deliver(from, to, body).await;
            let (Some(answer), Some(delivered)) = (answer, delivered) else { return };
            let fate = air.net.lock().fate();
            if !matches!(fate, Fate::Arrives) {
                return air.oracle.count("reply lost");
            }
            if append && delivered.as_deref() == Ok(&TAKEN) {
                air.oracle.answer(from, to, sent);
            }
            drop(answer.send(delivered));
        });
    }
}

impl RaftWire for End {
    fn call(
        &self,
        to: NodeId,
        body: Bytes,
        _budget: Duration,
    ) -> Pin<Box<dyn Future<Output = Delivered> + Send>> {
        let (fate, doubled) = {
            let mut net = self.air.net.lock();
            let doubled = net.weather.doubled;
            (net.fate(), net.chance(doubled))
        };
        let (answer, answered) = oneshot::channel();
        match fate {
            Fate::Arrives => self.send(to, body.clone(), Some(answer)),
            Fate::Silence => self.air.oracle.count("request lost in silence"),
            Fate::Error => {
                self.air.oracle.count("request lost with an error");
                let _ = answer.send(Err(WireError::Unreachable(String::from("lost"))));
            }
        }
        if doubled {
            self.air.oracle.count("message delivered twice");
            self.send(to, body, None);
        }
        Box::pin(async move {
            match answered.await {
                Ok(delivered) => delivered,
                // Silence, not an error: what a black hole does.
                Err(_) => std::future::pending().await,
            }
        })
    }
}
