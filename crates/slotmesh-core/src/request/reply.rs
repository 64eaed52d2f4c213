use std::time::Duration;

use bytes::Bytes;
use slotmesh_slots::{DecodeError, NodeId, Reader, Version, Writer};

use super::OPS_MAX;
use super::error::DataError;
use super::load::LoadEnd;
use super::op_layout::decode_bool;

/// An entry as a reader gets it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Value {
    /// The value.
    pub value: Bytes,
    /// The version of the last write that changed it, or its lifetime: the token for compare-and-set.
    pub version: Version,
    /// How long it still lives; `None` is for ever.
    pub ttl: Option<Duration>,
}

impl Value {
    fn encode(&self, out: &mut Writer) {
        out.version(self.version);
        out.duration_option(self.ttl);
        out.bytes(&self.value);
    }

    fn decode(input: &mut Reader<'_>) -> Result<Self, DecodeError> {
        let (version, ttl) = (input.version()?, input.duration_option()?);
        Ok(Self { value: input.bytes()?, version, ttl })
    }
}

/// What an operation answers.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Reply {
    /// The key holds this.
    Value(Value),
    /// The key holds nothing.
    Missing {
        /// The slot's version at that moment: a value loaded from elsewhere after it may be filled in on the condition
        /// that nothing was invalidated since ([`FillSince`](slotmesh_store::Condition::FillSince)).
        slot: Version,
    },
    /// The outcome of a put.
    Put {
        /// Whether the condition held and the value was written.
        applied: bool,
        /// The version the key holds now, if it holds anything.
        version: Option<Version>,
        /// Whether the key held something before.
        existed: bool,
        /// How many nodes hold the write by now. With two or more it survives the crash of any one of them.
        copies: u8,
    },
    /// The outcome of a delete.
    Delete {
        /// Whether the condition held.
        applied: bool,
        /// Whether there was something to remove.
        existed: bool,
        /// The version the key holds now, if the condition failed on it.
        version: Option<Version>,
        /// How many nodes know of it by now.
        copies: u8,
    },
    /// The outcome of a change of lifetime.
    Expire {
        /// Whether the key held something on which the condition held.
        applied: bool,
    },
    /// The sum of an increment.
    Integer {
        /// The sum.
        value: i64,
        /// The version of the entry now.
        version: Version,
        /// How many nodes hold the sum by now.
        copies: u8,
    },
    /// Whether the key that was touched holds something.
    Touched {
        /// Whether it does.
        existed: bool,
    },
    /// The length of a value of which a part was written.
    Length {
        /// Bytes of the value now; zero when the key holds nothing.
        bytes: u64,
        /// The version of the entry now, if there is one.
        version: Option<Version>,
        /// How many nodes hold the value by now.
        copies: u8,
    },
    /// What the key held before it was changed.
    Previous {
        /// The entry, and how long it would still have lived.
        previous: Option<Value>,
        /// Whether the change happened: the condition held, or there was something to change.
        applied: bool,
        /// The version the key holds now, if it holds anything.
        version: Option<Version>,
        /// How many nodes hold the change by now.
        copies: u8,
    },
    /// What a function came to.
    Called {
        /// What it answers.
        output: Bytes,
        /// Whether it changed the entry.
        changed: bool,
        /// The version the key holds now, if it holds anything.
        version: Option<Version>,
        /// How many nodes hold the change by now.
        copies: u8,
    },
    /// The slot is empty.
    Cleared,
    /// What the key holds, and whoever asked is told of the slot's writes from before that was looked up.
    Watched {
        /// The slot's primary.
        owner: NodeId,
        /// The stream.
        stream: u64,
        /// [`Reply::Value`], [`Reply::Missing`], [`Reply::MayLoad`] or [`Reply::LoadEnded`].
        found: Box<Self>,
    },
    /// The key holds nothing, and who asked is to load it: others wait until it has written the key, or has said with
    /// [`Op::EndLoad`](super::Op::EndLoad) what came of it.
    MayLoad {
        /// As in [`Reply::Missing`]; not when something stale is to be loaded anew.
        slot: Version,
    },
    /// Somebody else's load, for which who asked has waited or which failed a moment ago, came to this.
    LoadEnded(LoadEnd),
    /// The end of a load was noted, if the caller held its lease still.
    EndedLoad {
        /// Whether it did.
        held: bool,
    },
}

/// The replies to a request as bytes.
#[must_use]
pub fn encode_replies(replies: &[Result<Reply, DataError>]) -> Bytes {
    let bytes = |reply: &Result<Reply, DataError>| match reply {
        Ok(Reply::Value(value) | Reply::Previous { previous: Some(value), .. }) => {
            REPLY_BYTES + value.value.len()
        }
        Ok(Reply::Watched { found, .. }) => match &**found {
            Reply::Value(value) => REPLY_BYTES + value.value.len(),
            _ => REPLY_BYTES,
        },
        _ => REPLY_BYTES,
    };
    let mut out = Writer::with_capacity(2 + replies.iter().map(bytes).sum::<usize>());
    out.u16(replies.len() as u16);
    for reply in replies {
        match reply {
            Ok(reply) => reply.encode(&mut out),
            Err(error) => error.encode(&mut out),
        }
    }
    out.finish()
}

