use std::collections::BTreeMap;

use slotmesh_slots::{NodeId, Slot, Version};

/// What is known from outside about all histories.
#[derive(Default)]
pub struct Oracle {
    /// What each version ever applied by anyone followed, and what the slot held then.
    history: BTreeMap<(Slot, Version), (Version, u128)>,
    committed: BTreeMap<Slot, Vec<Version>>,
}

impl Oracle {
    /// A node applied a record: whoever applies it has the same before and after.
    pub fn applied(&mut self, slot: Slot, prev: Version, version: Version, digest: u128) {
        let known = self.history.entry((slot, version)).or_insert((prev, digest));
        assert_eq!(*known, (prev, digest), "{slot}: two histories at {version}");
    }

    pub fn installed(&self, slot: Slot, version: Version, digest: u128) {
        if version != Version::default() {
            let known = self.history.get(&(slot, version)).map(|(_, digest)| *digest);
            assert_eq!(known, Some(digest), "{slot}: content at {version}");
        }
    }

    pub fn commit(&mut self, slot: Slot, version: Version) {
        self.committed.entry(slot).or_default().push(version);
    }

    pub fn check_has_committed(&self, slot: Slot, version: Version, node: NodeId) {
        let Some(first) = self.committed.get(&slot).and_then(|all| all.iter().min()) else {
            return;
        };
        let mut missing = self.committed[&slot].clone();
        let mut at = version;
        while at >= *first {
            missing.retain(|version| *version != at);
            at = self.history.get(&(slot, at)).map_or(Version::default(), |(prev, _)| *prev);
        }
        assert!(missing.is_empty(), "{slot}: {node} at {version} lacks committed {missing:?}");
    }
}
