//! Arbitrary frames into both ends of a replication link, raw and built to be nearly right: nothing panics and the
//! bookkeeping holds.

#![no_main]

use std::sync::Arc;

use bytes::Bytes;
use libfuzzer_sys::fuzz_target;
use slotmesh_fuzz::noise;
use slotmesh_replication::{
    ApplyError, Config, Primary, PrimaryEvent, PrimarySlot, Replica, ReplicaAction, ReplicaSlot,
    Ring, SnapshotStart,
};
use slotmesh_slots::{Effect, Epoch, MonoTime, NodeId, Record, Seq, Slot, Version, Writer};

fuzz_target!(|input: &[u8]| {
    let input =
        if cfg!(fuzzing) { input.to_vec() } else { noise(input).take(STRETCHED_BYTES).collect() };
    let mut bytes = input.into_iter();
    let mut fixture = Fixture::new();
    fixture.raw(&bytes.clone().collect::<Vec<u8>>().into());
    while bytes.len() > 0 {
        fixture.step(&mut bytes);
    }
    fixture.primary.check_invariants();
    fixture.replica.check_invariants();
    fixture.ring.check_invariants();
});

const STRETCHED_BYTES: usize = 1_500;
const SLOTS: u8 = 4;

/// Both sides of a node whose only peer talks nonsense.
struct Fixture {
    ring: Arc<Ring>,
    primary: Primary,
    replica: Replica,
    seqs: [u64; SLOTS as usize],
    todo: Vec<ReplicaAction>,
    now: MonoTime,
}

fn slot(number: u8) -> Slot {
    Slot::new(u16::from(number % SLOTS)).expect("small")
}

fn peer() -> NodeId {
    NodeId::from_random(2)
}

impl Fixture {
    fn new() -> Self {
        let config = Config { window_bytes: 4_000, snapshot_bytes_max: 1_000, ..Config::default() };
        let ring = Arc::new(Ring::new(10_000));
        let fixture = Self {
            primary: Primary::new(config.clone(), ring.clone(), |_| {}),
            replica: Replica::new(config, ring.clone()),
            ring,
            seqs: [0; SLOTS as usize],
            todo: Vec::new(),
            now: MonoTime::from_micros(1),
        };
        for number in 0..SLOTS {
            let peers = [peer()].into_iter().collect();
            let mut role = PrimarySlot { epoch: Epoch(1), ..PrimarySlot::default() };
            if number % 2 == 0 {
                role.in_sync = peers
            } else {
                role.copying = peers
            }
            fixture.primary.set_slot(slot(number), Some(role), Version::default(), fixture.now);
        }
        fixture.primary.link_up(peer(), fixture.now);
        fixture.replica.open(peer());
        fixture
    }

    fn raw(&mut self, frame: &Bytes) {
        if self.primary.handle_frame(peer(), frame, self.now).is_err() {
            self.primary.link_down(peer(), self.now);
            self.primary.link_up(peer(), self.now);
        }
        match self.replica.handle_frame(peer(), frame, self.now) {
            Ok(actions) => self.todo.extend(actions),
            Err(_) => self.replica.open(peer()),
        }
    }

    fn step(&mut self, input: &mut impl Iterator<Item = u8>) {
        let mut next = || input.next().unwrap_or_default();
        match next() % 12 {
            0..5 => {
                let frame = nearly_right(&mut next);
                self.raw(&frame);
            }
            5 => self.write(next()),
            6 => {
                let frames = self.primary.poll_frames(peer(), usize::from(next()) * 16, self.now);
                frames.iter().for_each(|frame| self.raw(frame));
            }
            7 => {
                let frames = self.replica.poll_frames(peer());
                frames.iter().for_each(|frame| self.raw(frame));
            }
            8 => self.work(next()),
            9 => {
                self.now = self.now + std::time::Duration::from_millis(u64::from(next()));
                self.primary.handle_timeout(self.now);
            }
            10 => self.event(),
            _ => {
                let (number, epoch) = (next(), Epoch(u32::from(next() % 4)));
                let role = ReplicaSlot { epoch, primary: Some(peer()) };
                let _ = self.replica.promise(slot(number), epoch);
                self.replica.set_slot(slot(number), (number % 3 > 0).then_some(role));
            }
        }
    }

