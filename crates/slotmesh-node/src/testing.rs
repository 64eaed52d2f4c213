//! Clusters of real nodes inside one process, for tests of what is built on them: nodes crash, are cut off from each other, come
//! back.
//!
//! ```
//! use slotmesh_node::testing::Cluster;
//!
//! # async fn example() -> Result<(), Box<dyn std::error::Error>> {
//! let mut cluster = Cluster::start(3).await?;
//! cluster.node(0).put("user:1", "Ada", Default::default()).await?;
//!
//! cluster.kill(2).await;
//! cluster.settle().await?;
//! assert!(cluster.node(1).get(b"user:1").await?.is_some());
//!
//! cluster.restart(2).await?;
//! cluster.settle().await?;
//! cluster.partition(&[0]); // alone: it refuses, the other two go on
//! cluster.heal();
//! # Ok(())
//! # }
//! ```
//!
//! The nodes are those of production, on sockets of the loopback interface, so time is real too: a start takes half a second, the
//! failover of a node that was killed some tenths, of one that is cut off a second. A refused connection proves a death here
//! ([`ReadySettings::refused_is_death`](crate::ReadySettings::refused_is_death)). Code that needs no cluster is tested faster with [`Node::local`], whose time a
//! test moves on by hand.

use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, Ipv4Addr, SocketAddr, TcpListener};
use std::sync::Arc;
use std::time::Duration;
use std::{fmt, io};

use parking_lot::Mutex;
use slotmesh_slots::NodeId;
use slotmesh_transport::{ClusterSecret, PacketFilter};

use crate::{Node, NodeConfig, NodeStatus, Phase, StartError};

/// Longest wait for a cluster to come to rest: several times what the slowest failover takes.
const SETTLE_MAX: Duration = Duration::from_secs(30);

/// Memory of a node whose settings do not say: enough for tests, small beside the test.
const MEMORY_BYTES: usize = 64 << 20;

/// Others may take a port that was free a moment ago, now and then.
const ATTEMPTS: usize = 3;

const ANY_PORT: SocketAddr = SocketAddr::new(IpAddr::V4(Ipv4Addr::LOCALHOST), 0);

type Configure = Arc<dyn Fn(usize, &mut NodeConfig) + Send + Sync>;

/// A cluster in this process. Its nodes are numbered in the order in which they were added.
///
/// Dropped nodes end as crashed ones do, also while clones of their handles live on.
pub struct Cluster {
    places: Vec<Place>,
    /// How many have to see each other to found it, and to found it anew when all were killed.
    expect: u16,
    network: Arc<Network>,
    configure: Configure,
}

struct Place {
    addr: SocketAddr,
    /// `None` once it was killed or has left.
    running: Option<Running>,
}

struct Running {
    node: Node,
    host: Host,
}

/// What keeps a cluster from being as it should.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ClusterError {
    /// A node does not start.
    #[error("node {at} does not start: {source}")]
    Start {
        /// Its number.
        at: usize,
        /// Why.
        source: StartError,
    },
    /// The system has no free ports.
    #[error("no free ports: {0}")]
    NoPorts(io::Error),
    /// The nodes did not come to rest in time.
    #[error("the cluster does not settle: {}", .problems.join("; "))]
    NotSettled {
        /// For each node that is not as it should be, what is wrong.
        problems: Vec<String>,
    },
}

impl ClusterError {
    const fn is_port_taken(&self) -> bool {
        matches!(self, Self::Start { source: StartError::Bind(_) | StartError::Guard { .. }, .. })
    }
}

impl Cluster {
    /// As many nodes, with one replica of each slot, once all of them serve and all copies are complete. With none it is empty until one
    /// is added.
    ///
    /// # Errors
    /// When a node does not start, or they do not find each other within half a minute.
    pub async fn start(nodes: u16) -> Result<Self, ClusterError> {
        Self::start_with(nodes, |_, _| {}).await
    }

    /// As [`Cluster::start`], with settings of one's own for the node of each number, also for those that are added later. Addresses,
    /// seeds and `expect` are the cluster's.
    ///
    /// # Errors
    /// As [`Cluster::start`].
    pub async fn start_with(
        nodes: u16,
        configure: impl Fn(usize, &mut NodeConfig) + Send + Sync + 'static,
    ) -> Result<Self, ClusterError> {
        let configure: Configure = Arc::new(configure);
        for _ in 1..ATTEMPTS {
            match Self::found(nodes, Arc::clone(&configure)).await {
                Err(error) if error.is_port_taken() => {}
                outcome => return outcome,
            }
        }
        Self::found(nodes, configure).await
    }

