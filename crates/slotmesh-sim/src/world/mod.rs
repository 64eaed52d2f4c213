//! All processes, the network between them and the order of events.

mod deliver;
mod fault;
mod link;
mod settle;
mod watch;
mod wish;
mod work;

use std::collections::{BTreeMap, BTreeSet};
use std::net::SocketAddr;
use std::time::Duration;

use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};
use slotmesh_control::{LEASES_OVER_AFTER, NodeInfo};
use slotmesh_core::BrainConfig;
use slotmesh_slots::{MonoTime, NodeId};

use self::link::Link;
use self::watch::Watch;
use self::work::Workload;
use crate::clock::NodeClock;
use crate::network::Network;
use crate::process::{Input, Process};
use crate::scenario::{Bug, Fault, Planned, Scenario};
use crate::trace::Trace;

/// What is due at some time.
#[derive(Debug)]
enum Event {
    Input(NodeId, Input),
    Resume(NodeId),
    Restart(usize),
    Dial(NodeId, NodeId),
    Client(usize),
    ClientTimeout(usize, u64),
    Fault(usize),
    FaultEnds(fault::Undo),
    /// An operator has a node go on without the majority, and again until one has.
    Operator,
    /// Somebody asks for another number of copies, and again until it is decided.
    Wish(usize),
    /// Regular work of the world itself.
    Beat,
}

/// A run's outcome in numbers.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Summary {
    /// Hash of everything that happened.
    pub trace: u64,
    /// Virtual time.
    pub ran: Duration,
    /// Events handled.
    pub events: u64,
    /// Operations answered, and those whose outcome stayed unknown.
    pub operations: (usize, usize),
    /// Slots with keys whose last copy was destroyed by the faults, so that their keys prove nothing.
    pub excused: usize,
    /// Copies that differed and were filled again.
    pub mended: u64,
    /// Writes with an unknown outcome that were sent again.
    pub repeated: usize,
    /// Time from the end of the faults until all was in order again.
    pub healed_in: Duration,
}

/// A cluster in virtual time.
pub(crate) struct World {
    scenario: Scenario,
    now: MonoTime,
    queue: BTreeMap<(MonoTime, u64), Event>,
    next_event: u64,
    handled: u64,
    processes: BTreeMap<NodeId, Process>,
    /// Which process is at each address.
    places: Vec<Option<NodeId>>,
    former: Vec<Option<NodeId>>,
    network: Network,
    links: BTreeMap<(NodeId, NodeId), Link>,
    next_link: u64,
    rng: StdRng,
    trace: Trace,
    work: Workload,
    watch: Watch,
    fired: BTreeSet<usize>,
    /// How often the number of copies was decided when the current wish was first uttered.
    wished_at: Option<u32>,
    /// How many wishes were granted.
    granted: usize,
    /// When the safety phase began.
    began: Option<MonoTime>,
    calm: bool,
}

/// Longest virtual time from the start until every slot is served.
const FOUNDING_MAX: Duration = Duration::from_secs(30);

/// Longest virtual time from the end of the faults until all is in order.
const HEALING_MAX: Duration = Duration::from_secs(90);

/// Longest virtual time until all copies were compared and those that differ filled again.
const MENDING_MAX: Duration = Duration::from_secs(40);

/// Pause between two looks at whether all is in order.
const LOOK: Duration = Duration::from_millis(250);

/// Between two looks at stalled links and at the copies' digests.
const BEAT: Duration = Duration::from_millis(100);

