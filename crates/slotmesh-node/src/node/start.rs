use std::collections::BTreeSet;
use std::future::Future;
use std::net::SocketAddr;
use std::sync::Arc;
use std::thread;
use std::time::Duration;

use arc_swap::ArcSwap;
use bytes::Bytes;
use parking_lot::Mutex;
use slotmesh_coherence::Subscriber;
use slotmesh_control::{LEASES_OVER_AFTER, LoadFloor, NodeInfo};
use slotmesh_core::{Brain, BrainConfig, Clock, DataConfig, DataPlane, Wakers};
use slotmesh_gossip::GossipConfig;
use slotmesh_slots::NodeId;
use slotmesh_transport::{Endpoint, Handler, Hello, Identity, PacketFilter, TransportConfig};
use tokio::runtime;
use tokio::sync::{Notify, mpsc, oneshot, watch};

use super::before_leaving::BeforeLeaving;
use super::{Inner, Node};
use crate::client::Router;
use crate::clock::BootClock;
use crate::coarse::CoarseClock;
use crate::config::NodeConfig;
use crate::control::{
    ControlHandler, ControlParts, ControlPeers, Driver, Guard, INPUTS_MAX, LogSlot,
};
use crate::error::StartError;
use crate::lane::{Directory, LaneHandler, LanePeers, LinkWakers, Links, Watches, throttle_copies};
use crate::status::{NodeStatus, Phase};

impl Node {
    /// Opens the sockets, starts the node's threads and begins to look for the cluster. Returns as soon as it listens:
    /// [`Node::wait_until`] tells when it serves.
    ///
    /// # Errors
    /// When the settings cannot work or an address is taken.
    pub async fn start(config: NodeConfig) -> Result<Self, StartError> {
        Self::start_behind(config, None).await
    }

    /// As [`Node::start`]; packets have to pass the filter, if there is one, on their way out.
    pub(crate) async fn start_behind(
        config: NodeConfig,
        filter: Option<PacketFilter>,
    ) -> Result<Self, StartError> {
        config.check()?;
        let id = NodeId::from_random(rand::random());
        let identity = Identity::from_secret(&config.secret, id)?;
        let starting = Starting::new(id, config, identity, filter);
        starting.run().await
    }
}

/// What the pieces of a starting node share.
struct Starting {
    id: NodeId,
    config: NodeConfig,
    identity: Identity,
    filter: Option<PacketFilter>,
    data: Arc<DataPlane>,
    data_events: Arc<Notify>,
    wakers: LinkWakers,
    /// Of the tasks that tell others of writes, and of those that hear of others'.
    tellers: LinkWakers,
    listeners: LinkWakers,
    watches_changed: Arc<Notify>,
    subscriber: Arc<Subscriber>,
    clock: CoarseClock,
    directory: Arc<ArcSwap<Directory>>,
    directory_changed: Arc<Notify>,
    stop: watch::Sender<bool>,
}

impl Starting {
    fn new(
        id: NodeId,
        config: NodeConfig,
        identity: Identity,
        filter: Option<PacketFilter>,
    ) -> Self {
        let wakers = LinkWakers::default();
        let data_events = Arc::new(Notify::new());
        let (link_wakers, events) = (wakers.clone(), Arc::clone(&data_events));
        let (tellers, listeners) = (LinkWakers::default(), LinkWakers::default());
        let watchers = tellers.clone();
        let watches_changed = Arc::new(Notify::new());
        let (pings, changed) = (listeners.clone(), Arc::clone(&watches_changed));
        let wake = move |node| {
            pings.wake(node);
            changed.notify_one();
        };
        let subscriber = Arc::new(Subscriber::new(id, Box::new(wake)));
        let hooks = Wakers {
            link: Box::new(move |node| link_wakers.wake(node)),
            events: Box::new(move || events.notify_one()),
            watchers: Box::new(move |node| watchers.wake(node)),
        };
        let key_seed = identity.key_seed();
        let data_config =
            DataConfig { key_seed, ..DataConfig::within(config.max_memory_bytes, true) };
        let data = Arc::new(DataPlane::new(id, data_config, Arc::new(BootClock), hooks));
        data.attach(Arc::clone(&subscriber));
        Self {
            id,
            config,
            identity,
            filter,
            data,
            data_events,
            wakers,
            tellers,
            listeners,
            watches_changed,
            subscriber,
            clock: CoarseClock::start(),
            directory: Arc::default(),
            directory_changed: Arc::default(),
            stop: watch::channel(false).0,
        }
    }

