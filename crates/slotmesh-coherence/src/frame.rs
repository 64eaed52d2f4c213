//! What streams carry, in a fixed layout: the watcher's hello and pings one way, records the other way.

use bytes::Bytes;
use slotmesh_slots::{DecodeError, MonoTime, Reader, Seq, Slot, Writer};

/// Version of the streams' layout, in the hello.
const VERSION: u8 = 1;

/// Most bytes in a frame.
pub(crate) const FRAME_BYTES_MAX: usize = 8 << 10;

/// Why bytes on a stream are not what the other side sends. Close the stream.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum FrameError {
    /// Bytes are missing, or no message begins like that.
    #[error("malformed frame: {0}")]
    Malformed(#[from] DecodeError),
    /// The watcher speaks another version.
    #[error("streams of version {theirs}, this node speaks {VERSION}")]
    OtherVersion {
        /// The version in the hello.
        theirs: u8,
    },
    /// The first frame is no hello, another one is, or it is that of an older stream.
    #[error("a stream begins with one hello, of a higher number than the one before")]
    Order,
    /// There are too many streams.
    #[error("more nodes watch this one than it has room for")]
    Full,
    /// An echo of a ping that was not sent yet.
    #[error("an echo of a time that is to come")]
    Future,
}

/// From the watcher to the primary.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Up {
    /// The first frame of a stream.
    Hello { stream: u64 },
    /// Wants to have this time of its clock back, behind everything that was written before.
    Ping { sent: MonoTime },
}

/// From the primary to the watcher; a frame has one or several.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Down {
    /// A key was written or removed.
    Invalidated { slot: Slot, seq: Seq, hash: u64 },
    /// All that is kept of the slot may be old.
    Dropped { slot: Slot },
    /// Everything before this was told.
    Echo { sent: MonoTime },
}

impl Up {
    pub(crate) fn encode(self) -> Bytes {
        let mut out = Writer::with_capacity(10);
        match self {
            Self::Hello { stream } => {
                out.u8(1);
                out.u8(VERSION);
                out.u64(stream);
            }
            Self::Ping { sent } => {
                out.u8(2);
                out.u64(sent.as_micros());
            }
        }
        out.finish()
    }

    pub(crate) fn decode(frame: &[u8]) -> Result<Self, FrameError> {
        let mut input = Reader::new(frame);
        let message = match input.u8()? {
            1 => match input.u8()? {
                VERSION => Self::Hello { stream: input.u64()? },
                theirs => return Err(FrameError::OtherVersion { theirs }),
            },
            2 => Self::Ping { sent: MonoTime::from_micros(input.u64()?) },
            _ => return Err(DecodeError::Invalid("tag of a frame").into()),
        };
        input.end()?;
        Ok(message)
    }
}

impl Down {
    /// Appends the record: 19 bytes for an invalidation.
    pub(crate) fn encode(self, out: &mut Writer) {
        match self {
            Self::Invalidated { slot, seq, hash } => {
                out.u8(1);
                out.slot(slot);
                out.u64(seq.0);
                out.u64(hash);
            }
            Self::Dropped { slot } => {
                out.u8(2);
                out.slot(slot);
            }
            Self::Echo { sent } => {
                out.u8(3);
                out.u64(sent.as_micros());
            }
        }
    }

    pub(crate) fn decode(input: &mut Reader<'_>) -> Result<Self, FrameError> {
        Ok(match input.u8()? {
            1 => {
                let (slot, seq) = (input.slot()?, Seq(input.u64()?));
                Self::Invalidated { slot, seq, hash: input.u64()? }
            }
            2 => Self::Dropped { slot: input.slot()? },
            3 => Self::Echo { sent: MonoTime::from_micros(input.u64()?) },
            _ => return Err(DecodeError::Invalid("tag of a record").into()),
        })
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn downs() -> [Down; 3] {
        let slot = Slot::of_key(b"foo");
        [
            Down::Invalidated { slot, seq: Seq(1 << 50), hash: u64::MAX - 1 },
            Down::Dropped { slot },
            Down::Echo { sent: MonoTime::from_micros(77) },
        ]
    }

    #[test]
    fn messages_come_back_and_truncations_are_refused() {
        for up in [Up::Hello { stream: 9 }, Up::Ping { sent: MonoTime::from_micros(5) }] {
            let bytes = up.encode();
            assert_eq!(Up::decode(&bytes), Ok(up));
            for cut in 0..bytes.len() {
                assert!(Up::decode(&bytes[..cut]).is_err(), "{up:?} cut at {cut}");
            }
            assert!(Up::decode(&[&bytes[..], &[0]].concat()).is_err());
        }
        let mut out = Writer::new();
        downs().into_iter().for_each(|down| down.encode(&mut out));
        let bytes = out.finish();
        assert_eq!(bytes.len(), 19 + 3 + 9);
        let mut input = Reader::new(&bytes);
        for down in downs() {
            assert_eq!(Down::decode(&mut input), Ok(down));
        }
        input.end().unwrap();
    }

    #[test]
    fn another_version_is_named() {
        let mut hello = Up::Hello { stream: 9 }.encode().to_vec();
        hello[1] = 7;
        assert_eq!(Up::decode(&hello), Err(FrameError::OtherVersion { theirs: 7 }));
    }

    proptest! {
        #[test]
        fn arbitrary_bytes_never_panic(bytes in proptest::collection::vec(any::<u8>(), 0..64)) {
            let _ = Up::decode(&bytes);
            let mut input = Reader::new(&bytes);
            while input.remaining() > 0 && Down::decode(&mut input).is_ok() {}
        }
    }
}