impl World {
    pub(crate) fn new(scenario: Scenario, print: bool) -> Self {
        let mut rng = StdRng::seed_from_u64(scenario.seed);
        let network = Network::new(scenario.loss, StdRng::seed_from_u64(rng.random()));
        let work = Workload::new(&scenario, StdRng::seed_from_u64(rng.random()));
        let watch = Watch::new(&work, &mut rng);
        let nodes = scenario.nodes;
        let mut world = Self {
            scenario,
            now: MonoTime::from_micros(1),
            queue: BTreeMap::new(),
            next_event: 0,
            handled: 0,
            processes: BTreeMap::new(),
            places: vec![None; nodes],
            former: vec![None; nodes],
            network,
            links: BTreeMap::new(),
            next_link: 1,
            rng,
            trace: Trace::new(print),
            work,
            watch,
            fired: BTreeSet::new(),
            wished_at: None,
            granted: 0,
            began: None,
            calm: false,
        };
        world.schedule(world.now, Event::Beat);
        for place in 0..nodes {
            let at = Duration::from_micros(world.rng.random_range(0..2_000_000));
            world.schedule(world.now + at, Event::Restart(place));
        }
        world
    }

    /// Runs all phases.
    ///
    /// # Errors
    /// What went wrong, with the last lines of the trace.
    pub(crate) fn run(mut self) -> Result<Summary, String> {
        match self.phases() {
            Ok(healed_in) => Ok(Summary {
                trace: self.trace.hash(),
                ran: Duration::from_micros(self.now.as_micros()),
                events: self.handled,
                operations: self.work.counts(),
                excused: self.watch.excused.len(),
                mended: self.processes.values().map(|it| it.data.stats().corrupted).sum(),
                repeated: self.work.repeated(),
                healed_in,
            }),
            Err(problem) => {
                Err(format!("{problem}\nat {:?}; before:\n{}", self.now, self.trace.last_lines()))
            }
        }
    }

    fn phases(&mut self) -> Result<Duration, String> {
        self.run_until_settled(FOUNDING_MAX)?;
        self.began = Some(self.now);
        self.trace.say(self.now, format_args!("founded; faults begin"));
        for index in 0..self.scenario.faults.len() {
            let at = self.now + self.scenario.faults[index].at;
            self.schedule(at, Event::Fault(index));
        }
        if !self.scenario.wishes.is_empty() {
            self.schedule(self.now + self.scenario.wishes[0].at, Event::Wish(0));
        }
        if let Some(at) = self.scenario.operator {
            self.schedule(self.now + at, Event::Operator);
        }
        for client in 0..self.work.clients() {
            self.schedule(self.now, Event::Client(client));
        }
        self.run_until(self.now + self.scenario.safety)?;
        let missing: Vec<&Planned> = (0..self.scenario.faults.len())
            .filter(|index| !self.fired.contains(index))
            .map(|index| &self.scenario.faults[index])
            .collect();
        if !missing.is_empty() {
            return Err(format!("planned faults never fired: {missing:?}"));
        }
        if self.scenario.two_sides {
            return self.check_strangers().map(|()| Duration::ZERO);
        }
        let reforms = self.committed().generation().map_or(0, |known| known.reform);
        let lasting = |planned: &Planned| planned.fault == Fault::Lose;
        if (reforms > 0) != self.scenario.faults.iter().any(lasting) {
            return Err(format!("the cluster was reformed {reforms} times"));
        }
        self.end_faults();
        self.trace.say(self.now, format_args!("faults end"));
        let calm_since = self.now;
        self.run_until_settled(HEALING_MAX)?;
        let healed_in = self.now.saturating_since(calm_since);
        // The clients go on for a moment, so that every key is read after all of it.
        self.run_until(self.now + Duration::from_secs(2))?;
        self.work.stop();
        self.run_until(self.now + Duration::from_secs(3))?;
        if self.scenario.copies_differ() {
            self.run_until(self.now + MENDING_MAX)?;
        }
        self.check_copies_equal()?;
        self.final_reads()?;
        self.work.check(&self.watch.excused)?;
        Ok(healed_in)
    }

    fn run_until(&mut self, end: MonoTime) -> Result<(), String> {
        while let Some(entry) = self.queue.first_entry() {
            if entry.key().0 > end {
                break;
            }
            let ((at, _), event) = entry.remove_entry();
            self.now = self.now.max(at);
            self.set_clocks();
            self.handled += 1;
            self.handle(event);
            self.check_step()?;
        }
        self.now = self.now.max(end);
        self.set_clocks();
        self.check_step()
    }