    fn write(&mut self, number: u8) {
        let seq = &mut self.seqs[usize::from(number % SLOTS)];
        let effect = Effect::Delete { key: Bytes::copy_from_slice(&[number]) };
        let record = Record {
            slot: slot(number),
            epoch: Epoch(1),
            seq: Seq(*seq + 1),
            effect,
            answer: None,
        };
        if self.primary.credit(record.slot) && self.primary.append(&record).is_ok() {
            *seq += 1;
            self.primary.wait(record.slot, record.version(), Box::new(|_| {}));
        }
    }

    fn work(&mut self, which: u8) {
        if self.todo.is_empty() {
            return;
        }
        let action = self.todo.swap_remove(usize::from(which) % self.todo.len());
        let result = if which.is_multiple_of(8) { Err(ApplyError::Corrupt) } else { Ok(()) };
        match action {
            ReplicaAction::Report { ticket } => {
                let version = Version::new(Epoch(1), Seq(u64::from(which % 16)));
                self.replica.report(ticket, version, u128::from(which));
            }
            ReplicaAction::Apply { ticket, .. }
            | ReplicaAction::Audit { ticket, .. }
            | ReplicaAction::Install { ticket, .. } => {
                self.replica.applied(ticket, result);
            }
        }
    }

    fn event(&mut self) {
        let Some(event) = self.primary.poll_event() else { return };
        match event {
            PrimaryEvent::NeedSnapshot { replica, slot } => {
                let version = self.primary.last(slot).unwrap_or_default();
                let start = || SnapshotStart {
                    answers: Bytes::from_static(b"answers"),
                    source: Box::new(|| Ok(None)),
                };
                self.primary.snapshot(replica, slot, version, 7, start);
            }
            PrimaryEvent::Compare { replica, slot } => {
                let version = self.primary.last(slot).unwrap_or_default();
                self.primary.compare(replica, slot, version, 7);
            }
            _ => {}
        }
    }
}

/// A message with a known tag and small numbers in its fields, cut or extended now and then.
fn nearly_right(next: &mut impl FnMut() -> u8) -> Bytes {
    let mut out = Writer::new();
    let tag = [1, 2, 3, 4, 4, 5, 6, 7, 65, 66, 67, 68][usize::from(next() % 12)];
    out.u8(tag);
    match tag {
        1 => {
            out.u8(1);
            out.u64(u64::from(next() % 4));
        }
        2 | 66 | 68 => out.u64(u64::from(next() % 32)),
        4 => {
            out.u64(u64::from(next() % 8));
            let effect = Effect::Delete { key: Bytes::copy_from_slice(&[next()]) };
            let (epoch, seq) = (Epoch(u32::from(next() % 4)), Seq(u64::from(next() % 16)));
            Record { slot: slot(next()), epoch, seq, effect, answer: None }
                .encode(&mut out, MonoTime::ZERO);
        }
        _ => {
            out.slot(slot(next()));
            out.u64(u64::from(next() % 8));
            match tag {
                3 => out.u32(u32::from(next() % 4)),
                5 => out.version(Version::new(Epoch(1), Seq(u64::from(next() % 16)))),
                6 => out.u32(u32::from(next() % 2)),
                67 => out.u8(next() % 5),
                _ => {
                    out.version(Version::new(Epoch(1), Seq(u64::from(next() % 16))));
                    out.u128(7);
                    if tag == 7 {
                        out.u64(u64::from(next() % 2));
                    }
                }
            }
            if next().is_multiple_of(4) {
                (0..24).for_each(|_| out.u8(next() % 4));
            }
        }
    }
    out.finish()
}
