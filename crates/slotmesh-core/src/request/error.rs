use slotmesh_slots::{DecodeError, NodeId, Reader, Writer};
use slotmesh_store::StoreError;

/// Why an operation was not acknowledged. All but [`Ambiguous`](Self::Ambiguous) changed nothing.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum DataError {
    /// This node is not the slot's primary. A retry at the owner helps.
    #[error("the slot belongs to {owner:?} (cluster version {version})")]
    NotOwner {
        /// The owner as far as this node knows.
        owner: Option<NodeId>,
        /// The cluster version this node's knowledge is from.
        version: u64,
    },
    /// The slot is being handed to another node; a retry after some milliseconds helps.
    #[error("the slot is being handed over")]
    Moving,
    /// This node is cut off from the majority, or too new: it may not serve. A retry helps when that is over, or at
    /// the slot's next owner.
    #[error("this node holds no lease from the cluster's majority")]
    NoLease,
    /// Replicas do not keep up; a retry after a pause helps.
    #[error("too many writes wait for the replicas")]
    Busy,
    /// The slot has fewer copies in sync than the write asks for; a retry helps once there are more.
    #[error("{have} copies are in sync, {wanted} are wanted")]
    TooFewCopies {
        /// Nodes that are, the primary included.
        have: u8,
        /// What the write asked for.
        wanted: u8,
    },
    /// The outcome is unknown: the write may have happened or may still survive.
    #[error("the outcome is unknown: the slot changed hands before the write was acknowledged")]
    Ambiguous,
    /// The key or value is larger than the store takes, or than its whole budget; a retry cannot help.
    #[error("{bytes} bytes are too many, {max} are allowed")]
    TooLarge {
        /// Size of what was refused.
        bytes: u64,
        /// The bound.
        max: u64,
    },
    /// The node's memory is full of what it may not evict; a retry helps once something was removed.
    #[error("the node's byte budget is full")]
    Full,
    /// The value to increment is no integer.
    #[error("value is not an integer or out of range")]
    NotAnInteger,
    /// The sum does not fit 64 bits.
    #[error("increment or decrement would overflow")]
    Overflow,
    /// The token of this write was another write's: tokens are drawn anew for each.
    #[error("the token was used for another write")]
    TokenReused,
    /// The primary does not run this function: it has none of that name and version, or it took too long a moment ago.
    #[error("the function is not run here")]
    NoFunction,
    /// The function failed.
    #[error("the function failed: {why}")]
    FunctionFailed {
        /// What it says.
        why: String,
    },
}

impl DataError {
    /// Tags from here on are errors.
    pub(super) const TAG_FIRST: u8 = 128;

    /// Whether it tells something of what is stored under the key: then it is told only when that is committed, as a reply is.
    pub(crate) const fn rests_on_what_is_stored(&self) -> bool {
        matches!(
            self,
            Self::NotAnInteger
                | Self::Overflow
                | Self::TooLarge { .. }
                | Self::FunctionFailed { .. }
        )
    }

    pub(super) fn encode(&self, out: &mut Writer) {
        match self {
            Self::NotOwner { owner, version } => {
                out.u8(Self::TAG_FIRST);
                out.node_option(*owner);
                out.u64(*version);
            }
            Self::Moving => out.u8(Self::TAG_FIRST + 1),
            Self::NoLease => out.u8(Self::TAG_FIRST + 2),
            Self::Busy => out.u8(Self::TAG_FIRST + 3),
            Self::Ambiguous => out.u8(Self::TAG_FIRST + 4),
            Self::TooLarge { bytes, max } => {
                out.u8(Self::TAG_FIRST + 5);
                out.u64(*bytes);
                out.u64(*max);
            }
            Self::NotAnInteger => out.u8(Self::TAG_FIRST + 6),
            Self::Overflow => out.u8(Self::TAG_FIRST + 7),
            Self::Full => out.u8(Self::TAG_FIRST + 8),
            Self::TokenReused => out.u8(Self::TAG_FIRST + 9),
            Self::TooFewCopies { have, wanted } => {
                out.u8(Self::TAG_FIRST + 10);
                out.u8(*have);
                out.u8(*wanted);
            }
            Self::NoFunction => out.u8(Self::TAG_FIRST + 11),
            Self::FunctionFailed { why } => {
                out.u8(Self::TAG_FIRST + 12);
                out.bytes(why.as_bytes());
            }
        }
    }

    pub(super) fn decode(tag: u8, input: &mut Reader<'_>) -> Result<Self, DecodeError> {
        Ok(match tag - Self::TAG_FIRST {
            0 => Self::NotOwner { owner: input.node_option()?, version: input.u64()? },
            1 => Self::Moving,
            2 => Self::NoLease,
            3 => Self::Busy,
            4 => Self::Ambiguous,
            5 => Self::TooLarge { bytes: input.u64()?, max: input.u64()? },
            6 => Self::NotAnInteger,
            7 => Self::Overflow,
            8 => Self::Full,
            9 => Self::TokenReused,
            10 => Self::TooFewCopies { have: input.u8()?, wanted: input.u8()? },
            11 => Self::NoFunction,
            12 => {
                let why = String::from_utf8_lossy(&input.bytes()?).into_owned();
                Self::FunctionFailed { why }
            }
            _ => return Err(DecodeError::Invalid("error tag")),
        })
    }
}

impl From<StoreError> for DataError {
    fn from(error: StoreError) -> Self {
        match error {
            StoreError::KeyTooLarge { bytes, max }
            | StoreError::ValueTooLarge { bytes, max }
            | StoreError::Full { bytes, budget: max } => {
                Self::TooLarge { bytes: bytes as u64, max: max as u64 }
            }
            StoreError::NotAnInteger => Self::NotAnInteger,
            StoreError::Overflow => Self::Overflow,
            StoreError::StateFull { .. } => Self::Full,
            // The slot has seen a later epoch: somebody else is its primary.
            _ => Self::NotOwner { owner: None, version: 0 },
        }
    }
}
