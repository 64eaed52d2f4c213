use std::collections::BTreeMap;
use std::hash::{DefaultHasher, Hash, Hasher};
use std::sync::Arc;

use slotmesh_control::{
    Claim, ClusterDelta, ClusterState, Command, Failover, LeaseLedger, Sight, plan,
};
use slotmesh_core::wire;
use slotmesh_slots::{MonoTime, NodeId, Slot, Version};

/// The majority of the control plane: commits one command after the other, grants leases and fails nodes over by the rules
/// of the control crate. That such a majority acts as one is the log's promise and not looked at here.
pub(super) struct Decider {
    pub(super) state: ClusterState,
    pub(super) ledger: LeaseLedger,
    /// Asked for and not decided yet; each stands once.
    pub(super) proposals: BTreeMap<u64, Command>,
    pub(super) takeover: Option<Takeover>,
    /// Hash of all that happened here.
    life: DefaultHasher,
}

/// The failover of one node under way; it is granted nothing meanwhile.
pub(super) struct Takeover {
    pub(super) node: NodeId,
    /// While promises are awaited.
    failover: Option<Failover>,
    /// Who was asked and has not heard of it yet.
    pub(super) asked: BTreeMap<NodeId, Vec<Claim>>,
    proposed: Vec<Claim>,
}

impl Decider {
    pub(super) fn new(state: ClusterState) -> Self {
        Self {
            state,
            ledger: LeaseLedger::default(),
            proposals: BTreeMap::new(),
            takeover: None,
            life: DefaultHasher::new(),
        }
    }

    pub(super) fn fingerprint(&self) -> u64 {
        let mut hasher = self.life.clone();
        self.proposals.keys().for_each(|proposal| proposal.hash(&mut hasher));
        if let Some(takeover) = &self.takeover {
            (takeover.node, &takeover.asked).hash(&mut hasher);
        }
        hasher.finish()
    }

    pub(super) fn propose(&mut self, command: Command) {
        let mut hasher = DefaultHasher::new();
        wire::encode(&command).hash(&mut hasher);
        self.proposals.insert(hasher.finish(), command);
    }

    /// Commits a proposal; the change, if it made one.
    pub(super) fn commit(&mut self, proposal: u64) -> Option<Arc<ClusterDelta>> {
        let command = self.proposals.remove(&proposal)?;
        proposal.hash(&mut self.life);
        let (_, delta) = self.state.apply(&command);
        self.end_takeover();
        delta.map(Arc::new)
    }

    pub(super) fn grant(&mut self, node: NodeId, now: MonoTime) -> bool {
        let free = self.takeover.as_ref().is_none_or(|takeover| takeover.node != node);
        if free {
            (node, now.as_micros()).hash(&mut self.life);
            self.ledger.grant(node, now);
        }
        free
    }

    /// Another one leads: it knows what was committed, and neither what was granted nor what was about to be decided.
    pub(super) fn elect(&mut self, now: MonoTime) {
        now.as_micros().hash(&mut self.life);
        self.ledger.elected(now);
        self.takeover = None;
    }

    /// The primary whose lease is surely over, unless a takeover is under way.
    pub(super) fn lapsed(&self, slot: Slot, now: MonoTime) -> Option<NodeId> {
        let primary = self.state.table().slot(slot).primary?;
        (self.takeover.is_none() && now >= self.ledger.over_at(primary)).then_some(primary)
    }

    pub(super) fn start_takeover(&mut self, node: NodeId, now: MonoTime) {
        (node, now.as_micros()).hash(&mut self.life);
        let failover = Failover::start(&self.state, node, |other| other != node, now);
        let asked = failover.requests().map(|(node, claims)| (node, claims.to_vec())).collect();
        self.takeover = Some(Takeover { node, failover: Some(failover), asked, proposed: vec![] });
    }

    pub(super) fn promised(&mut self, from: NodeId, promised: &[(Slot, Version)]) {
        (from, promised).hash(&mut self.life);
        if let Some(failover) = self.takeover.as_mut().and_then(|it| it.failover.as_mut()) {
            failover.handle_promise(from, promised);
        }
    }

    /// Whether all answered, or have had the time to.
    pub(super) fn may_decide(&self, now: MonoTime) -> bool {
        let failover = self.takeover.as_ref().and_then(|takeover| takeover.failover.as_ref());
        failover.is_some_and(|failover| failover.is_ready(now))
    }

    pub(super) fn decide(&mut self) {
        let Some(takeover) = &mut self.takeover else { return };
        let Some(failover) = takeover.failover.take() else { return };
        1u8.hash(&mut self.life);
        let (commands, _orphans) = failover.decide(&self.state);
        for command in commands {
            if let Command::Failover { claims, .. } = &command {
                takeover.proposed.extend(claims);
            }
            let mut hasher = DefaultHasher::new();
            wire::encode(&command).hash(&mut hasher);
            self.proposals.insert(hasher.finish(), command);
        }
        self.end_takeover();
    }

    /// What the planner wants next.
    pub(super) fn plan(&self, now: MonoTime) -> Vec<Command> {
        if self.takeover.is_some() || !self.proposals.is_empty() {
            return Vec::new();
        }
        plan(&self.state, &Sight::of(&|node| self.ledger.is_live(node, now)))
    }

    /// A takeover is over when all that was proposed is settled, one way or another.
    fn end_takeover(&mut self) {
        let settled = |(slot, epoch): &Claim| self.state.table().slot(*slot).epoch != *epoch;
        let over = |takeover: &mut Takeover| {
            takeover.failover.is_none() && takeover.proposed.iter().all(settled)
        };
        self.takeover.take_if(over);
    }
}
