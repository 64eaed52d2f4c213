//! One test per promise of the public API, on a primary and the end of a replica's link.

#![allow(clippy::unwrap_used)]

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use bytes::Bytes;
use slotmesh_replication::{
    AppendError, ApplyError, Config, Filled, LinkError, Outcome, Primary, PrimaryEvent,
    PrimarySlot, Replica, ReplicaAction, ReplicaSlot, Ring, Share, SnapshotEntry, SnapshotStart,
    SourceGone,
};
use slotmesh_slots::{Class, Effect, Epoch, MonoTime, NodeId, Record, Seq, Slot, Version};

/// A primary with one replica, and what was applied there.
struct Pair {
    primary: Primary,
    replica: Replica,
    wakes: Arc<AtomicU64>,
    now: MonoTime,
    applied: Vec<Version>,
    /// What the replica reports when asked.
    has: (Version, u128),
    installed: Vec<usize>,
    audited: usize,
}

type Told = Arc<Mutex<Vec<Outcome>>>;

fn slot() -> Slot {
    Slot::new(9).unwrap()
}

fn us() -> NodeId {
    NodeId::new(1).unwrap()
}

fn them() -> NodeId {
    NodeId::new(2).unwrap()
}

fn version(epoch: u32, seq: u64) -> Version {
    Version::new(Epoch(epoch), Seq(seq))
}

fn in_sync(epoch: u32) -> PrimarySlot {
    let in_sync = [them()].into_iter().collect();
    PrimarySlot { epoch: Epoch(epoch), in_sync, ..PrimarySlot::default() }
}

fn copying(epoch: u32) -> PrimarySlot {
    let copying = [them()].into_iter().collect();
    PrimarySlot { epoch: Epoch(epoch), copying, ..PrimarySlot::default() }
}

/// Lists the entries two at a time.
fn listed(entries: Vec<SnapshotEntry>) -> SnapshotStart {
    let mut rest = entries.into_iter();
    let source = move || {
        let part: Vec<_> = rest.by_ref().take(2).collect();
        Ok((!part.is_empty()).then_some(part))
    };
    SnapshotStart { answers: Bytes::from_static(ANSWERS), source: Box::new(source) }
}

/// What goes with each snapshot.
const ANSWERS: &[u8] = b"answers";

impl Pair {
    fn new(ring_bytes: usize, config: &Config) -> Self {
        let wakes = Arc::new(AtomicU64::new(0));
        let count = wakes.clone();
        let primary = Primary::new(config.clone(), Arc::new(Ring::new(ring_bytes)), move |_| {
            count.fetch_add(1, Ordering::Relaxed);
        });
        let replica = Replica::new(config.clone(), Arc::new(Ring::new(ring_bytes)));
        let now = MonoTime::from_micros(1);
        let has = (Version::default(), 0);
        let (applied, installed, audited) = (Vec::new(), Vec::new(), 0);
        Self { primary, replica, wakes, now, applied, has, installed, audited }
    }

    /// Assigned at epoch 1, connected and attached.
    fn attached(config: &Config) -> Self {
        let mut pair = Self::new(1 << 20, config);
        pair.set(Some(in_sync(1)), version(0, 0));
        pair.connect();
        pair.exchange();
        pair
    }

    fn set(&self, role: Option<PrimarySlot>, start: Version) {
        self.primary.set_slot(slot(), role, start, self.now);
    }

    fn connect(&self) {
        self.replica.open(us());
        self.primary.link_up(them(), self.now);
    }

    fn disconnect(&self) {
        self.replica.close(us());
        self.primary.link_down(them(), self.now);
    }

    fn append(&self, epoch: u32, seq: u64) -> Told {
        let effect = Effect::Put {
            class: Class::Cache,
            key: Bytes::from_static(b"key"),
            value: Bytes::from_static(&[7; 800]),
            deadline: None,
        };
        let record =
            Record { slot: slot(), epoch: Epoch(epoch), seq: Seq(seq), effect, answer: None };
        self.primary.append(&record).unwrap();
        self.wait(version(epoch, seq))
    }

