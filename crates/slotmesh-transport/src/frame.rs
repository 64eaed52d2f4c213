//! The framing of streams, without I/O.
//!
//! Everything on a stream is a `u32` length (big endian) and that many bytes. On the RPC stream these are: `u8` frame
//! type, `u8` tag (what the application makes of it), `u32` request id, `u32` remaining milliseconds, body.

use bytes::{Buf, BufMut, Bytes, BytesMut};

/// What a frame on the RPC stream is.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[non_exhaustive]
pub enum FrameType {
    /// A request that wants exactly one answer.
    Request = 1,
    /// A one-way message.
    Message = 2,
    /// A datagram that is too large for the path's packets, sent reliably instead.
    Datagram = 3,
    /// The answer to a request.
    Reply = 4,
    /// An answer with a status that the application defines, in the tag.
    Status = 5,
    /// The request was not looked at: too many are being served.
    Busy = 6,
    /// The request was looked at, but nobody will answer it.
    Dropped = 7,
}

impl FrameType {
    const fn from_byte(byte: u8) -> Option<Self> {
        Some(match byte {
            1 => Self::Request,
            2 => Self::Message,
            3 => Self::Datagram,
            4 => Self::Reply,
            5 => Self::Status,
            6 => Self::Busy,
            7 => Self::Dropped,
            _ => return None,
        })
    }
}

/// Everything in front of a frame's body.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct FrameHeader {
    /// What the frame is.
    pub frame_type: FrameType,
    /// The application's kind of request, message or status.
    pub tag: u8,
    /// Which request this is, or answers; zero where nothing is answered.
    pub id: u32,
    /// How long the sender still waits, in milliseconds; zero where nothing is waited for.
    pub remaining_ms: u32,
}

impl FrameHeader {
    /// Appends the length and the header of a frame whose body, `body_bytes` long, the caller appends next.
    pub fn put(self, out: &mut BytesMut, body_bytes: usize) {
        // Callers check bodies against a limit far below 4 GiB.
        let length = (HEADER_BYTES - LENGTH_BYTES + body_bytes) as u32;
        let mut bytes = [0; HEADER_BYTES];
        bytes[..4].copy_from_slice(&length.to_be_bytes());
        bytes[4] = self.frame_type as u8;
        bytes[5] = self.tag;
        bytes[6..10].copy_from_slice(&self.id.to_be_bytes());
        bytes[10..].copy_from_slice(&self.remaining_ms.to_be_bytes());
        out.put_slice(&bytes);
    }
}

/// One frame of the RPC stream. The body is a slice of a receive buffer.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Frame {
    /// What it is and to what it belongs.
    pub header: FrameHeader,
    /// The application's bytes.
    pub body: Bytes,
}

impl Frame {
    fn parse(mut bytes: Bytes) -> Result<Self, FrameError> {
        let Some(head) = bytes.first_chunk::<{ HEADER_BYTES - LENGTH_BYTES }>() else {
            return Err(FrameError::TooShort { bytes: bytes.len() });
        };
        let [kind, tag, id @ .., r0, r1, r2, r3] = *head;
        let Some(frame_type) = FrameType::from_byte(kind) else {
            return Err(FrameError::UnknownType(kind));
        };
        let id = u32::from_be_bytes(id);
        let remaining_ms = u32::from_be_bytes([r0, r1, r2, r3]);
        bytes.advance(HEADER_BYTES - LENGTH_BYTES);
        Ok(Self { header: FrameHeader { frame_type, tag, id, remaining_ms }, body: bytes })
    }
}

/// Bytes of length and header in front of a body on the RPC stream.
pub const HEADER_BYTES: usize = LENGTH_BYTES + 10;

pub(crate) const LENGTH_BYTES: usize = 4;

/// Bytes set aside for a frame before they have arrived, so that a lying length costs no memory.
const RESERVE_BYTES_MAX: usize = 64 * 1024;

