use std::time::Duration;

use bytes::Bytes;
use slotmesh_slots::{DecodeError, NodeId, Reader, Version, Writer};

/// How somebody asks to load what is not there.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct LoadTerms {
    /// Who: a node that asks again, because an answer or a load was lost, has the lease already; and it ends when the node is no member
    /// any more.
    pub node: NodeId,
    /// Names the load among those of the node, for its end.
    pub token: u64,
    /// How long the lease lasts, if nothing ends it before.
    pub lasts: Duration,
    /// How long to wait for somebody else's; with zero that is answered at once, as [`LoadEnd::Released`].
    pub patience: Duration,
    /// An entry of this version is to be loaded anew, as if it were not there.
    pub stale: Option<Version>,
}

/// What a load came to that wrote nothing.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum LoadEnd {
    /// It was given up: somebody else may load. For who waited: nothing came of it in time.
    Released,
    /// There is no such value.
    Nothing,
    /// It failed, and is not to be tried again for some time.
    Failed {
        /// What was wrong, in the loader's words; a kilobyte of it at most is kept.
        message: Bytes,
        /// When it may be tried again.
        retry_after: Duration,
    },
}

impl LoadTerms {
    pub(super) fn encode(&self, out: &mut Writer) {
        out.node(self.node);
        out.u64(self.token);
        out.duration_option(Some(self.lasts));
        out.duration_option(Some(self.patience));
        out.u8(u8::from(self.stale.is_some()));
        self.stale.iter().for_each(|version| out.version(*version));
    }

    pub(super) fn decode(input: &mut Reader<'_>) -> Result<Self, DecodeError> {
        let (node, token) = (input.node()?, input.u64()?);
        let (lasts, patience) = (duration(input)?, duration(input)?);
        let stale = match input.u8()? {
            0 => None,
            1 => Some(input.version()?),
            _ => return Err(DecodeError::Invalid("whether a version follows")),
        };
        Ok(Self { node, token, lasts, patience, stale })
    }
}

impl LoadEnd {
    pub(super) fn encode(&self, out: &mut Writer) {
        match self {
            Self::Released => out.u8(0),
            Self::Nothing => out.u8(1),
            Self::Failed { message, retry_after } => {
                out.u8(2);
                out.bytes(message);
                out.duration_option(Some(*retry_after));
            }
        }
    }

    pub(super) fn decode(input: &mut Reader<'_>) -> Result<Self, DecodeError> {
        Ok(match input.u8()? {
            0 => Self::Released,
            1 => Self::Nothing,
            2 => Self::Failed { message: input.bytes()?, retry_after: duration(input)? },
            _ => return Err(DecodeError::Invalid("end of a load")),
        })
    }

    pub(super) const fn bytes(&self) -> usize {
        if let Self::Failed { message, .. } = self { message.len() } else { 0 }
    }
}

fn duration(input: &mut Reader<'_>) -> Result<Duration, DecodeError> {
    input.duration_option()?.ok_or(DecodeError::Invalid("a time without end"))
}
