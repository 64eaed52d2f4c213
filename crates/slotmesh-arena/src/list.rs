use crate::class::SPAN_BYTES;
use crate::span::{Span, UNLISTED};

/// Spans that are looked at for the one with the fewest blocks.
const LOOK: usize = 64;

/// What is free but touched may be so large a part of what is in use, as one in so many; beyond it spans are evacuated.
const SLACK_SHARE: usize = 16;

/// The spans of one class of blocks, or a lane's share of them, which one lock guards. Those that are full are in no list: their blocks lead to them.
#[derive(Debug)]
pub(crate) struct List {
    size: usize,
    /// Spans with room. The last is allocated from.
    partial: Vec<Span>,
    live: usize,
    resident_bytes: usize,
    /// Slack that is borne because moving did not help: somebody holds blocks that cannot be moved.
    stuck_bytes: usize,
    /// Where the next look begins.
    looked: usize,
    /// Whether a look since the first span found one to evacuate.
    has_found: bool,
}

impl List {
    pub(crate) fn new(size: usize) -> Self {
        Self {
            size,
            partial: Vec::new(),
            live: 0,
            resident_bytes: 0,
            stuck_bytes: 0,
            looked: 0,
            has_found: false,
        }
    }

    pub(crate) fn size(&self) -> usize {
        self.size
    }

    /// Memory that no block is in.
    pub(crate) fn slack_bytes(&self) -> usize {
        self.resident_bytes - self.live * self.size
    }

    /// Whether so much is unused that spans should be evacuated.
    pub(crate) fn is_sparse(&self) -> bool {
        let borne = SPAN_BYTES + self.live * self.size / SLACK_SHARE;
        self.slack_bytes() > borne.max(self.stuck_bytes)
    }

    /// No span can be freed by moving blocks: only with yet more slack is it worth another try. Those that were left as stuck are to be
    /// tried again then.
    pub(crate) fn bear(&mut self, mut unstick: impl FnMut(Span)) {
        self.partial.iter().copied().for_each(&mut unstick);
        self.stuck_bytes = self.slack_bytes() + SPAN_BYTES + self.live * self.size / SLACK_SHARE;
    }

    #[cfg(test)]
    pub(crate) fn resident_bytes(&self) -> usize {
        self.resident_bytes
    }

    #[cfg(test)]
    pub(crate) fn live(&self) -> usize {
        self.live
    }

    pub(crate) fn last(&self) -> Option<Span> {
        self.partial.last().copied()
    }

    /// Counts memory that was not touched before, or is not the list's any more.
    pub(crate) fn count(&mut self, before: u32, now: u32) {
        self.resident_bytes = self.resident_bytes + now as usize - before as usize;
    }

    pub(crate) fn count_taken(&mut self) {
        self.live += 1;
    }

    pub(crate) fn count_back(&mut self) {
        self.live -= 1;
        if self.slack_bytes() < self.stuck_bytes / 2 {
            self.stuck_bytes = 0;
        }
    }

    /// Adds a span whose place the caller keeps; it is allocated from next.
    #[must_use]
    pub(crate) fn add(&mut self, span: Span) -> u32 {
        self.partial.push(span);
        (self.partial.len() - 1) as u32
    }

    /// Takes the span at a place out; the one that has its place now, if any.
    pub(crate) fn remove(&mut self, at: u32) -> Option<Span> {
        if at == UNLISTED {
            return None;
        }
        self.partial.swap_remove(at as usize);
        self.partial.get(at as usize).copied()
    }

    /// Notes whether a look found a span; whether it was the last of a round in which none did.
    pub(crate) fn looked_in_vain(&mut self, has_found: bool, is_last: bool) -> bool {
        self.has_found |= has_found;
        // Not before the last: what the others found counts.
        is_last && !std::mem::take(&mut self.has_found)
    }

    /// Some spans to choose one from that is to be evacuated, and whether all others were offered before; none when there is only one,
    /// which the rest would have to go to.
    pub(crate) fn candidates(&mut self) -> (&[Span], bool) {
        if self.partial.len() < 2 {
            return (&[], true);
        }
        let first = if self.looked < self.partial.len() { self.looked } else { 0 };
        let end = (first + LOOK).min(self.partial.len());
        let is_last = end == self.partial.len();
        // A round that went on where the last ended would only see what has joined since: spans that were full a moment ago.
        self.looked = if is_last { 0 } else { end };
        (&self.partial[first..end], is_last)
    }
}
