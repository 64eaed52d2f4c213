//! What this node may claim of its own leadership, and until when.
//!
//! The leases of the whole cluster rest on one number: [`LogStatus::quorum_acked`], the time at which the last heartbeat
//! that a quorum acknowledged was *sent*. The engine's metrics only tell how old that was when they were written; whoever
//! reads them after a pause would take it for younger. So the number is kept here, from three facts that this node
//! sees with its own eyes:
//!
//! * the vote, when the engine stores it, which is before it answers anybody: from the moment this node helped another
//!   candidate it claims nothing more;
//! * the voters, when the engine logs them, which is before any other node can hear of them;
//! * for each peer, the time read *before* the last append was sent that the peer answered with success, and the vote
//!   under which it was sent.
//!
//! **Why it is sound.** A peer that accepts an append at `t` refuses its vote to any other candidate, and stands for none
//! itself, until `t + election_max` on its clock; the append was sent at `s <= t`. Take the newest time `s` such that a
//! majority of every logged set of voters answered an append sent at `s` or later, this node counting as having answered now.
//! A rival needs a majority of voters too, out of the same set or a neighbouring one in the chain of joint changes, so one
//! of its voters is among ours. Either that is a peer, then the rival was elected after `s + election_max`; or it is
//! this node, then the vote was stored here first and the claim was over. Only answers under the present vote count. A
//! reply that comes late, or that is lost, only makes the number older; time is never read after the send.
//!
//! A sole voter needs no answer: nobody can be elected without it, so its number is now. The number stands still as soon
//! as the quorum falls silent, whatever this node still believes.

use std::collections::BTreeMap;
use std::time::Duration;

use parking_lot::Mutex;
use slotmesh_control::log::LogStatus;
use slotmesh_slots::{MonoTime, NodeId};

use crate::Clock;
use crate::types::{Configs, LogId, Membership, Vote, identity};

/// Logged sets of voters remembered for the case that the newest are taken back. Raft allows one that is not committed
/// beyond the committed one; the rest is margin.
const MEMBERSHIPS_KEPT: usize = 8;

/// What this node saw of the log's leadership.
pub(crate) struct Tenure {
    node: u64,
    clock: Clock,
    seen: Mutex<Seen>,
}

#[derive(Default)]
struct Seen {
    vote: Vote,
    leader_since: Option<MonoTime>,
    /// Where in the log the sets of voters are, oldest first.
    memberships: Vec<(u64, Configs)>,
    /// For each peer the vote and the send time of the newest acknowledged append.
    acks: BTreeMap<u64, (Vote, MonoTime)>,
    applied: Option<LogId>,
    stopped: bool,
}

impl Tenure {
    pub(crate) fn new(node: NodeId, clock: Clock) -> Self {
        Self { node: node.get(), clock, seen: Mutex::new(Seen::default()) }
    }

    pub(crate) fn now(&self) -> MonoTime {
        (self.clock)()
    }

    /// The engine stores its vote, and answers nobody before this returns.
    pub(crate) fn vote_saved(&self, vote: &Vote) {
        let mut seen = self.seen.lock();
        let mine = vote.is_committed() && vote.leader_id().node_id == self.node;
        // Read here, after a majority voted: every lease that an earlier leader granted was asked for before this point.
        seen.leader_since = mine.then(|| (self.clock)());
        seen.vote = *vote;
        seen.acks.retain(|_, ack| ack.0 == *vote);
    }

    /// The engine logs a set of voters at `index`, and sends it to nobody before this returns.
    pub(crate) fn voters_logged(&self, index: u64, membership: &Membership) {
        let mut seen = self.seen.lock();
        seen.memberships.retain(|logged| logged.0 < index);
        seen.memberships.push((index, membership.get_joint_config().clone()));
        let surplus = seen.memberships.len().saturating_sub(MEMBERSHIPS_KEPT);
        seen.memberships.drain(..surplus);
        seen.acks.retain(|peer, _| membership.get_node(peer).is_some());
    }