    fn wait(&self, version: Version) -> Told {
        let told = Told::default();
        let tell = told.clone();
        let done = Box::new(move |outcome| tell.lock().unwrap().push(outcome));
        self.primary.wait(slot(), version, done);
        told
    }

    fn down(&mut self) -> usize {
        let mut bytes = 0;
        for frame in self.primary.poll_frames(them(), usize::MAX, self.now) {
            bytes += frame.len();
            for action in self.replica.handle_frame(us(), &frame, self.now).unwrap() {
                self.work(action);
            }
        }
        bytes
    }

    fn work(&mut self, action: ReplicaAction) {
        match action {
            ReplicaAction::Report { ticket } => {
                self.replica.report(ticket, self.has.0, self.has.1);
            }
            ReplicaAction::Apply { ticket, record } => {
                self.applied.push(record.version());
                self.has.0 = record.version();
                self.replica.applied(ticket, Ok(()));
            }
            ReplicaAction::Audit { ticket, version, digest } => {
                assert_eq!(self.has.0, version, "behind the records before");
                let same = self.has.1 == digest;
                self.replica.applied(ticket, if same { Ok(()) } else { Err(ApplyError::Corrupt) });
                self.audited += 1;
            }
            ReplicaAction::Install { ticket, filled } => {
                let Filled { version, digest, answers, entries } = filled;
                assert_eq!(answers, ANSWERS);
                self.installed.push(entries.len());
                self.has = (version, digest);
                self.replica.applied(ticket, Ok(()));
            }
        }
    }

    fn up(&self) -> usize {
        let frames = self.replica.poll_frames(us());
        frames.iter().for_each(|frame| {
            self.primary.handle_frame(them(), frame, self.now).unwrap();
        });
        self.primary.check_invariants();
        self.replica.check_invariants();
        frames.len()
    }

    fn exchange(&mut self) {
        while self.down() + self.up() > 0 {}
    }

    fn events(&self) -> Vec<PrimaryEvent> {
        std::iter::from_fn(|| self.primary.poll_event()).collect()
    }

    /// What is wanted after so long, in which this node had its turns.
    fn after(&mut self, millis: u64) -> Vec<PrimaryEvent> {
        let end = self.now + Duration::from_millis(millis);
        while self.now < end {
            self.now = (self.now + Duration::from_millis(50)).min(end);
            self.primary.handle_timeout(self.now);
        }
        self.primary.handle_timeout(self.now);
        self.events()
    }
}

fn outcomes(told: &Told) -> Vec<Outcome> {
    told.lock().unwrap().clone()
}

const SHRINK: PrimaryEvent = PrimaryEvent::Shrink {
    slot: Slot::new(9).unwrap(),
    epoch: Epoch(1),
    node: NodeId::new(2).unwrap(),
};

#[test]
fn a_write_is_committed_when_every_in_sync_replica_has_applied_it() {
    let mut pair = Pair::attached(&Config::default());
    let told = pair.append(1, 1);
    pair.down();
    assert_eq!(outcomes(&told), [], "sent, not acknowledged");
    pair.up();
    assert_eq!(outcomes(&told), [Outcome::Committed]);
    assert_eq!(outcomes(&pair.wait(version(1, 1))), [Outcome::Committed], "told at once");
    assert_eq!(pair.primary.committed(slot()), Some(Seq(1)));
    assert_eq!(pair.applied, [version(1, 1)]);
}

#[test]
fn a_position_is_acknowledged_only_when_all_before_it_is_applied() {
    let pair = Pair::attached(&Config::default());
    let told = [pair.append(1, 1), pair.append(1, 2)];
    let mut actions = Vec::new();
    for frame in pair.primary.poll_frames(them(), usize::MAX, pair.now) {
        actions.extend(pair.replica.handle_frame(us(), &frame, pair.now).unwrap());
    }
    for action in actions.into_iter().rev() {
        assert_eq!(told.each_ref().map(outcomes), [[], []]);
        let ReplicaAction::Apply { ticket, .. } = action else { panic!("{action:?}") };
        pair.replica.applied(ticket, Ok(()));
        pair.up();
    }
    assert_eq!(told.each_ref().map(|told| outcomes(told).len()), [1, 1]);
}

