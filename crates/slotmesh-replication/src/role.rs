use std::collections::BTreeMap;
use std::sync::Arc;

use slotmesh_slots::{Epoch, Mistake, NodeId, Seq, Slot, Version};

use crate::event::{Done, Outcome, PrimaryEvent};
use crate::link::Link;

/// A slot that this node owns, at one epoch.
pub(crate) struct Role {
    pub(crate) slot: Slot,
    pub(crate) epoch: Epoch,
    pub(crate) last: Version,
    /// Every counted replica has everything up to here.
    pub(crate) committed: Seq,
    /// Frozen for a planned move: nothing is acknowledged until a committed decision ends it.
    pub(crate) moving: bool,
    /// Raised by the table whenever a replica begins to be filled.
    pub(crate) round: u32,
    pub(crate) peers: Vec<Peer>,
    waiters: BTreeMap<Seq, Vec<Done>>,
    waiting: usize,
}

/// A replica of the slot.
pub(crate) struct Peer {
    pub(crate) link: Arc<Link>,
    pub(crate) in_sync: bool,
    /// Which attachment counts; 0 is none.
    pub(crate) attach: u64,
    pub(crate) phase: Phase,
    /// The replica is known to have everything up to here.
    pub(crate) acked: Seq,
    pub(crate) grow: Grow,
    /// What the replica answered to the query of this attachment.
    pub(crate) status: Option<(Version, u128)>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Phase {
    /// The link is down.
    Detached,
    /// The query is under way.
    Asked,
    /// A snapshot is waited for or under way.
    Copying,
    /// The replica has a prefix of the history and gets the rest.
    Attached,
    Faulty(Fault),
}

/// Why a replica gets nothing of the slot any more.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Fault {
    /// It missed something on the link: asking anew helps.
    Gap,
    /// It lacks data that only a snapshot can bring.
    Lacks,
    /// Its copy differs.
    Corrupt,
    /// It promised a higher epoch.
    Refused,
}

/// A copying replica's way into the in-sync set.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Grow {
    No,
    /// Already counted, so that the committed seq cannot run away from it, but not yet proposed.
    Barrier,
    /// Proposed: counted until the outcome is known.
    Proposed,
    /// Given up because the replica was silent: tried again with the next retry.
    Cooling,
}

/// What is left to do when the locks are released.
#[derive(Default)]
pub(crate) struct After {
    pub(crate) ready: Vec<(Done, Outcome)>,
    pub(crate) events: Vec<PrimaryEvent>,
    /// Links to look at: for output, for a snapshot to ask for, for being of use still.
    pub(crate) links: Vec<Arc<Link>>,
    /// Replicas to look at again.
    pub(crate) suspects: Vec<(Slot, NodeId)>,
}

impl Peer {
    pub(crate) fn new(link: Arc<Link>, in_sync: bool) -> Self {
        Self {
            link,
            in_sync,
            attach: 0,
            phase: Phase::Detached,
            acked: Seq(0),
            grow: Grow::No,
            status: None,
        }
    }

    /// Whether acknowledgements wait for it.
    pub(crate) fn counts(&self) -> bool {
        if Mistake::RepairInPlace.is_planted() && self.phase == Phase::Copying {
            return false;
        }
        let may_grow = matches!(self.grow, Grow::Barrier | Grow::Proposed);
        self.in_sync || (may_grow && !Mistake::GrowNotAwaited.is_planted())
    }
}

impl Role {
    pub(crate) fn new(slot: Slot, epoch: Epoch, last: Version, committed: Seq) -> Self {
        let (peers, waiters) = (Vec::new(), BTreeMap::new());
        Self { slot, epoch, last, committed, moving: false, round: 0, peers, waiters, waiting: 0 }
    }

    pub(crate) fn peer(&mut self, node: NodeId) -> Option<&mut Peer> {
        self.peers.iter_mut().find(|peer| peer.link.node == node)
    }

