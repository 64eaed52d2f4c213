use std::collections::VecDeque;
use std::fmt;

use bytes::{BufMut, Bytes, BytesMut};
use quinn::{ReadError, RecvStream, SendStream, WriteError};

use crate::disconnect::Disconnect;
use crate::frame::{FrameError, LENGTH_BYTES, LengthDecoder};
use crate::outbox::COPY_BYTES_MAX;

/// An ordered, flow-controlled stream of frames in both directions, beside the calls of the same connection.
///
/// What one side sends is read in the same order by the other or not at all; a reader that stops holds its writer up
/// after 4 MiB. The stream ends with its connection and is not reopened.
#[derive(Debug)]
pub struct FrameStream {
    kind: u8,
    sender: FrameSender,
    receiver: FrameReceiver,
}

impl FrameStream {
    pub(crate) fn new(
        kind: u8,
        send: SendStream,
        recv: RecvStream,
        frame_bytes_max: usize,
    ) -> Self {
        let sender = FrameSender { stream: send, unsent: Vec::new(), frame_bytes_max };
        let receiver = FrameReceiver {
            stream: recv,
            decoder: LengthDecoder::new(frame_bytes_max),
            arrived: VecDeque::new(),
        };
        Self { kind, sender, receiver }
    }

    /// What the application makes of the stream, as its opener said.
    #[must_use]
    pub const fn kind(&self) -> u8 {
        self.kind
    }

    /// The two directions, for separate tasks.
    #[must_use]
    pub fn into_split(self) -> (FrameSender, FrameReceiver) {
        (self.sender, self.receiver)
    }

    /// See [`FrameSender::send`].
    ///
    /// # Errors
    /// Those of [`FrameSender::send`].
    pub async fn send(&mut self, frame: Bytes) -> Result<(), StreamError> {
        self.sender.send(frame).await
    }

    /// See [`FrameReceiver::recv`].
    ///
    /// # Errors
    /// Those of [`FrameReceiver::recv`].
    pub async fn recv(&mut self) -> Result<Option<Bytes>, StreamError> {
        self.receiver.recv().await
    }
}

/// The sending direction of a [`FrameStream`]. Dropped, it ends the direction after what was sent.
pub struct FrameSender {
    stream: SendStream,
    /// What QUIC has not accepted yet; more than nothing only after a cancelled send.
    unsent: Vec<Bytes>,
    frame_bytes_max: usize,
}

impl FrameSender {
    /// Sends a frame; waits while the peer reads too slowly.
    ///
    /// Returns when QUIC has accepted the frame, not when it has arrived. Cancelling it may leave the frame queued: it is
    /// then sent, whole and in order, by the next send or flush.
    ///
    /// # Errors
    /// When the frame is too large (nothing is sent), or the stream has ended.
    pub async fn send(&mut self, frame: Bytes) -> Result<(), StreamError> {
        self.send_all(vec![frame]).await
    }

    /// Sends frames in one write. Cancellation as with [`FrameSender::send`].
    ///
    /// # Errors
    /// When one of the frames is too large (none is sent), or the stream has ended.
    pub async fn send_all(&mut self, frames: Vec<Bytes>) -> Result<(), StreamError> {
        let max = self.frame_bytes_max;
        if let Some(frame) = frames.iter().find(|frame| frame.len() > max) {
            return Err(StreamError::TooLarge { bytes: frame.len(), max });
        }
        encode(frames, &mut self.unsent);
        self.flush().await
    }

    /// Waits until QUIC has accepted everything that cancelled sends left behind. Cancellation safe.
    ///
    /// # Errors
    /// When the stream has ended.
    pub async fn flush(&mut self) -> Result<(), StreamError> {
        while !self.unsent.is_empty() {
            let written = self.stream.write_chunks(&mut self.unsent).await?;
            self.unsent.drain(..written.chunks.min(self.unsent.len()));
        }
        Ok(())
    }

    /// Waits until the peer reads no more or the connection ends. Cancellation safe.
    pub async fn closed(&self) {
        // Both outcomes mean that nothing more can be delivered.
        let _ = self.stream.stopped().await;
    }

    /// Breaks the direction off: the peer's reader gets an error and no more frames.
    pub fn abort(mut self) {
        // It fails only when the stream has ended already.
        let _ = self.stream.reset(0u32.into());
    }
}

impl fmt::Debug for FrameSender {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "FrameSender({})", self.stream.id())
    }
}

/// The receiving direction of a [`FrameStream`]. Dropped, it tells the peer to stop sending.
pub struct FrameReceiver {
    stream: RecvStream,
    decoder: LengthDecoder,
    arrived: VecDeque<Bytes>,
}