    async fn found(nodes: u16, configure: Configure) -> Result<Self, ClusterError> {
        let addrs = free_addrs(nodes).map_err(ClusterError::NoPorts)?;
        let mut cluster = Self {
            places: addrs.into_iter().map(|addr| Place { addr, running: None }).collect(),
            expect: nodes.max(1),
            network: Arc::default(),
            configure,
        };
        for at in 0..usize::from(nodes) {
            cluster.launch(at).await?;
        }
        cluster.settle().await?;
        Ok(cluster)
    }

    /// The node of this number.
    ///
    /// # Panics
    /// When it does not run.
    #[must_use]
    pub fn node(&self, at: usize) -> &Node {
        let running = self.places.get(at).and_then(|place| place.running.as_ref());
        &running.unwrap_or_else(|| panic!("node {at} does not run")).node
    }

    /// The nodes that run, with their numbers.
    pub fn nodes(&self) -> impl Iterator<Item = (usize, &Node)> {
        let places = self.places.iter().enumerate();
        places.filter_map(|(at, place)| Some((at, &place.running.as_ref()?.node)))
    }

    /// Starts one more, and says its number; [`Cluster::settle`] waits until it holds its share.
    ///
    /// # Errors
    /// When it does not start.
    pub async fn add(&mut self) -> Result<usize, ClusterError> {
        let at = self.places.len();
        self.launch(at).await?;
        Ok(at)
    }

    /// Ends a node as a crash ends it: from one moment to the next nothing comes from it any more. Nothing if it does not run.
    pub async fn kill(&mut self, at: usize) {
        let Some(running) = self.take(at) else { return };
        self.network.isolate(running.host);
        running.node.crash().await;
    }

    /// Has a node give its slots away and leave; true when all of them were given away within that time. False if it does not run.
    pub async fn leave(&mut self, at: usize, within: Duration) -> bool {
        match self.take(at) {
            Some(running) => running.node.leave(within).await,
            None => false,
        }
    }

    /// Starts a new process, as it were, in the place of one that was killed or has left: at its address, or at another one while clones
    /// of the old node's handle hold that. One that runs is killed first.
    ///
    /// # Errors
    /// When it does not start.
    ///
    /// # Panics
    /// When there never was one of this number.
    pub async fn restart(&mut self, at: usize) -> Result<(), ClusterError> {
        assert!(at < self.places.len(), "there never was a node {at}");
        self.kill(at).await;
        match self.launch(at).await {
            Err(error) if error.is_port_taken() => {
                self.places[at].addr = ANY_PORT;
                self.launch(at).await
            }
            outcome => outcome,
        }
    }

    /// From now on these nodes and all others neither hear nor reach each other. What was cut before stays so; nodes that are started
    /// later are on neither side.
    pub fn partition(&self, side: &[usize]) {
        let hosts = |inside: bool| {
            let places =
                self.places.iter().enumerate().filter(move |(at, _)| side.contains(at) == inside);
            places.filter_map(|(_, place)| Some(place.running.as_ref()?.host))
        };
        for one in hosts(true) {
            for other in hosts(false) {
                self.network.cut(one, other);
                self.network.cut(other, one);
            }
        }
    }

    /// From now on nothing of the one reaches the other, which still reaches it. Nothing if either does not run.
    pub fn cut(&self, from: usize, to: usize) {
        let host = |at: usize| Some(self.places.get(at)?.running.as_ref()?.host);
        if let (Some(from), Some(to)) = (host(from), host(to)) {
            self.network.cut(from, to);
        }
    }

    /// Ends all partitions and cuts.
    pub fn heal(&self) {
        self.network.heal();
    }

    /// Waits until all nodes that run serve, know of each other alone, and all copies are complete; half a minute at most. Cancellation
    /// safe.
    ///
    /// # Errors
    /// When that takes longer, as it does while nodes are cut off or when the majority was killed.
    pub async fn settle(&self) -> Result<(), ClusterError> {
        self.settle_within(SETTLE_MAX).await
    }

    /// As [`Cluster::settle`], for as long as this at most.
    ///
    /// # Errors
    /// When that takes longer.
    pub async fn settle_within(&self, limit: Duration) -> Result<(), ClusterError> {
        let wanted: BTreeSet<NodeId> = self.nodes().map(|(_, node)| node.id()).collect();
        let is_settled = |status: &NodeStatus| problem(status, &wanted).is_none();
        let all = async {
            // One that was at rest may not be any more when the last one is.
            while let Some((_, node)) = self.nodes().find(|(_, node)| !is_settled(&node.status())) {
                // False when it stopped: then the time runs out, and it is told which one.
                if !node.wait_until(is_settled).await {
                    std::future::pending::<()>().await;
                }
            }
        };
        if tokio::time::timeout(limit, all).await.is_ok() {
            return Ok(());
        }
        let tell = |(at, node): (usize, &Node)| {
            Some(format!("node {at}: {}", problem(&node.status(), &wanted)?))
        };
        Err(ClusterError::NotSettled { problems: self.nodes().filter_map(tell).collect() })
    }

