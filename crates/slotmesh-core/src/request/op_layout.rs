//! The layout of an operation on the wire: the tag, the key or the slot, then what else there is.

use slotmesh_coherence::Watcher;
use slotmesh_slots::{Class, DecodeError, Reader, Token, Writer};
use slotmesh_store::{ByteRange, Condition, ExpireCondition};

use super::load::{LoadEnd, LoadTerms};
use super::op::{Op, Target};

impl Op {
    pub(super) fn encode(&self, out: &mut Writer) {
        out.u8(self.tag());
        if let Self::Once { token, age, op } = self {
            out.u128(token.0);
            out.duration_option(*age);
            return op.encode(out);
        }
        match self.target() {
            Target::Key(key) => out.bytes(key),
            Target::Slot(slot) => out.slot(slot),
        }
        match self {
            Self::Get { .. }
            | Self::Touch { .. }
            | Self::GetAndDelete { .. }
            | Self::Clear { .. }
            | Self::Once { .. } => {}
            Self::Watch { by, .. } => encode_watcher(*by, out),
            Self::Load { by, terms, .. } => {
                encode_watcher(*by, out);
                terms.encode(out);
            }
            Self::EndLoad { token, end, .. } => {
                out.u64(*token);
                end.encode(out);
            }
            Self::GetRange { range, .. } => {
                out.u64(range.start.cast_unsigned());
                out.u64(range.end.cast_unsigned());
            }
            Self::Put { value, ttl, keep_ttl, condition, class, .. }
            | Self::GetAndPut { value, ttl, keep_ttl, condition, class, .. } => {
                out.bytes(value);
                out.duration_option(*ttl);
                out.u8(u8::from(*keep_ttl));
                encode_condition(*condition, out);
                out.u8(*class as u8);
            }
            Self::Delete { condition, .. } => encode_condition(*condition, out),
            Self::Expire { ttl, condition, .. } => {
                out.duration_option(*ttl);
                out.u8(expire_condition_byte(*condition));
            }
            Self::GetAndExpire { ttl, .. } => out.duration_option(*ttl),
            Self::Increment { delta, .. } => out.u64(delta.cast_unsigned()),
            Self::Append { value, .. } => out.bytes(value),
            Self::SetRange { offset, value, .. } => {
                out.u64(*offset);
                out.bytes(value);
            }
            Self::Call { function, version, input, class, .. } => {
                out.bytes(function);
                out.u32(*version);
                out.bytes(input);
                out.u8(*class as u8);
            }
        }
    }

    pub(super) fn decode(input: &mut Reader<'_>) -> Result<Self, DecodeError> {
        let tag = input.u8()?;
        if tag != TAG_ONCE {
            return Self::decode_plain(tag, input);
        }
        let (token, age) = (Token(input.u128()?), input.duration_option()?);
        let op = Self::decode_plain(input.u8()?, input)?;
        if op.is_read() {
            return Err(DecodeError::Invalid("a read with a token"));
        }
        Ok(Self::Once { token, age, op: Box::new(op) })
    }

    /// One that has no other in it.
    fn decode_plain(tag: u8, input: &mut Reader<'_>) -> Result<Self, DecodeError> {
        if tag == TAG_CLEAR {
            return Ok(Self::Clear { slot: input.slot()? });
        }
        let key = input.bytes()?;
        Ok(match tag {
            TAG_GET => Self::Get { key },
            TAG_GET_RANGE => {
                let (start, end) = (input.u64()?.cast_signed(), input.u64()?.cast_signed());
                Self::GetRange { key, range: ByteRange { start, end } }
            }
            TAG_TOUCH => Self::Touch { key },
            TAG_WATCH => Self::Watch { key, by: decode_watcher(input)? },
            TAG_LOAD => {
                let by = decode_watcher(input)?;
                Self::Load { key, by, terms: LoadTerms::decode(input)? }
            }
            TAG_END_LOAD => {
                Self::EndLoad { key, token: input.u64()?, end: LoadEnd::decode(input)? }
            }
            TAG_PUT | TAG_GET_AND_PUT => {
                let (value, ttl) = (input.bytes()?, input.duration_option()?);
                let (keep_ttl, condition) = (decode_bool(input)?, decode_condition(input)?);
                let class = Class::decode(input)?;
                if tag == TAG_PUT {
                    Self::Put { key, value, ttl, keep_ttl, condition, class }
                } else {
                    Self::GetAndPut { key, value, ttl, keep_ttl, condition, class }
                }
            }
            TAG_DELETE => Self::Delete { key, condition: decode_condition(input)? },
            TAG_EXPIRE => {
                let ttl = input.duration_option()?;
                Self::Expire { key, ttl, condition: decode_expire_condition(input)? }
            }
            TAG_GET_AND_EXPIRE => Self::GetAndExpire { key, ttl: input.duration_option()? },
            TAG_GET_AND_DELETE => Self::GetAndDelete { key },
            TAG_INCREMENT => Self::Increment { key, delta: input.u64()?.cast_signed() },
            TAG_APPEND => Self::Append { key, value: input.bytes()? },
            TAG_SET_RANGE => Self::SetRange { key, offset: input.u64()?, value: input.bytes()? },
            TAG_CALL => {
                let (function, version, call) = (input.bytes()?, input.u32()?, input.bytes()?);
                Self::Call { key, function, version, input: call, class: Class::decode(input)? }
            }
            _ => return Err(DecodeError::Invalid("operation tag")),
        })
    }

