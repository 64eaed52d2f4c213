//! Evicting for nodes that copy this node's slots and hold more than they should.
//!
//! A replica evicts nothing by itself, so it says how much it holds too much and each of its primaries takes a part of that away,
//! by records. The writers do it, so whoever fills a small node's memory pays for it as for this node's own.

use std::collections::{BTreeMap, VecDeque};
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use parking_lot::Mutex;
use slotmesh_slots::{MonoTime, NodeId, SlotSet};

use super::DataPlane;

/// Entries evicted for others after one write, and in one round of 50 ms.
pub(super) const PAID_PER_WRITE: usize = 16;
pub(super) const PAID_PER_ROUND: usize = 1_024;

/// Between two searches of which the first found nothing that may go.
const REST: Duration = Duration::from_millis(200);

/// Longer than a replica that keeps up takes to hear of anything.
const PAID_COUNTS_FOR: Duration = Duration::from_secs(1);

/// What is to be evicted for each replica node.
#[derive(Default)]
pub(super) struct Debts {
    /// Whether there is any, for writers to see without a lock.
    any: AtomicBool,
    of: Mutex<BTreeMap<NodeId, Debt>>,
}

#[derive(Default)]
struct Debt {
    bytes: usize,
    slots: SlotSet,
    /// What was evicted and when, as long as the replica may not have heard of it.
    paid: VecDeque<(MonoTime, usize)>,
    /// After a search that found nothing that may go there is none before this time.
    rests_until: MonoTime,
}

impl DataPlane {
    /// The replica's node holds so many bytes of this node's slots more than it should.
    pub(super) fn note_pressure(&self, replica: NodeId, bytes: u64) {
        let bytes = usize::try_from(bytes).unwrap_or(usize::MAX);
        // All that was appended before this is applied there.
        let applied = self.primary.echoed(replica).unwrap_or_default();
        let mut debts = self.debts.of.lock();
        let debt = debts.entry(replica).or_default();
        if self.gate.now() < debt.rests_until {
            return;
        }
        debt.paid.retain(|(at, _)| *at >= applied);
        let on_its_way: usize = debt.paid.iter().map(|(_, bytes)| bytes).sum();
        debt.bytes = bytes.saturating_sub(on_its_way);
        debt.slots = self.primary.slots_copied_by(replica);
        self.debts.any.store(true, Ordering::Relaxed);
    }

    /// Evicts so many entries at most for each node, after a write; and in regular rounds, so that debts end where nobody writes
    /// any more.
    pub(super) fn pay_debts(&self, entries_max: usize) {
        if !self.debts.any.load(Ordering::Relaxed) {
            return;
        }
        // Whoever else is at it does it.
        let Some(mut debts) = self.debts.of.try_lock() else { return };
        let entry_bytes = self.store.used_bytes() / self.store.len().max(1);
        let now = self.gate.now();
        for debt in debts.values_mut() {
            let mut evicted = 0;
            while evicted < entries_max && evicted * entry_bytes < debt.bytes {
                let allowed = |slot| debt.slots.contains(slot) && self.gate.serving(slot).is_ok();
                if !self.evict_one(&allowed) {
                    // What the replica holds too much then it will say again.
                    (debt.bytes, debt.rests_until) = (0, now + REST);
                    break;
                }
                evicted += 1;
            }
            let bytes = evicted * entry_bytes;
            debt.bytes = debt.bytes.saturating_sub(bytes);
            if bytes > 0 {
                debt.paid.push_back((now, bytes));
            }
        }
        debts.retain(|_, debt| {
            debt.paid.retain(|(at, _)| now.saturating_since(*at) < PAID_COUNTS_FOR);
            debt.bytes > 0 || !debt.paid.is_empty() || now < debt.rests_until
        });
        let any = debts.values().any(|debt| debt.bytes > 0);
        self.debts.any.store(any, Ordering::Relaxed);
    }
}
