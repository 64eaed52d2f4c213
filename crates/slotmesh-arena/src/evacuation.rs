#![expect(unsafe_code, reason = "reads owners of a span's blocks")]

use std::fmt;

use crate::arena::{Arena, Core};
use crate::owner::Owner;
use crate::span::Span;
use crate::sync::MutexGuard;

/// A span under evacuation, as its blocks are asked about it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SpanId(pub(crate) Span);

/// Where an evacuation stands.
#[derive(Debug)]
pub(crate) struct Moving {
    pub(crate) span: Span,
    pub(crate) size: usize,
    pub(crate) next: u16,
    pub(crate) end: u16,
}

/// The blocks of a span that should become free, to be moved by their owners: for each, the caller makes sure that it is still the
/// owner's (what it is told may be out of date) and that nobody can come by it, allocates another block, copies, and drops the old
/// one. Nothing is allocated from the span meanwhile. Ends by itself when all were named; may be dropped before, and the next goes on.
pub struct Evacuation<'a> {
    core: &'a Core,
    moving: MutexGuard<'a, Option<Moving>>,
}

impl Arena {
    /// Blocks to move because memory lies unused between them. `None` when there are none, or another thread is at it.
    #[must_use]
    pub fn evacuation(&self) -> Option<Evacuation<'_>> {
        let mut moving = self.0.moving.try_lock()?;
        if moving.is_none() {
            *moving = self.0.begin();
        }
        moving.is_some().then_some(Evacuation { core: &self.0, moving })
    }
}

impl Evacuation<'_> {
    /// Which span is to become free.
    #[must_use]
    pub fn span(&self) -> Option<SpanId> {
        self.moving.as_ref().map(|moving| SpanId(moving.span))
    }

    /// Memory that a block takes.
    #[must_use]
    pub fn block_bytes(&self) -> usize {
        self.moving.as_ref().map_or(0, |moving| moving.size)
    }

    /// Whose block is to be moved next; `None` when all were named, which ends it.
    pub fn next_owner(&mut self) -> Option<Owner> {
        let moving = self.moving.as_mut()?;
        while moving.next < moving.end {
            moving.next += 1;
            // SAFETY: so many blocks of this size were carved, and none is meanwhile.
            let owner = unsafe { moving.span.owner(moving.size, moving.next - 1) };
            if owner.is_some() {
                return owner;
            }
        }
        if let Some(moving) = self.moving.take() {
            self.core.end(moving);
        }
        None
    }
}

impl fmt::Debug for Evacuation<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.moving.fmt(f)
    }
}
