use bytes::Bytes;
use slotmesh_slots::{MonoTime, Record, Slot, Writer};

use crate::config::Config;
use crate::link::{Audit, InFlight, LinkState, Part, Queued, StreamState};
use crate::ring::{Rest, Ring, cost};
use crate::snapshot::Step;
use crate::wire;

/// What the driver gets to write, and which attachments turned out to need what the ring no longer has.
pub(crate) struct Written {
    pub(crate) frames: Vec<Bytes>,
    pub(crate) lost: Vec<(Slot, u64)>,
}

/// Writes the link's output, about `bytes_max` of it: first what attaches slots, then queued records in order, then
/// records from the ring, the heartbeat, and snapshots.
pub(crate) fn write(
    link: &mut LinkState,
    ring: &Ring,
    config: &Config,
    bytes_max: usize,
    now: MonoTime,
) -> Written {
    let mut outbox =
        Outbox { link, config, now, bytes_max, frames: Vec::new(), frame: Writer::new(), bytes: 0 };
    let mut lost = Vec::new();
    if outbox.link.up {
        outbox.control();
        outbox.queued();
        outbox.behind(ring, &mut lost);
        outbox.heartbeat();
        outbox.snapshot();
    }
    outbox.seal();
    let frames = outbox.frames;
    link.written(config);
    Written { frames, lost }
}

struct Outbox<'a> {
    link: &'a mut LinkState,
    config: &'a Config,
    now: MonoTime,
    bytes_max: usize,
    frames: Vec<Bytes>,
    frame: Writer,
    bytes: usize,
}

impl Outbox<'_> {
    fn has_room(&self) -> bool {
        self.bytes + self.frame.len() < self.bytes_max
    }

    fn seal(&mut self) {
        if !self.frame.is_empty() {
            self.bytes += self.frame.len();
            self.frames.push(std::mem::take(&mut self.frame).finish());
        }
    }

    fn sent(&mut self, sent: InFlight) {
        self.link.in_flight.push_back(sent);
        if self.frame.len() >= FRAME_BYTES {
            self.seal();
        }
    }

    fn control(&mut self) {
        if !self.link.opened {
            self.link.opened = true;
            wire::write_open(&mut self.frame, self.link.acked + 1);
        }
        while self.has_room()
            && let Some(slot) = self.link.asks.next()
        {
            self.link.asks.remove(slot);
            let Some(stream) = self.link.streams.get(slot) else { continue };
            let attach = stream.attach;
            wire::write_query(&mut self.frame, slot, stream.epoch, attach);
            self.sent(InFlight {
                slot,
                attach,
                record_bytes: 0,
                snapshot_bytes: 0,
                confirms: None,
            });
        }
    }

    fn queued(&mut self) {
        while self.has_room()
            && let Some(queued) = self.link.queue.pop_front()
        {
            let Queued { attach, part } = queued;
            if self.link.stream(part.slot(), attach).is_none() {
                self.link.load -= part.cost();
                continue;
            }
            match part {
                Part::Record(record) => self.record(attach, &record),
                Part::Audit(audit) => self.audit(attach, audit),
            }
        }
    }

    fn audit(&mut self, attach: u64, audit: Audit) {
        wire::write_audit(&mut self.frame, attach, audit);
        let (record_bytes, snapshot_bytes, confirms) = (0, 0, None);
        self.sent(InFlight { slot: audit.slot, attach, record_bytes, snapshot_bytes, confirms });
    }

    fn record(&mut self, attach: u64, record: &Record) {
        wire::write_record(&mut self.frame, attach, record, self.now);
        self.sent(InFlight {
            slot: record.slot,
            attach,
            record_bytes: cost(record),
            snapshot_bytes: 0,
            confirms: Some(record.seq),
        });
    }

    fn behind(&mut self, ring: &Ring, lost: &mut Vec<(Slot, u64)>) {
        while self.has_room()
            && self.link.load < self.config.window_bytes
            && let Some(slot) = self.link.behind.next()
        {
            if let Some(attach) = self.catch_up(slot, ring) {
                lost.push((slot, attach));
            }
        }
    }

    /// Sends some of the slot's records from the ring. The attachment, when they are gone from there.
    fn catch_up(&mut self, slot: Slot, ring: &Ring) -> Option<u64> {
        let stream = self.link.streams.get(slot).map(|stream| (stream.attach, stream.state));
        let Some((attach, StreamState::Behind { next, cursor })) = stream else {
            self.link.behind.remove(slot);
            return None;
        };
        let free = self.config.window_bytes - self.link.load;
        let tail = ring.read(slot, next, cursor, free.min(FRAME_BYTES));
        let next = tail.records.last().map_or(next, |record| record.seq.next());
        for record in tail.records {
            self.link.load += cost(&record);
            self.record(attach, &record);
        }
        if tail.rest != Rest::More {
            self.link.behind.remove(slot);
        }
        let stream = self.link.stream(slot, attach)?;
        match tail.rest {
            Rest::More => stream.state = StreamState::Behind { next, cursor: tail.cursor },
            Rest::Nothing => {
                stream.state = StreamState::Live { next };
                stream.held_bytes = 0;
            }
            Rest::Lost => {
                stream.state = StreamState::Held;
                return Some(attach);
            }
        }
        None
    }

    /// Goes after the records: when it comes back, the replica has all that was written before its stamp. While some are
    /// held back in the ring it has no stamp and only shows life.
    fn heartbeat(&mut self) {
        if self.link.heartbeat_due && self.link.queue.is_empty() {
            self.link.heartbeat_due = false;
            let current = self.link.behind.is_empty();
            let stamp = if current { self.now.as_micros() } else { 0 };
            wire::write_heartbeat(&mut self.frame, stamp);
        }
    }

    fn snapshot(&mut self) {
        // A quarter of the window, so that the link stays busy while acknowledgements travel.
        let batch_bytes = self.config.snapshot_window_bytes / 4;
        while self.has_room() && self.link.snapshot_room(self.config) > 0 {
            let Some(outgoing) = &mut self.link.outgoing else { return };
            let (slot, attach, seq) = (outgoing.slot, outgoing.attach, outgoing.version.seq);
            let step = outgoing.step(&mut self.frame, batch_bytes, self.now);
            let mut sent =
                InFlight { slot, attach, record_bytes: 0, snapshot_bytes: 0, confirms: None };
            match step {
                Step::Hungry => return,
                Step::Part(bytes) => {
                    sent.snapshot_bytes = bytes;
                    self.link.snapshot_in_flight += bytes;
                    self.link.pace.sent(self.now);
                }
                Step::End => {
                    sent.confirms = Some(seq);
                    self.link.outgoing = None;
                    self.link.resume(slot, attach, seq.next());
                }
            }
            self.sent(sent);
        }
    }
}

/// Where a frame is closed: one that is filled costs a system call per thousand small records, and a value that the
/// receiver keeps without copying pins no more than this.
const FRAME_BYTES: usize = 64 << 10;