#[test]
fn waiters_learn_that_their_epoch_ended() {
    let pair = Pair::attached(&Config::default());
    let told = pair.append(1, 1);
    pair.set(None, version(1, 1));
    assert_eq!(outcomes(&told), [Outcome::Ambiguous]);
    assert_eq!(outcomes(&pair.wait(version(1, 1))), [Outcome::NotOwner]);
    pair.set(Some(in_sync(3)), version(1, 1));
    assert_eq!(outcomes(&pair.wait(version(1, 1))), [Outcome::Ambiguous], "of another epoch");
    assert_eq!(pair.primary.committed(slot()), Some(Seq(0)), "unknown after a promotion");
}

#[test]
fn what_a_move_handed_over_is_committed_and_no_more() {
    let pair = Pair::attached(&Config::default());
    pair.set(None, version(1, 3));
    pair.set(Some(PrimarySlot { base: Seq(2), ..in_sync(3) }), version(1, 3));
    assert_eq!(pair.primary.committed(slot()), Some(Seq(2)), "the third is another epoch's");
    pair.set(None, version(1, 1));
    pair.set(Some(PrimarySlot { base: Seq(2), ..in_sync(4) }), version(1, 1));
    assert_eq!(pair.primary.committed(slot()), Some(Seq(1)), "never beyond the log");
}

#[test]
fn a_frozen_slot_tells_nothing_until_the_epoch_changes() {
    let mut pair = Pair::attached(&Config::default());
    let told = pair.append(1, 1);
    pair.set(Some(PrimarySlot { moving: true, ..in_sync(1) }), version(1, 1));
    pair.exchange();
    assert_eq!(outcomes(&told), []);
    pair.set(None, version(1, 1));
    assert_eq!(outcomes(&told), [Outcome::Committed], "the target has it");
}

#[test]
fn records_of_another_epoch_or_out_of_order_are_not_taken() {
    let pair = Pair::attached(&Config::default());
    let record = |epoch, seq| {
        let effect = Effect::Delete { key: Bytes::new() };
        Record { slot: slot(), epoch: Epoch(epoch), seq: Seq(seq), effect, answer: None }
    };
    assert_eq!(pair.primary.append(&record(2, 1)), Err(AppendError::NotPrimary));
    let gap = AppendError::Gap { last: version(0, 0) };
    assert_eq!(pair.primary.append(&record(1, 2)), Err(gap));
    assert_eq!(pair.primary.last(slot()), Some(version(0, 0)));
}

#[test]
fn a_full_window_takes_the_credit_and_the_ring_brings_the_rest() {
    let config = Config { window_bytes: 5_000, ..Config::default() };
    let mut pair = Pair::attached(&config);
    for seq in 1..=100 {
        assert_eq!(pair.primary.credit(slot()), seq <= 6, "{seq}");
        pair.append(1, seq);
    }
    let sent = pair.down();
    assert!(sent < 7_000, "{sent} bytes sent into a window of 5000");
    assert!(!pair.primary.has_output(them()));
    pair.exchange();
    assert_eq!(pair.primary.committed(slot()), Some(Seq(100)));
    assert!(pair.primary.credit(slot()));
    assert_eq!(pair.applied.len(), 100);
}

#[test]
fn after_a_lost_link_the_tail_comes_from_the_ring() {
    let mut pair = Pair::attached(&Config::default());
    pair.append(1, 1);
    pair.exchange();
    pair.disconnect();
    let told = pair.append(1, 2);
    pair.connect();
    pair.exchange();
    assert_eq!(outcomes(&told), [Outcome::Committed]);
    assert_eq!(pair.applied, [version(1, 1), version(1, 2)]);
}