/// Room for a reply without its value.
const REPLY_BYTES: usize = 64;

/// Reads what [`encode_replies`] wrote; values are slices of the input.
///
/// # Errors
/// When bytes are missing, left over or invalid.
pub fn decode_replies(bytes: &Bytes) -> Result<Vec<Result<Reply, DataError>>, DecodeError> {
    let mut input = Reader::shared(bytes);
    let count = usize::from(input.u16()?);
    if count > OPS_MAX {
        return Err(DecodeError::Invalid("too many replies"));
    }
    let replies = (0..count).map(|_| decode_reply(&mut input)).collect::<Result<_, _>>()?;
    input.end()?;
    Ok(replies)
}

impl Reply {
    /// Whether it answers a read, which changed nothing.
    pub(crate) const fn is_read(&self) -> bool {
        matches!(
            self,
            Self::Value(_)
                | Self::Missing { .. }
                | Self::Touched { .. }
                | Self::Watched { .. }
                | Self::MayLoad { .. }
                | Self::LoadEnded(_)
                | Self::EndedLoad { .. }
        )
    }

    /// The same reply of a write, held by this many nodes.
    #[must_use]
    pub(crate) fn with_copies(mut self, count: u8) -> Self {
        if let Self::Put { copies, .. }
        | Self::Delete { copies, .. }
        | Self::Integer { copies, .. }
        | Self::Length { copies, .. }
        | Self::Previous { copies, .. }
        | Self::Called { copies, .. } = &mut self
        {
            *copies = count;
        }
        self
    }

    /// The same reply of a write, held by this many nodes at most.
    #[must_use]
    pub(crate) fn with_copies_at_most(self, most: u8) -> Self {
        match self {
            Self::Put { copies, .. }
            | Self::Delete { copies, .. }
            | Self::Integer { copies, .. }
            | Self::Length { copies, .. }
            | Self::Previous { copies, .. }
            | Self::Called { copies, .. } => self.with_copies(copies.min(most)),
            other => other,
        }
    }

    /// A reply alone, as bytes.
    pub(crate) fn to_bytes(&self) -> Bytes {
        let mut out = Writer::with_capacity(REPLY_BYTES);
        self.encode(&mut out);
        out.finish()
    }

    /// Reads what [`Reply::to_bytes`] wrote.
    pub(crate) fn from_bytes(bytes: &Bytes) -> Option<Self> {
        decode_reply(&mut Reader::shared(bytes)).ok()?.ok()
    }

    fn encode(&self, out: &mut Writer) {
        match self {
            Self::Value(value) => {
                out.u8(TAG_VALUE);
                value.encode(out);
            }
            Self::Missing { slot } => {
                out.u8(TAG_MISSING);
                out.version(*slot);
            }
            Self::Put { applied, version, existed, copies } => {
                out.u8(TAG_PUT);
                encode_outcome(out, (*applied, *existed), *version);
                out.u8(*copies);
            }
            Self::Delete { applied, existed, version, copies } => {
                out.u8(TAG_DELETE);
                encode_outcome(out, (*applied, *existed), *version);
                out.u8(*copies);
            }
            Self::Expire { applied } => encode_flag(out, TAG_EXPIRE, *applied),
            Self::Integer { value, version, copies } => {
                out.u8(TAG_INTEGER);
                out.u64(value.cast_unsigned());
                out.version(*version);
                out.u8(*copies);
            }
            Self::Cleared => out.u8(TAG_CLEARED),
            Self::Touched { existed } => encode_flag(out, TAG_TOUCHED, *existed),
            Self::Length { bytes, version, copies } => {
                out.u8(TAG_LENGTH);
                out.u64(*bytes);
                encode_version(out, *version);
                out.u8(*copies);
            }
            Self::Previous { previous, applied, version, copies } => {
                out.u8(TAG_PREVIOUS);
                encode_outcome(out, (*applied, previous.is_some()), *version);
                previous.iter().for_each(|value| value.encode(out));
                out.u8(*copies);
            }
            Self::Called { output, changed, version, copies } => {
                out.u8(TAG_CALLED);
                out.bytes(output);
                out.u8(u8::from(*changed));
                encode_version(out, *version);
                out.u8(*copies);
            }
            Self::Watched { owner, stream, found } => {
                out.u8(TAG_WATCHED);
                out.node(*owner);
                out.u64(*stream);
                found.encode(out);
            }
            Self::MayLoad { slot } => {
                out.u8(TAG_MAY_LOAD);
                out.version(*slot);
            }
            Self::LoadEnded(end) => {
                out.u8(TAG_LOAD_ENDED);
                end.encode(out);
            }
            Self::EndedLoad { held } => encode_flag(out, TAG_ENDED_LOAD, *held),
        }
    }
}

