//! A few processes with the whole transport, on a modelled network and a clock that stands still while anybody works.
//!
//! [`run`] is one life of such a world: load under faults, then a calm in which everything must work again, then the end,
//! after which nothing may be left. What is promised is checked by the [`ledger`] as it happens.
#![allow(unreachable_pub, reason = "the folder is one module of its test")]

mod calls;
mod faults;
mod flows;
mod ledger;
mod net;
mod process;
mod recorder;
mod rest;
pub mod scenes;
mod socket;
mod wire;

use std::net::{Ipv4Addr, SocketAddr};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::time::Duration;

use parking_lot::Mutex;
use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};
use slotmesh_slots::NodeId;
use slotmesh_transport::TransportConfig;
use tokio::task::JoinSet;
use tokio::time::Instant;

use ledger::Ledger;
pub use ledger::Tally;
use net::{Net, Weather};
use process::{Process, Whereabouts};
use recorder::Recorder;

/// Payloads that the paths of a run bear: what IPv6 guarantees, a tunnel, Ethernet, loopback.
const PATH_MTUS: [usize; 4] = [1232, 1380, 1452, 65_000];

pub struct World {
    pub net: Arc<Net>,
    pub ledger: Arc<Ledger>,
    pub config: TransportConfig,
    path_mtu: AtomicUsize,
    path_mtu_at_first: usize,
    addrs: Vec<SocketAddr>,
    /// Who runs where.
    running: Mutex<Vec<Arc<Process>>>,
    /// The handlers of all that ever ran.
    handlers: Mutex<Vec<Arc<Recorder>>>,
    tasks: Mutex<JoinSet<()>>,
    /// For seeds of tasks and numbers of nodes.
    seeds: AtomicU64,
}

/// What a run leaves behind.
pub struct Outcome {
    pub virtual_time: Duration,
    pub violations: Vec<String>,
}

/// One run. The network and all that is asked of the transport come from the seed; keys, connection ids and the jitter
/// of redialling do not.
pub fn run(seed: u64, tally: &Arc<Tally>) -> Outcome {
    let runtime = runtime();
    let started = runtime.block_on(async { Instant::now() });
    let mut violations = runtime.block_on(live(seed, tally.clone()));
    let virtual_time = runtime.block_on(async { started.elapsed() });
    let tasks = runtime.metrics().num_alive_tasks();
    if tasks > 0 {
        violations.push(format!("{tasks} tasks are left"));
    }
    Outcome { virtual_time, violations }
}

/// One thread whose clock moves only when nobody has anything to do.
fn runtime() -> tokio::runtime::Runtime {
    let mut builder = tokio::runtime::Builder::new_current_thread();
    builder.enable_time().start_paused(true).build().unwrap()
}

async fn live(seed: u64, tally: Arc<Tally>) -> Vec<String> {
    let mut rng = StdRng::seed_from_u64(seed);
    let world = World::found(&mut rng, tally);
    let courier = tokio::spawn(world.net.clone().carry());
    for place in 0..world.places() {
        let process = world.start(place);
        world.load(place, &process);
    }
    faults::rage(&world, &mut rng).await;
    rest::recover(&world, &mut rng).await;
    rest::stop_load(&world).await;
    rest::check_connections(&world).await;
    rest::check_permits(&world, &mut rng).await;
    rest::end(&world, &mut rng).await;
    courier.abort();
    // It fails because it was aborted.
    let _ = courier.await;
    world.ledger.violations()
}

impl World {
    fn found(rng: &mut StdRng, tally: Arc<Tally>) -> Arc<Self> {
        let path_mtu = PATH_MTUS[rng.random_range(0..PATH_MTUS.len())];
        let addr = |place: u8| SocketAddr::from((Ipv4Addr::new(10, 0, 0, place), 7000));
        Arc::new(Self {
            net: Net::new(rng.random(), Weather::calm(path_mtu), tally.clone()),
            ledger: Ledger::new(tally),
            config: config(rng),
            path_mtu: path_mtu.into(),
            path_mtu_at_first: path_mtu,
            addrs: (1..=rng.random_range(2..=4)).map(addr).collect(),
            running: Mutex::default(),
            handlers: Mutex::default(),
            tasks: Mutex::default(),
            seeds: AtomicU64::new(rng.random_range(1..1 << 40)),
        })
    }

    pub fn places(&self) -> u8 {
        self.addrs.len() as u8
    }

    pub fn addr(&self, place: u8) -> SocketAddr {
        self.addrs[usize::from(place)]
    }

    /// Who is at a place, or was there last.
    pub fn whereabouts(&self, place: u8) -> Whereabouts {
        let node = self.process(place).id;
        Whereabouts { place, addr: self.addr(place), node }
    }

    pub fn process(&self, place: u8) -> Arc<Process> {
        self.running.lock()[usize::from(place)].clone()
    }

    /// Starts a process at a place, instead of the former one.
    pub fn start(&self, place: u8) -> Arc<Process> {
        let id = NodeId::from_random(self.seed());
        let process =
            Process::start(&self.net, self.addr(place), id, self.config.clone(), &self.ledger);
        self.handlers.lock().push(process.handler.clone());
        let mut running = self.running.lock();
        match running.get_mut(usize::from(place)) {
            Some(former) => *former = process.clone(),
            None => running.push(process.clone()),
        }
        process
    }

    /// Has a process call, stream and talk to all other places until it stops.
    fn load(self: &Arc<Self>, place: u8, process: &Arc<Process>) {
        let mut load = self.tasks.lock();
        load.spawn(flows::keep_talking(self.clone(), process.clone(), place, self.seed()));
        for other in (0..self.places()).filter(|other| *other != place) {
            for _ in 0..2 {
                let seed = self.seed();
                load.spawn(calls::keep_calling(self.clone(), process.clone(), other, seed));
            }
            load.spawn(flows::keep_streaming(self.clone(), process.clone(), other, self.seed()));
        }
    }

    /// The largest payload that the paths bear.
    pub fn path_mtu(&self) -> usize {
        self.path_mtu.load(Ordering::Relaxed)
    }

    /// The paths bear less from now on, as after a change of route; packets that fitted vanish. The next weather brings it.
    fn narrow(&self, rng: &mut StdRng) {
        let narrower = PATH_MTUS[rng.random_range(0..PATH_MTUS.len())];
        if self.path_mtu.fetch_min(narrower, Ordering::Relaxed) > narrower {
            self.ledger.tally.note("path narrowed");
        }
    }

    pub fn is_narrowed(&self) -> bool {
        self.path_mtu() < self.path_mtu_at_first
    }

    fn seed(&self) -> u64 {
        self.seeds.fetch_add(1, Ordering::Relaxed)
    }
}

/// Limits low enough to be met, and times short enough to pass.
fn config(rng: &mut StdRng) -> TransportConfig {
    let idle_timeout = Duration::from_secs(*[2, 5, 10].get(rng.random_range(0..3)).unwrap());
    TransportConfig {
        in_flight_max: 16,
        serving_max: 12,
        queued_bytes_max: 1 << 20,
        frame_bytes_max: 256 << 10,
        stream_frame_bytes_max: 256 << 10,
        idle_timeout,
        keep_alive_interval: idle_timeout / 4,
        handshake_timeout: Duration::from_secs(rng.random_range(1..=3)),
        mtu_max: if rng.random_bool(0.5) { 1452 } else { 6000 },
        ..TransportConfig::default()
    }
}