/// Pieces taken from QUIC per turn.
const CHUNKS_PER_READ: usize = 32;

impl FrameReceiver {
    /// The next frame; `None` after the peer's last one. Cancellation safe.
    ///
    /// The frame is a slice of a receive buffer of up to 64 KiB when it is small: copy what is kept.
    ///
    /// # Errors
    /// When the connection or the stream broke, or the bytes are no frames.
    pub async fn recv(&mut self) -> Result<Option<Bytes>, StreamError> {
        loop {
            if let Some(frame) = self.poll_arrived()? {
                return Ok(Some(frame));
            }
            let mut chunks: [Bytes; CHUNKS_PER_READ] = std::array::from_fn(|_| Bytes::new());
            let Some(count) = self.stream.read_chunks(&mut chunks).await? else {
                return match self.decoder.pending_bytes() {
                    0 => Ok(None),
                    bytes => Err(FrameError::Truncated { bytes }.into()),
                };
            };
            self.arrived.extend(chunks.into_iter().take(count));
        }
    }

    /// The next frame if it has arrived, without waiting for more bytes from the connection than a former
    /// [`FrameReceiver::recv`] took: for draining a batch.
    ///
    /// # Errors
    /// When the bytes are no frames.
    pub fn poll_arrived(&mut self) -> Result<Option<Bytes>, StreamError> {
        loop {
            if let Some(frame) = self.decoder.poll_piece()? {
                return Ok(Some(frame));
            }
            let Some(chunk) = self.arrived.pop_front() else { return Ok(None) };
            self.decoder.handle_bytes(chunk);
        }
    }
}

impl fmt::Debug for FrameReceiver {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "FrameReceiver({})", self.stream.id())
    }
}

/// Why a stream did not take or give a frame.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum StreamError {
    /// The frame is above the limit; nothing was sent and the stream goes on.
    #[error("{bytes} bytes are above the limit of {max}")]
    TooLarge {
        /// Size of the frame.
        bytes: usize,
        /// The limit.
        max: usize,
    },
    /// The peer's bytes are no frames. The stream cannot be read any further.
    #[error("the peer broke the protocol: {0}")]
    BadFrame(#[from] FrameError),
    /// The peer reads no more. What was sent last may or may not have been read.
    #[error("the peer has stopped reading the stream")]
    Stopped,
    /// The peer broke the stream off.
    #[error("the peer has broken the stream off")]
    Aborted,
    /// The connection ended. What was sent last may or may not have arrived.
    #[error("the connection has ended: {0}")]
    Lost(Disconnect),
}

impl From<WriteError> for StreamError {
    fn from(error: WriteError) -> Self {
        match error {
            WriteError::ConnectionLost(error) => Self::Lost(error.into()),
            _ => Self::Stopped,
        }
    }
}

impl From<ReadError> for StreamError {
    fn from(error: ReadError) -> Self {
        match error {
            ReadError::ConnectionLost(error) => Self::Lost(error.into()),
            _ => Self::Aborted,
        }
    }
}

/// Appends the frames with their lengths; small ones share a piece.
fn encode(frames: Vec<Bytes>, pieces: &mut Vec<Bytes>) {
    let is_small = |frame: &Bytes| frame.len() < COPY_BYTES_MAX;
    let copied: usize =
        frames.iter().map(|f| LENGTH_BYTES + if is_small(f) { f.len() } else { 0 }).sum();
    let mut tail = BytesMut::with_capacity(copied);
    for frame in frames {
        // Frames are below 1 GiB, as the settings demand.
        tail.put_u32(frame.len() as u32);
        if is_small(&frame) {
            tail.put_slice(&frame);
        } else {
            pieces.push(tail.split().freeze());
            pieces.push(frame);
        }
    }
    if !tail.is_empty() {
        pieces.push(tail.freeze());
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn small_frames_share_a_piece_and_all_come_back() {
        let sizes = [0, 5, COPY_BYTES_MAX - 1, COPY_BYTES_MAX, 3, 100_000];
        let mut pieces = Vec::new();
        encode(sizes.map(|size| Bytes::from(vec![7; size])).to_vec(), &mut pieces);
        assert_eq!(pieces.len(), 4);
        let mut decoder = LengthDecoder::new(100_000);
        let mut seen = Vec::new();
        for piece in pieces {
            decoder.handle_bytes(piece);
            while let Some(frame) = decoder.poll_piece().unwrap() {
                seen.push(frame.len());
            }
        }
        assert_eq!(seen, sizes);
    }
}
