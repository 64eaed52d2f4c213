//! Test support: a network in virtual time with latency, loss, cut paths and stopped nodes. Used by this crate's tests
//! and benchmark; no part of the protocol.

use std::cmp::Reverse;
use std::collections::{BTreeSet, BinaryHeap, VecDeque};
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::time::Duration;

use bytes::Bytes;
use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};
use slotmesh_slots::{MonoTime, NodeId};

use crate::{Event, Gossip, GossipConfig, MemberState};

/// What the network does to datagrams, and how the nodes are configured.
#[derive(Debug, Clone)]
pub struct NetworkConfig {
    /// Shortest one-way delay.
    pub latency_min: Duration,
    /// Longest one-way delay.
    pub latency_max: Duration,
    /// Share of datagrams lost, 0 to 1.
    pub loss: f64,
    /// Feeds the network's and all nodes' random choices.
    pub seed: u64,
    /// Settings of every node.
    pub gossip: GossipConfig,
    /// Check every node's invariants after each of its inputs (slow above 50 nodes).
    pub check: bool,
}

impl Default for NetworkConfig {
    fn default() -> Self {
        Self {
            latency_min: Duration::from_micros(200),
            latency_max: Duration::from_micros(800),
            loss: 0.01,
            seed: 1,
            gossip: GossipConfig::default(),
            check: false,
        }
    }
}

/// How a node runs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Running {
    Normal,
    /// The process is stopped: neither timers nor datagrams.
    Paused,
    /// Timers run, datagrams wait in both directions.
    Stalled,
}

#[derive(Debug)]
struct Host {
    gossip: Option<Gossip>,
    running: Running,
    armed: Option<MonoTime>,
    inbox: VecDeque<(SocketAddr, Bytes)>,
    outbox: VecDeque<(SocketAddr, Bytes)>,
    log: Vec<(MonoTime, Event)>,
    sent_bytes: u64,
    sent_datagrams: u64,
}

type InFlight = Reverse<(MonoTime, u64, usize, SocketAddr, Bytes)>;

/// Nodes joined by a virtual network. A host is an index and keeps its address; a restarted one gets a new identity.
#[derive(Debug)]
pub struct Network {
    config: NetworkConfig,
    hosts: Vec<Host>,
    in_flight: BinaryHeap<InFlight>,
    timers: BinaryHeap<Reverse<(MonoTime, usize)>>,
    cut: BTreeSet<(usize, usize)>,
    now: MonoTime,
    order: u64,
    rng: StdRng,
    trace: u64,
}

/// Bytes that IPv4 and UDP add to each datagram.
pub const UDP_OVERHEAD: u64 = 28;

impl Network {
    /// A network without nodes.
    #[must_use]
    pub fn new(config: NetworkConfig) -> Self {
        Self {
            rng: StdRng::seed_from_u64(config.seed),
            config,
            hosts: Vec::new(),
            in_flight: BinaryHeap::new(),
            timers: BinaryHeap::new(),
            cut: BTreeSet::new(),
            now: MonoTime::from_micros(1_000_000),
            order: 0,
            trace: 0,
        }
    }

    /// A network of `count` nodes that all know host 0 as a seed, run until everybody knows everybody.
    ///
    /// # Panics
    /// When that takes more than five minutes of virtual time.
    #[must_use]
    pub fn settled(config: NetworkConfig, count: usize) -> Self {
        let mut network = Self::new(config);
        for _ in 0..count {
            network.spawn(&[0]);
        }
        let took = network.run_until(Duration::from_secs(300), Self::all_know_all);
        assert!(took.is_some(), "{count} nodes did not find each other");
        network
    }

    /// Starts a node on a new host, with the hosts in `seeds` as its seeds; returns the host.
    pub fn spawn(&mut self, seeds: &[usize]) -> usize {
        self.hosts.push(Host {
            gossip: None,
            running: Running::Normal,
            armed: None,
            inbox: VecDeque::new(),
            outbox: VecDeque::new(),
            log: Vec::new(),
            sent_bytes: 0,
            sent_datagrams: 0,
        });
        let host = self.hosts.len() - 1;
        self.restart(host, seeds);
        host
    }

    /// Starts a new process, with a new identity, at the address of a host.
    pub fn restart(&mut self, host: usize, seeds: &[usize]) {
        let node = NodeId::from_random(self.rng.random());
        let meta = Bytes::from(format!("host {host}"));
        let config = self.config.gossip.clone();
        let mut gossip = Gossip::new(config, node, addr(host), meta, self.config.seed, self.now);
        gossip.add_seeds(seeds.iter().map(|seed| addr(*seed)));
        let slot = &mut self.hosts[host];
        slot.gossip = Some(gossip);
        slot.running = Running::Normal;
        slot.inbox.clear();
        slot.outbox.clear();
        self.settle(host);
    }

