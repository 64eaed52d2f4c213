//! Any sequence of operations against a model that says what may be shown: the local tier may have forgotten it, nothing else.

use std::collections::BTreeMap;

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
    /// Somebody else writes it, and nobody knows what.
    Publish(u32),
    /// A write of this process is told before it ends.
    Tell(usize),
    DropSlot(u16),
    Vouch,
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
        1 => key.clone().prop_map(Step::Publish),
        1 => (0_usize..8).prop_map(Step::Tell),
        1 => (0..SLOTS).prop_map(Step::DropSlot),
        2 => Just(Step::Vouch),
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
    seq: u64,
    /// Only while it is vouched for.
    told: bool,
}

struct Fetch {
    key: u32,
    ticket: Ticket,
    cover: Cover,
    began: u64,
    seq: u64,
    /// Whether a write or an invalidation came since, and whether the slot was dropped.
    good: bool,
    dropped: bool,
}

struct Model {
    near: Owned,
    limits: Limits,
    now: u64,
    seq: u64,
    /// All that arrived since the last change: keys share stamps, so a good value may find its ticket spoilt and change nothing.
    shown: BTreeMap<u32, Vec<Shown>>,
    fetches: Vec<Fetch>,
    writes: Vec<Fetch>,
    vouched: u64,
}

fn arrived(seq: u64, value: Option<u64>, bytes: usize, ttl: u64, stale: u64) -> Fresh<u64> {
    let (ttl, stale_for) = (Duration::from_millis(ttl), Duration::from_millis(stale));
    Fresh { value: value.map(Arc::new), ttl, stale_for, bytes, ..fresh(0, seq) }
}

fn slot_of(key: u32) -> Slot {
    Slot::new(key as u16 % SLOTS).unwrap()
}

impl Model {
    fn new(limits: Limits) -> Self {
        Self {
            near: Owned::new(limits, BOUND),
            limits,
            now: 1,
            seq: 0,
            shown: BTreeMap::new(),
            fetches: Vec::new(),
            writes: Vec::new(),
            vouched: 0,
        }
    }

    fn step(&mut self, step: Step) {
        match step {
            Step::Fetch(key) => {
                let (ticket, cover) = self.near.fetch(key, slot_of(key), at(self.now));
                let fetch = self.begun(key, ticket, cover);
                self.fetches.push(fetch);
            }
            Step::Arrive { which, value, bytes, ttl, stale } => {
                if let Some(index) = which.checked_rem(self.fetches.len()) {
                    let fetch = self.fetches.swap_remove(index);
                    let fresh = arrived(fetch.seq, value, bytes, ttl, stale);
                    let shown = Self::shown_of(&fetch, &fresh);
                    self.near.fill(&fetch.key, fetch.ticket, fresh, fetch.cover);
                    if fetch.good && !fetch.dropped {
                        self.shown.entry(fetch.key).or_default().push(shown);
                    }
                }
            }
            Step::BeginWrite(key) => {
                self.spoil(|fetch| fetch.key == key);
                self.shown.remove(&key);
                let ticket = self.near.begin(key, slot_of(key), at(self.now));
                let cover = self.near.own_cover(ticket);
                let write = self.begun(key, ticket, cover);
                self.writes.push(write);
            }
            Step::EndWrite { which, value, bytes } => {
                if let Some(index) = which.checked_rem(self.writes.len()) {
                    self.end_write(index, value, bytes);
                }
            }
            Step::Publish(key) => {
                self.seq += 1;
                self.spoil(|fetch| fetch.key == key);
                self.near.watch(slot_of(key));
                self.near.publish(key, slot_of(key), self.seq);
                self.shown.remove(&key);
            }
            Step::Tell(which) => {
                if let Some(index) = which.checked_rem(self.writes.len()) {
                    let (key, seq) = (self.writes[index].key, self.writes[index].seq);
                    self.spoil(|fetch| fetch.key == key && fetch.seq < seq);
                    self.near.watch(slot_of(key));
                    self.near.publish(key, slot_of(key), seq);
                    let shown = self.shown.entry(key).or_default();
                    shown.retain(|shown| shown.told && shown.seq >= seq);
                }
            }
            Step::DropSlot(slot) => {
                for fetch in self.fetches.iter_mut().chain(&mut self.writes) {
                    fetch.dropped |= slot_of(fetch.key).number() == slot;
                }
                for (_, shown) in self.shown.iter_mut().filter(|it| slot_of(*it.0).number() == slot)
                {
                    shown.retain(|shown| !shown.told);
                }
                self.near.publisher.drop_slot(Slot::new(slot).unwrap());
            }
            Step::Vouch => {
                self.vouched = self.now;
                self.near.vouch(at(self.now));
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
        let fresh = arrived(write.seq, value, bytes, 200, 0);
        if write.good {
            let cover = if write.dropped { Cover::Nobody } else { write.cover };
            let shown = Self::shown_of(&Fetch { cover, ..write }, &fresh);
            self.shown.insert(write.key, vec![shown]);
        }
        self.near.end_write(&write.key, write.ticket, Some(fresh));
    }

    fn begun(&mut self, key: u32, ticket: Ticket, cover: Cover) -> Fetch {
        self.seq += 1;
        let (began, seq) = (self.now, self.seq);
        Fetch { key, ticket, cover, began, seq, good: true, dropped: false }
    }

    fn shown_of(fetch: &Fetch, fresh: &Fresh<u64>) -> Shown {
        let told = matches!(fetch.cover, Cover::Told(_));
        let ttl = fresh.ttl.as_millis() as u64;
        let fresh_until = fetch.began + if told { ttl } else { ttl.min(100) };
        let stale_until = fresh_until + fresh.stale_for.as_millis() as u64;
        let (value, seq) = (fresh.value.as_deref().copied(), fetch.seq);
        Shown { value, fresh_until, stale_until, seq, told }
    }

    fn spoil(&mut self, is: impl Fn(&Fetch) -> bool) {
        let all = self.fetches.iter_mut().chain(&mut self.writes);
        all.filter(|fetch| is(fetch)).for_each(|fetch| fetch.good = false);
    }

    fn check(&self, key: u32) {
        let vouched = self.vouched != 0 && self.now < self.vouched + 100;
        let shown = self.shown.get(&key).map_or(&[][..], Vec::as_slice);
        let found = |lookup| match lookup {
            Lookup::Value(value) => Some(Some(*value)),
            Lookup::Absent => Some(None),
            Lookup::Nothing => None,
        };
        let may = |found, until: fn(&Shown) -> u64| {
            let may = |shown: &&Shown| shown.value == found && self.now < until(shown);
            shown.iter().filter(may).any(|shown| vouched || !shown.told)
        };
        if let Some(found) = found(self.near.lookup(&key, at(self.now))) {
            assert!(may(found, |shown| shown.fresh_until), "{key} {found:?} {shown:?}");
        }
        if let Some(found) = found(self.near.get_stale(&key, at(self.now))) {
            assert!(may(found, |shown| shown.stale_until), "{key} {found:?} {shown:?}");
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
        let mut filled = BTreeMap::new();
        for (seq, key) in keys.into_iter().enumerate() {
            fill(&near, key, fresh(seq as u64, seq as u64), at(0));
            filled.insert(key, seq as u64);
            for (key, value) in &filled {
                check(&near, *key, at(0), Some(*value));
            }
        }
    }
}