#[test]
fn a_new_primary_resends_the_tail_of_its_predecessor() {
    let mut old = Pair::attached(&Config::default());
    // The new primary's ring was fed while it was a replica.
    let ring = Arc::new(Ring::new(1 << 20));
    old.replica = Replica::new(Config::default(), ring.clone());
    old.replica.open(us());
    old.primary.link_up(them(), old.now);
    (1..=3).for_each(|seq| drop(old.append(1, seq)));
    old.exchange();
    assert_eq!(old.primary.committed(slot()), Some(Seq(3)));
    let mut new = Pair::new(1 << 20, &Config::default());
    new.primary = Primary::new(Config::default(), ring, |_| {});
    new.has = (version(1, 1), 0);
    new.set(Some(in_sync(2)), version(1, 3));
    assert_eq!(new.primary.committed(slot()), Some(Seq(0)));
    new.connect();
    new.exchange();
    assert_eq!(new.primary.committed(slot()), Some(Seq(3)));
    assert_eq!(new.applied, [version(1, 2), version(1, 3)]);
}

#[test]
fn a_replica_that_lacks_data_leaves_first_and_is_filled_then() {
    let mut pair = Pair::new(4_000, &Config::default());
    pair.set(Some(in_sync(1)), version(0, 0));
    (1..=9).for_each(|seq| drop(pair.append(1, seq)));
    pair.connect();
    pair.exchange();
    assert_eq!(pair.events(), [SHRINK]);
    assert_eq!(pair.primary.committed(slot()), Some(Seq(0)), "waits for the decision");
    pair.set(Some(copying(1)), version(1, 9));
    assert_eq!(pair.primary.committed(slot()), Some(Seq(9)));
    pair.exchange();
    let need = PrimaryEvent::NeedSnapshot { replica: them(), slot: slot() };
    assert_eq!(pair.events(), [need]);
    assert!(
        !pair.primary.snapshot(them(), slot(), version(1, 8), 5, || panic!("listed")),
        "not the last"
    );
    assert_eq!(pair.events(), [need], "asked again");
    let entry = SnapshotEntry {
        class: Class::Cache,
        key: Bytes::from_static(b"k"),
        value: Bytes::from_static(b"v"),
        version: version(1, 9),
        deadline: None,
    };
    assert!(pair.primary.snapshot(them(), slot(), version(1, 9), 5, || listed(vec![entry; 3])));
    let told = pair.append(1, 10);
    assert_eq!(outcomes(&told), [Outcome::Committed], "a copy does not count");
    pair.exchange();
    assert_eq!(
        (pair.installed.as_slice(), pair.applied.as_slice()),
        (&[3][..], &[version(1, 10)][..])
    );
    let grow = PrimaryEvent::Grow { slot: slot(), epoch: Epoch(1), round: 0, node: them() };
    assert_eq!(pair.events(), [grow]);
    let told = pair.append(1, 11);
    assert_eq!(outcomes(&told), [], "proposed: it counts");
    pair.exchange();
    assert_eq!(outcomes(&told), [Outcome::Committed], "it has it");
    assert_eq!(pair.after(0), []);
    assert_eq!(pair.after(200), [grow], "while no answer shows in the table");
    pair.set(Some(in_sync(1)), version(1, 11));
    pair.exchange();
    assert_eq!(pair.after(200), []);
}

#[test]
fn an_equal_copy_is_not_sent() {
    let mut pair = Pair::new(1 << 20, &Config::default());
    pair.has = (version(1, 4), 5);
    pair.set(Some(copying(2)), version(1, 4));
    pair.connect();
    pair.exchange();
    pair.events();
    let taken = pair.primary.snapshot(them(), slot(), version(1, 4), 5, || panic!("listed"));
    assert!(taken);
    let grow = PrimaryEvent::Grow { slot: slot(), epoch: Epoch(2), round: 0, node: them() };
    assert_eq!(pair.events(), [grow]);
}

