use bytes::Bytes;

use crate::codec::{DecodeError, Reader, Writer};
use crate::id::{Epoch, Seq, Version};
use crate::slot::Slot;
use crate::time::MonoTime;

/// Whether an entry may be evicted.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default, Hash)]
#[repr(u8)]
pub enum Class {
    /// It may, when the memory is needed: it can be loaded again.
    #[default]
    Cache = 0,
    /// It may not: locks, limiters, queues. It takes memory until it is deleted or expires.
    State = 1,
}

impl Class {
    /// Reads what was written as a byte.
    ///
    /// # Errors
    /// When it is missing or stands for no class.
    pub fn decode(input: &mut Reader<'_>) -> Result<Self, DecodeError> {
        match input.u8()? {
            0 => Ok(Self::Cache),
            1 => Ok(Self::State),
            _ => Err(DecodeError::Invalid("class")),
        }
    }
}

/// What a mutation did to a slot, with every condition already decided on the primary: replicas only carry it out.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Effect {
    /// The key now holds this value.
    Put {
        /// The key.
        key: Bytes,
        /// The value.
        value: Bytes,
        /// When the entry expires, on this node's clock; `None` is never. Travels as remaining time.
        deadline: Option<MonoTime>,
        /// Whether it may be evicted.
        class: Class,
    },
    /// The key holds nothing now; recorded also when it held nothing before, so that an invalidation always takes a seq.
    Delete {
        /// The key.
        key: Bytes,
    },
    /// The key's entry now expires at this time, or never; its value and its version stay.
    Expire {
        /// The key.
        key: Bytes,
        /// The new deadline on this node's clock.
        deadline: Option<MonoTime>,
    },
    /// The slot holds nothing now.
    Clear,
    /// Nothing: what matters is the [`Answer`] that came of it.
    Nothing,
}

impl Effect {
    /// Bytes that the effect's keys and values take, for byte budgets.
    #[must_use]
    pub fn payload_len(&self) -> usize {
        match self {
            Self::Put { key, value, .. } => key.len() + value.len(),
            Self::Delete { key } | Self::Expire { key, .. } => key.len(),
            Self::Clear | Self::Nothing => 0,
        }
    }

    /// Appends the effect; deadlines become the time that remains at `now`.
    pub fn encode(&self, out: &mut Writer, now: MonoTime) {
        let remaining = |deadline: &Option<MonoTime>| deadline.map(|at| at.saturating_since(now));
        match self {
            Self::Put { key, value, deadline, class } => {
                out.u8(TAG_PUT);
                out.u8(*class as u8);
                out.bytes(key);
                out.duration_option(remaining(deadline));
                out.bytes(value);
            }
            Self::Delete { key } => {
                out.u8(TAG_DELETE);
                out.bytes(key);
            }
            Self::Expire { key, deadline } => {
                out.u8(TAG_EXPIRE);
                out.bytes(key);
                out.duration_option(remaining(deadline));
            }
            Self::Clear => out.u8(TAG_CLEAR),
            Self::Nothing => out.u8(TAG_NOTHING),
        }
    }

    /// Reads what [`Effect::encode`] wrote; remaining times become deadlines counted from `now`.
    ///
    /// # Errors
    /// When bytes are missing or the tag is unknown.
    pub fn decode(input: &mut Reader<'_>, now: MonoTime) -> Result<Self, DecodeError> {
        match input.u8()? {
            TAG_PUT => {
                let (class, key) = (Class::decode(input)?, input.bytes()?);
                let deadline = input.duration_option()?.map(|left| now + left);
                Ok(Self::Put { key, value: input.bytes()?, deadline, class })
            }
            TAG_DELETE => Ok(Self::Delete { key: input.bytes()? }),
            TAG_EXPIRE => {
                let key = input.bytes()?;
                Ok(Self::Expire { key, deadline: input.duration_option()?.map(|left| now + left) })
            }
            TAG_CLEAR => Ok(Self::Clear),
            TAG_NOTHING => Ok(Self::Nothing),
            _ => Err(DecodeError::Invalid("effect tag")),
        }
    }
}

/// Names a write of a caller, so that a repetition of it is known as one: drawn at random for each write.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Token(pub u128);

/// What the caller of a write with a [`Token`] is told, kept so that a repetition is answered alike and changes nothing.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Answer {
    /// The write.
    pub token: Token,
    /// A hash of what it was for: a token that comes back for something else is a mistake.
    pub purpose: u64,
    /// The reply, in the layout of whoever gives it.
    pub reply: Bytes,
}

impl Answer {
    /// Bytes that it takes in a message.
    #[must_use]
    pub fn encoded_len(&self) -> usize {
        size_of::<Token>() + size_of::<u64>() + size_of::<u32>() + self.reply.len()
    }

    /// Appends the answer.
    pub fn encode(&self, out: &mut Writer) {
        out.u128(self.token.0);
        out.u64(self.purpose);
        out.bytes(&self.reply);
    }