    /// A snapshot up to `last` takes the place of everything before it.
    pub(crate) fn voters_restored(&self, last: u64, index: u64, membership: &Membership) {
        let mut seen = self.seen.lock();
        seen.memberships.retain(|logged| logged.0 > last);
        seen.memberships.insert(0, (index, membership.get_joint_config().clone()));
    }

    /// The log loses everything from `index` on.
    pub(crate) fn truncated(&self, index: u64) {
        self.seen.lock().memberships.retain(|logged| logged.0 < index);
    }

    /// The machine has applied everything up to this entry.
    pub(crate) fn applied(&self, last: LogId) {
        self.seen.lock().applied = Some(last);
    }

    /// `peer` answered with success an append that was sent under `vote` not before `sent`.
    pub(crate) fn acknowledged(&self, peer: u64, vote: &Vote, sent: MonoTime) {
        let mut seen = self.seen.lock();
        // An answer to the vote about to be stored may come before the storing: the newer vote's answers win.
        let ack = seen.acks.entry(peer).or_insert((*vote, sent));
        if ack.0 == *vote {
            ack.1 = ack.1.max(sent);
        } else if *vote > ack.0 {
            *ack = (*vote, sent);
        }
    }

    /// How long no majority has answered this leader; nothing if it does not lead.
    pub(crate) fn unanswered(&self) -> Duration {
        let now = (self.clock)();
        let status = self.seen.lock().status(self.node, now);
        let heard = status.quorum_acked.max(status.leader_since).unwrap_or(now);
        now.saturating_since(heard)
    }

    /// The engine runs no more: no claim of any kind.
    pub(crate) fn stop(&self) {
        self.seen.lock().stopped = true;
    }

    pub(crate) fn status(&self) -> LogStatus {
        let now = (self.clock)();
        self.seen.lock().status(self.node, now)
    }
}

impl Seen {
    fn status(&self, me: u64, now: MonoTime) -> LogStatus {
        let configs = self.memberships.last().map_or(&[][..], |logged| logged.1.as_slice());
        let voting = configs.iter().any(|config| config.contains(&me));
        let holder = self.vote.leader_id();
        let mine = holder.node_id == me;
        let is_leader = mine && self.vote.is_committed() && voting && !self.stopped;
        let known = self.vote.is_committed() && (is_leader || !mine) && !self.stopped;
        let mut voters: Vec<NodeId> =
            configs.iter().flatten().filter_map(|number| identity(*number)).collect();
        let applied = self.applied.map(|last| last.index);
        let undecided = |logged: &(u64, Configs)| applied < Some(logged.0);
        voters.sort_unstable();
        voters.dedup();
        LogStatus {
            leader: if known { identity(holder.node_id) } else { None },
            is_leader,
            term: holder.term,
            leader_since: self.leader_since.filter(|_| is_leader),
            caught_up: is_leader && self.applied.is_some_and(|last| last.leader_id == *holder),
            quorum_acked: if is_leader { self.quorum_acked(configs, me, now) } else { None },
            voters,
            voters_changing: configs.len() > 1 || self.memberships.last().is_some_and(undecided),
            last_applied: self.applied.map_or(0, |last| last.index),
        }
    }

    /// The newest time such that a majority of each set answered an append sent then or later.
    fn quorum_acked(
        &self,
        configs: &[std::collections::BTreeSet<u64>],
        me: u64,
        now: MonoTime,
    ) -> Option<MonoTime> {
        let mut oldest = None;
        for config in configs {
            let mut sent: Vec<MonoTime> =
                config.iter().filter_map(|voter| self.last_ack(*voter, me, now)).collect();
            sent.sort_unstable_by(|a, b| b.cmp(a));
            let majority = *sent.get(config.len() / 2)?;
            oldest = Some(oldest.map_or(majority, |other: MonoTime| other.min(majority)));
        }
        oldest
    }

    fn last_ack(&self, voter: u64, me: u64, now: MonoTime) -> Option<MonoTime> {
        if voter == me {
            return Some(now);
        }
        self.acks.get(&voter).filter(|ack| ack.0 == self.vote).map(|ack| ack.1)
    }
}

#[cfg(test)]
mod tests;