#[test]
fn a_slot_that_goes_while_it_is_listed_is_asked_for_again() {
    let mut pair = Pair::new(1 << 20, &Config::default());
    pair.set(Some(copying(1)), version(1, 0));
    pair.connect();
    pair.exchange();
    let need = PrimaryEvent::NeedSnapshot { replica: them(), slot: slot() };
    assert_eq!(pair.events(), [need]);
    let entry = SnapshotEntry {
        class: Class::Cache,
        key: Bytes::from_static(b"k"),
        value: Bytes::from_static(b"v"),
        version: version(1, 0),
        deadline: None,
    };
    let mut parts = vec![Err(SourceGone), Ok(Some(vec![entry.clone()]))];
    let source = Box::new(move || parts.pop().unwrap());
    let source = || SnapshotStart { answers: Bytes::new(), source };
    assert!(pair.primary.snapshot(them(), slot(), version(1, 0), 5, source));
    pair.exchange();
    assert_eq!((pair.events(), pair.installed.as_slice()), (vec![need], &[][..]));
    assert!(pair.primary.snapshot(them(), slot(), version(1, 0), 5, || listed(vec![entry; 5])));
    pair.exchange();
    assert_eq!(pair.installed, [5]);
}

#[test]
fn who_was_stopped_itself_does_not_take_others_for_silent() {
    let mut pair = Pair::attached(&Config::default());
    pair.events();
    assert_eq!(pair.after(200), []);
    pair.now = pair.now + Duration::from_secs(10);
    pair.primary.handle_timeout(pair.now);
    assert_eq!(pair.events(), [], "nobody could be heard");
    assert_eq!(pair.after(299), [], "what waits in the sockets has its time");
    assert_eq!(pair.after(1), [SHRINK]);
}

#[test]
fn a_driver_that_has_no_turn_hears_nobody() {
    let mut pair = Pair::attached(&Config::default());
    pair.events();
    assert_eq!(pair.after(50), []);
    pair.primary.note_driver(pair.now);
    assert_eq!(pair.after(2_000), [], "the driver stands still");
    pair.primary.note_driver(pair.now);
    let mut events = Vec::new();
    for _ in 0..6 {
        pair.primary.note_driver(pair.now);
        events.extend(pair.after(50));
    }
    assert_eq!(events, [SHRINK]);
}

/// A link that carries a snapshot which rests after its first part, and when it goes on.
fn resting(ask: impl Fn(&Pair)) -> (Pair, Option<MonoTime>) {
    let config = Config { snapshot_window_bytes: 600, ..Config::default() };
    let mut pair = Pair::new(1 << 20, &config);
    let live = Slot::new(10).unwrap();
    pair.set(Some(copying(1)), version(1, 0));
    pair.primary.set_slot(live, Some(in_sync(1)), version(0, 0), pair.now);
    pair.connect();
    ask(&pair);
    pair.exchange();
    pair.events();
    let entry = SnapshotEntry {
        class: Class::Cache,
        key: Bytes::from_static(b"k"),
        value: Bytes::from_static(&[7; 500]),
        version: version(1, 0),
        deadline: None,
    };
    assert!(pair.primary.snapshot(them(), slot(), version(1, 0), 5, || listed(vec![entry; 4])));
    pair.down();
    pair.now = pair.now + Duration::from_millis(2);
    pair.up();
    let until = pair.primary.rests_until(them());
    (pair, until)
}

#[test]
fn a_link_rests_from_snapshots_and_not_from_records() {
    let (mut pair, until) = resting(|pair| pair.primary.set_copy_share(Share::percent(20)));
    assert_eq!(until, Some(pair.now + Duration::from_millis(8)), "busy for 2 ms");
    assert!(pair.primary.is_copying() && !pair.primary.has_output(them()));
    let before = pair.wakes.load(Ordering::Relaxed);
    pair.now = pair.now + Duration::from_millis(7);
    assert_eq!(pair.down(), 0);
    let slot = Slot::new(10).unwrap();
    let key = Bytes::from_static(b"key");
    let effect = Effect::Delete { key };
    let record = Record { slot, epoch: Epoch(1), seq: Seq(1), effect, answer: None };
    pair.primary.append(&record).unwrap();
    assert_eq!(pair.wakes.load(Ordering::Relaxed), before + 1);
    pair.exchange();
    assert_eq!((pair.primary.committed(slot), pair.installed.len()), (Some(Seq(1)), 0));
    assert!(pair.primary.poll_timeout() <= until, "it is called in time");
    pair.after(1);
    assert_eq!(pair.wakes.load(Ordering::Relaxed), before + 2, "the rest is over");
    for _ in 0..8 {
        pair.exchange();
        pair.after(100);
    }
    assert_eq!((pair.installed.as_slice(), pair.primary.is_copying()), (&[4][..], false));
}

