//! Any sequence of operations against a model that says what may be shown: the local tier may have forgotten it, nothing else.

use std::collections::HashMap;

use proptest::prelude::*;

use super::*;

const KEYS: u32 = 40;
const SLOTS: u16 = 4;

#[derive(Clone, Copy, Debug)]
enum Step {
    /// A value is fetched: the ticket is taken now, the value arrives later.
    Fetch(u32),
    Arrive {
        which: usize,
        value: Option<u64>,
        bytes: usize,
        ttl: u64,
        stale: u64,
    },
    BeginWrite(u32),
    EndWrite {
        which: usize,
        value: Option<u64>,
        bytes: usize,
    },
    Invalidate(u32),
    DropSlot(u16),
    Own {
        slot: u16,
        peer: u16,
    },
    Hear {
        peer: u16,
        lasts: u64,
    },
    Pass(u64),
    Read(u32),
}

fn step() -> impl Strategy<Value = Step> {
    let key = 0..KEYS;
    let value = || proptest::option::weighted(0.8, 0_u64..1_000);
    let bytes = prop_oneof![8 => 0_usize..200, 1 => 0_usize..20_000];
    let arrive = (0_usize..8, value(), bytes.clone(), 0_u64..400, 0_u64..400).prop_map(
        |(which, value, bytes, ttl, stale)| Step::Arrive { which, value, bytes, ttl, stale },
    );
    let end = (0_usize..8, value(), bytes).prop_map(|(which, value, bytes)| Step::EndWrite {
        which,
        value,
        bytes,
    });
    prop_oneof![
        8 => key.clone().prop_map(Step::Fetch),
        8 => arrive,
        2 => key.clone().prop_map(Step::BeginWrite),
        2 => end,
        1 => key.clone().prop_map(Step::Invalidate),
        1 => (0..SLOTS).prop_map(Step::DropSlot),
        1 => (0..SLOTS, 0_u16..3).prop_map(|(slot, peer)| Step::Own { slot, peer }),
        1 => (1_u16..3, 0_u64..500).prop_map(|(peer, lasts)| Step::Hear { peer, lasts }),
        2 => (0_u64..60).prop_map(Step::Pass),
        16 => key.prop_map(Step::Read),
    ]
}

/// What may be shown of a key.
#[derive(Clone, Copy, Debug)]
struct Shown {
    value: Option<u64>,
    fresh_until: u64,
    stale_until: u64,
}

struct Fetch {
    key: u32,
    ticket: Ticket,
    /// Whether a write, an invalidation or a drop came since.
    good: bool,
}

struct Model {
    near: Near<u32, u64>,
    limits: Limits,
    now: u64,
    seq: u64,
    /// All that arrived since the last change: keys share stamps, so a good value may find its ticket spoilt and change nothing.
    shown: HashMap<u32, Vec<Shown>>,
    fetches: Vec<Fetch>,
    writes: Vec<Fetch>,
    owners: [u16; SLOTS as usize],
    readable_until: [u64; 3],
}

fn slot_of(key: u32) -> Slot {
    Slot::new(key as u16 % SLOTS).unwrap()
}

impl Model {
    fn new(limits: Limits) -> Self {
        let coherence = Arc::new(Coherence::new(2));
        let near = Near::new(limits, KeyHasher::new(7, b"n:1:"), coherence);
        Self {
            near,
            limits,
            now: 0,
            seq: 0,
            shown: HashMap::new(),
            fetches: Vec::new(),
            writes: Vec::new(),
            owners: [0; SLOTS as usize],
            readable_until: [u64::MAX, 0, 0],
        }
    }

