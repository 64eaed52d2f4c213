use serde::{Deserialize, Serialize};
use slotmesh_slots::{Epoch, Generation, NodeId, NodeList, Seq, Slot};

use crate::member::NodeInfo;
use crate::rebalance::Rebalance;
use crate::state::ClusterDelta;

/// A slot and the epoch it must still have: a command skips slots whose epoch has moved on.
pub type Claim = (Slot, Epoch);

/// A decision about the cluster. Every one that touches slots is a compare-and-set on their epochs and skips what does
/// not fit, so proposing it twice, late or beside a rival is harmless. None carries or reads a time.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub enum Command {
    /// The first entry of a cluster's log: its generation, wanted replicas and founding members.
    Found {
        /// The generation all members belong to.
        generation: Generation,
        /// Copies wanted beside the primary.
        replicas: u8,
        /// Smallest number of members before slots are handed out for the first time.
        expect: u16,
        /// The nodes that promised.
        members: Vec<(NodeId, NodeInfo)>,
    },
    /// A node is a member from now on.
    AddMember {
        /// Who.
        node: NodeId,
        /// What it tells about itself.
        info: NodeInfo,
    },
    /// The member gives its slots away and then leaves.
    Drain {
        /// Who.
        node: NodeId,
    },
    /// The node is no member any more and is struck from all in-sync sets. Skipped while it is primary of a slot.
    RemoveMember {
        /// Who.
        node: NodeId,
    },
    /// Slots without any history get their first holders, all empty and therefore in sync.
    Assign {
        /// Slots that never had a primary, with their epoch.
        claims: Vec<Claim>,
        /// The first primary.
        primary: NodeId,
        /// Its replicas.
        in_sync: NodeList,
    },
    /// The primary is out: one of its in-sync replicas takes over, and those that promised the new epoch stay in sync.
    Failover {
        /// The slots with their epoch before.
        claims: Vec<Claim>,
        /// The new primary, one of the old in-sync set (or the old primary itself, to raise the epoch).
        primary: NodeId,
        /// The replicas that promised the new epoch and hold what the new primary will send them.
        in_sync: NodeList,
    },
    /// No copy is left: the slots start again, empty.
    Restart {
        /// The slots with their epoch before.
        claims: Vec<Claim>,
        /// The new primary.
        primary: NodeId,
        /// Its replicas, empty too.
        in_sync: NodeList,
    },
    /// The replica is struck from the in-sync or copying set; only once this is applied may the primary stop waiting.
    Shrink {
        /// The slots with their epoch.
        claims: Vec<Claim>,
        /// The replica.
        node: NodeId,
    },
    /// The primary begins to fill a new replica. Skips slots where another one is being filled.
    AddCopy {
        /// The slots with their epoch.
        claims: Vec<Claim>,
        /// The new replica.
        node: NodeId,
    },
    /// The replica holds everything and counts from now on. A late repetition must not count a copy that was struck and
    /// begun again meanwhile, so the round of the filling has to fit too.
    Grow {
        /// The slots with their epoch and round.
        claims: Vec<(Slot, Epoch, u32)>,
        /// The replica, one of the copying set.
        node: NodeId,
    },
    /// The primary freezes the slots so that its in-sync replica can take over without loss.
    BeginMove {
        /// The slots with their epoch.
        claims: Vec<Claim>,
        /// The replica that takes over.
        to: NodeId,
    },
    /// The frozen slots belong to the replica from this seq on; the old primary becomes its replica.
    CommitMove {
        /// The slots with their epoch and the last seq before the freeze, which all in-sync replicas hold.
        moves: Vec<(Slot, Epoch, Seq)>,
    },
    /// The move does not happen; the epoch rises so that a late commit of it finds nothing to do.
    AbortMove {
        /// The slots with their epoch.
        claims: Vec<Claim>,
    },
    /// The first entry of the log of a reformed cluster: what [`ClusterState::reformed`](crate::ClusterState::reformed) made
    /// of the latest state that the survivors know.
    Reform {
        /// That state, as a delta from nothing.
        state: Box<ClusterDelta>,
    },
    /// How many copies are wanted beside the primary. A compare-and-set on the number of such changes before it, so that a
    /// repetition that comes late does not undo a newer one.
    SetReplicas {
        /// The number.
        replicas: u8,
        /// [`ClusterState::replicas_round`](crate::ClusterState::replicas_round) as whoever asks knows it.
        round: u32,
    },
    /// Whether slots move for balance alone. A compare-and-set as [`Command::SetReplicas`] is.
    SetRebalance {
        /// Whether.
        rebalance: Rebalance,
        /// [`ClusterState::rebalance_round`](crate::ClusterState::rebalance_round) as whoever asks knows it.
        round: u32,
    },
}

impl Command {
    /// Takes the slots of another command over that wants the same of them; whether it does.
    pub fn absorb(&mut self, other: &mut Self) -> bool {
        match (self, other) {
            (
                Self::Failover { claims, primary, in_sync },
                Self::Failover { claims: more, primary: other, in_sync: with },
            ) if primary == other && in_sync == with => claims.append(more),
            (Self::Shrink { claims, node }, Self::Shrink { claims: more, node: other })
                if node == other =>
            {
                claims.append(more);
            }
            (Self::Grow { claims, node }, Self::Grow { claims: more, node: other })
                if node == other =>
            {
                claims.append(more);
            }
            (Self::CommitMove { moves }, Self::CommitMove { moves: more }) => moves.append(more),
            _ => return false,
        }
        true
    }
}

/// What a command did.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Outcome {
    /// The cluster version afterwards.
    pub version: u64,
    /// How many slots or members it changed; zero when it was late or repeated.
    pub changed: u32,
}

#[cfg(test)]
mod tests {
    use super::*;

    fn claim(slot: u16) -> Claim {
        (Slot::new(slot).unwrap(), Epoch(1))
    }

    #[test]
    fn slots_that_want_the_same_go_in_one_command_and_others_do_not() {
        let [one, two] = [1, 2].map(NodeId::from_random);
        let failover = |slot, primary, with: &[NodeId]| Command::Failover {
            claims: vec![claim(slot)],
            primary,
            in_sync: with.iter().copied().collect(),
        };
        let mut all = failover(1, one, &[two]);
        assert!(all.absorb(&mut failover(2, one, &[two])));
        assert!(!all.absorb(&mut failover(3, two, &[two])));
        assert!(!all.absorb(&mut failover(4, one, &[])));
        let Command::Failover { claims, .. } = &all else { panic!("{all:?}") };
        assert_eq!(*claims, [claim(1), claim(2)]);
        let shrink = |slot, node| Command::Shrink { claims: vec![claim(slot)], node };
        let mut shrunk = shrink(1, one);
        assert!(shrunk.absorb(&mut shrink(2, one)));
        assert!(!shrunk.absorb(&mut shrink(3, two)));
        assert!(!shrunk.absorb(&mut failover(4, one, &[])));
        assert_eq!(shrunk, Command::Shrink { claims: vec![claim(1), claim(2)], node: one });
        let grow = |slot, node| Command::Grow { claims: vec![(claim(slot).0, Epoch(1), 7)], node };
        let mut grown = grow(1, one);
        assert!(grown.absorb(&mut grow(2, one)) && !grown.absorb(&mut grow(3, two)));
        let commit = |slot| Command::CommitMove { moves: vec![(claim(slot).0, Epoch(1), Seq(3))] };
        let mut committed = commit(1);
        assert!(committed.absorb(&mut commit(2)));
        assert!(!committed.absorb(&mut Command::AbortMove { claims: vec![claim(3)] }));
    }
}
