use std::collections::VecDeque;

use super::message::{Entry, NodeSet, Place, What};

/// Who votes from some index on.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Voters {
    pub(crate) index: u64,
    pub(crate) current: NodeSet,
    pub(crate) next: Option<NodeSet>,
}

/// A log's entries. The oldest are dropped once they are applied; who lacks them gets the state instead.
#[derive(Debug, Default)]
pub(super) struct Entries {
    /// The last entry that was dropped.
    dropped: Place,
    kept: VecDeque<Entry>,
    /// Every change of voters that is kept, after the one in force at `dropped`.
    voters: Vec<Voters>,
}

impl Entries {
    pub(super) fn is_empty(&self) -> bool {
        self.last() == (0, 0)
    }

    /// The last entry that is not kept any more.
    pub(super) fn dropped(&self) -> u64 {
        self.dropped.1
    }

    pub(super) fn last(&self) -> Place {
        let (term, index) = self.dropped;
        (self.kept.back().map_or(term, |entry| entry.term), index + self.kept.len() as u64)
    }

    pub(super) fn get(&self, index: u64) -> Option<&Entry> {
        self.kept.get(index.checked_sub(self.dropped.1 + 1)? as usize)
    }

    /// The term of the entry there; none of those that are dropped, but of the last one of them.
    pub(super) fn term(&self, index: u64) -> Option<u64> {
        let (term, dropped) = self.dropped;
        if index == dropped { Some(term) } else { self.get(index).map(|entry| entry.term) }
    }

    /// Entries that follow this index.
    pub(super) fn after(&self, index: u64) -> impl Iterator<Item = &Entry> {
        self.kept.iter().skip(index.saturating_sub(self.dropped.1) as usize)
    }

    pub(super) fn push(&mut self, entry: Entry) -> u64 {
        let index = self.last().1 + 1;
        if let What::Voters { current, next } = &entry.what {
            let (current, next) = (current.clone(), next.clone());
            self.voters.push(Voters { index, current, next });
        }
        self.kept.push_back(entry);
        index
    }

    /// Takes back everything behind this index.
    pub(super) fn truncate(&mut self, index: u64) {
        self.kept.truncate(index.saturating_sub(self.dropped.1) as usize);
        self.voters.retain(|voters| voters.index <= index);
    }

    /// Drops everything up to this index.
    pub(super) fn drop_to(&mut self, index: u64) {
        let Some(term) = self.term(index) else { return };
        self.kept.drain(..(index - self.dropped.1) as usize);
        self.dropped = (term, index);
        let in_force = self.voters.iter().rposition(|voters| voters.index <= index);
        self.voters.drain(..in_force.unwrap_or(0));
    }

    /// Begins anew behind a state that was taken over whole.
    pub(super) fn restart(&mut self, last: Place, voters: Voters) {
        *self = Self { dropped: last, kept: VecDeque::new(), voters: vec![voters] };
    }

    pub(super) fn latest_voters(&self) -> Option<&Voters> {
        self.voters.last()
    }

    /// Who votes by the entries up to this index.
    pub(super) fn voters_at(&self, index: u64) -> Option<&Voters> {
        self.voters.iter().rfind(|voters| voters.index <= index)
    }
}