    async fn run(self) -> Result<Node, StartError> {
        let mut lanes = Vec::new();
        for lane in 0..self.config.io_threads {
            lanes.push(self.start_lane(lane).await?);
        }
        let (inputs, input_receiver) = mpsc::channel(INPUTS_MAX);
        let (status_sender, status) = watch::channel(Arc::new(self.first_status()));
        let endpoints: Vec<Endpoint> = lanes.iter().map(|lane| lane.endpoint().clone()).collect();
        let control = ControlStart {
            id: self.id,
            config: self.config.clone(),
            identity: self.identity.clone(),
            filter: self.filter.clone(),
            data: Arc::clone(&self.data),
            data_events: Arc::clone(&self.data_events),
            inputs: inputs.clone(),
            lanes: endpoints.clone(),
            directory: Arc::clone(&self.directory),
            directory_changed: Arc::clone(&self.directory_changed),
            stop: self.stop.subscribe(),
        };
        let (ready, started) = oneshot::channel();
        spawn("slotmesh-control", control.run(input_receiver, status_sender, ready))?;
        let control = started.await.map_err(|_| StartError::Ended)??;
        let addr = Some(control.local_addr());
        let data = self.data;
        let started = data.now();
        let call_timeout = self.config.ready.call_timeout;
        let subscriber = self.subscriber;
        let router = Router { data, subscriber, lanes, status: status.clone(), call_timeout };
        let inner = Inner {
            id: self.id,
            addr,
            router: Arc::new(router),
            inputs: Some(inputs),
            endpoints: endpoints.into_iter().chain([control]).collect(),
            status,
            stop: self.stop,
            ready_cap: self.config.ready.ready_cap,
            max_memory_bytes: self.config.max_memory_bytes,
            started,
            clock: self.clock,
            was_safe: Mutex::new(false),
            before_leaving: BeforeLeaving::default(),
        };
        Ok(Node { inner: Arc::new(inner) })
    }

    /// Starts a thread that carries data; the first also keeps the replication links.
    async fn start_lane(&self, lane: usize) -> Result<Arc<LanePeers>, StartError> {
        let addr = SocketAddr::new(self.config.bind.ip(), 0);
        let hello = hello(self.id, &self.config, lane + 1);
        let (identity, filter) = (self.identity.clone(), self.filter.clone());
        let handler = Arc::new(LaneHandler::new(Arc::clone(&self.data), self.tellers.clone()));
        let directory = Arc::clone(&self.directory);
        let (data, wakers) = (Arc::clone(&self.data), self.wakers.clone());
        let changed = Arc::clone(&self.directory_changed);
        let latency_max = self.config.ready.copy_latency_max;
        let watches = (Arc::clone(&self.subscriber), Arc::clone(&self.watches_changed));
        let (pings, clock) = (self.listeners.clone(), self.clock);
        let mut stop = self.stop.subscribe();
        let (ready, started) = oneshot::channel();
        spawn("slotmesh-lane", async move {
            let config = lane_transport(addr);
            let endpoint = match bind(addr, &identity, hello, config, handler, filter) {
                Ok(endpoint) => endpoint,
                Err(error) => return drop(ready.send(Err(error))),
            };
            let peers = Arc::new(LanePeers::new(lane, endpoint, directory));
            drop(ready.send(Ok(Arc::clone(&peers))));
            let links = async {
                if lane == 0 {
                    let throttle = throttle_copies(Arc::clone(&data), latency_max);
                    let (subscriber, woken) = watches;
                    let (data_too, peers_too) = (Arc::clone(&data), Arc::clone(&peers));
                    let watches = Watches {
                        data: data_too,
                        subscriber,
                        clock,
                        peers: peers_too,
                        pings,
                        changed: woken,
                    };
                    let links = Links { data, peers, wakers, changed };
                    tokio::join!(links.run(), watches.run(), throttle);
                } else {
                    peers.keep_pruned().await;
                }
            };
            tokio::select! {
                // The sender lives in the node's handle: an error means that the node is gone.
                _ = stop.wait_for(|stop| *stop) => {}
                () = links => {}
            }
        })?;
        started.await.map_err(|_| StartError::Ended)?
    }

    fn first_status(&self) -> NodeStatus {
        NodeStatus {
            node: self.id,
            phase: Phase::Joining,
            generation: None,
            cluster: Arc::default(),
            leading: false,
            leader: None,
            alive_peers: 0,
            absent: BTreeSet::new(),
            met_other_generation: false,
            voters: Vec::new(),
            all_voters: false,
            knew_others: false,
            failovers: 0,
            reforms_cancelled: 0,
        }
    }
}

/// Numbers tried for the control socket and its guard where the system chooses them.
const PORT_ATTEMPTS: usize = 32;

/// What the control thread needs to begin.
struct ControlStart {
    id: NodeId,
    config: NodeConfig,
    identity: Identity,
    filter: Option<PacketFilter>,
    data: Arc<DataPlane>,
    data_events: Arc<Notify>,
    inputs: mpsc::Sender<crate::control::Input>,
    lanes: Vec<Endpoint>,
    directory: Arc<ArcSwap<Directory>>,
    directory_changed: Arc<Notify>,
    stop: watch::Receiver<bool>,
}

