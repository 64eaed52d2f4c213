use std::collections::VecDeque;
use std::fmt;

use bytes::Bytes;
use slotmesh_slots::{Class, DecodeError, MonoTime, Reader, Slot, Version, Writer};

use crate::wire;

/// One entry of a slot as a snapshot carries it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SnapshotEntry {
    /// The key.
    pub key: Bytes,
    /// The value.
    pub value: Bytes,
    /// The version of the last write that changed it.
    pub version: Version,
    /// When it expires, on this node's clock; travels as remaining time.
    pub deadline: Option<MonoTime>,
    /// Whether it may be evicted.
    pub class: Class,
}

impl SnapshotEntry {
    /// Bytes charged for the entry.
    pub(crate) fn cost(&self) -> usize {
        self.key.len() + self.value.len() + ENTRY_OVERHEAD
    }

    pub(crate) fn encode(&self, out: &mut Writer, now: MonoTime) {
        out.bytes(&self.key);
        out.version(self.version);
        out.u8(self.class as u8);
        out.duration_option(self.deadline.map(|at| at.saturating_since(now)));
        out.bytes(&self.value);
    }

    pub(crate) fn decode(input: &mut Reader<'_>, now: MonoTime) -> Result<Self, DecodeError> {
        let key = input.bytes()?;
        let (version, class) = (input.version()?, Class::decode(input)?);
        let deadline = input.duration_option()?.map(|left| now + left);
        Ok(Self { key, value: input.bytes()?, version, deadline, class })
    }
}

/// Lists a slot as it was when the source was made, some entries at a time, in any order; `None` at its end, which is the last
/// call. It may lock the store's slot: it is called under no lock of this engine. Dropped when nobody wants more.
pub type SnapshotSource = Box<dyn FnMut() -> Result<Option<Vec<SnapshotEntry>>, SourceGone> + Send>;

/// What a snapshot begins with: the answers that the caller keeps for the slot, as bytes that mean nothing here, and what lists
/// its entries.
pub struct SnapshotStart {
    /// At most as long as a record may be.
    pub answers: Bytes,
    /// The slot's entries.
    pub source: SnapshotSource,
}

/// What a [`SnapshotSource`] lists is there no more; another one is asked for if the replica still needs it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the slot was replaced while it was listed")]
pub struct SourceGone;

/// A snapshot on its way out: listed and written in batches as acknowledgements come in.
pub(crate) struct Outgoing {
    pub(crate) slot: Slot,
    pub(crate) attach: u64,
    pub(crate) version: Version,
    digest: u128,
    answers: Bytes,
    /// Gone when a thread is about to feed from it, and at its end.
    source: Option<SnapshotSource>,
    complete: bool,
    ready: VecDeque<SnapshotEntry>,
    ready_bytes: usize,
    begun: bool,
    sent: u64,
}

/// What [`Outgoing::step`] wrote.
pub(crate) enum Step {
    Part(usize),
    End,
    /// Nothing: it has to be fed first.
    Hungry,
}

impl Outgoing {
    pub(crate) fn new(
        (slot, attach): (Slot, u64),
        version: Version,
        digest: u128,
        start: SnapshotStart,
    ) -> Self {
        let ready = VecDeque::new();
        let SnapshotStart { answers, source } = start;
        let (source, complete, ready_bytes) = (Some(source), false, 0);
        Self {
            slot,
            attach,
            version,
            digest,
            answers,
            source,
            complete,
            ready,
            ready_bytes,
            begun: false,
            sent: 0,
        }
    }

    /// Takes the source, if so many bytes are more than what is ready.
    pub(crate) fn hungry(&mut self, bytes: usize) -> Option<SnapshotSource> {
        if self.ready_bytes < bytes { self.source.take() } else { None }
    }

    /// Gives the source back with what it said; false when it can say no more but is not at its end.
    pub(crate) fn feed(
        &mut self,
        source: SnapshotSource,
        said: Result<Option<Vec<SnapshotEntry>>, SourceGone>,
    ) -> bool {
        match said {
            Ok(Some(entries)) => {
                self.ready_bytes += entries.iter().map(SnapshotEntry::cost).sum::<usize>();
                self.ready.extend(entries);
                self.source = Some(source);
            }
            Ok(None) => self.complete = true,
            Err(SourceGone) => return false,
        }
        true
    }

    /// Whether there is something to write, or to feed from.
    pub(crate) fn has_output(&self) -> bool {
        !self.begun || self.complete || self.source.is_some() || !self.ready.is_empty()
    }

    /// Writes the next message: the begin, a batch, or the end.
    pub(crate) fn step(&mut self, out: &mut Writer, batch_bytes: usize, now: MonoTime) -> Step {
        if !self.begun {
            self.begun = true;
            let answers = std::mem::take(&mut self.answers);
            wire::write_begin(out, (self.slot, self.attach), self.version, &answers);
            return Step::Part(ENTRY_OVERHEAD + answers.len());
        }
        let (mut batch, mut bytes) = (Vec::new(), 0);
        // An entry larger than a batch travels alone.
        let fits = |bytes: usize, more: usize| bytes == 0 || bytes + more <= batch_bytes;
        while let Some(entry) = self.ready.front()
            && fits(bytes, entry.cost())
        {
            bytes += entry.cost();
            batch.extend(self.ready.pop_front());
        }
        self.ready_bytes -= bytes;
        if !batch.is_empty() {
            self.sent += batch.len() as u64;
            wire::write_batch(out, (self.slot, self.attach), &batch, now);
            return Step::Part(bytes);
        }
        if !self.complete {
            return Step::Hungry;
        }
        wire::write_end(out, self, self.digest, self.sent);
        Step::End
    }
}

impl fmt::Debug for Outgoing {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { slot, attach, version, sent, .. } = self;
        let mut out = f.debug_struct("Outgoing");
        out.field("slot", slot).field("attach", attach).field("version", version);
        out.field("sent", sent).finish_non_exhaustive()
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
    pub(crate) answers: Bytes,
    pub(crate) entries: Vec<SnapshotEntry>,
    bytes: usize,
}

impl Shadow {
    pub(crate) fn new(slot: Slot, attach: u64, version: Version, answers: Bytes) -> Self {
        let bytes = answers.len();
        Self { slot, attach, version, answers, entries: Vec::new(), bytes }
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
