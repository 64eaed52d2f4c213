use ahash::RandomState;
use slotmesh_slots::{Epoch, MonoTime, Seq, Version};

use crate::digest;
use crate::entry::{NEVER, Stored};
use crate::expiry::Sweep;
use crate::table::Table;

/// Tables at least this large shrink when three quarters of their capacity is unused; smaller ones are not worth the work.
const SHRINK_CAPACITY_MIN: usize = 56;

/// All that a slot holds. Its own type so that a whole slot can be swapped out in O(1) under the lock; dropping it frees
/// the entries, which takes about 0.1 us each: do that after unlocking.
//
// In this order the lock and the table share a cache line: a read touches no other of the slot's header.
#[derive(Debug, Default)]
#[repr(C)]
pub struct SlotContents {
    pub(crate) table: Table,
    bytes: usize,
    /// Of the last mutation applied.
    pub(crate) version: Version,
    /// Of the last delete, eviction, expiry or clear; or `(epoch, 0)` of the first mutation of an empty slot and the version
    /// of an installed snapshot, since what happened before is unknown.
    pub(crate) last_delete: Version,
    pub(crate) sweep: Sweep,
    /// Wrapping sum of the entries' digests.
    pub(crate) digest: u128,
}

impl SlotContents {
    /// Number of entries, expired ones not yet removed included.
    #[must_use]
    pub fn len(&self) -> usize {
        self.table.len()
    }

    /// Whether there is no entry.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.table.is_empty()
    }

    /// What the entries count against the byte budget.
    #[must_use]
    pub fn bytes(&self) -> usize {
        self.bytes
    }

    /// Version of the last mutation applied.
    #[must_use]
    pub fn version(&self) -> Version {
        self.version
    }

    /// Empty contents with a history.
    pub(crate) fn starting_at(version: Version, last_delete: Version) -> Self {
        Self { version, last_delete, ..Self::default() }
    }

    pub(crate) fn find(&self, hash: u64, key: &[u8]) -> Option<&Stored> {
        self.table.find(hash, key)
    }

    /// The entry unless it has expired.
    pub(crate) fn find_live(&self, hash: u64, key: &[u8], now: MonoTime) -> Option<&Stored> {
        self.find(hash, key).filter(|stored| !stored.is_expired(now))
    }

    /// Gives the next mutation its version.
    pub(crate) fn advance(&mut self, epoch: Epoch) -> Version {
        if self.version == Version::default() {
            self.last_delete = Version::new(epoch, Seq(0));
        }
        // A history that honestly counted this far would have taken centuries; a forged one must not panic.
        self.version = Version::new(epoch, Seq(self.version.seq.0.saturating_add(1)));
        self.version
    }

    /// Adds the entry or replaces the one with its key, which is returned.
    pub(crate) fn insert(
        &mut self,
        hash: u64,
        mut stored: Stored,
        hasher: &RandomState,
    ) -> Option<Stored> {
        let key_hash = digest::key_hash(stored.key());
        self.bytes += stored.bytes();
        self.digest = self.digest.wrapping_add(stored.digest(key_hash));
        self.sweep.note(stored.expires_at());
        match self.table.find_mut(hash, stored.key()) {
            Some(place) => {
                stored.take_place_of(place);
                let old = std::mem::replace(place, stored);
                self.subtract(&old, key_hash);
                Some(old)
            }
            None => {
                // What moves may leave the part of the table that the search for expired entries has yet to look at.
                let sweep = &mut self.sweep;
                self.table.insert(hash, stored, hasher, |moved| sweep.note(moved.expires_at()));
                None
            }
        }
    }

    /// Takes the entry out.
    pub(crate) fn remove(&mut self, hash: u64, key: &[u8], hasher: &RandomState) -> Option<Stored> {
        let sweep = &mut self.sweep;
        let stored = self.table.remove(hash, key, |moved| sweep.note(moved.expires_at()))?;
        self.subtract(&stored, digest::key_hash(key));
        if self.table.is_empty() {
            (self.table, self.sweep) = (Table::default(), Sweep::default());
        }
        let capacity = self.table.capacity();
        if capacity >= SHRINK_CAPACITY_MIN && self.table.len() < capacity / 4 {
            let wanted = self.table.len() * 2;
            self.table.shrink_to(wanted, hasher);
        }
        Some(stored)
    }

    /// Changes when the entry expires; false when there is none.
    pub(crate) fn set_deadline(&mut self, hash: u64, key: &[u8], deadline: MonoTime) -> bool {
        let Some(stored) = self.table.find_mut(hash, key) else {
            return false;
        };
        stored.set_expires_at(deadline);
        self.sweep.note(deadline);
        true
    }

    /// Empties the slot but keeps its history; returns what was there.
    pub(crate) fn clear(&mut self) -> Self {
        let kept = Self::starting_at(self.version, self.last_delete);
        std::mem::replace(self, kept)
    }

    fn subtract(&mut self, stored: &Stored, key_hash: u128) {
        self.bytes -= stored.bytes();
        self.digest = self.digest.wrapping_sub(stored.digest(key_hash));
    }

    /// Recounts what is kept incrementally and names the first difference.
    pub(crate) fn check(&self) -> Result<(), &'static str> {
        let (mut bytes, mut digest, mut earliest) = (0, 0_u128, NEVER);
        for stored in self.table.iter() {
            bytes += stored.bytes();
            digest = digest.wrapping_add(stored.digest(digest::key_hash(stored.key())));
            earliest = earliest.min(stored.expires_at());
            if !stored.is_intact() {
                return Err("value does not match its hash");
            }
            if stored.version() > self.version {
                return Err("entry is newer than its slot");
            }
        }
        if bytes != self.bytes {
            return Err("bytes are miscounted");
        }
        if digest != self.digest {
            return Err("digest is wrong");
        }
        if self.last_delete > self.version {
            return Err("last delete is newer than the slot");
        }
        if earliest < self.sweep.earliest() {
            return Err("an entry expires before the slot's earliest deadline");
        }
        Ok(())
    }
}
