#![expect(unsafe_code, reason = "is the only one to know spare spans")]

use std::ptr::NonNull;

use crate::class::SPAN_BYTES;
use crate::region::{Region, SEGMENT_BYTES};
use crate::span::{SPANS, Span};

/// Memory beyond which huge pages are asked for. Below it the part of one that is not used would count.
const HUGE_FROM_BYTES: usize = 32 << 20;

/// Free spans that keep their memory: so many, but not more than one in so many of those in use; and as one in so many of all. They
/// are used first: touching memory that went back to the system costs a fault a page.
const KEPT_FEW: usize = 8;
const KEPT_SHARE: usize = 32;

/// Segments that are mapped at a time, at most: fewer mappings for more memory.
const SEGMENTS_MAX: usize = 32;

/// Spans of no list, and the memory of all.
#[derive(Debug, Default)]
pub(crate) struct Spare {
    /// Spans that take memory, and how much.
    kept: Vec<(Span, usize)>,
    kept_bytes: usize,
    /// Those that take none.
    rest: Vec<Span>,
    regions: Vec<Region>,
    segments: usize,
}

impl Spare {
    pub(crate) fn pop(&mut self) -> Option<Span> {
        let kept = self.kept.pop();
        self.kept_bytes -= kept.map_or(0, |(_, bytes)| bytes);
        kept.map(|(span, _)| span).or_else(|| self.rest.pop())
    }

    /// Memory that the free spans take.
    pub(crate) fn kept_bytes(&self) -> usize {
        self.kept_bytes
    }

    /// Whether a span that became free may keep its memory.
    pub(crate) fn may_keep(&self) -> bool {
        let few = KEPT_FEW.min(self.used() / KEPT_FEW);
        self.kept.len() < few.max(self.segments * SPANS / KEPT_SHARE)
    }

    /// Spans that are in use.
    fn used(&self) -> usize {
        self.segments * SPANS - self.kept.len() - self.rest.len()
    }

    /// Adds a span.
    ///
    /// # Safety
    /// Nobody else may know it.
    pub(crate) unsafe fn add(&mut self, span: Span) {
        // SAFETY: nobody else knows it.
        match unsafe { span.state() }.touched_bytes as usize {
            0 => self.rest.push(span),
            bytes => {
                self.kept_bytes += bytes;
                self.kept.push((span, bytes));
            }
        }
    }

    /// A segment that is not laid out yet, and whether it takes memory as a whole.
    pub(crate) fn next_segment(&mut self) -> (NonNull<u8>, bool) {
        let is_huge = self.segments * SEGMENT_BYTES >= HUGE_FROM_BYTES;
        loop {
            let last = self.regions.last_mut();
            if let Some((segment, is_huge)) =
                last.and_then(|region| Some((region.next_segment()?, region.is_huge)))
            {
                self.segments += 1;
                return (segment, is_huge);
            }
            let segments = (self.segments / 4).clamp(1, SEGMENTS_MAX);
            self.regions.push(Region::map(segments, is_huge));
        }
    }

    /// Has the free spans keep no memory.
    pub(crate) fn forget_kept(&mut self) {
        self.kept_bytes = 0;
        for (span, _) in std::mem::take(&mut self.kept) {
            // SAFETY: it is spare, so nobody else knows it, and no block is out.
            unsafe {
                span.forget();
                self.add(span);
            }
        }
    }

    /// Memory of spans that are in use.
    pub(crate) fn used_bytes(&self) -> usize {
        self.used() * SPAN_BYTES
    }
}
