use std::iter::Peekable;
use std::vec::IntoIter;

use bytes::Bytes;
use slotmesh_slots::{DecodeError, MonoTime, Reader, Slot, Version, Writer};

use crate::wire;

/// One entry of a slot as a snapshot carries it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SnapshotEntry {
    /// The key.
    pub key: Bytes,
    /// The value.
    pub value: Bytes,
    /// The version of the write that put it there.
    pub version: Version,
    /// When it expires, on this node's clock; travels as remaining time.
    pub deadline: Option<MonoTime>,
}

impl SnapshotEntry {
    /// Bytes charged for the entry.
    pub(crate) fn cost(&self) -> usize {
        self.key.len() + self.value.len() + ENTRY_OVERHEAD
    }

    pub(crate) fn encode(&self, out: &mut Writer, now: MonoTime) {
        out.bytes(&self.key);
        out.version(self.version);
        out.duration_option(self.deadline.map(|at| at.saturating_since(now)));
        out.bytes(&self.value);
    }

    pub(crate) fn decode(input: &mut Reader<'_>, now: MonoTime) -> Result<Self, DecodeError> {
        let key = input.bytes()?;
        let version = input.version()?;
        let deadline = input.duration_option()?.map(|left| now + left);
        Ok(Self { key, value: input.bytes()?, version, deadline })
    }
}

/// A snapshot on its way out: taken at once under the slot lock (a slot is 1/16384 of the data, its values are
/// shared), written in batches as acknowledgements come in.
#[derive(Debug)]
pub(crate) struct Outgoing {
    pub(crate) slot: Slot,
    pub(crate) attach: u64,
    pub(crate) version: Version,
    digest: u128,
    entries: Peekable<IntoIter<SnapshotEntry>>,
    begun: bool,
    sent: u64,
}

/// What [`Outgoing::step`] wrote.
pub(crate) enum Step {
    Part(usize),
    End,
}

impl Outgoing {
    pub(crate) fn new(
        slot: Slot,
        attach: u64,
        version: Version,
        digest: u128,
        entries: Vec<SnapshotEntry>,
    ) -> Self {
        let entries = entries.into_iter().peekable();
        Self { slot, attach, version, digest, entries, begun: false, sent: 0 }
    }

    /// Writes the next message: the begin, a batch, or the end.
    pub(crate) fn step(&mut self, out: &mut Writer, batch_bytes: usize, now: MonoTime) -> Step {
        if !self.begun {
            self.begun = true;
            wire::write_begin(out, self.slot, self.attach, self.version);
            return Step::Part(ENTRY_OVERHEAD);
        }
        let (mut batch, mut bytes) = (Vec::new(), 0);
        // An entry larger than a batch travels alone.
        let fits = |bytes: usize, more: usize| bytes == 0 || bytes + more <= batch_bytes;
        while let Some(entry) = self.entries.next_if(|entry| fits(bytes, entry.cost())) {
            bytes += entry.cost();
            batch.push(entry);
        }
        if batch.is_empty() {
            wire::write_end(out, self, self.digest, self.sent);
            return Step::End;
        }
        self.sent += batch.len() as u64;
        wire::write_batch(out, (self.slot, self.attach), &batch, now);
        Step::Part(bytes)
    }
}

/// What an entry takes beside its key and value.
const ENTRY_OVERHEAD: usize = 64;

/// A snapshot being collected on the replica; nothing of it is visible before its end.
#[derive(Debug)]
pub(crate) struct Shadow {
    pub(crate) slot: Slot,
    pub(crate) attach: u64,
    pub(crate) version: Version,
    pub(crate) entries: Vec<SnapshotEntry>,
    bytes: usize,
}

impl Shadow {
    pub(crate) fn new(slot: Slot, attach: u64, version: Version) -> Self {
        Self { slot, attach, version, entries: Vec::new(), bytes: 0 }
    }

    /// Adds a batch; false when the snapshot would become larger than `bytes_max`.
    pub(crate) fn add(&mut self, entries: Vec<SnapshotEntry>, bytes_max: usize) -> bool {
        self.bytes += entries.iter().map(SnapshotEntry::cost).sum::<usize>();
        let fits = self.bytes <= bytes_max;
        if fits {
            self.entries.extend(entries);
        }
        fits
    }
}
