use slotmesh_slots::Version;

/// What must hold, under the slot's lock, for a mutation to happen. An expired entry counts as absent.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub enum Condition {
    /// Nothing.
    #[default]
    Always,
    /// The key holds nothing.
    Absent,
    /// The key holds an entry.
    Present,
    /// The key holds the entry with exactly this version (compare and set).
    Version(Version),
    /// The key holds nothing, and nothing was deleted, evicted, expired or cleared in the slot since the slot was at this
    /// version. A cache load notes [`SlotGuard::version`](crate::SlotGuard::version) before it asks the source and fills
    /// with it, so a slow load never overwrites a newer invalidation. It errs on the safe side: deletes of other keys
    /// of the slot, a changed history (snapshot installed, slot dropped) or a version that this slot has not
    /// reached refuse the fill too.
    FillSince(Version),
}

/// The state of a slot that conditions look at.
pub(crate) struct Facts {
    /// Version of the key's unexpired entry.
    pub(crate) entry: Option<Version>,
    /// Version of its entry, expired or not.
    pub(crate) stored: Option<Version>,
    /// Version of the slot.
    pub(crate) slot: Version,
    /// Version of the slot's last delete, or of the start of its known history.
    pub(crate) last_delete: Version,
}

impl Condition {
    pub(crate) fn holds(self, facts: &Facts) -> bool {
        match self {
            Self::Always => true,
            Self::Absent => facts.entry.is_none(),
            Self::Present => facts.entry.is_some(),
            Self::Version(version) => facts.entry == Some(version),
            Self::FillSince(since) => {
                // What was written later and is over by now counts as its removal, which is to come.
                let unwritten = facts.stored.is_none_or(|stored| stored <= since);
                facts.entry.is_none()
                    && unwritten
                    && facts.last_delete <= since
                    && since <= facts.slot
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use slotmesh_slots::{Epoch, Seq};

    fn at(epoch: u32, seq: u64) -> Version {
        Version::new(Epoch(epoch), Seq(seq))
    }

    fn check(since: Version, last_delete: Version, slot: Version, expected: bool) {
        let facts = Facts { entry: None, stored: None, slot, last_delete };
        assert_eq!(Condition::FillSince(since).holds(&facts), expected, "{since} {last_delete}");
    }

    #[test]
    fn a_fill_is_refused_after_any_later_delete() {
        check(at(1, 5), at(1, 5), at(1, 9), true);
        check(at(1, 5), at(1, 6), at(1, 9), false);
        check(at(0, 0), at(0, 0), at(0, 0), true);
    }

    #[test]
    fn a_fill_is_refused_after_a_later_write_that_is_over() {
        for (stored, expected) in [(at(1, 5), true), (at(1, 6), false), (at(2, 1), false)] {
            let (slot, last_delete) = (at(2, 9), at(1, 0));
            let facts = Facts { entry: None, stored: Some(stored), slot, last_delete };
            assert_eq!(Condition::FillSince(at(1, 5)).holds(&facts), expected, "{stored}");
        }
    }

    #[test]
    fn a_fill_stamped_in_another_history_is_refused() {
        // The old primary handed out 1.500; its successor lacked that record and wrote 2.500 as a delete.
        check(at(1, 500), at(2, 500), at(2, 500), false);
        check(at(1, 501), at(1, 3), at(1, 500), false);
    }

    #[test]
    fn a_fill_never_overwrites() {
        let entry = Some(at(1, 2));
        let facts = Facts { entry, stored: entry, slot: at(1, 2), last_delete: at(1, 0) };
        assert!(!Condition::FillSince(at(1, 2)).holds(&facts));
    }
}