/// What is wrong with a peer's bytes. Nothing can be read from the stream afterwards.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum FrameError {
    /// The announced length is above the limit; nothing was allocated for it.
    #[error("a frame of {bytes} bytes is above the limit of {max}")]
    Oversized {
        /// Announced length.
        bytes: usize,
        /// Limit of this stream.
        max: usize,
    },
    /// The frame ends within its header.
    #[error("a frame of {bytes} bytes is shorter than its header")]
    TooShort {
        /// Announced length.
        bytes: usize,
    },
    /// No such frame type.
    #[error("unknown frame type {0}")]
    UnknownType(u8),
    /// A frame of this type has no business in this direction.
    #[error("a frame of type {0:?} in the wrong direction")]
    WrongDirection(FrameType),
    /// The stream ended inside a frame.
    #[error("the stream ended inside a frame, after {bytes} bytes of it")]
    Truncated {
        /// Bytes of the last frame that had arrived.
        bytes: usize,
    },
    /// The stream ended although it lasts as long as the connection.
    #[error("the stream ended before the connection")]
    Ended,
    /// The first frame is not a hello.
    #[error("the first frame is no hello: {0}")]
    NoHello(String),
}

/// Cuts a byte stream into length-prefixed pieces, whatever the chunks it arrives in.
///
/// Pieces inside one chunk are slices of it; only those that span chunks are copied, once. Memory is bounded by twice
/// what has arrived of one piece.
#[derive(Debug)]
pub struct LengthDecoder {
    chunk: Bytes,
    /// The beginning of a piece, length included, that spans chunks.
    partial: BytesMut,
    max: usize,
}

impl LengthDecoder {
    /// A decoder that refuses pieces above `max` bytes.
    #[must_use]
    pub fn new(max: usize) -> Self {
        Self { chunk: Bytes::new(), partial: BytesMut::new(), max }
    }

    /// Takes the next bytes of the stream.
    pub fn handle_bytes(&mut self, chunk: Bytes) {
        if !self.chunk.is_empty() {
            self.partial.extend_from_slice(&self.chunk);
        }
        self.chunk = chunk;
    }

    /// The next whole piece, without its length; `None` when more bytes are needed.
    ///
    /// # Errors
    /// When the announced length is above the limit. The stream cannot be read any further.
    pub fn poll_piece(&mut self) -> Result<Option<Bytes>, FrameError> {
        if self.partial.is_empty() {
            if let Some(total) = self.total(&self.chunk)?
                && self.chunk.len() >= total
            {
                let mut piece = self.chunk.split_to(total);
                piece.advance(LENGTH_BYTES);
                return Ok(Some(piece));
            }
            self.absorb(usize::MAX);
            return Ok(None);
        }
        self.absorb(LENGTH_BYTES.saturating_sub(self.partial.len()));
        let Some(total) = self.total(&self.partial)? else { return Ok(None) };
        self.absorb(total.saturating_sub(self.partial.len()));
        if self.partial.len() < total {
            return Ok(None);
        }
        let mut piece = self.partial.split_to(total).freeze();
        piece.advance(LENGTH_BYTES);
        Ok(Some(piece))
    }

    /// Bytes of a piece that has begun but is not complete.
    #[must_use]
    pub fn pending_bytes(&self) -> usize {
        self.partial.len() + self.chunk.len()
    }

    /// Length of the piece that starts here, with its prefix; `None` while the prefix is not complete.
    fn total(&self, start: &[u8]) -> Result<Option<usize>, FrameError> {
        let Some(prefix) = start.first_chunk::<LENGTH_BYTES>() else { return Ok(None) };
        let bytes = u32::from_be_bytes(*prefix) as usize;
        if bytes > self.max {
            return Err(FrameError::Oversized { bytes, max: self.max });
        }
        Ok(Some(LENGTH_BYTES + bytes))
    }

    /// Moves up to `wanted` bytes of the chunk behind the partial piece.
    fn absorb(&mut self, wanted: usize) {
        let taken = self.chunk.split_to(wanted.min(self.chunk.len()));
        if taken.is_empty() {
            return;
        }
        if wanted != usize::MAX {
            self.partial.reserve(wanted.min(RESERVE_BYTES_MAX));
        }
        self.partial.extend_from_slice(&taken);
    }
}

/// Cuts the RPC stream into frames.
#[derive(Debug)]
pub struct FrameDecoder(LengthDecoder);