#[test]
fn a_replica_may_ask_for_rests_also_before_its_link_is_there() {
    let (pair, until) = resting(|pair| pair.replica.ask_copy_share(Share::percent(50)));
    assert_eq!(until, None, "2 ms are owed: too short a rest");
    pair.disconnect();
    pair.connect();
    assert_eq!(pair.replica.poll_frames(us()).len(), 1, "said again");
    pair.replica.ask_copy_share(Share::percent(50));
    assert!(pair.replica.poll_frames(us()).is_empty(), "it is known");
    let (pair, until) = resting(|pair| {
        pair.primary.set_copy_share(Share::percent(50));
        pair.replica.ask_copy_share(Share::percent(25));
    });
    assert_eq!(until, Some(pair.now + Duration::from_millis(6)), "the smaller share counts");
}

#[test]
fn nothing_more_is_listed_for_a_link_that_is_down() {
    let mut pair = Pair::new(1 << 20, &Config::default());
    pair.set(Some(copying(1)), version(1, 0));
    pair.connect();
    pair.exchange();
    pair.events();
    let held = Arc::new(());
    let mine = held.clone();
    let source =
        Box::new(move || if Arc::strong_count(&mine) > 9 { Err(SourceGone) } else { Ok(None) });
    let source = || SnapshotStart { answers: Bytes::new(), source };
    assert!(pair.primary.snapshot(them(), slot(), version(1, 0), 5, source));
    assert_eq!(Arc::strong_count(&held), 2);
    pair.primary.link_down(them(), pair.now);
    assert_eq!(Arc::strong_count(&held), 1, "what it held is free");
}

#[test]
fn one_snapshot_at_a_time_whatever_comes_while_it_is_listed() {
    let mut pair = Pair::new(1 << 20, &Config::default());
    let other = Slot::new(10).unwrap();
    pair.set(Some(copying(1)), version(1, 0));
    pair.primary.set_slot(other, Some(copying(1)), version(1, 0), pair.now);
    pair.connect();
    pair.exchange();
    let need = |slot| PrimaryEvent::NeedSnapshot { replica: them(), slot };
    assert_eq!(pair.events(), [need(slot())]);
    // Another thread writes to the link meanwhile.
    let listing = || {
        assert_eq!(pair.primary.poll_frames(them(), usize::MAX, pair.now), Vec::<Bytes>::new());
        assert_eq!(pair.events(), [], "asked for a second one");
        listed(Vec::new())
    };
    assert!(pair.primary.snapshot(them(), slot(), version(1, 0), 5, listing));
    pair.exchange();
    let grow = |slot| PrimaryEvent::Grow { slot, epoch: Epoch(1), round: 0, node: them() };
    assert_eq!(pair.events(), [grow(slot()), need(other)]);
    assert!(pair.primary.snapshot(them(), other, version(1, 0), 5, || listed(Vec::new())));
    pair.exchange();
    assert_eq!(pair.events(), [grow(other)]);
    assert_eq!(pair.after(0), [], "proposed a moment ago");
    assert_eq!(pair.after(200), [grow(slot()), grow(other)], "while no answer shows in the table");
}

#[test]
fn equal_versions_with_unequal_digests_are_corruption() {
    let pair = Pair::attached(&Config::default());
    let compare = PrimaryEvent::Compare { replica: them(), slot: slot() };
    assert_eq!(pair.events(), [compare]);
    pair.primary.compare(them(), slot(), version(0, 0), 0);
    assert_eq!(pair.events(), []);
    pair.primary.compare(them(), slot(), version(0, 0), 1);
    assert_eq!(pair.events(), [SHRINK]);
}