    /// Ends a process without a word.
    pub fn crash(&mut self, host: usize) {
        self.hosts[host].gossip = None;
    }

    /// Stops a process until [`Network::resume`].
    pub fn pause(&mut self, host: usize) {
        self.hosts[host].running = Running::Paused;
    }

    /// Lets the timers of a process run but holds its datagrams back, until [`Network::resume`].
    pub fn stall(&mut self, host: usize) {
        self.hosts[host].running = Running::Stalled;
    }

    /// Lets a process go on: it reads what waits, then its timers run.
    pub fn resume(&mut self, host: usize) {
        self.hosts[host].running = Running::Normal;
        while let Some((from, bytes)) = self.hosts[host].inbox.pop_front() {
            self.input(host, |gossip, now| {
                let _ = gossip.handle_datagram(from, &bytes, now);
            });
        }
        while let Some((to, bytes)) = self.hosts[host].outbox.pop_front() {
            self.post(host, to, bytes);
        }
        self.input(host, |gossip, now| {
            if gossip.poll_timeout().is_some_and(|at| at <= now) {
                gossip.handle_timeout(now);
            }
        });
    }

    /// Loses everything from one host to another.
    pub fn cut(&mut self, from: usize, to: usize) {
        self.cut.insert((from, to));
    }

    /// Separates the hosts below `boundary` from the others.
    pub fn partition(&mut self, boundary: usize) {
        for (low, high) in
            (0..boundary).flat_map(|l| (boundary..self.hosts.len()).map(move |h| (l, h)))
        {
            self.cut.insert((low, high));
            self.cut.insert((high, low));
        }
    }

    /// Repairs all paths.
    pub fn heal(&mut self) {
        self.cut.clear();
    }

    /// Calls a node and sends what it wants sent. Nothing happens on a host without a process.
    pub fn input(&mut self, host: usize, call: impl FnOnce(&mut Gossip, MonoTime)) {
        if let Some(gossip) = &mut self.hosts[host].gossip {
            call(gossip, self.now);
            self.settle(host);
        }
    }

    /// Lets time pass.
    pub fn run_for(&mut self, duration: Duration) {
        let end = self.now + duration;
        while self.step(end) {}
        self.now = end;
    }

    /// Lets time pass until the condition holds, looked at every 10 ms; how long that took, or `None` after `limit`.
    pub fn run_until(
        &mut self,
        limit: Duration,
        mut condition: impl FnMut(&Self) -> bool,
    ) -> Option<Duration> {
        let start = self.now;
        while !condition(self) {
            if self.now - start >= limit {
                return None;
            }
            self.run_for(Duration::from_millis(10));
        }
        Some(self.now - start)
    }

    /// Whether every running node holds exactly the running nodes for alive, and none for suspect.
    #[must_use]
    pub fn all_know_all(&self) -> bool {
        let running: BTreeSet<_> = self.running().map(|gossip| gossip.me().node).collect();
        self.running().all(|gossip| {
            let mut live = gossip.members().filter(|m| m.state.is_live());
            gossip.alive_count() == running.len()
                && live.all(|m| m.state == MemberState::Alive && running.contains(&m.node))
        })
    }

    /// How many other running nodes believe this of the node.
    #[must_use]
    pub fn believers(&self, node: NodeId, state: MemberState) -> usize {
        let holds = |gossip: &&Gossip| gossip.member(node).is_some_and(|m| m.state == state);
        self.running().filter(holds).count()
    }

    /// The node on a host, if it runs.
    #[must_use]
    pub fn gossip(&self, host: usize) -> Option<&Gossip> {
        self.hosts[host].gossip.as_ref()
    }

    /// The identity on a host.
    ///
    /// # Panics
    /// When no process runs there.
    #[must_use]
    pub fn node(&self, host: usize) -> NodeId {
        self.hosts[host].gossip.as_ref().expect("a running process").me().node
    }

    /// All running nodes.
    pub fn running(&self) -> impl Iterator<Item = &Gossip> {
        self.hosts.iter().filter_map(|host| host.gossip.as_ref())
    }

    /// All events so far: host, when, what.
    pub fn events(&self) -> impl Iterator<Item = (usize, MonoTime, &Event)> {
        let hosts = self.hosts.iter().enumerate();
        hosts.flat_map(|(index, host)| host.log.iter().map(move |(at, event)| (index, *at, event)))
    }

    /// Forgets events and counted traffic.
    pub fn clear_log(&mut self) {
        for host in &mut self.hosts {
            host.log.clear();
            (host.sent_bytes, host.sent_datagrams) = (0, 0);
        }
    }