    fn run_until_settled(&mut self, at_most: Duration) -> Result<(), String> {
        let end = self.now + at_most;
        loop {
            match self.unsettled() {
                None => return Ok(()),
                Some(why) if self.now >= end => {
                    return Err(format!("not in order after {at_most:?}: {why}"));
                }
                Some(_) => self.run_until(self.now + LOOK)?,
            }
        }
    }

    fn handle(&mut self, event: Event) {
        match event {
            Event::Input(node, input) => self.deliver(node, input),
            Event::Resume(node) => self.resume(node),
            Event::Restart(place) => self.start(place),
            Event::Dial(primary, replica) => self.dial(primary, replica),
            Event::Client(client) => self.client_turn(client),
            Event::ClientTimeout(client, attempt) => self.client_gave_up(client, attempt),
            Event::Fault(index) => self.begin_fault(index),
            Event::FaultEnds(undo) => self.end_fault(undo),
            Event::Wish(index) => self.wish(index),
            Event::Operator => self.operate(),
            Event::Beat => self.beat(),
        }
    }

    fn beat(&mut self) {
        self.flush_links();
        self.watch_copies();
        self.schedule(self.now + BEAT, Event::Beat);
    }

    fn schedule(&mut self, at: MonoTime, event: Event) {
        self.queue.insert((at, self.next_event), event);
        self.next_event += 1;
    }

    fn set_clocks(&self) {
        self.processes.values().for_each(|process| process.clock.set(self.now));
    }

    /// A new process at this address.
    fn start(&mut self, place: usize) {
        if self.places[place].is_some() {
            return;
        }
        let fresh = NodeId::from_random(self.rng.random());
        let reused = self.former[place].filter(|_| self.scenario.bug == Some(Bug::IdentityReused));
        let node = reused.unwrap_or(fresh);
        let drift = self.scenario.drift_ppm;
        let rate = self.rng.random_range(1_000_000 - drift..=1_000_000 + drift);
        let clock = NodeClock::new(self.rng.random_range(1_000_000..1_000_000_000_000), rate);
        clock.set(self.now);
        let config = BrainConfig {
            info: info(place, self.is_witness(place)),
            seeds: (0..self.scenario.nodes).map(addr).collect(),
            expect: self.scenario.expect,
            replicas: self.scenario.replicas,
            gossip: slotmesh_gossip::GossipConfig::default(),
            refused_is_death: false,
            reform: self.scenario.reform,
            reform_wait: match self.scenario.bug {
                Some(Bug::ReformAtOnce) => Duration::ZERO,
                _ => LEASES_OVER_AFTER,
            },
        };
        let seed = self.rng.random();
        self.trace.say(self.now, format_args!("{node} starts at place {place}, rate {rate}"));
        self.processes.insert(
            node,
            Process::start(node, place, clock, (config, self.scenario.log_bytes), seed),
        );
        self.places[place] = Some(node);
        self.settle(node);
    }

    fn is_witness(&self, place: usize) -> bool {
        place + self.scenario.witnesses >= self.scenario.nodes
    }

    fn place(&self, node: NodeId) -> Option<usize> {
        self.processes.get(&node).map(|process| process.place)
    }

    /// Sends an input over the network; it may get lost.
    fn carry(&mut self, from: usize, to: NodeId, input: Input) {
        let Some(place) = self.place(to) else { return };
        if let Some(at) = self.network.carry(from, place, self.now) {
            self.schedule(at, Event::Input(to, input));
        }
    }
}

fn addr(place: usize) -> SocketAddr {
    SocketAddr::from(([10, 0, 0, place as u8 + 1], 7600))
}

fn place_of(addr: SocketAddr) -> Option<usize> {
    let std::net::IpAddr::V4(ip) = addr.ip() else { return None };
    (ip.octets()[3] as usize).checked_sub(1)
}

fn info(place: usize, witness: bool) -> NodeInfo {
    NodeInfo {
        name: format!("n{place}"),
        control: addr(place),
        lanes: vec![],
        resp: None,
        zone: String::new(),
        witness,
        weight: 1,
    }
}
