use slotmesh_slots::{Effect, Record, Seq};

use crate::contents::SlotContents;
use crate::entry::{NEVER, Usage};
use crate::error::ApplyError;
use crate::guard::SlotGuard;
use crate::history::Standing;
use crate::snapshot::SlotSnapshot;

impl SlotGuard<'_> {
    /// Carries out a record of the slot's primary. Sizes are not checked: the primary decided, and a replica that refused
    /// would only fall behind.
    ///
    /// # Errors
    /// When the record is not the one that follows this slot's version, or is of an older epoch. Nothing changed then.
    pub fn apply(&mut self, record: &Record) -> Result<(), ApplyError> {
        if record.slot != self.slot() {
            return Err(ApplyError::WrongSlot { record: record.slot, guard: self.slot() });
        }
        let have = self.version();
        if record.epoch < have.epoch {
            return Err(ApplyError::StaleEpoch { have });
        }
        if have.seq.0.checked_add(1).map(Seq) != Some(record.seq) {
            return Err(ApplyError::Gap { have });
        }
        let epoch = record.epoch;
        match &record.effect {
            Effect::Put { key, value, deadline, class } => {
                let hash = self.store.hash(key);
                let place = self.contents.pages.place(hash, key);
                // Replicas evict by record only, so nothing of theirs queues as a newcomer.
                let (deadline, usage) = (deadline.unwrap_or(NEVER), Usage::default());
                let standing = Standing { deadline, usage, class: *class };
                self.put_next(epoch, (hash, place), (key, value), standing);
            }
            Effect::Delete { key } => self.delete_next(epoch, self.store.hash(key), key),
            Effect::Expire { key, deadline } => {
                self.expire_next(epoch, self.store.hash(key), key, *deadline);
            }
            Effect::Clear => self.clear_next(epoch),
            Effect::Nothing => self.nothing_next(epoch),
        }
        Ok(())
    }

    /// All the slot holds; small values are copied, large ones shared. Expired entries are part of it, since replicas keep them
    /// until the primary's delete.
    #[must_use]
    pub fn snapshot(&self) -> SlotSnapshot {
        SlotSnapshot::of(&self.contents)
    }

    /// Replaces all the slot holds, its version included, in O(1) by what [`Store::prepare`](crate::Store::prepare) made; returns what
    /// was there, which the caller drops after the guard. Fills stamped before the snapshot's version are refused from now on.
    #[must_use = "drop it after the guard, so that freeing does not hold the slot's lock"]
    pub fn install(&mut self, prepared: SlotContents) -> SlotContents {
        self.change(|contents, _| std::mem::replace(contents, prepared))
    }

    /// Forgets all the slot holds, its version included, in O(1); returns what was there, which the caller drops after
    /// the guard. For a slot that this node no longer holds a copy of.
    #[must_use = "drop it after the guard, so that freeing does not hold the slot's lock"]
    pub fn reset(&mut self) -> SlotContents {
        self.change(|contents, _| std::mem::take(contents))
    }
}
