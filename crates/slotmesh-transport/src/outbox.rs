use bytes::{BufMut, Bytes, BytesMut};

use crate::frame::{FrameHeader, HEADER_BYTES};

/// Frames that wait for the writer of one connection, already encoded.
///
/// Small bodies are copied behind one another, so that the writer hands QUIC one large piece; large ones are queued as
/// they are. The byte budget also counts what the writer has taken but QUIC has not accepted yet.
#[derive(Debug)]
pub(crate) struct Outbox {
    whole: Vec<Bytes>,
    tail: BytesMut,
    waiting_frames: usize,
    waiting_bytes: usize,
    writing_bytes: usize,
    bytes_max: usize,
}

/// What the writer has taken.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Taken {
    pub(crate) frames: usize,
    pub(crate) bytes: usize,
}

/// Bodies from this size on are not copied.
pub(crate) const COPY_BYTES_MAX: usize = 16 * 1024;

/// What the tail grows by: the encoded frames of a busy batch. Freed once QUIC has had it acknowledged.
const TAIL_BYTES: usize = 32 * 1024;

impl Outbox {
    pub(crate) fn new(bytes_max: usize) -> Self {
        Self {
            whole: Vec::new(),
            tail: BytesMut::new(),
            waiting_frames: 0,
            waiting_bytes: 0,
            writing_bytes: 0,
            bytes_max,
        }
    }

    /// Whether a frame with such a body is within the budget. An empty outbox takes any.
    pub(crate) fn fits(&self, body_bytes: usize) -> bool {
        let queued = self.queued_bytes();
        queued == 0 || queued + HEADER_BYTES + body_bytes <= self.bytes_max
    }

    /// Whether no more requests should be taken: their answers, and those still owed, are to fit the other half.
    pub(crate) fn is_half_full(&self) -> bool {
        self.queued_bytes() >= self.bytes_max / 2
    }

    /// Appends a frame whatever the budget; true when the writer must be woken for it.
    pub(crate) fn push(&mut self, header: FrameHeader, body: Bytes) -> bool {
        let was_empty = self.waiting_bytes == 0;
        self.waiting_frames += 1;
        self.waiting_bytes += HEADER_BYTES + body.len();
        let small = body.len() < COPY_BYTES_MAX;
        let needed = HEADER_BYTES + if small { body.len() } else { 0 };
        if self.tail.capacity() - self.tail.len() < needed {
            // A new allocation each time: what lies in the old one belongs to QUIC until acknowledged.
            self.cut_tail();
            self.tail = BytesMut::with_capacity(TAIL_BYTES.max(needed));
        }
        header.put(&mut self.tail, body.len());
        if small {
            self.tail.put_slice(&body);
        } else {
            self.cut_tail();
            self.whole.push(body);
        }
        was_empty
    }

    /// Moves everything that waits into `pieces` and returns how much that is.
    pub(crate) fn take(&mut self, pieces: &mut Vec<Bytes>) -> Taken {
        self.cut_tail();
        pieces.append(&mut self.whole);
        let frames = std::mem::take(&mut self.waiting_frames);
        let bytes = std::mem::take(&mut self.waiting_bytes);
        self.writing_bytes += bytes;
        Taken { frames, bytes }
    }

    /// QUIC has accepted this many of the bytes taken.
    pub(crate) fn written(&mut self, bytes: usize) {
        self.writing_bytes -= bytes.min(self.writing_bytes);
    }

    /// Forgets everything.
    pub(crate) fn clear(&mut self) {
        *self = Self::new(self.bytes_max);
    }

    fn queued_bytes(&self) -> usize {
        self.waiting_bytes + self.writing_bytes
    }

    fn cut_tail(&mut self) {
        if !self.tail.is_empty() {
            self.whole.push(self.tail.split().freeze());
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::frame::{Frame, FrameDecoder, FrameType};

    fn header(id: u32) -> FrameHeader {
        FrameHeader { frame_type: FrameType::Message, tag: 0, id, remaining_ms: 0 }
    }

    #[test]
    fn frames_keep_their_order_and_small_ones_share_a_piece() {
        let mut outbox = Outbox::new(1 << 20);
        let sizes = [3, 100, COPY_BYTES_MAX, 5, 0, COPY_BYTES_MAX - 1, 30_000, 7];
        for (id, size) in sizes.into_iter().enumerate() {
            let woken = outbox.push(header(id as u32), Bytes::from(vec![id as u8; size]));
            assert_eq!(woken, id == 0, "only the first wakes the writer");
        }
        let mut pieces = Vec::new();
        assert_eq!(outbox.take(&mut pieces).frames, sizes.len());
        assert!(pieces.len() <= 6, "{} pieces", pieces.len());
        let mut decoder = FrameDecoder::new(1 << 20);
        let mut frames: Vec<Frame> = Vec::new();
        for piece in pieces {
            decoder.handle_bytes(piece);
            while let Some(frame) = decoder.poll_frame().unwrap() {
                frames.push(frame);
            }
        }
        let seen: Vec<_> = frames.iter().map(|f| (f.header.id as usize, f.body.len())).collect();
        assert_eq!(seen, sizes.into_iter().enumerate().collect::<Vec<_>>());
    }

    #[test]
    fn the_budget_counts_until_quic_has_the_bytes() {
        let mut outbox = Outbox::new(200);
        assert!(outbox.fits(10_000), "an empty outbox takes any frame");
        outbox.push(header(1), Bytes::from(vec![0; 150]));
        assert!(!outbox.fits(150));
        let mut pieces = Vec::new();
        let taken = outbox.take(&mut pieces);
        assert!(!outbox.fits(150) && outbox.is_half_full(), "taken is not written");
        outbox.written(taken.bytes);
        assert!(outbox.fits(150) && !outbox.is_half_full());
        assert!(outbox.push(header(2), Bytes::new()), "empty again, so the writer must be woken");
    }
}