    /// Bytes sent by all hosts, IP and UDP headers included, and datagrams.
    #[must_use]
    pub fn sent(&self) -> (u64, u64) {
        let sum = |(bytes, datagrams), host: &Host| {
            (bytes + host.sent_bytes, datagrams + host.sent_datagrams)
        };
        self.hosts.iter().fold((0, 0), sum)
    }

    /// Virtual time.
    #[must_use]
    pub fn now(&self) -> MonoTime {
        self.now
    }

    /// A hash of everything that was sent, in order: equal for equal seeds and inputs.
    #[must_use]
    pub fn trace(&self) -> u64 {
        self.trace
    }

    /// Does the next thing before `end`; false when there is none.
    fn step(&mut self, end: MonoTime) -> bool {
        let packet = self.in_flight.peek().map(|Reverse((at, ..))| *at);
        let timer = self.timers.peek().map(|Reverse((at, _))| *at);
        let Some(at) = packet.into_iter().chain(timer).min().filter(|at| *at <= end) else {
            return false;
        };
        self.now = self.now.max(at);
        if packet == Some(at) {
            self.deliver();
        } else {
            self.fire();
        }
        true
    }

    fn deliver(&mut self) {
        let Some(Reverse((_, _, to, from, bytes))) = self.in_flight.pop() else { return };
        match self.hosts[to].running {
            Running::Normal => self.input(to, |gossip, now| {
                gossip.handle_datagram(from, &bytes, now).expect("own datagrams are well formed");
            }),
            Running::Paused | Running::Stalled => {
                let inbox = &mut self.hosts[to].inbox;
                if inbox.len() < INBOX_MAX {
                    inbox.push_back((from, bytes));
                }
            }
        }
    }

    fn fire(&mut self) {
        let Some(Reverse((at, host))) = self.timers.pop() else { return };
        if self.hosts[host].armed == Some(at) && self.hosts[host].running != Running::Paused {
            self.hosts[host].armed = None;
            self.input(host, Gossip::handle_timeout);
        }
    }

    /// Takes a node's output after an input.
    fn settle(&mut self, index: usize) {
        let Some(mut gossip) = self.hosts[index].gossip.take() else { return };
        while let Some(transmit) = gossip.poll_transmit() {
            if self.hosts[index].running == Running::Stalled {
                self.hosts[index].outbox.push_back((transmit.to, transmit.bytes));
            } else {
                self.post(index, transmit.to, transmit.bytes);
            }
        }
        if self.config.check {
            gossip.check_invariants();
        }
        let host = &mut self.hosts[index];
        while let Some(event) = gossip.poll_event() {
            host.log.push((self.now, event));
        }
        let deadline = gossip.poll_timeout();
        if let Some(at) = deadline.filter(|_| deadline != host.armed) {
            self.timers.push(Reverse((at, index)));
        }
        host.armed = deadline;
        host.gossip = Some(gossip);
    }

    fn post(&mut self, from: usize, to: SocketAddr, bytes: Bytes) {
        let host = &mut self.hosts[from];
        host.sent_bytes += bytes.len() as u64 + UDP_OVERHEAD;
        host.sent_datagrams += 1;
        self.order += 1;
        self.mark(&bytes);
        let Some(to) = index(to).filter(|to| *to < self.hosts.len()) else { return };
        if self.cut.contains(&(from, to)) || self.rng.random_bool(self.config.loss) {
            return;
        }
        let latency = self.rng.random_range(self.config.latency_min..=self.config.latency_max);
        let packet = (self.now + latency, self.order, to, addr(from), bytes);
        self.in_flight.push(Reverse(packet));
    }

    /// FNV-1a over time and bytes.
    fn mark(&mut self, bytes: &[u8]) {
        let time = self.now.as_micros().to_be_bytes();
        for byte in time.iter().chain(bytes) {
            self.trace = (self.trace ^ u64::from(*byte)).wrapping_mul(0x0000_0100_0000_01b3);
        }
    }
}

/// Datagrams that wait for a stopped process, as in a socket's buffer of about 200 KiB.
const INBOX_MAX: usize = 512;

fn addr(host: usize) -> SocketAddr {
    let ip = Ipv4Addr::from_bits(0x0a00_0000 + 1 + host as u32);
    SocketAddr::new(IpAddr::V4(ip), 7600)
}

fn index(addr: SocketAddr) -> Option<usize> {
    match addr.ip() {
        IpAddr::V4(ip) => Some(ip.to_bits().checked_sub(0x0a00_0001)? as usize),
        IpAddr::V6(_) => None,
    }
}
