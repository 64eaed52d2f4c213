//! The hand-laid messages of a link; layouts are fixed for one [`LINK_VERSION`].

use bytes::Bytes;
use slotmesh_slots::{DecodeError, Epoch, MonoTime, Reader, Record, Slot, Version, Writer};

use crate::link::Audit;
use crate::snapshot::{Outgoing, SnapshotEntry};

/// Version of the link protocol, first byte after the opening tag.
pub(crate) const LINK_VERSION: u8 = 3;

/// A message from the primary to the replica.
#[derive(Debug)]
pub(crate) enum Down {
    /// First on a link; the position of the message after it is `first`.
    Open {
        version: u8,
        first: u64,
    },
    Heartbeat {
        stamp: u64,
    },
    /// Attaches a slot under the sender's epoch.
    Query {
        slot: Slot,
        epoch: Epoch,
        attach: u64,
    },
    Record {
        attach: u64,
        record: Record,
    },
    Begin {
        slot: Slot,
        attach: u64,
        version: Version,
        answers: Bytes,
    },
    Batch {
        slot: Slot,
        attach: u64,
        entries: Vec<SnapshotEntry>,
    },
    End {
        slot: Slot,
        attach: u64,
        version: Version,
        digest: u128,
        entries: u64,
    },
    /// What the slot has to be like behind the records before.
    Audit {
        attach: u64,
        audit: Audit,
    },
}

/// A message from the replica to the primary.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Up {
    Status {
        slot: Slot,
        attach: u64,
        version: Version,
        digest: u128,
    },
    /// Everything up to this position is applied or was refused before.
    Ack {
        position: u64,
    },
    Nack {
        slot: Slot,
        attach: u64,
        why: Refusal,
    },
    Echo {
        stamp: u64,
    },
    /// The replica's node holds so many bytes more than it should, of which the primary is to take its part away.
    Pressure {
        bytes: u64,
    },
    /// Snapshots are to take no more than this share of the link's time.
    Share {
        percent: u8,
    },
}

/// Why a replica refuses a slot's messages.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Refusal {
    StaleEpoch { promised: Epoch },
    Gap { have: Version },
    Corrupt,
}

pub(crate) fn write_open(out: &mut Writer, first: u64) {
    out.u8(TAG_OPEN);
    out.u8(LINK_VERSION);
    out.u64(first);
}

pub(crate) fn write_heartbeat(out: &mut Writer, stamp: u64) {
    out.u8(TAG_HEARTBEAT);
    out.u64(stamp);
}

pub(crate) fn write_query(out: &mut Writer, slot: Slot, epoch: Epoch, attach: u64) {
    head(out, TAG_QUERY, slot, attach);
    out.u32(epoch.0);
}

pub(crate) fn write_record(out: &mut Writer, attach: u64, record: &Record, now: MonoTime) {
    out.u8(TAG_RECORD);
    out.u64(attach);
    record.encode(out, now);
}

pub(crate) fn write_begin(
    out: &mut Writer,
    (slot, attach): (Slot, u64),
    version: Version,
    answers: &[u8],
) {
    head(out, TAG_BEGIN, slot, attach);
    out.version(version);
    out.bytes(answers);
}

pub(crate) fn write_batch(
    out: &mut Writer,
    (slot, attach): (Slot, u64),
    entries: &[SnapshotEntry],
    now: MonoTime,
) {
    head(out, TAG_BATCH, slot, attach);
    out.u32(entries.len() as u32);
    entries.iter().for_each(|entry| entry.encode(out, now));
}

pub(crate) fn write_end(out: &mut Writer, snapshot: &Outgoing, digest: u128, entries: u64) {
    head(out, TAG_END, snapshot.slot, snapshot.attach);
    out.version(snapshot.version);
    out.u128(digest);
    out.u64(entries);
}

pub(crate) fn write_audit(out: &mut Writer, attach: u64, audit: Audit) {
    head(out, TAG_AUDIT, audit.slot, attach);
    out.version(audit.version);
    out.u128(audit.digest);
}

fn head(out: &mut Writer, tag: u8, slot: Slot, attach: u64) {
    out.u8(tag);
    out.slot(slot);
    out.u64(attach);
}

impl Down {
    /// The slot and attachment of a message that carries part of a slot's content.
    pub(crate) fn attachment(&self) -> Option<(Slot, u64)> {
        match self {
            Self::Open { .. } | Self::Heartbeat { .. } => None,
            Self::Record { attach, record } => Some((record.slot, *attach)),
            Self::Audit { attach, audit } => Some((audit.slot, *attach)),
            Self::Query { slot, attach, .. }
            | Self::Begin { slot, attach, .. }
            | Self::Batch { slot, attach, .. }
            | Self::End { slot, attach, .. } => Some((*slot, *attach)),
        }
    }

