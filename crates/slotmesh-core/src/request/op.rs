use std::time::Duration;

use bytes::Bytes;
use slotmesh_slots::{DecodeError, Reader, Slot, Writer};
use slotmesh_store::Condition;

/// One operation on a slot, carried out by its primary.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Op {
    /// Reads an entry; linearizable.
    Get {
        /// The key.
        key: Bytes,
    },
    /// Writes an entry if the condition holds.
    Put {
        /// The key.
        key: Bytes,
        /// The value.
        value: Bytes,
        /// How long it lives from now on; `None` is for ever.
        ttl: Option<Duration>,
        /// Keep the lifetime of the entry that is replaced.
        keep_ttl: bool,
        /// What must hold.
        condition: Condition,
    },
    /// Removes an entry if the condition holds; an invalidation even when there is none.
    Delete {
        /// The key.
        key: Bytes,
        /// What must hold.
        condition: Condition,
    },
    /// Gives an entry a new lifetime from now on; `None` is for ever.
    Expire {
        /// The key.
        key: Bytes,
        /// The lifetime.
        ttl: Option<Duration>,
    },
    /// Adds to a decimal integer; a missing entry counts as zero.
    Increment {
        /// The key.
        key: Bytes,
        /// What to add.
        delta: i64,
    },
    /// Empties a slot.
    Clear {
        /// The slot.
        slot: Slot,
    },
}

impl Op {
    /// The slot the operation is for.
    #[must_use]
    pub fn slot(&self) -> Slot {
        match self {
            Self::Get { key }
            | Self::Put { key, .. }
            | Self::Delete { key, .. }
            | Self::Expire { key, .. }
            | Self::Increment { key, .. } => Slot::of_key(key),
            Self::Clear { slot } => *slot,
        }
    }

    /// About how many bytes it takes in a request, not less.
    #[must_use]
    pub fn bytes(&self) -> usize {
        const REST: usize = 64;
        match self {
            Self::Put { key, value, .. } => key.len() + value.len() + REST,
            Self::Get { key }
            | Self::Delete { key, .. }
            | Self::Expire { key, .. }
            | Self::Increment { key, .. } => key.len() + REST,
            Self::Clear { .. } => REST,
        }
    }

    /// The key that is read; none if it is a write.
    #[must_use]
    pub const fn read_key(&self) -> Option<&Bytes> {
        if let Self::Get { key } = self { Some(key) } else { None }
    }

    /// Whether it changes nothing.
    #[must_use]
    pub const fn is_read(&self) -> bool {
        matches!(self, Self::Get { .. })
    }

    /// Whether carrying it out twice has the same effect as once, as long as nobody else writes in between: such an
    /// operation may be sent again when its outcome is unknown and the caller allows it.
    #[must_use]
    pub const fn is_idempotent(&self) -> bool {
        match self {
            Self::Get { .. } | Self::Expire { .. } | Self::Clear { .. } => true,
            Self::Put { condition, .. } | Self::Delete { condition, .. } => {
                matches!(condition, Condition::Always)
            }
            Self::Increment { .. } => false,
        }
    }

    pub(super) fn encode(&self, out: &mut Writer) {
        match self {
            Self::Get { key } => {
                out.u8(TAG_GET);
                out.bytes(key);
            }
            Self::Put { key, value, ttl, keep_ttl, condition } => {
                out.u8(TAG_PUT);
                out.bytes(key);
                out.bytes(value);
                out.duration_option(*ttl);
                out.u8(u8::from(*keep_ttl));
                encode_condition(*condition, out);
            }
            Self::Delete { key, condition } => {
                out.u8(TAG_DELETE);
                out.bytes(key);
                encode_condition(*condition, out);
            }
            Self::Expire { key, ttl } => {
                out.u8(TAG_EXPIRE);
                out.bytes(key);
                out.duration_option(*ttl);
            }
            Self::Increment { key, delta } => {
                out.u8(TAG_INCREMENT);
                out.bytes(key);
                out.u64(delta.cast_unsigned());
            }
            Self::Clear { slot } => {
                out.u8(TAG_CLEAR);
                out.slot(*slot);
            }
        }
    }

    pub(super) fn decode(input: &mut Reader<'_>) -> Result<Self, DecodeError> {
        match input.u8()? {
            TAG_GET => Ok(Self::Get { key: input.bytes()? }),
            TAG_PUT => Ok(Self::Put {
                key: input.bytes()?,
                value: input.bytes()?,
                ttl: input.duration_option()?,
                keep_ttl: decode_bool(input)?,
                condition: decode_condition(input)?,
            }),
            TAG_DELETE => {
                Ok(Self::Delete { key: input.bytes()?, condition: decode_condition(input)? })
            }
            TAG_EXPIRE => Ok(Self::Expire { key: input.bytes()?, ttl: input.duration_option()? }),
            TAG_INCREMENT => {
                Ok(Self::Increment { key: input.bytes()?, delta: input.u64()?.cast_signed() })
            }
            TAG_CLEAR => Ok(Self::Clear { slot: input.slot()? }),
            _ => Err(DecodeError::Invalid("operation tag")),
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

const TAG_GET: u8 = 1;
const TAG_PUT: u8 = 2;
const TAG_DELETE: u8 = 3;
const TAG_EXPIRE: u8 = 4;
const TAG_INCREMENT: u8 = 5;
const TAG_CLEAR: u8 = 6;