#[test]
fn a_copy_that_differs_is_found_by_an_audit_behind_the_records() {
    let mut pair = Pair::attached(&Config::default());
    pair.events();
    pair.append(1, 1);
    pair.has.1 = 7;
    pair.primary.audit(slot(), version(1, 0), 9);
    pair.primary.audit(slot(), version(1, 1), 7);
    pair.exchange();
    assert_eq!((pair.audited, pair.events()), (1, vec![]), "one that is not of the last is none");
    pair.primary.audit(slot(), version(1, 1), 9);
    pair.append(1, 2);
    pair.exchange();
    assert_eq!((pair.audited, pair.events()), (2, vec![SHRINK]));
    pair.primary.audit(slot(), version(1, 2), 9);
    pair.exchange();
    assert_eq!(pair.audited, 2, "it is not asked any more");
}

#[test]
fn a_replica_that_owes_an_answer_is_reported_after_300_ms_and_every_200_ms() {
    let mut pair = Pair::attached(&Config::default());
    pair.events();
    let told = pair.append(1, 1);
    assert_eq!(pair.after(0), []);
    assert_eq!(pair.after(299), []);
    assert_eq!(pair.after(1), [SHRINK]);
    assert_eq!(pair.after(199), []);
    assert_eq!(pair.after(1), [SHRINK]);
    assert_eq!(outcomes(&told), [], "still waits");
    pair.set(Some(PrimarySlot { epoch: Epoch(1), ..PrimarySlot::default() }), version(1, 1));
    assert_eq!(outcomes(&told), [Outcome::Committed]);
    assert_eq!(pair.after(1_000), []);
}

#[test]
fn a_replica_to_which_nothing_is_sent_is_reported_after_a_second_and_300_ms_after_its_link_broke() {
    let mut pair = Pair::attached(&Config::default());
    pair.after(50);
    pair.exchange();
    assert_eq!(pair.after(999), []);
    assert_eq!(pair.after(1), [SHRINK]);
    pair.exchange();
    pair.disconnect();
    assert_eq!(pair.after(299), []);
    assert_eq!(pair.after(1), [SHRINK]);
}

#[test]
fn heartbeats_are_rarer_on_a_link_that_rests() {
    let mut pair = Pair::attached(&Config::default());
    pair.events();
    let heartbeats = |pair: &mut Pair, writes: bool| {
        let mut count = 0;
        for seq in 1..=20 {
            if writes {
                pair.append(1, seq);
            }
            assert_eq!(pair.after(50), []);
            let before = pair.primary.echoed(them());
            pair.exchange();
            count += usize::from(pair.primary.echoed(them()) > before);
        }
        count
    };
    assert_eq!(heartbeats(&mut pair, true), 20);
    // The one that was due soon, for what was sent before the last.
    assert_eq!(heartbeats(&mut pair, false), 5);
}

#[test]
fn heartbeats_keep_a_replica_and_measure_its_lag() {
    let mut pair = Pair::attached(&Config::default());
    pair.events();
    for _ in 0..20 {
        assert!(pair.primary.poll_timeout().unwrap() >= pair.now);
        assert_eq!(pair.after(250), []);
        pair.exchange();
    }
    assert_eq!(pair.primary.echoed(them()), Some(pair.now));
    // A replica that does not get its work done sends no heartbeat back.
    pair.append(1, 1);
    pair.after(250);
    for frame in pair.primary.poll_frames(them(), usize::MAX, pair.now) {
        assert_eq!(pair.replica.handle_frame(us(), &frame, pair.now).unwrap().len(), 1);
    }
    pair.after(50);
    pair.exchange();
    assert_eq!(
        pair.primary.echoed(them()).map(|at| pair.now - at),
        Some(Duration::from_millis(300))
    );
}