fn decode_reply(input: &mut Reader<'_>) -> Result<Result<Reply, DataError>, DecodeError> {
    let tag = input.u8()?;
    if tag >= DataError::TAG_FIRST {
        return Ok(Err(DataError::decode(tag, input)?));
    }
    if tag != TAG_WATCHED {
        return Ok(Ok(decode_plain(tag, input)?));
    }
    let (owner, stream) = (input.node()?, input.u64()?);
    match decode_plain(input.u8()?, input)? {
        found @ (Reply::Value(_)
        | Reply::Missing { .. }
        | Reply::MayLoad { .. }
        | Reply::LoadEnded(_)) => Ok(Ok(Reply::Watched { owner, stream, found: Box::new(found) })),
        _ => Err(DecodeError::Invalid("a watched reply of something else")),
    }
}

/// One that has no other in it.
fn decode_plain(tag: u8, input: &mut Reader<'_>) -> Result<Reply, DecodeError> {
    Ok(match tag {
        TAG_VALUE => Reply::Value(Value::decode(input)?),
        TAG_MISSING => Reply::Missing { slot: input.version()? },
        TAG_PUT => {
            let (applied, existed, version) = decode_outcome(input)?;
            Reply::Put { applied, version, existed, copies: input.u8()? }
        }
        TAG_DELETE => {
            let (applied, existed, version) = decode_outcome(input)?;
            Reply::Delete { applied, existed, version, copies: input.u8()? }
        }
        TAG_EXPIRE => Reply::Expire { applied: decode_bool(input)? },
        TAG_INTEGER => {
            let value = input.u64()?.cast_signed();
            Reply::Integer { value, version: input.version()?, copies: input.u8()? }
        }
        TAG_CLEARED => Reply::Cleared,
        TAG_TOUCHED => Reply::Touched { existed: decode_bool(input)? },
        TAG_LENGTH => {
            let (bytes, version) = (input.u64()?, decode_version(input)?);
            Reply::Length { bytes, version, copies: input.u8()? }
        }
        TAG_PREVIOUS => {
            let (applied, existed, version) = decode_outcome(input)?;
            let previous = if existed { Some(Value::decode(input)?) } else { None };
            Reply::Previous { previous, applied, version, copies: input.u8()? }
        }
        TAG_CALLED => {
            let (output, changed) = (input.bytes()?, decode_bool(input)?);
            let version = decode_version(input)?;
            Reply::Called { output, changed, version, copies: input.u8()? }
        }
        TAG_MAY_LOAD => Reply::MayLoad { slot: input.version()? },
        TAG_LOAD_ENDED => Reply::LoadEnded(LoadEnd::decode(input)?),
        TAG_ENDED_LOAD => Reply::EndedLoad { held: decode_bool(input)? },
        _ => return Err(DecodeError::Invalid("reply tag")),
    })
}

fn encode_flag(out: &mut Writer, tag: u8, flag: bool) {
    out.u8(tag);
    out.u8(u8::from(flag));
}

fn encode_outcome(out: &mut Writer, (applied, existed): (bool, bool), version: Option<Version>) {
    out.u8(u8::from(applied));
    out.u8(u8::from(existed));
    encode_version(out, version);
}

fn encode_version(out: &mut Writer, version: Option<Version>) {
    out.u8(u8::from(version.is_some()));
    if let Some(version) = version {
        out.version(version);
    }
}

fn decode_outcome(input: &mut Reader<'_>) -> Result<(bool, bool, Option<Version>), DecodeError> {
    let (applied, existed) = (decode_bool(input)?, decode_bool(input)?);
    Ok((applied, existed, decode_version(input)?))
}

fn decode_version(input: &mut Reader<'_>) -> Result<Option<Version>, DecodeError> {
    Ok(if decode_bool(input)? { Some(input.version()?) } else { None })
}

const TAG_VALUE: u8 = 1;
const TAG_MISSING: u8 = 2;
const TAG_PUT: u8 = 3;
const TAG_DELETE: u8 = 4;
const TAG_EXPIRE: u8 = 5;
const TAG_INTEGER: u8 = 6;
const TAG_CLEARED: u8 = 7;
const TAG_TOUCHED: u8 = 8;
const TAG_LENGTH: u8 = 9;
const TAG_PREVIOUS: u8 = 10;
const TAG_WATCHED: u8 = 11;
const TAG_MAY_LOAD: u8 = 12;
const TAG_LOAD_ENDED: u8 = 13;
const TAG_ENDED_LOAD: u8 = 14;
const TAG_CALLED: u8 = 15;
