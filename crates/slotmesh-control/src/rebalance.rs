use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};
use slotmesh_slots::{NodeId, SLOT_COUNT};

use crate::member::by_age;
use crate::placement::{IMBALANCE_MIN, Weights, is_at_rest};
use crate::state::ClusterState;

/// Whether slots move for balance alone: to a newcomer, or from one that has more than its share.
///
/// It is decided as everything is, so it outlasts the leader that it was asked of. Lost copies are made again, surplus ones
/// dropped and drains carried through whatever it is: what is wanted for the data's sake, or by a node that leaves, does not
/// stand still because somebody wants quiet.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
pub enum Rebalance {
    /// They do.
    #[default]
    On,
    /// Nothing new begins. What is under way goes on.
    Paused,
    /// Nothing new begins, and what is under way ends: copies that only serve the balance are dropped, frozen slots stay where
    /// they are, by a committed `AbortMove` each.
    Aborted,
}

/// How much is to be done until every slot is where it should be, by what is decided.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Progress {
    /// Copies that slots lack, those being made included; no more than there are members to hold them.
    pub copies_missing: usize,
    /// Copies being made.
    pub copying: usize,
    /// Primary roles being handed over.
    pub moving: usize,
    /// Slots that members which drain still hold, in any role.
    pub draining: usize,
    /// Copies, primaries included, that some nodes have beyond their share; about so many are still to be made for balance. Zero where nothing
    /// more is done, because zones forbid it or the difference is small.
    pub copies_to_balance: usize,
    /// Primary roles that some nodes have beyond their share, as far as something is to be done.
    pub primaries_to_balance: usize,
}

impl Progress {
    /// By the state alone: every member counts as there.
    #[must_use]
    pub fn of(state: &ClusterState) -> Self {
        let up = by_age(state.members().iter().filter(|(_, member)| member.may_hold()));
        let wanted = usize::from(state.replicas()).min(up.len().saturating_sub(1));
        let (mut primaries, mut copies) = (BTreeMap::new(), BTreeMap::new());
        let mut progress = Self::default();
        let leaves = |node| state.members().get(&node).is_some_and(|member| member.is_draining());
        for (_, held) in state.table().iter().filter(|(_, held)| held.primary.is_some()) {
            let primary = held.moving_to.or(held.primary);
            primary.into_iter().for_each(|node| *primaries.entry(node).or_default() += 1);
            for holder in held.primary.into_iter().chain(held.replicas()) {
                *copies.entry(holder).or_default() += 1;
                progress.draining += usize::from(leaves(holder));
            }
            progress.copies_missing += wanted.saturating_sub(held.in_sync.len());
            progress.copying += held.copying.len();
            progress.moving += usize::from(held.moving_to.is_some());
        }
        if is_at_rest(state) {
            return progress;
        }
        let weights = Weights::of(state, &up);
        let all = SLOT_COUNT * (wanted + 1);
        progress.primaries_to_balance = beyond_share(&weights, &up, &primaries, SLOT_COUNT);
        progress.copies_to_balance = beyond_share(&weights, &up, &copies, all);
        progress
    }
}

/// What nodes have beyond their shares, where that is more than is left alone.
fn beyond_share(
    weights: &Weights,
    up: &[NodeId],
    has: &BTreeMap<NodeId, usize>,
    all: usize,
) -> usize {
    let (mut open, mut rest) = (up.to_vec(), all);
    // Nobody holds a slot twice: what a heavy node cannot hold is the others' to share.
    while let Some(full) =
        open.iter().position(|node| weights.share_among(*node, &open, rest) > SLOT_COUNT)
    {
        open.swap_remove(full);
        rest = rest.saturating_sub(SLOT_COUNT);
    }
    let beyond = open.iter().map(|node| {
        let has = has.get(node).copied().unwrap_or(0);
        has.saturating_sub(weights.share_among(*node, &open, rest))
    });
    beyond.filter(|beyond| *beyond > IMBALANCE_MIN).sum()
}