    pub(super) const fn tag(&self) -> u8 {
        match self {
            Self::Once { .. } => TAG_ONCE,
            Self::Get { .. } => TAG_GET,
            Self::Put { .. } => TAG_PUT,
            Self::Delete { .. } => TAG_DELETE,
            Self::Expire { .. } => TAG_EXPIRE,
            Self::Increment { .. } => TAG_INCREMENT,
            Self::Clear { .. } => TAG_CLEAR,
            Self::GetRange { .. } => TAG_GET_RANGE,
            Self::Touch { .. } => TAG_TOUCH,
            Self::Watch { .. } => TAG_WATCH,
            Self::Load { .. } => TAG_LOAD,
            Self::EndLoad { .. } => TAG_END_LOAD,
            Self::Append { .. } => TAG_APPEND,
            Self::SetRange { .. } => TAG_SET_RANGE,
            Self::GetAndPut { .. } => TAG_GET_AND_PUT,
            Self::GetAndDelete { .. } => TAG_GET_AND_DELETE,
            Self::GetAndExpire { .. } => TAG_GET_AND_EXPIRE,
            Self::Call { .. } => TAG_CALL,
        }
    }
}

pub(super) fn decode_bool(input: &mut Reader<'_>) -> Result<bool, DecodeError> {
    match input.u8()? {
        0 => Ok(false),
        1 => Ok(true),
        _ => Err(DecodeError::Invalid("boolean")),
    }
}

fn encode_watcher(by: Option<Watcher>, out: &mut Writer) {
    out.node_option(by.map(|by| by.node));
    by.iter().for_each(|by| out.u64(by.stream));
}

fn decode_watcher(input: &mut Reader<'_>) -> Result<Option<Watcher>, DecodeError> {
    input.node_option()?.map(|node| Ok(Watcher { node, stream: input.u64()? })).transpose()
}

fn encode_condition(condition: Condition, out: &mut Writer) {
    match condition {
        Condition::Always => out.u8(0),
        Condition::Absent => out.u8(1),
        Condition::Present => out.u8(2),
        Condition::Version(version) => {
            out.u8(3);
            out.version(version);
        }
        Condition::FillSince(version) => {
            out.u8(4);
            out.version(version);
        }
    }
}

fn decode_condition(input: &mut Reader<'_>) -> Result<Condition, DecodeError> {
    match input.u8()? {
        0 => Ok(Condition::Always),
        1 => Ok(Condition::Absent),
        2 => Ok(Condition::Present),
        3 => Ok(Condition::Version(input.version()?)),
        4 => Ok(Condition::FillSince(input.version()?)),
        _ => Err(DecodeError::Invalid("condition")),
    }
}

const fn expire_condition_byte(condition: ExpireCondition) -> u8 {
    match condition {
        ExpireCondition::Always => 0,
        ExpireCondition::Unset => 1,
        ExpireCondition::Set => 2,
        ExpireCondition::Later => 3,
        ExpireCondition::Earlier => 4,
        ExpireCondition::SetAndEarlier => 5,
    }
}

fn decode_expire_condition(input: &mut Reader<'_>) -> Result<ExpireCondition, DecodeError> {
    match input.u8()? {
        0 => Ok(ExpireCondition::Always),
        1 => Ok(ExpireCondition::Unset),
        2 => Ok(ExpireCondition::Set),
        3 => Ok(ExpireCondition::Later),
        4 => Ok(ExpireCondition::Earlier),
        5 => Ok(ExpireCondition::SetAndEarlier),
        _ => Err(DecodeError::Invalid("expire condition")),
    }
}

const TAG_GET: u8 = 1;
const TAG_PUT: u8 = 2;
const TAG_DELETE: u8 = 3;
const TAG_EXPIRE: u8 = 4;
const TAG_INCREMENT: u8 = 5;
const TAG_CLEAR: u8 = 6;
const TAG_GET_RANGE: u8 = 7;
const TAG_TOUCH: u8 = 8;
const TAG_APPEND: u8 = 9;
const TAG_SET_RANGE: u8 = 10;
const TAG_GET_AND_PUT: u8 = 11;
const TAG_GET_AND_DELETE: u8 = 12;
const TAG_GET_AND_EXPIRE: u8 = 13;
const TAG_ONCE: u8 = 14;
const TAG_WATCH: u8 = 15;
const TAG_LOAD: u8 = 16;
const TAG_END_LOAD: u8 = 17;
const TAG_CALL: u8 = 18;