    /// Reads what [`Answer::encode`] wrote.
    ///
    /// # Errors
    /// When bytes are missing.
    pub fn decode(input: &mut Reader<'_>) -> Result<Self, DecodeError> {
        let (token, purpose) = (Token(input.u128()?), input.u64()?);
        Ok(Self { token, purpose, reply: input.bytes()? })
    }
}

/// One mutation in a slot's history: what is replicated, in order.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Record {
    /// The slot whose history this belongs to.
    pub slot: Slot,
    /// The slot's epoch when the primary wrote it.
    pub epoch: Epoch,
    /// Its position in the slot's history.
    pub seq: Seq,
    /// What it did.
    pub effect: Effect,
    /// What its caller was told, if the write had a token.
    pub answer: Option<Box<Answer>>,
}

impl Record {
    /// Bytes that its keys, values and answer take, for byte budgets.
    #[must_use]
    pub fn payload_len(&self) -> usize {
        self.effect.payload_len() + self.answer.as_ref().map_or(0, |answer| answer.encoded_len())
    }

    /// The version that entries written by this record carry.
    #[must_use]
    pub const fn version(&self) -> Version {
        Version::new(self.epoch, self.seq)
    }

    /// Appends the record; see [`Effect::encode`] for deadlines.
    pub fn encode(&self, out: &mut Writer, now: MonoTime) {
        out.slot(self.slot);
        out.version(self.version());
        self.effect.encode(out, now);
        out.u8(u8::from(self.answer.is_some()));
        if let Some(answer) = &self.answer {
            answer.encode(out);
        }
    }

    /// Reads what [`Record::encode`] wrote.
    ///
    /// # Errors
    /// When bytes are missing or a field is invalid.
    pub fn decode(input: &mut Reader<'_>, now: MonoTime) -> Result<Self, DecodeError> {
        let slot = input.slot()?;
        let Version { epoch, seq } = input.version()?;
        let effect = Effect::decode(input, now)?;
        let answer = match input.u8()? {
            0 => None,
            1 => Some(Box::new(Answer::decode(input)?)),
            _ => return Err(DecodeError::Invalid("answer flag")),
        };
        Ok(Self { slot, epoch, seq, effect, answer })
    }
}

const TAG_PUT: u8 = 1;
const TAG_DELETE: u8 = 2;
const TAG_EXPIRE: u8 = 3;
const TAG_CLEAR: u8 = 4;
const TAG_NOTHING: u8 = 5;

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Duration;

    #[test]
    fn remaining_time_travels_between_clocks() {
        let sender = MonoTime::from_micros(5_000_000);
        let receiver = MonoTime::from_micros(900_000);
        let put = |deadline| Effect::Put {
            key: Bytes::from_static(b"k"),
            value: Bytes::from_static(b"v"),
            deadline: Some(deadline),
            class: Class::Cache,
        };
        let record = Record {
            slot: Slot::of_key(b"k"),
            epoch: Epoch(2),
            seq: Seq(7),
            effect: put(sender + Duration::from_secs(3)),
            answer: None,
        };
        let mut out = Writer::new();
        record.encode(&mut out, sender);
        let bytes = out.finish();
        let read = Record::decode(&mut Reader::shared(&bytes), receiver).unwrap();
        assert_eq!(read.effect, put(receiver + Duration::from_secs(3)));
        assert_eq!(read.version(), record.version());
    }

    #[test]
    fn an_answer_travels_with_its_record() {
        let reply = Bytes::from_static(b"told");
        let answer = Answer { token: Token(u128::MAX - 7), purpose: 9, reply };
        let effect = Effect::Delete { key: Bytes::from_static(b"k") };
        let (slot, epoch, seq) = (Slot::of_key(b"k"), Epoch(2), Seq(7));
        let record = Record { slot, epoch, seq, effect, answer: Some(Box::new(answer)) };
        let mut out = Writer::new();
        record.encode(&mut out, MonoTime::ZERO);
        let bytes = out.finish();
        let read = |bytes: &[u8]| Record::decode(&mut Reader::new(bytes), MonoTime::ZERO);
        assert_eq!(read(&bytes), Ok(record));
        for cut in 0..bytes.len() {
            assert!(read(&bytes[..cut]).is_err());
        }
    }

    #[test]
    fn every_truncation_is_an_error() {
        let now = MonoTime::ZERO;
        for effect in [
            Effect::Delete { key: Bytes::from_static(b"key") },
            Effect::Expire { key: Bytes::from_static(b"key"), deadline: None },
            Effect::Put {
                key: Bytes::from_static(b"key"),
                value: Bytes::from_static(b"value"),
                deadline: None,
                class: Class::State,
            },
            Effect::Clear,
            Effect::Nothing,
        ] {
            let mut out = Writer::new();
            effect.encode(&mut out, now);
            let bytes = out.finish();
            assert_eq!(Effect::decode(&mut Reader::shared(&bytes), now).unwrap(), effect);
            for cut in 0..bytes.len() {
                assert!(Effect::decode(&mut Reader::new(&bytes[..cut]), now).is_err());
            }
        }
    }
}
