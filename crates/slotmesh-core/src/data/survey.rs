//! Looking at what this node's slots hold, a few at a time, for the leader to weigh nodes by.
//!
//! Nothing is counted while operations run: bytes are at hand in each slot, and how often it was written tells its seq.

use parking_lot::Mutex;
use slotmesh_control::{LOAD_INTERVAL, LoadReport, SlotLoads};
use slotmesh_slots::{MonoTime, SLOT_COUNT, Slot};

use super::DataPlane;

/// Slots looked at in one round of 50 ms: all of them in 6.4 seconds.
const SLOTS_PER_ROUND: usize = 128;

/// A seq whose lower half is this one by chance costs a report its writes.
const UNKNOWN: u32 = u32::MAX;

/// How far the current look has come.
#[derive(Default)]
pub(super) struct Survey(Mutex<State>);

#[derive(Default)]
struct State {
    began: MonoTime,
    next: usize,
    loads: SlotLoads,
    /// The lower half of the seq that each slot had at the last look, or [`UNKNOWN`] where this node was not its primary.
    seqs: Vec<u32>,
    done: Option<SlotLoads>,
}

impl DataPlane {
    /// Looks at some slots more.
    pub(super) fn survey_some(&self, now: MonoTime) {
        let mut state = self.survey.0.lock();
        if state.next == SLOT_COUNT {
            if now.saturating_since(state.began) < LOAD_INTERVAL {
                return;
            }
            (state.next, state.began) = (0, now);
        }
        state.seqs.resize(SLOT_COUNT, UNKNOWN);
        let end = (state.next + SLOTS_PER_ROUND).min(SLOT_COUNT);
        for slot in (state.next..end).filter_map(|at| Slot::new(u16::try_from(at).ok()?)) {
            if !self.gate.role(slot).is_primary() {
                state.seqs[slot.index()] = UNKNOWN;
                continue;
            }
            let guard = self.store.lock(slot);
            let (bytes, seq) = (guard.bytes() as u64, guard.version().seq.0 as u32);
            drop(guard);
            let before = std::mem::replace(&mut state.seqs[slot.index()], seq);
            let writes = if before == UNKNOWN { 0 } else { seq.wrapping_sub(before) };
            state.loads.push(slot, bytes, writes.into());
        }
        state.next = end;
        if end == SLOT_COUNT {
            state.done = Some(std::mem::take(&mut state.loads));
        }
    }

    /// What the last look found, once.
    #[must_use]
    pub(crate) fn take_loads(&self) -> Option<LoadReport> {
        let slots = self.survey.0.lock().done.take()?;
        let (used_bytes, budget_bytes) = (self.store.used_bytes(), self.store.budget_bytes());
        Some(LoadReport { used_bytes: used_bytes as u64, budget_bytes: budget_bytes as u64, slots })
    }
}
