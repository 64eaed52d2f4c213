use std::cmp::Reverse;
use std::collections::{BTreeMap, BTreeSet, BinaryHeap};
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use parking_lot::Mutex;
use quinn::udp::EcnCodepoint;
use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};
use tokio::sync::Notify;
use tokio::time::Instant;

use super::ledger::Tally;
use super::socket::VirtualSocket;

/// What a datagram meets on its way.
#[derive(Clone, Debug)]
pub struct Weather {
    /// Shortest and longest way, one direction.
    pub delay: (Duration, Duration),
    /// Share of datagrams that get lost.
    pub loss: f64,
    /// Share that arrives twice.
    pub duplication: f64,
    /// Share that strays: it takes up to [`STRAY_MAX`] longer.
    pub straying: f64,
    /// Larger payloads vanish, as on a path that fragments nothing.
    pub mtu: usize,
}

/// How much longer a stray takes, at most.
const STRAY_MAX: Duration = Duration::from_millis(400);

impl Weather {
    /// A fine path.
    pub fn calm(mtu: usize) -> Self {
        let delay = (Duration::from_millis(1), Duration::from_millis(3));
        Self { delay, loss: 0.0, duplication: 0.0, straying: 0.0, mtu }
    }

    /// Anything from a local network to a bad line overseas.
    pub fn drawn(rng: &mut StdRng, mtu: usize) -> Self {
        let shortest = *[0, 1, 5, 40].get(rng.random_range(0..4)).unwrap();
        let spread = *[0, 1, 20, 80].get(rng.random_range(0..4)).unwrap();
        Self {
            delay: (Duration::from_millis(shortest), Duration::from_millis(shortest + spread)),
            loss: if rng.random_bool(0.6) { rng.random_range(0.0..0.3) } else { 0.0 },
            duplication: if rng.random_bool(0.5) { rng.random_range(0.0..0.3) } else { 0.0 },
            straying: if rng.random_bool(0.5) { rng.random_range(0.0..0.1) } else { 0.0 },
            mtu,
        }
    }
}

/// Datagrams between addresses, without a system's sockets: what happens to each is drawn from a seed, and when it
/// arrives is a matter of the runtime's clock.
pub struct Net {
    state: Mutex<State>,
    tally: Arc<Tally>,
    /// Something is due earlier than the courier knows.
    earlier: Notify,
}

struct State {
    rng: StdRng,
    weather: Weather,
    sockets: BTreeMap<SocketAddr, Arc<VirtualSocket>>,
    /// Directions in which nothing gets through.
    cut: BTreeSet<Way>,
    under_way: BinaryHeap<Reverse<Parcel>>,
    serial: u64,
    /// The latest sent of what has arrived, by direction.
    latest: BTreeMap<Way, u64>,
}

/// From where to where.
pub type Way = (SocketAddr, SocketAddr);

#[derive(Clone, Debug)]
pub struct Datagram {
    pub from: SocketAddr,
    pub ecn: Option<EcnCodepoint>,
    pub bytes: Bytes,
}

/// A datagram under way; ordered by arrival.
struct Parcel {
    at: Instant,
    serial: u64,
    to: SocketAddr,
    datagram: Datagram,
}

impl Parcel {
    fn rank(&self) -> (Instant, u64) {
        (self.at, self.serial)
    }
}

impl PartialEq for Parcel {
    fn eq(&self, other: &Self) -> bool {
        self.rank() == other.rank()
    }
}

impl Eq for Parcel {}

impl PartialOrd for Parcel {
    fn partial_cmp(&self, other: &Self) -> Option<std::cmp::Ordering> {
        Some(self.cmp(other))
    }
}

impl Ord for Parcel {
    fn cmp(&self, other: &Self) -> std::cmp::Ordering {
        self.rank().cmp(&other.rank())
    }
}

impl Net {
    pub fn new(seed: u64, weather: Weather, tally: Arc<Tally>) -> Arc<Self> {
        let state = State {
            rng: StdRng::seed_from_u64(seed),
            weather,
            sockets: BTreeMap::new(),
            cut: BTreeSet::new(),
            under_way: BinaryHeap::new(),
            serial: 0,
            latest: BTreeMap::new(),
        };
        Arc::new(Self { state: Mutex::new(state), tally, earlier: Notify::new() })
    }