    fn step(&mut self, step: Step) {
        match step {
            Step::Fetch(key) => {
                let ticket = self.near.ticket(&key, slot_of(key));
                self.fetches.push(Fetch { key, ticket, good: true });
            }
            Step::Arrive { which, value, bytes, ttl, stale } => {
                if let Some(index) = which.checked_rem(self.fetches.len()) {
                    let fetch = self.fetches.swap_remove(index);
                    let fresh = self.fresh(value, bytes, ttl, stale);
                    let shown = self.shown_of(&fresh);
                    self.near.fill(&fetch.key, fetch.ticket, fresh, at(self.now));
                    if fetch.good {
                        self.shown.entry(fetch.key).or_default().push(shown);
                    }
                }
            }
            Step::BeginWrite(key) => {
                self.spoil(|fetch| fetch.key == key);
                self.shown.remove(&key);
                let ticket = self.near.begin_write(&key, slot_of(key));
                self.writes.push(Fetch { key, ticket, good: true });
            }
            Step::EndWrite { which, value, bytes } => {
                if let Some(index) = which.checked_rem(self.writes.len()) {
                    self.end_write(index, value, bytes);
                }
            }
            Step::Invalidate(key) => {
                self.spoil(|fetch| fetch.key == key);
                self.shown.remove(&key);
                let hash = cluster_key_hash(7, format!("n:1:{key}").as_bytes());
                self.near.invalidate_hash(slot_of(key), hash);
            }
            Step::DropSlot(slot) => {
                self.drop_slot(slot);
                self.near.coherence.slot_dropped(Slot::new(slot).unwrap());
            }
            Step::Own { slot, peer } => {
                self.drop_slot(slot);
                self.owners[usize::from(slot)] = peer;
                self.near.coherence.slot_owned_by(Slot::new(slot).unwrap(), PeerIndex(peer));
            }
            Step::Hear { peer, lasts } => {
                self.readable_until[usize::from(peer)] = self.now + lasts;
                self.near.coherence.peer_readable_until(PeerIndex(peer), at(self.now + lasts));
            }
            Step::Pass(millis) => self.now += millis,
            Step::Read(key) => self.check(key),
        }
        let (entries, bytes) = self.near.size();
        assert!(entries <= self.limits.entries && bytes <= self.limits.bytes, "{entries} {bytes}");
    }

    fn end_write(&mut self, index: usize, value: Option<u64>, bytes: usize) {
        let write = self.writes.swap_remove(index);
        self.spoil(|fetch| fetch.key == write.key);
        self.shown.remove(&write.key);
        let fresh = self.fresh(value, bytes, 100, 0);
        if write.good {
            self.shown.insert(write.key, vec![self.shown_of(&fresh)]);
        }
        self.near.end_write(&write.key, write.ticket, Some(fresh), at(self.now));
    }

    /// Versions rise, so none is refused for being old.
    fn fresh(&mut self, value: Option<u64>, bytes: usize, ttl: u64, stale: u64) -> Fresh<u64> {
        self.seq += 1;
        let ttl = Duration::from_millis(ttl);
        let stale_for = Duration::from_millis(stale);
        Fresh { value: value.map(Arc::new), ttl, stale_for, bytes, ..fresh(0, self.seq) }
    }

    fn shown_of(&self, fresh: &Fresh<u64>) -> Shown {
        let fresh_until = self.now + fresh.ttl.as_millis() as u64;
        let stale_until = fresh_until + fresh.stale_for.as_millis() as u64;
        Shown { value: fresh.value.as_deref().copied(), fresh_until, stale_until }
    }

    fn spoil(&mut self, is: impl Fn(&Fetch) -> bool) {
        let all = self.fetches.iter_mut().chain(&mut self.writes);
        all.filter(|fetch| is(fetch)).for_each(|fetch| fetch.good = false);
    }

    fn drop_slot(&mut self, slot: u16) {
        self.spoil(|fetch| slot_of(fetch.key).number() == slot);
        self.shown.retain(|key, _| slot_of(*key).number() != slot);
    }

    fn check(&self, key: u32) {
        let peer = self.owners[slot_of(key).index()];
        let readable = self.now < self.readable_until[usize::from(peer)];
        let shown = self.shown.get(&key).filter(|_| readable).map_or(&[][..], Vec::as_slice);
        let found = |lookup| match lookup {
            Lookup::Value(value) => Some(Some(*value)),
            Lookup::Absent => Some(None),
            Lookup::Nothing => None,
        };
        if let Some(found) = found(self.near.lookup(&key, at(self.now))) {
            let may = |shown: &Shown| shown.value == found && self.now < shown.fresh_until;
            assert!(shown.iter().any(may), "{key} {found:?} {shown:?}");
        }
        if let Some(found) = found(self.near.get_stale(&key, at(self.now))) {
            let may = |shown: &Shown| shown.value == found && self.now < shown.stale_until;
            assert!(shown.iter().any(may), "{key} {found:?} {shown:?}");
        }
    }
}

proptest! {
    #[test]
    fn nothing_is_shown_that_should_not_be(
        entries in 1_usize..60,
        bytes in 0_usize..40_000,
        steps in proptest::collection::vec(step(), 1..400),
    ) {
        let mut model = Model::new(Limits { entries, bytes });
        steps.into_iter().for_each(|step| model.step(step));
    }

    #[test]
    fn with_room_and_time_nothing_is_forgotten(keys in proptest::collection::vec(0..KEYS, 1..200)) {
        let near = near(200, 1 << 20);
        let mut filled = HashMap::new();
        for (seq, key) in keys.into_iter().enumerate() {
            fill(&near, key, fresh(seq as u64, seq as u64), at(0));
            filled.insert(key, seq as u64);
            for (key, value) in &filled {
                check(&near, *key, at(0), Some(*value));
            }
        }
    }
}
