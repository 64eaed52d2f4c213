use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use arc_swap::ArcSwap;
use bytes::Bytes;
use slotmesh_control::log::LogStatus;
use slotmesh_control::log::ProposeError;
use slotmesh_control::{ClusterState, Rebalance};
use slotmesh_core::{Brain, Clock, DataPlane, NodeEvent, Output, ReformError};
use slotmesh_slots::{Generation, MonoTime, NodeId};
use slotmesh_transport::Endpoint;
use tokio::sync::{Notify, mpsc, oneshot, watch};

use super::{ControlPeers, Guard, LogSlot, Watches, kind};
use crate::clock::BootClock;
use crate::lane::Directory;
use crate::status::{NodeStatus, Phase};

/// What the control loop waits for, a closed list.
pub(crate) enum Input {
    Datagram(SocketAddr, Bytes),
    Message(NodeId, Bytes),
    Connected(NodeId, SocketAddr, Option<Generation>),
    Disconnected(NodeId, bool),
    Unanswered(SocketAddr),
    Guard(NodeId, bool),
    Proposed,
    VotersSet,
    SetReplicas { replicas: u8, round: u32 },
    SetRebalance { rebalance: Rebalance, round: u32 },
    Drain(NodeId),
    Reform(oneshot::Sender<Result<(), ReformError>>),
    Refused(Generation),
    Leave,
}

/// Why the control loop runs again.
enum Wake {
    Input(Input),
    Data,
    /// What the loop looks at in each round anyway.
    Other,
}

/// What the control loop works with.
pub(crate) struct ControlParts {
    pub(crate) brain: Brain,
    pub(crate) data: Arc<DataPlane>,
    pub(crate) inputs: mpsc::Receiver<Input>,
    /// For the tasks that the loop starts.
    pub(crate) answers: mpsc::Sender<Input>,
    pub(crate) data_events: Arc<Notify>,
    pub(crate) log: LogSlot,
    pub(crate) endpoints: Vec<Endpoint>,
    pub(crate) peers: Arc<ControlPeers>,
    pub(crate) directory: Arc<ArcSwap<Directory>>,
    pub(crate) directory_changed: Arc<Notify>,
    pub(crate) status: watch::Sender<Arc<NodeStatus>>,
    pub(crate) stop: watch::Receiver<bool>,
}

/// The control loop.
pub(crate) struct Driver {
    parts: ControlParts,
    watches: Watches,
    /// Wakes when the log has news, if there is a log.
    log_news: Option<watch::Receiver<LogStatus>>,
    shared_view: Arc<ClusterState>,
    published: Instant,
    failovers: u64,
    knew_others: bool,
    reforms_cancelled: u64,
    leaving: bool,
    superseded: bool,
    stopped: bool,
}

/// Inputs handled before timers and outputs get their turn.
const BATCH_MAX: usize = 256;

/// Copying the cluster state for readers takes 0.2 ms, so not more often than this.
const PUBLISH_INTERVAL: Duration = Duration::from_millis(20);

/// How long a proposal may take: above the worst failover of the control log, so that a retry meets the next leader.
const PROPOSE_TIMEOUT: Duration = Duration::from_millis(700);

/// A loop that woke this late was stopped or starved; what waits in the sockets must be heard before anyone is judged.
const LATE: Duration = Duration::from_millis(100);

/// Turns given to the connections' tasks after a late wake.
const TURNS_WHEN_LATE: usize = 64;

impl Driver {
    pub(crate) fn new(parts: ControlParts) -> Self {
        let published = Instant::now();
        let shared_view = Arc::default();
        let watches = Watches::new(parts.answers.clone());
        Self {
            parts,
            watches,
            log_news: None,
            shared_view,
            published,
            failovers: 0,
            knew_others: false,
            reforms_cancelled: 0,
            leaving: false,
            superseded: false,
            stopped: false,
        }
    }

    /// Runs until the node is stopped.
    pub(crate) async fn run(mut self) {
        loop {
            let wake = self.wait().await;
            // Without the sender there is no handle, and nobody who could stop it.
            if *self.parts.stop.borrow() || self.parts.stop.has_changed().is_err() {
                self.stopped = true;
                return self.publish();
            }
            // First of all: what the leader may do with an input depends on how the log stands now.
            self.read_log();
            match wake {
                Wake::Input(input) => self.handle(input),
                Wake::Data => self.parts.brain.handle_data(BootClock.now()),
                Wake::Other => {}
            }
            self.take_inputs();
            let now = BootClock.now();
            if self.parts.brain.poll_timeout() <= now {
                self.parts.brain.handle_timeout(now);
            }
            self.carry_out().await;
            self.publish();
        }
    }