    /// Opens a socket. What is still under way to a former one at the address arrives here, as it does in life.
    pub fn plug(self: &Arc<Self>, addr: SocketAddr) -> Arc<VirtualSocket> {
        let socket = VirtualSocket::new(addr, self.clone());
        self.state.lock().sockets.insert(addr, socket.clone());
        socket
    }

    /// Takes the socket off the network: it hears nothing and what it sends goes nowhere.
    pub fn unplug(&self, socket: &Arc<VirtualSocket>) {
        socket.mute();
        let mut state = self.state.lock();
        if state.sockets.get(&socket.addr()).is_some_and(|other| Arc::ptr_eq(other, socket)) {
            state.sockets.remove(&socket.addr());
        }
    }

    pub fn set_weather(&self, weather: Weather) {
        self.state.lock().weather = weather;
    }

    pub fn cut(&self, way: Way) {
        self.state.lock().cut.insert(way);
    }

    pub fn heal(&self) {
        self.state.lock().cut.clear();
    }

    /// Takes a datagram on its way, or loses it.
    pub fn send(&self, to: SocketAddr, datagram: &Datagram) {
        let mut state = self.state.lock();
        let copies = match state.fate(to, datagram) {
            Ok(copies) => copies,
            Err(lost) => return self.tally.note(lost),
        };
        let earliest = state.under_way.peek().map(|parcel| parcel.0.at);
        for _ in 0..copies {
            let at = Instant::now() + state.travel_time();
            state.serial += 1;
            let serial = state.serial;
            state.under_way.push(Reverse(Parcel { at, serial, to, datagram: datagram.clone() }));
        }
        let now_earliest = state.under_way.peek().map(|parcel| parcel.0.at);
        drop(state);
        if copies > 1 {
            self.tally.note("datagram duplicated");
        }
        if earliest.is_none() || now_earliest < earliest {
            self.earlier.notify_one();
        }
    }

    /// Brings datagrams to their sockets as they become due; ends when it is aborted.
    pub async fn carry(self: Arc<Self>) {
        loop {
            let next = self.deliver_due(Instant::now());
            let due = async {
                match next {
                    Some(at) => tokio::time::sleep_until(at).await,
                    None => std::future::pending().await,
                }
            };
            tokio::select! {
                () = due => {}
                () = self.earlier.notified() => {}
            }
        }
    }

    /// Delivers what is due and tells when the next is.
    fn deliver_due(&self, now: Instant) -> Option<Instant> {
        loop {
            let mut state = self.state.lock();
            let next = state.under_way.peek()?.0.at;
            if next > now {
                return Some(next);
            }
            let Reverse(parcel) = state.under_way.pop()?;
            if state.overtaken(&parcel) {
                self.tally.note("datagram reordered");
            }
            let socket = state.sockets.get(&parcel.to).cloned();
            drop(state);
            let arrived = socket.is_some_and(|socket| socket.put(parcel.datagram));
            self.tally.note(if arrived { "datagram arrived" } else { "datagram to nobody" });
        }
    }
}

impl State {
    /// How many copies arrive, or why none does.
    fn fate(&mut self, to: SocketAddr, datagram: &Datagram) -> Result<usize, &'static str> {
        if self.cut.contains(&(datagram.from, to)) {
            return Err("datagram cut off");
        }
        if datagram.bytes.len() > self.weather.mtu {
            return Err("datagram too large");
        }
        if self.rng.random_bool(self.weather.loss) {
            return Err("datagram lost");
        }
        Ok(if self.rng.random_bool(self.weather.duplication) { 2 } else { 1 })
    }

    fn travel_time(&mut self) -> Duration {
        let (shortest, longest) = self.weather.delay;
        let stray = self.rng.random_bool(self.weather.straying);
        let extra =
            if stray { self.rng.random_range(Duration::ZERO..STRAY_MAX) } else { Duration::ZERO };
        self.rng.random_range(shortest..=longest) + extra
    }

    /// Whether something that was sent later has arrived on the same way before.
    fn overtaken(&mut self, parcel: &Parcel) -> bool {
        let latest = self.latest.entry((parcel.datagram.from, parcel.to)).or_default();
        let overtaken = *latest > parcel.serial;
        *latest = (*latest).max(parcel.serial);
        overtaken
    }
}
