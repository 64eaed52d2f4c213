//! A publisher and a subscriber that get whatever the bytes say, in any order: valid, damaged, and for streams that are no more.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use slotmesh_coherence::{Publisher, Readable, Sink, Stamp, Subscriber, Watcher};
use slotmesh_slots::{MonoTime, NodeId, Seq, Slot};

/// What a run came to.
#[derive(Default, Debug)]
pub(crate) struct End {
    pub(crate) taken: usize,
    pub(crate) refused: usize,
}

struct Ignored;

impl Sink for Ignored {
    fn invalidate(&self, _slot: Slot, _seq: Seq, _hash: u64) {}
}

pub(crate) struct Harness {
    publisher: Publisher,
    subscriber: Subscriber,
    streams: Vec<Watcher>,
    frames: Vec<Bytes>,
    kept: Option<(Slot, Stamp)>,
    now: MonoTime,
    end: End,
}

const BOUND: Duration = Duration::from_millis(100);

impl Harness {
    pub(crate) fn run(input: &[u8]) -> End {
        let (peer, me) = (node(1), node(2));
        let subscriber = Subscriber::new(me, Box::new(|_| {}));
        let sink: Arc<dyn Sink> = Arc::new(Ignored);
        subscriber.register(&sink, BOUND);
        let mut harness = Self {
            publisher: Publisher::new(Box::new(|_| {})),
            subscriber,
            streams: Vec::new(),
            frames: Vec::new(),
            kept: None,
            now: MonoTime::from_micros(1),
            end: End::default(),
        };
        for step in input.chunks(12) {
            harness.step(peer, step);
        }
        harness.subscriber.retain(|node| node != peer);
        if let Some((slot, stamp)) = harness.kept {
            let readable =
                harness.subscriber.readable(slot, stamp, harness.now.saturating_sub(BOUND));
            assert_eq!(readable, Readable::No, "the peer is forgotten");
        }
        harness.end
    }

    fn step(&mut self, peer: NodeId, step: &[u8]) {
        let byte = |index: usize| step.get(index).copied().unwrap_or_default();
        let slot = Slot::of_key(&[byte(1)]);
        let stream = self.streams.get(usize::from(byte(2)) % self.streams.len().max(1)).copied();
        let by = stream.unwrap_or(Watcher { node: node(2), stream: u64::from(byte(2)) });
        self.now = self.now + Duration::from_micros(u64::from(byte(3)) * 300);
        match byte(0) % 12 {
            0 => self.frames.extend(self.subscriber.open(peer).map(|(by, hello)| {
                self.streams.push(by);
                hello
            })),
            1 => self.frames.extend(self.subscriber.poll_ping(peer, self.now)),
            2 => self.note(|this, frame| this.publisher.open(node(2), frame).is_ok(), step),
            3 => {
                self.note(|this, frame| this.publisher.handle_frame(by, frame, true).is_ok(), step)
            }
            4 => drop(self.publisher.subscribe(slot, by)),
            5 => self.publisher.publish(slot, Seq(u64::from(byte(4))), || 7),
            6 => self.publisher.drop_slot(slot),
            7 => self.frames.extend(self.publisher.poll_frames(by).into_iter().flatten()),
            8 => self.note(
                |this, frame| this.subscriber.handle_frame(peer, by, frame, this.now).is_ok(),
                step,
            ),
            9 => self.publisher.close(by),
            10 => self.subscriber.close(peer, by),
            _ => {
                let ticket = self.subscriber.ticket(slot);
                let stamp = self.subscriber.admit(slot, ticket, peer, by);
                self.kept = stamp.map(|stamp| (slot, stamp)).or(self.kept);
                if let Some((slot, stamp)) = self.kept {
                    let _ = self.subscriber.readable(slot, stamp, self.now.saturating_sub(BOUND));
                }
            }
        }
    }

    /// Hands a frame in: one that somebody wrote, at times damaged, or the step's own bytes.
    fn note(&mut self, take: impl Fn(&Self, &[u8]) -> bool, step: &[u8]) {
        let written = if self.frames.is_empty() { None } else { Some(self.frames.remove(0)) };
        let mut frame = written.map_or_else(|| step.to_vec(), |frame| frame.to_vec());
        if let [.., damage, index] = step
            && *damage > 200
            && !frame.is_empty()
        {
            let index = usize::from(*index) % frame.len();
            frame[index] ^= damage;
        }
        match take(self, &frame) {
            true => self.end.taken += 1,
            false => self.end.refused += 1,
        }
    }
}

fn node(number: u64) -> NodeId {
    NodeId::new(number).expect("not zero")
}
