use bytes::Bytes;
use slotmesh_slots::{MonoTime, Slot};

use crate::entry::Entry;
use crate::pages::position;
use crate::store::Store;

/// How far a walk over a slot has come; the default is its start. Means nothing to another store.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub struct ScanCursor(u32);

impl ScanCursor {
    /// For handing it to a client.
    #[must_use]
    pub const fn to_u32(self) -> u32 {
        self.0
    }

    /// What a client gave back. Any number is good: one that was never given out only begins somewhere else.
    #[must_use]
    pub const fn from_u32(cursor: u32) -> Self {
        Self(cursor)
    }
}

/// A step of a walk over a slot.
#[derive(Clone, Debug, PartialEq, Eq, Default)]
pub struct Scan {
    /// Keys and entries, in no particular order; may be empty.
    pub entries: Vec<(Bytes, Entry)>,
    /// Where the walk goes on; `None` when it is complete.
    pub next: Option<ScanCursor>,
}

impl Store {
    /// Unexpired entries of a slot from the cursor on: those of one page, 16 KiB and what large values it has.
    ///
    /// A walk from start to end names every entry once that is there all the time, however the slot grows and shrinks
    /// meanwhile; one that comes or goes may be named or not, or twice when it went and came again. Between two steps nothing
    /// is kept, and the slot's lock is held while one page is copied. Never call it while holding a guard of the slot.
    #[must_use]
    pub fn scan(&self, slot: Slot, cursor: ScanCursor, now: MonoTime) -> Scan {
        let (page, next) = {
            let contents = self.slot(slot);
            let (page, next) = contents.pages.page_at(cursor.0);
            (page.copy(self.home(slot).site(cursor.0)), next)
        };
        let entries = page
            .iter()
            .filter(|stored| !stored.is_expired(now))
            // Pages that were merged since begin before the cursor, and it was there already.
            .filter(|stored| position(self.hash(stored.key())) >= cursor.0)
            .map(|stored| (Bytes::copy_from_slice(stored.key()), stored.entry()))
            .collect();
        Scan { entries, next: next.map(ScanCursor) }
    }
}