#[test]
fn a_promise_shuts_out_what_is_under_way() {
    let mut pair = Pair::attached(&Config::default());
    pair.events();
    let told = pair.append(1, 1);
    let frames = pair.primary.poll_frames(them(), usize::MAX, pair.now);
    let actions = pair.replica.handle_frame(us(), &frames[0], pair.now).unwrap();
    let ReplicaAction::Apply { ticket, .. } = &actions[0] else { panic!("{actions:?}") };
    assert!(pair.replica.admits(ticket));
    pair.replica.promise(slot(), Epoch(2)).unwrap();
    assert!(!pair.replica.admits(ticket));
    assert_eq!(pair.replica.promise(slot(), Epoch(1)).unwrap_err().promised, Epoch(2));
    pair.replica.applied(*ticket, Err(ApplyError::Overtaken));
    pair.exchange();
    assert_eq!(outcomes(&told), []);
    let refused = PrimaryEvent::Refused { slot: slot(), node: them(), promised: Epoch(2) };
    assert_eq!(pair.events(), [refused, SHRINK]);
    pair.replica.set_slot(slot(), Some(ReplicaSlot { epoch: Epoch(1), primary: Some(us()) }));
    assert_eq!(pair.replica.promised(slot()), Epoch(2), "never goes back");
}

#[test]
fn the_driver_is_woken_once_per_burst() {
    let mut pair = Pair::attached(&Config::default());
    let before = pair.wakes.load(Ordering::Relaxed);
    (1..=5).for_each(|seq| drop(pair.append(1, seq)));
    assert_eq!(pair.wakes.load(Ordering::Relaxed), before + 1);
    pair.exchange();
    pair.append(1, 6);
    assert_eq!(pair.wakes.load(Ordering::Relaxed), before + 2);
}

#[test]
fn a_broken_or_foreign_peer_costs_the_link_only() {
    let pair = Pair::attached(&Config::default());
    let check = |frame: &'static [u8], expected: LinkError| {
        pair.replica.open(us());
        let frame = Bytes::from_static(frame);
        assert_eq!(pair.replica.handle_frame(us(), &frame, pair.now), Err(expected));
    };
    check(&[1, 9, 0, 0, 0, 0, 0, 0, 0, 1], LinkError::Version(9));
    check(&[2, 0, 0, 0, 0, 0, 0, 0, 1], LinkError::Protocol("message before the opening"));
    let stranger = NodeId::new(77).unwrap();
    let frame = Bytes::from_static(&[66, 0, 0, 0, 0, 0, 0, 0, 99]);
    let not_open = Err(LinkError::NotOpen(stranger));
    assert_eq!(pair.primary.handle_frame(stranger, &frame, pair.now), not_open);
    let result = pair.primary.handle_frame(them(), &frame, pair.now);
    assert!(matches!(result, Err(LinkError::Protocol(_))), "{result:?}");
    pair.primary.check_invariants();
}

#[test]
fn a_snapshot_beyond_the_bound_is_refused() {
    let config = Config { snapshot_bytes_max: 1_000, ..Config::default() };
    let mut pair = Pair::new(1 << 20, &config);
    pair.set(Some(copying(1)), version(1, 1));
    pair.connect();
    pair.exchange();
    let value = Bytes::from_static(&[0; 2_000]);
    let entry = SnapshotEntry {
        class: Class::Cache,
        key: value.clone(),
        value,
        version: version(1, 1),
        deadline: None,
    };
    pair.events();
    assert!(pair.primary.snapshot(them(), slot(), version(1, 1), 5, || listed(vec![entry])));
    pair.exchange();
    assert_eq!(pair.installed, [] as [usize; 0]);
}

#[test]
fn a_replica_of_another_history_is_not_taken_for_a_prefix() {
    let mut pair = Pair::new(1 << 20, &Config::default());
    pair.set(Some(PrimarySlot { epoch: Epoch(1), ..PrimarySlot::default() }), version(0, 0));
    (1..=2).for_each(|seq| drop(pair.append(1, seq)));
    pair.set(Some(in_sync(2)), version(1, 2));
    (3..=4).for_each(|seq| drop(pair.append(2, seq)));
    // Its third record was written by the predecessor and never came here.
    pair.has = (version(1, 3), 0);
    pair.connect();
    pair.exchange();
    let shrink = PrimaryEvent::Shrink { slot: slot(), epoch: Epoch(2), node: them() };
    assert_eq!((pair.events(), pair.applied.len()), (vec![shrink], 0));
}
