use slotmesh_slots::{Epoch, Mistake, NodeId, Record, Version};

use crate::replica::ReplicaSlot;
use crate::wire::Refusal;

/// What a replica lets in for one slot: the promise, who the primary is, and the attachment that feeds it.
#[derive(Debug, Default)]
pub(crate) struct Fence {
    pub(crate) promised: Epoch,
    pub(crate) table: Option<ReplicaSlot>,
    pub(crate) source: Option<Source>,
}

/// The attachment that feeds the slot.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Source {
    pub(crate) from: NodeId,
    pub(crate) epoch: Epoch,
    pub(crate) attach: u64,
    /// The version after all work handed to the caller; `None` until the caller has reported it.
    pub(crate) have: Option<Version>,
}

/// Whether a message of an attachment is let in.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Admission {
    Yes,
    /// Left over from an attachment that was replaced: skipped.
    Old,
    No(Refusal),
}

/// What to do with a record.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Fit {
    /// It follows this version.
    Next(Version),
    Duplicate,
    Gap(Version),
}

impl Fence {
    /// Raises the promise; false when a higher one was given.
    pub(crate) fn promise(&mut self, epoch: Epoch) -> bool {
        let fits = epoch >= self.promised;
        self.promised = self.promised.max(epoch);
        fits
    }

    /// Lets a primary attach the slot. One of a later epoch than our table's was named by a commit that we have not seen.
    pub(crate) fn query(&mut self, from: NodeId, epoch: Epoch, attach: u64) -> Result<(), Refusal> {
        let known = self.table.filter(|table| table.epoch == epoch);
        let named = known.is_none_or(|table| table.primary == Some(from));
        let rival = self.source.is_some_and(|old| old.epoch == epoch && old.from != from);
        let fits = !(epoch < self.promised || !named || (rival && known.is_none()));
        if !fits && !Mistake::NoEpochCheck.is_planted() {
            return Err(Refusal::StaleEpoch { promised: self.promised });
        }
        self.promised = self.promised.max(epoch);
        self.source = Some(Source { from, epoch, attach, have: None });
        Ok(())
    }

    /// Whether a message of that attachment may change the slot now.
    pub(crate) fn admit(&self, from: NodeId, attach: u64) -> Admission {
        let stale = Refusal::StaleEpoch { promised: self.promised };
        match self.source {
            Some(source) if source.from == from && attach < source.attach => Admission::Old,
            Some(source) if (source.from, source.attach) == (from, attach) => {
                let is_stale = source.epoch < self.promised && !Mistake::NoEpochCheck.is_planted();
                if is_stale { Admission::No(stale) } else { Admission::Yes }
            }
            _ => Admission::No(stale),
        }
    }

    /// How a record fits behind what the slot has.
    pub(crate) fn fit(&mut self, record: &Record) -> Fit {
        let Some(have) = self.source.and_then(|source| source.have) else {
            return Fit::Gap(Version::default());
        };
        if record.seq <= have.seq && record.epoch <= have.epoch {
            return Fit::Duplicate;
        }
        if record.seq != have.seq.next() || record.epoch < have.epoch {
            return Fit::Gap(have);
        }
        self.has(record.version());
        Fit::Next(have)
    }

    pub(crate) fn has(&mut self, version: Version) {
        if let Some(source) = &mut self.source {
            source.have = Some(version);
        }
    }

    /// # Panics
    /// When the bookkeeping is wrong.
    pub(crate) fn check_invariants(&self) {
        assert!(self.table.is_none_or(|table| table.epoch <= self.promised), "table over promise");
        assert!(
            self.source.is_none_or(|source| source.epoch <= self.promised),
            "source over promise"
        );
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use bytes::Bytes;
    use slotmesh_slots::{Effect, Seq, Slot};

    fn node(number: u64) -> NodeId {
        NodeId::new(number).unwrap()
    }

    const fn stale(promised: u32) -> Refusal {
        Refusal::StaleEpoch { promised: Epoch(promised) }
    }

    #[test]
    fn only_the_named_primary_attaches_and_a_promise_ends_it() {
        let mut fence = Fence::default();
        let table = ReplicaSlot { epoch: Epoch(3), primary: Some(node(1)) };
        (fence.table, fence.promised) = (Some(table), Epoch(3));
        assert_eq!(fence.query(node(2), Epoch(3), 1), Err(stale(3)), "not named");
        assert_eq!(fence.query(node(1), Epoch(2), 1), Err(stale(3)), "old epoch");
        assert_eq!(fence.query(node(1), Epoch(3), 4), Ok(()));
        assert_eq!(fence.admit(node(1), 4), Admission::Yes);
        assert_eq!(fence.admit(node(1), 3), Admission::Old);
        assert_eq!(fence.admit(node(1), 5), Admission::No(stale(3)), "never asked");
        assert!(fence.promise(Epoch(4)) && fence.promise(Epoch(4)) && !fence.promise(Epoch(3)));
        assert_eq!(fence.admit(node(1), 4), Admission::No(stale(4)));
        assert_eq!(fence.query(node(2), Epoch(5), 1), Ok(()), "named by a commit not seen yet");
        assert_eq!(fence.query(node(3), Epoch(5), 1), Err(stale(5)), "a rival of the same epoch");
        assert_eq!(fence.promised, Epoch(5));
    }

    #[test]
    fn records_follow_each_other() {
        let mut fence = Fence::default();
        fence.query(node(1), Epoch(2), 1).unwrap();
        let mut check = |epoch, seq, expected| {
            let effect = Effect::Delete { key: Bytes::new() };
            let slot = Slot::of_key(b"");
            let record = Record { slot, epoch: Epoch(epoch), seq: Seq(seq), effect, answer: None };
            assert_eq!(fence.fit(&record), expected, "{epoch}.{seq}");
        };
        let version = |epoch, seq| Version::new(Epoch(epoch), Seq(seq));
        check(1, 1, Fit::Gap(version(0, 0)));
        fence.has(version(1, 7));
        let mut check = |epoch, seq, expected| {
            let effect = Effect::Delete { key: Bytes::new() };
            let slot = Slot::of_key(b"");
            let record = Record { slot, epoch: Epoch(epoch), seq: Seq(seq), effect, answer: None };
            assert_eq!(fence.fit(&record), expected, "{epoch}.{seq}");
        };
        check(1, 8, Fit::Next(version(1, 7)));
        check(2, 9, Fit::Next(version(1, 8)));
        check(1, 8, Fit::Duplicate);
        check(1, 10, Fit::Gap(version(2, 9)));
        check(2, 11, Fit::Gap(version(2, 9)));
        check(3, 9, Fit::Gap(version(2, 9)));
    }
}