    pub(crate) fn decode(input: &mut Reader<'_>, now: MonoTime) -> Result<Self, DecodeError> {
        match input.u8()? {
            TAG_OPEN => Ok(Self::Open { version: input.u8()?, first: input.u64()? }),
            TAG_HEARTBEAT => Ok(Self::Heartbeat { stamp: input.u64()? }),
            TAG_RECORD => {
                Ok(Self::Record { attach: input.u64()?, record: Record::decode(input, now)? })
            }
            tag => Self::decode_slot_message(tag, input, now),
        }
    }

    fn decode_slot_message(
        tag: u8,
        input: &mut Reader<'_>,
        now: MonoTime,
    ) -> Result<Self, DecodeError> {
        let (slot, attach) = (input.slot()?, input.u64()?);
        match tag {
            TAG_QUERY => Ok(Self::Query { slot, attach, epoch: Epoch(input.u32()?) }),
            TAG_BEGIN => {
                let (version, answers) = (input.version()?, input.bytes()?);
                Ok(Self::Begin { slot, attach, version, answers })
            }
            TAG_BATCH => {
                // Not allocated ahead: the count is the peer's word.
                let mut entries = Vec::new();
                for _ in 0..input.u32()? {
                    entries.push(SnapshotEntry::decode(input, now)?);
                }
                Ok(Self::Batch { slot, attach, entries })
            }
            TAG_END => {
                let (version, digest) = (input.version()?, input.u128()?);
                Ok(Self::End { slot, attach, version, digest, entries: input.u64()? })
            }
            TAG_AUDIT => {
                let (version, digest) = (input.version()?, input.u128()?);
                Ok(Self::Audit { attach, audit: Audit { slot, version, digest } })
            }
            _ => Err(DecodeError::Invalid("replication message tag")),
        }
    }
}

impl Up {
    pub(crate) fn encode(&self, out: &mut Writer) {
        match *self {
            Self::Status { slot, attach, version, digest } => {
                head(out, TAG_STATUS, slot, attach);
                out.version(version);
                out.u128(digest);
            }
            Self::Ack { position } => {
                out.u8(TAG_ACK);
                out.u64(position);
            }
            Self::Nack { slot, attach, why } => {
                head(out, TAG_NACK, slot, attach);
                why.encode(out);
            }
            Self::Echo { stamp } => {
                out.u8(TAG_ECHO);
                out.u64(stamp);
            }
            Self::Pressure { bytes } => {
                out.u8(TAG_PRESSURE);
                out.u64(bytes);
            }
            Self::Share { percent } => {
                out.u8(TAG_SHARE);
                out.u8(percent);
            }
        }
    }

    pub(crate) fn decode(input: &mut Reader<'_>) -> Result<Self, DecodeError> {
        match input.u8()? {
            TAG_STATUS => {
                let (slot, attach) = (input.slot()?, input.u64()?);
                let (version, digest) = (input.version()?, input.u128()?);
                Ok(Self::Status { slot, attach, version, digest })
            }
            TAG_ACK => Ok(Self::Ack { position: input.u64()? }),
            TAG_NACK => {
                let (slot, attach) = (input.slot()?, input.u64()?);
                Ok(Self::Nack { slot, attach, why: Refusal::decode(input)? })
            }
            TAG_ECHO => Ok(Self::Echo { stamp: input.u64()? }),
            TAG_PRESSURE => Ok(Self::Pressure { bytes: input.u64()? }),
            TAG_SHARE => Ok(Self::Share { percent: input.u8()? }),
            _ => Err(DecodeError::Invalid("replication answer tag")),
        }
    }
}

impl Refusal {
    fn encode(self, out: &mut Writer) {
        match self {
            Self::StaleEpoch { promised } => {
                out.u8(TAG_STALE);
                out.u32(promised.0);
            }
            Self::Gap { have } => {
                out.u8(TAG_GAP);
                out.version(have);
            }
            Self::Corrupt => out.u8(TAG_CORRUPT),
        }
    }

    fn decode(input: &mut Reader<'_>) -> Result<Self, DecodeError> {
        match input.u8()? {
            TAG_STALE => Ok(Self::StaleEpoch { promised: Epoch(input.u32()?) }),
            TAG_GAP => Ok(Self::Gap { have: input.version()? }),
            TAG_CORRUPT => Ok(Self::Corrupt),
            _ => Err(DecodeError::Invalid("refusal tag")),
        }
    }
}

