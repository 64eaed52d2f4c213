use std::sync::atomic::{AtomicU64, Ordering};

use slotmesh_slots::{MonoTime, SLOT_COUNT, Slot};

/// Until when the entries of each slot may be read: what a node's local tiers know of the slots' primaries.
///
/// Each slot has a **generation** and a peer it belongs to. An entry carries the generation that its slot had before its value
/// was fetched; raising the slot's drops all older entries at once, and a value still on its way is dead when it arrives. Each
/// peer has a time until which its slots may be read, which its messages move on; an entry is readable only before it.
///
/// Reads load two words that rarely change. 128 KiB for the slots, eight bytes for a peer; one is enough for a node.
#[derive(Debug)]
pub struct Coherence {
    /// Generation in the upper half, peer in the lower.
    slots: Box<[AtomicU64]>,
    /// Microseconds of the local tier's clock.
    readable_until: Box<[AtomicU64]>,
}

/// Position of a peer in what a node knows of its peers; the caller gives them out.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PeerIndex(pub u16);

/// A slot's generation at some moment. It may come round after 2^32 drops, which no entry outlives.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SlotGeneration(pub(super) u32);

impl Coherence {
    /// Slots that all belong to peer 0, which may always be read; up to `peers` others may be read once something says so.
    #[must_use]
    pub fn new(peers: u16) -> Self {
        let readable_until: Box<[_]> = (0..=peers).map(|_| AtomicU64::new(0)).collect();
        readable_until[0].store(u64::MAX, Ordering::Relaxed);
        let slots = (0..SLOT_COUNT).map(|_| AtomicU64::new(0)).collect();
        Self { slots, readable_until }
    }

    /// Everything cached of this slot is worthless, and whatever is being fetched now as well.
    pub fn slot_dropped(&self, slot: Slot) {
        // What the carry out of the upper half would be is gone, as it should.
        self.cell(slot).fetch_add(1 << 32, Ordering::AcqRel);
    }

    /// The slot belongs to this peer from now on; what was cached of it is worthless.
    pub fn slot_owned_by(&self, slot: Slot, peer: PeerIndex) {
        let next = |cell: u64| Some(((cell >> 32) + 1) << 32 | u64::from(peer.0));
        // The closure always returns something.
        let _ = self.cell(slot).fetch_update(Ordering::AcqRel, Ordering::Acquire, next);
    }

    /// Slots of this peer may be read before `until` and no longer; [`Coherence::ALWAYS`] sets no end. A peer beyond those there
    /// are stays unreadable.
    pub fn peer_readable_until(&self, peer: PeerIndex, until: MonoTime) {
        if let Some(time) = self.readable_until.get(usize::from(peer.0)) {
            time.store(until.as_micros(), Ordering::Release);
        }
    }

    /// No end.
    pub const ALWAYS: MonoTime = MonoTime::from_micros(u64::MAX);

    pub(super) fn generation(&self, slot: Slot) -> SlotGeneration {
        SlotGeneration((self.cell(slot).load(Ordering::Acquire) >> 32) as u32)
    }

    /// Whether an entry of this slot and generation may be read at this time.
    #[inline]
    pub(super) fn is_readable(
        &self,
        slot: Slot,
        generation: SlotGeneration,
        now: MonoTime,
    ) -> bool {
        let cell = self.cell(slot).load(Ordering::Acquire);
        let until = self.readable_until.get((cell & 0xffff) as usize);
        (cell >> 32) as u32 == generation.0
            && until.is_some_and(|until| now.as_micros() < until.load(Ordering::Acquire))
    }

    /// Whether an entry of this slot and generation is worthless for ever.
    pub(super) fn is_dropped(&self, slot: Slot, generation: SlotGeneration) -> bool {
        self.generation(slot) != generation
    }

    fn cell(&self, slot: Slot) -> &AtomicU64 {
        &self.slots[slot.index()]
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(micros: u64) -> MonoTime {
        MonoTime::from_micros(micros)
    }

    fn check(coherence: &Coherence, before: SlotGeneration, now: u64, expected: bool) {
        let slot = Slot::new(7).unwrap();
        assert_eq!(coherence.is_readable(slot, before, at(now)), expected);
    }

    #[test]
    fn a_drop_ends_what_was_there_and_nothing_else() {
        let (coherence, slot) = (Coherence::new(1), Slot::new(7).unwrap());
        let before = coherence.generation(slot);
        check(&coherence, before, u64::MAX - 1, true);
        coherence.slot_dropped(Slot::new(8).unwrap());
        check(&coherence, before, 0, true);
        coherence.slot_dropped(slot);
        check(&coherence, before, 0, false);
        check(&coherence, coherence.generation(slot), 0, true);
    }

    #[test]
    fn a_peers_slots_are_readable_until_it_is_silent_for_too_long() {
        let (coherence, slot) = (Coherence::new(1), Slot::new(7).unwrap());
        let before = coherence.generation(slot);
        coherence.slot_owned_by(slot, PeerIndex(1));
        check(&coherence, before, 0, false);
        let owned = coherence.generation(slot);
        check(&coherence, owned, 0, false);
        coherence.peer_readable_until(PeerIndex(1), at(100));
        check(&coherence, owned, 99, true);
        check(&coherence, owned, 100, false);
        coherence.peer_readable_until(PeerIndex(1), Coherence::ALWAYS);
        check(&coherence, owned, 100, true);
    }

    #[test]
    fn an_unknown_peer_is_unreadable() {
        let (coherence, slot) = (Coherence::new(1), Slot::new(7).unwrap());
        coherence.slot_owned_by(slot, PeerIndex(2));
        coherence.peer_readable_until(PeerIndex(2), Coherence::ALWAYS);
        check(&coherence, coherence.generation(slot), 0, false);
    }

    #[test]
    fn a_generation_comes_round_without_touching_the_peer() {
        let (coherence, slot) = (Coherence::new(1), Slot::new(7).unwrap());
        coherence.slots[7].store(u64::from(u32::MAX) << 32 | 1, Ordering::Relaxed);
        coherence.peer_readable_until(PeerIndex(1), Coherence::ALWAYS);
        coherence.slot_dropped(slot);
        check(&coherence, SlotGeneration(0), 0, true);
        coherence.slots[7].store(u64::from(u32::MAX) << 32 | 1, Ordering::Relaxed);
        coherence.slot_owned_by(slot, PeerIndex(0));
        check(&coherence, SlotGeneration(0), 0, true);
    }
}