    /// Registers a waiter; hands it back when it can be told at once.
    pub(crate) fn wait(&mut self, version: Version, done: Done) -> Option<(Done, Outcome)> {
        if version.epoch != self.epoch {
            return Some((done, Outcome::Ambiguous));
        }
        if version.seq <= self.committed && !self.moving {
            return Some((done, Outcome::Committed));
        }
        if self.waiting >= WAITERS_MAX {
            return Some((done, Outcome::Ambiguous));
        }
        self.waiting += 1;
        self.waiters.entry(version.seq).or_default().push(done);
        None
    }

    /// Moves the committed seq to what all counted replicas have, and everything that follows from it.
    pub(crate) fn advance(&mut self, after: &mut After) {
        let counted = self.peers.iter().filter(|peer| peer.counts()).map(|peer| peer.acked);
        let reached = counted.min().unwrap_or(self.last.seq).min(self.last.seq);
        self.committed = self.committed.max(reached);
        if !self.moving {
            self.release(after);
        }
        self.consider_growth(after);
    }

    fn release(&mut self, after: &mut After) {
        while let Some(first) = self.waiters.first_entry()
            && *first.key() <= self.committed
        {
            let done = first.remove();
            self.waiting -= done.len();
            after.ready.extend(done.into_iter().map(|done| (done, Outcome::Committed)));
        }
    }

    /// Ends the epoch: what every counted replica has is safe in any later primary, of the rest nobody knows.
    pub(crate) fn end(mut self, after: &mut After) -> Vec<Peer> {
        self.release(after);
        let rest = self.waiters.into_values().flatten();
        after.ready.extend(rest.map(|done| (done, Outcome::Ambiguous)));
        self.peers
    }

    /// Lets complete copies into the in-sync set: first they count, so that nothing is committed without them, and
    /// only when they have all that is committed they are proposed.
    fn consider_growth(&mut self, after: &mut After) {
        let (slot, epoch, last, committed) = (self.slot, self.epoch, self.last, self.committed);
        let round = self.round;
        for peer in &mut self.peers {
            if peer.in_sync || peer.phase != Phase::Attached {
                continue;
            }
            if peer.grow == Grow::No && last.seq.0.saturating_sub(peer.acked.0) <= GROW_LAG_RECORDS
            {
                peer.grow = Grow::Barrier;
            }
            if peer.grow == Grow::Barrier && peer.acked >= committed {
                peer.grow = Grow::Proposed;
                let node = peer.link.node;
                after.events.push(PrimaryEvent::Grow { slot, epoch, round, node });
                after.suspects.push((slot, node));
            }
        }
    }

    /// Checks the role's bookkeeping.
    ///
    /// # Panics
    /// When it is wrong.
    pub(crate) fn check_invariants(&self) {
        let slot = self.slot;
        assert!(self.committed <= self.last.seq, "{slot}: committed what was not written");
        assert!(self.last.epoch <= self.epoch, "{slot}: a record of a later epoch");
        let waiting: usize = self.waiters.values().map(Vec::len).sum();
        assert_eq!(waiting, self.waiting, "{slot}: number of waiters");
        let first = self.waiters.keys().next();
        assert!(self.moving || first.is_none_or(|&seq| seq > self.committed), "{slot}: forgotten");
        for peer in &self.peers {
            assert!(!(peer.in_sync && peer.grow != Grow::No), "{slot}: grows into its own set");
            let proposed = peer.grow == Grow::Proposed && peer.phase == Phase::Attached;
            assert!(!proposed || peer.acked >= self.committed, "{slot}: proposed incomplete");
        }
    }
}

/// How many records a copy may miss when it starts to count: few, because writers then wait for it.
const GROW_LAG_RECORDS: u64 = 1024;

/// Most writes that wait for one slot. Their number is bounded by the callers' credit; beyond it something is stuck.
const WAITERS_MAX: usize = 65_536;