impl ControlStart {
    async fn run(
        self,
        inputs: mpsc::Receiver<crate::control::Input>,
        status: watch::Sender<Arc<NodeStatus>>,
        ready: oneshot::Sender<Result<Endpoint, StartError>>,
    ) {
        let log = LogSlot::default();
        let (endpoint, guard) = match self.open(log.clone()).await {
            Ok(opened) => opened,
            Err(error) => return drop(ready.send(Err(error))),
        };
        let brain = self.brain(endpoint.local_addr());
        let peers = Arc::new(ControlPeers::new(endpoint.clone()));
        if ready.send(Ok(endpoint.clone())).is_err() {
            // Who started the node has gone.
            return;
        }
        let parts = ControlParts {
            brain,
            data: self.data,
            inputs,
            answers: self.inputs,
            data_events: self.data_events,
            log: log.clone(),
            endpoints: self.lanes.into_iter().chain([endpoint]).collect(),
            peers,
            directory: self.directory,
            directory_changed: self.directory_changed,
            status,
            stop: self.stop,
        };
        tokio::select! {
            () = Driver::new(parts).run() => {}
            () = guard.run() => {}
        }
        log.stop().await;
    }

    /// The control socket, and the guard port of the same number. Where the system chooses the number, it knows of the socket
    /// only: a number that is taken for the guard is given back for another.
    async fn open(&self, log: LogSlot) -> Result<(Endpoint, Guard), StartError> {
        let mut attempts = if self.config.bind.port() == 0 { PORT_ATTEMPTS } else { 1 };
        loop {
            let handler = ControlHandler { inputs: self.inputs.clone(), log: log.clone() };
            let hello = hello(self.id, &self.config, 0);
            let config = TransportConfig::default();
            let (bound, filter) = (self.config.bind, self.filter.clone());
            let handler = Arc::new(handler);
            let endpoint = bind(bound, &self.identity, hello, config, handler, filter)?;
            let addr = endpoint.local_addr();
            attempts -= 1;
            match Guard::bind(addr).await {
                Ok(guard) => return Ok((endpoint, guard)),
                Err(source) if attempts == 0 => return Err(StartError::Guard { addr, source }),
                Err(error) => tracing::debug!(%addr, %error, "guard port taken; another number"),
            }
        }
    }

    fn brain(&self, control: SocketAddr) -> Brain {
        let info = NodeInfo {
            name: self.config.name.clone(),
            control,
            lanes: self.lanes.iter().map(Endpoint::local_addr).collect(),
            resp: self.config.resp,
            zone: self.config.zone.clone(),
            witness: self.config.witness,
            weight: self.config.weight(),
        };
        let config = BrainConfig {
            info,
            seeds: self.config.seeds.clone(),
            expect: self.config.expect,
            replicas: self.config.replicas,
            gossip: GossipConfig::default(),
            refused_is_death: self.config.ready.refused_is_death,
            recopy_after: self.config.ready.recopy_after,
            load_floor: LoadFloor::default(),
            reform: self.config.ready.reform,
            reform_wait: LEASES_OVER_AFTER,
        };
        Brain::new(self.id, config, Arc::clone(&self.data), rand::random(), BootClock.now())
    }
}

fn hello(node: NodeId, config: &NodeConfig, lane: usize) -> Hello {
    Hello {
        cluster: config.cluster.clone(),
        node,
        generation: None,
        lane: lane as u8,
        info: Bytes::new(),
    }
}

fn bind(
    addr: SocketAddr,
    identity: &Identity,
    hello: Hello,
    config: TransportConfig,
    handler: Arc<dyn Handler>,
    filter: Option<PacketFilter>,
) -> Result<Endpoint, StartError> {
    Ok(match filter {
        None => Endpoint::bind(addr, identity, hello, config, handler)?,
        Some(passes) => Endpoint::bind_filtered(addr, identity, hello, config, handler, passes)?,
    })
}

/// How long a lane looks for answers before it sleeps: about what a batch of 64 small calls takes there and back. It makes
/// such batches 1.4 times as fast.
const BUSY_POLL_MAX: Duration = Duration::from_micros(200);

/// Loopback bears large packets, which double the rate of calls above a kilobyte; elsewhere path discovery stays at
/// Ethernet's size.
fn lane_transport(addr: SocketAddr) -> TransportConfig {
    let mtu_max = if addr.ip().is_loopback() { 6_000 } else { TransportConfig::default().mtu_max };
    // On a single core whoever is waited for could not work meanwhile.
    let shares_core = thread::available_parallelism().is_ok_and(|cores| cores.get() == 1);
    let busy_poll_max = if shares_core { Duration::ZERO } else { BUSY_POLL_MAX };
    TransportConfig { mtu_max, busy_poll_max, ..TransportConfig::default() }
}

/// Runs the future on a thread of its own with a runtime of its own.
fn spawn(name: &str, work: impl Future<Output = ()> + Send + 'static) -> Result<(), StartError> {
    let thread = thread::Builder::new().name(name.to_owned());
    let runtime =
        runtime::Builder::new_current_thread().enable_all().build().map_err(StartError::Thread)?;
    thread.spawn(move || runtime.block_on(work)).map_err(StartError::Thread)?;
    Ok(())
}