const TAG_OPEN: u8 = 1;
const TAG_HEARTBEAT: u8 = 2;
const TAG_QUERY: u8 = 3;
const TAG_RECORD: u8 = 4;
const TAG_BEGIN: u8 = 5;
const TAG_BATCH: u8 = 6;
const TAG_END: u8 = 7;
const TAG_AUDIT: u8 = 8;

const TAG_STATUS: u8 = 65;
const TAG_ACK: u8 = 66;
const TAG_NACK: u8 = 67;
const TAG_ECHO: u8 = 68;
const TAG_PRESSURE: u8 = 69;
const TAG_SHARE: u8 = 70;

const TAG_STALE: u8 = 1;
const TAG_GAP: u8 = 2;
const TAG_CORRUPT: u8 = 3;

#[cfg(test)]
mod tests {
    use super::*;
    use crate::snapshot::SnapshotStart;
    use slotmesh_slots::{Class, Effect, Seq};

    fn down(bytes: &[u8]) -> Result<Down, DecodeError> {
        let mut input = Reader::new(bytes);
        let message = Down::decode(&mut input, MonoTime::ZERO)?;
        input.end()?;
        Ok(message)
    }

    #[test]
    fn messages_come_back_and_every_truncation_is_an_error() {
        let slot = Slot::of_key(b"k");
        let version = Version::new(Epoch(3), Seq(9));
        let key = Bytes::from_static(b"key");
        let entry = SnapshotEntry {
            class: Class::Cache,
            key: key.clone(),
            value: key.clone(),
            version,
            deadline: None,
        };
        let effect = Effect::Delete { key };
        let record = Record { slot, epoch: version.epoch, seq: version.seq, effect, answer: None };
        let source = Box::new(|| Ok(None));
        let start = SnapshotStart { answers: Bytes::from_static(b"answers"), source };
        let mut snapshot = Outgoing::new((slot, 5), version, 77, start);
        let source = snapshot.hungry(1).unwrap();
        assert!(snapshot.hungry(1).is_none() && snapshot.feed(source, Ok(Some(vec![entry]))));
        let source = snapshot.hungry(1_000).unwrap();
        assert!(snapshot.feed(source, Ok(None)));
        let mut messages: Vec<Writer> = (0..8).map(|_| Writer::new()).collect();
        write_open(&mut messages[0], 4);
        write_heartbeat(&mut messages[1], 8);
        write_query(&mut messages[2], slot, Epoch(3), 5);
        write_record(&mut messages[3], 5, &record, MonoTime::ZERO);
        write_audit(&mut messages[7], 5, Audit { slot, version, digest: 3 });
        messages[4..7].iter_mut().for_each(|out| {
            snapshot.step(out, 100, MonoTime::ZERO);
        });
        for (number, message) in messages.into_iter().enumerate() {
            let bytes = message.finish();
            let text = format!("{:?}", down(&bytes).unwrap());
            let expected =
                ["Open", "Heartbeat", "Query", "Record", "Begin", "Batch", "End", "Audit"][number];
            assert!(text.starts_with(expected), "{text}");
            (0..bytes.len()).for_each(|cut| assert!(down(&bytes[..cut]).is_err(), "{text} {cut}"));
        }
    }

    #[test]
    fn answers_come_back_and_every_truncation_is_an_error() {
        let slot = Slot::of_key(b"k");
        let version = Version::new(Epoch(3), Seq(9));
        let nack = |why| Up::Nack { slot, attach: 2, why };
        for answer in [
            Up::Status { slot, attach: 1, version, digest: u128::MAX },
            Up::Ack { position: 7 },
            nack(Refusal::StaleEpoch { promised: Epoch(4) }),
            nack(Refusal::Gap { have: version }),
            nack(Refusal::Corrupt),
            Up::Echo { stamp: 6 },
            Up::Pressure { bytes: u64::MAX },
            Up::Share { percent: 25 },
        ] {
            let mut out = Writer::new();
            answer.encode(&mut out);
            let bytes = out.finish();
            assert_eq!(Up::decode(&mut Reader::new(&bytes)), Ok(answer));
            for cut in 0..bytes.len() {
                assert!(Up::decode(&mut Reader::new(&bytes[..cut])).is_err(), "{answer:?} {cut}");
            }
        }
    }
}