    fn take(&mut self, at: usize) -> Option<Running> {
        self.places.get_mut(at)?.running.take()
    }

    /// Starts the node of this number: a new one, or the next at its address.
    async fn launch(&mut self, at: usize) -> Result<(), ClusterError> {
        let secret = ClusterSecret::new("nodes of a test in one process").expect("long enough");
        let mut config = NodeConfig {
            name: format!("node-{at}"),
            max_memory_bytes: MEMORY_BYTES,
            ..NodeConfig::new(secret)
        };
        // Nobody else refuses here, and tests should not wait.
        config.ready.refused_is_death = true;
        (self.configure)(at, &mut config);
        config.bind = self.places.get(at).map_or(ANY_PORT, |place| place.addr);
        let seeds = self.places.iter().map(|place| place.addr);
        config.seeds = seeds.filter(|addr| addr.port() != 0).collect();
        config.expect = self.expect;
        let host = self.network.join();
        let filter = Arc::clone(&self.network).filter(host);
        let started = Node::start_behind(config, Some(filter)).await;
        let node = started.map_err(|source| ClusterError::Start { at, source })?;
        let addr = node.addr().expect("it is no local one");
        self.network.learn(addr, host);
        let place = Place { addr, running: Some(Running { node, host }) };
        match self.places.get_mut(at) {
            Some(before) => *before = place,
            None => self.places.push(place),
        }
        Ok(())
    }
}

impl Drop for Cluster {
    fn drop(&mut self) {
        self.places
            .iter()
            .filter_map(|place| place.running.as_ref())
            .for_each(|running| self.network.isolate(running.host));
    }
}

impl fmt::Debug for Cluster {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_map().entries(self.nodes()).finish()
    }
}

/// So many addresses at which nobody listened a moment ago: the first nodes have to know each other's.
fn free_addrs(count: u16) -> io::Result<Vec<SocketAddr>> {
    let listeners = (0..count).map(|_| TcpListener::bind(ANY_PORT));
    let listeners: Vec<_> = listeners.collect::<io::Result<_>>()?;
    listeners.iter().map(TcpListener::local_addr).collect()
}

/// What keeps the node from being at rest among these.
fn problem(status: &NodeStatus, wanted: &BTreeSet<NodeId>) -> Option<String> {
    if status.phase != Phase::Serving {
        return Some(format!("it is {:?}", status.phase));
    }
    let members = status.cluster.members().keys();
    if !members.clone().eq(wanted) {
        return Some(format!("it knows of {} members, {} nodes run", members.len(), wanted.len()));
    }
    let (safe, copying, moving) =
        (status.safe_slots(), status.copying_slots(), status.moving_slots());
    let at_rest = status.is_complete() && moving == 0;
    (!at_rest).then(|| format!("{safe} slots are safe, {copying} are copied, {moving} move"))
}

/// A node's life, from its start to its end.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
struct Host(u32);

/// Which packets pass between the nodes. Packets are dropped where they are sent, for all senders are in this process.
#[derive(Default)]
struct Network(Mutex<Ways>);

#[derive(Default)]
struct Ways {
    hosts: u32,
    /// Whose socket each is, once something was sent from it.
    sockets: BTreeMap<SocketAddr, Host>,
    /// Those that were killed.
    isolated: BTreeSet<Host>,
    /// From, to.
    cut: BTreeSet<(Host, Host)>,
}

impl Network {
    fn join(&self) -> Host {
        let mut ways = self.0.lock();
        ways.hosts += 1;
        Host(ways.hosts)
    }

    fn learn(&self, addr: SocketAddr, host: Host) {
        self.0.lock().sockets.insert(addr, host);
    }

    fn isolate(&self, host: Host) {
        self.0.lock().isolated.insert(host);
    }

    fn cut(&self, from: Host, to: Host) {
        self.0.lock().cut.insert((from, to));
    }

    fn heal(&self) {
        self.0.lock().cut.clear();
    }

    /// What the host's sockets ask.
    fn filter(self: Arc<Self>, host: Host) -> PacketFilter {
        Arc::new(move |from, to| {
            let mut ways = self.0.lock();
            if ways.isolated.contains(&host) {
                return false;
            }
            ways.sockets.insert(from, host);
            // Who has sent nothing yet is not known, and has nothing to lose.
            let Some(to) = ways.sockets.get(&to) else { return true };
            !ways.isolated.contains(to) && !ways.cut.contains(&(host, *to))
        })
    }
}