    async fn wait(&mut self) -> Wake {
        let now = BootClock.now();
        let at = self.parts.brain.poll_timeout();
        let pause = at.saturating_since(now);
        let parts = &mut self.parts;
        let log_news = async {
            let news = match &mut self.log_news {
                Some(news) => news.changed().await.is_ok(),
                None => false,
            };
            if !news {
                // A log that stopped has none; another one takes its place.
                std::future::pending::<()>().await;
            }
        };
        let wake = tokio::select! {
            biased;
            _ = parts.stop.changed() => Wake::Other,
            Some(input) = parts.inputs.recv() => Wake::Input(input),
            () = log_news => Wake::Other,
            () = parts.data_events.notified() => Wake::Data,
            () = tokio::time::sleep(pause) => Wake::Other,
        };
        if BootClock.now().saturating_since(at) > LATE {
            for _ in 0..TURNS_WHEN_LATE {
                tokio::task::yield_now().await;
            }
        }
        wake
    }

    fn take_inputs(&mut self) {
        for _ in 0..BATCH_MAX {
            match self.parts.inputs.try_recv() {
                Ok(input) => self.handle(input),
                Err(_) => return,
            }
        }
    }

    fn handle(&mut self, input: Input) {
        let now = BootClock.now();
        let brain = &mut self.parts.brain;
        match input {
            Input::Datagram(from, body) => brain.handle_datagram(from, &body, now),
            Input::Message(from, body) => {
                if let Err(error) = brain.handle_message(from, &body, now) {
                    tracing::debug!(%from, %error, "control message dropped");
                }
            }
            Input::Connected(node, addr, generation) => {
                brain.handle_connected(node, addr, generation, now);
            }
            Input::Unanswered(addr) => brain.handle_unanswered(addr),
            Input::Disconnected(node, departed) => brain.handle_disconnect(node, departed, now),
            Input::Guard(node, refused) => brain.handle_guard(node, refused, now),
            Input::Proposed => brain.handle_proposed(now),
            Input::VotersSet => brain.handle_voters_set(now),
            // Whoever asked may be gone by now.
            Input::Reform(answer) => drop(answer.send(brain.reform(now))),
            Input::Refused(theirs) => brain.handle_refused(theirs, now),
            Input::SetReplicas { replicas, round } => brain.set_replicas(replicas, round, now),
            Input::SetRebalance { rebalance, round } => brain.set_rebalance(rebalance, round, now),
            Input::Drain(node) => brain.drain(node, now),
            Input::Leave => {
                self.leaving = true;
                brain.leave(now);
            }
        }
    }

    fn read_log(&mut self) {
        if let Some((status, deltas)) = self.parts.log.read() {
            let now = BootClock.now();
            for delta in &deltas {
                self.parts.brain.handle_applied(delta, now);
            }
            self.parts.brain.handle_log_status(status, now);
        }
    }

    async fn carry_out(&mut self) {
        while let Some(output) = self.parts.brain.poll_output() {
            match output {
                Output::Datagram { to, body } => self.parts.peers.datagram(to, body),
                Output::Send { to, addr, body } => {
                    self.parts.peers.note(to, addr);
                    self.parts.peers.send(to, addr, kind::BRAIN, body);
                }
                Output::Propose(command) => self.propose(command),
                Output::SetVoters(voters) => self.set_voters(voters),
                Output::SetElections(enabled) => {
                    if let Some(consensus) = self.parts.log.consensus() {
                        consensus.set_elections(enabled);
                    }
                }
                Output::StartLog { generation, found_with } => {
                    let (node, peers) = (self.parts.brain.node(), Arc::clone(&self.parts.peers));
                    let started = self.parts.log.start(node, generation, found_with, peers).await;
                    if let Err(error) = started {
                        tracing::error!(%error, "the control log did not start");
                    }
                    self.log_news = self.parts.log.watch();
                }
                Output::ParkLog => self.parts.log.park(),
                Output::ResumeLog => {
                    self.parts.log.resume().await;
                    self.log_news = self.parts.log.watch();
                }
                Output::DropParkedLog => self.parts.log.drop_parked().await,
                Output::SetGeneration(generation) => {
                    for endpoint in &self.parts.endpoints {
                        // Fails for a hello that is too long only, and this one carries nothing more.
                        drop(endpoint.set_hello(Some(generation), Bytes::new()));
                    }
                }
                Output::Rejoin => self.superseded = true,
                Output::ProbeGuard { node, addr } => self.probe(node, addr),
                Output::Event(event) => self.note(&event),
                _ => {}
            }
        }
    }

    fn propose(&self, command: Bytes) {
        let answers = self.parts.answers.clone();
        let consensus = self.parts.log.consensus();
        tokio::spawn(async move {
            if let Some(consensus) = consensus
                && let Err(error) = consensus.propose(command.to_vec(), PROPOSE_TIMEOUT).await
            {
                match error {
                    // It would be so each time.
                    ProposeError::TooLarge { .. } => tracing::error!(%error, "a proposal failed"),
                    error => tracing::debug!(%error, "a proposal failed"),
                }
            }
            drop(answers.send(Input::Proposed).await);
        });
    }

    fn set_voters(&self, voters: Vec<NodeId>) {
        let answers = self.parts.answers.clone();
        let consensus = self.parts.log.consensus();
        for voter in &voters {
            if let Some(member) = self.parts.brain.view().members().get(voter) {
                self.parts.peers.note(*voter, member.info.control);
            }
        }
        tokio::spawn(async move {
            if let Some(consensus) = consensus {
                match consensus.set_voters(voters.clone()).await {
                    Ok(()) => tracing::info!(?voters, "voters changed"),
                    Err(error) => tracing::info!(?voters, %error, "voters not changed"),
                }
            }
            drop(answers.send(Input::VotersSet).await);
        });
    }