impl FrameDecoder {
    /// A decoder that refuses bodies above `body_bytes_max`.
    #[must_use]
    pub fn new(body_bytes_max: usize) -> Self {
        Self(LengthDecoder::new(body_bytes_max.saturating_add(HEADER_BYTES - LENGTH_BYTES)))
    }

    /// Takes the next bytes of the stream.
    pub fn handle_bytes(&mut self, chunk: Bytes) {
        self.0.handle_bytes(chunk);
    }

    /// The next whole frame; `None` when more bytes are needed.
    ///
    /// # Errors
    /// When the bytes are no frame. The stream cannot be read any further.
    pub fn poll_frame(&mut self) -> Result<Option<Frame>, FrameError> {
        self.0.poll_piece()?.map(Frame::parse).transpose()
    }

    /// What the end of the stream at this point means.
    #[must_use]
    pub fn end(&self) -> FrameError {
        match self.0.pending_bytes() {
            0 => FrameError::Ended,
            bytes => FrameError::Truncated { bytes },
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn frame(frame_type: FrameType, id: u32, body: &[u8]) -> Frame {
        let header = FrameHeader { frame_type, tag: 9, id, remaining_ms: 250 };
        Frame { header, body: Bytes::copy_from_slice(body) }
    }

    fn encode(frames: &[Frame]) -> Bytes {
        let mut out = BytesMut::new();
        for frame in frames {
            frame.header.put(&mut out, frame.body.len());
            out.put_slice(&frame.body);
        }
        out.freeze()
    }

    /// Feeds the bytes in chunks of this size and collects everything that comes out.
    fn decode(bytes: &Bytes, step: usize, max: usize) -> Result<Vec<Frame>, FrameError> {
        let mut decoder = FrameDecoder::new(max);
        let mut frames = Vec::new();
        for chunk in bytes.chunks(step) {
            decoder.handle_bytes(bytes.slice_ref(chunk));
            while let Some(frame) = decoder.poll_frame()? {
                frames.push(frame);
            }
        }
        match decoder.end() {
            FrameError::Ended => Ok(frames),
            error => Err(error),
        }
    }

    #[test]
    fn any_split_gives_the_same_frames() {
        let frames = [
            frame(FrameType::Request, 1, b""),
            frame(FrameType::Reply, u32::MAX, b"0123456789"),
            frame(FrameType::Status, 7, &[5; 300]),
        ];
        let bytes = encode(&frames);
        for step in 1..=bytes.len() {
            assert_eq!(decode(&bytes, step, 300).as_deref(), Ok(&frames[..]), "chunks of {step}");
        }
    }

    #[test]
    fn bad_bytes_give_typed_errors() {
        let check = |bytes: &[u8], error: FrameError| {
            let bytes = Bytes::copy_from_slice(bytes);
            for step in [1, 3, 1000] {
                assert_eq!(decode(&bytes, step, 100), Err(error.clone()), "chunks of {step}");
            }
        };
        check(&[0, 0, 0, 3, 1, 2, 3], FrameError::TooShort { bytes: 3 });
        check(&[0, 0, 0, 10, 77, 0, 0, 0, 0, 0, 0, 0, 0, 0], FrameError::UnknownType(77));
        check(&[0xff; 8], FrameError::Oversized { bytes: u32::MAX as usize, max: 110 });
        check(
            &encode(&[frame(FrameType::Reply, 1, &[0; 101])]),
            FrameError::Oversized { bytes: 111, max: 110 },
        );
        check(&[0, 0, 0, 20, 1], FrameError::Truncated { bytes: 5 });
    }

    #[test]
    fn a_lying_length_allocates_little() {
        let mut decoder = FrameDecoder::new(8 << 20);
        decoder.handle_bytes(Bytes::from_static(&[0, 0x70, 0, 0]));
        assert_eq!(decoder.poll_frame(), Ok(None));
        decoder.handle_bytes(Bytes::from_static(&[1]));
        assert_eq!(decoder.poll_frame(), Ok(None));
        assert!(decoder.0.partial.capacity() <= 2 * RESERVE_BYTES_MAX);
    }
}