    fn probe(&self, node: NodeId, addr: SocketAddr) {
        let answers = self.parts.answers.clone();
        tokio::spawn(async move {
            let refused = Guard::is_refused(addr).await;
            drop(answers.send(Input::Guard(node, refused)).await);
        });
    }

    fn note(&mut self, event: &NodeEvent) {
        match event {
            NodeEvent::FailoverDone { .. } => self.failovers += 1,
            NodeEvent::ReformCancelled(_) => self.reforms_cancelled += 1,
            NodeEvent::Left => self.leaving = true,
            _ => {}
        }
        log_event(event);
    }

    /// Tells readers and the lanes what has changed.
    fn publish(&mut self) {
        let brain = &self.parts.brain;
        let stale = self.shared_view.version() != brain.view().version();
        if stale && self.published.elapsed() >= PUBLISH_INTERVAL {
            self.published = Instant::now();
            self.shared_view = Arc::new(brain.view().clone());
            self.knew_others |= self.shared_view.holders().count() > 1;
            self.parts.directory.store(Arc::new(Directory::of(&self.shared_view)));
            self.parts.directory_changed.notify_one();
            self.note_addresses();
            self.parts.peers.prune();
        }
        let status = self.status();
        self.parts.status.send_if_modified(|old| {
            let changed = differs(old, &status);
            if changed {
                *old = Arc::new(status);
            }
            changed
        });
    }

    fn note_addresses(&mut self) {
        let me = self.parts.brain.node();
        let mut others = BTreeMap::new();
        for (node, member) in self.shared_view.members() {
            self.parts.peers.note(*node, member.info.control);
            if *node != me {
                others.insert(*node, member.info.control);
            }
        }
        self.watches.follow(me, &others);
    }

    fn status(&self) -> NodeStatus {
        let brain = &self.parts.brain;
        let member = brain.view().members().contains_key(&brain.node());
        let phase = match () {
            () if self.stopped => Phase::Left,
            () if self.superseded => Phase::Superseded,
            () if brain.has_left() => Phase::Left,
            () if self.leaving || brain.is_leaving() => Phase::Draining,
            () if !member => Phase::Joining,
            () if self.parts.data.may_serve() => Phase::Serving,
            () if self.parts.data.lease_until() == MonoTime::ZERO => Phase::Joining,
            () => Phase::CutOff,
        };
        NodeStatus {
            node: brain.node(),
            phase,
            generation: brain.generation(),
            cluster: Arc::clone(&self.shared_view),
            leading: brain.is_leading(),
            leader: brain.known_leader(),
            alive_peers: brain.alive_peers(),
            absent: brain.absent_members(),
            met_other_generation: brain.met_other_generation(),
            voters: brain.voters().to_vec(),
            all_voters: brain.has_all_voters(),
            knew_others: self.knew_others,
            failovers: self.failovers,
            reforms_cancelled: self.reforms_cancelled,
        }
    }
}

fn differs(old: &NodeStatus, new: &NodeStatus) -> bool {
    let key = |status: &NodeStatus| {
        (
            (status.phase, status.generation, status.cluster.version()),
            (status.leader, status.leading, status.alive_peers),
            (status.met_other_generation, status.failovers, status.reforms_cancelled),
            status.all_voters,
        )
    };
    key(old) != key(new) || old.absent != new.absent || old.voters != new.voters
}

fn log_event(event: &NodeEvent) {
    match event {
        NodeEvent::WaitingForNodes { present, expected } => {
            tracing::info!("waiting for nodes: {present} of {expected} candidates are here");
        }
        NodeEvent::OtherGeneration { node, theirs } => {
            tracing::error!(%node, %theirs, "a node of another founding of this cluster is about");
        }
        NodeEvent::OutOfReach { node, other } => {
            tracing::warn!(%node, %other, "a node does not reach another; votes and copies of its slots go elsewhere");
        }
        NodeEvent::Reforming(generation) => {
            tracing::error!(%generation, "the majority is lost, asks the others to go on without it");
        }
        NodeEvent::ReformCancelled(generation) => {
            tracing::warn!(%generation, "goes on as before: the majority is back, or not all promised");
        }
        NodeEvent::Reformed { generation, survivors } => {
            tracing::error!(%generation, survivors, "goes on without the majority");
        }
        NodeEvent::Superseded { theirs } => {
            tracing::error!(%theirs, "the others went on without this node, it gives up what it holds");
        }
        NodeEvent::SlotsLost(slots) => {
            tracing::error!(slots, "slots restarted empty: no copy was left")
        }
        NodeEvent::FailoverStarted { node, slots } => {
            tracing::warn!(%node, slots, "failover started")
        }
        NodeEvent::FailoverDone { node, took } => tracing::warn!(%node, ?took, "failover done"),
        NodeEvent::Suspected(node) => tracing::info!(%node, "suspected"),
        event => tracing::info!("{event:?}"),
    }
}
