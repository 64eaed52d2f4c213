use bytes::{Buf, BytesMut};

use super::line::{Line, LineScanner, header_number, integer};
use super::{Frame, ProtocolError};

/// Longest line of a reply: words, numbers and errors.
const LINE_BYTES_MAX: usize = 64 << 10;

/// Longest bulk string of a reply.
const BULK_BYTES_MAX: usize = 64 << 20;

/// Most items of one array or map.
const ITEMS_MAX: usize = 1 << 20;

/// How deep arrays and maps may stand in each other; the deepest reply of this listener has six levels.
const NESTING_MAX: usize = 16;

/// Cuts a byte stream into replies: what a client needs. Knows the kinds that [`Frame`] has, in both versions of the
/// protocol; others are refused.
#[derive(Debug, Default)]
pub struct FrameDecoder {
    buffer: BytesMut,
    line: LineScanner,
    /// Length and kind of the bulk string whose bytes come next.
    bulk: Option<(usize, u8)>,
    /// Arrays and maps that are not complete, outermost first.
    open: Vec<Open>,
    failed: Option<ProtocolError>,
}

#[derive(Debug)]
struct Open {
    left: usize,
    items: Vec<Frame>,
    is_map: bool,
}

impl FrameDecoder {
    /// Where the stream's next bytes are to be appended.
    pub fn buffer_mut(&mut self) -> &mut BytesMut {
        &mut self.buffer
    }

    /// The next whole reply; `None` when more bytes are needed.
    ///
    /// # Errors
    /// When the stream is not the protocol; from then on always the same error.
    pub fn poll_frame(&mut self) -> Result<Option<Frame>, ProtocolError> {
        if let Some(error) = &self.failed {
            return Err(error.clone());
        }
        let polled = self.poll();
        if let Err(error) = &polled {
            self.failed = Some(error.clone());
        }
        polled
    }

    fn poll(&mut self) -> Result<Option<Frame>, ProtocolError> {
        loop {
            let Some(item) = self.poll_item()? else { return Ok(None) };
            // `None` stands for an array that was opened.
            let Some(frame) = item else { continue };
            if let Some(whole) = self.close(frame) {
                return Ok(Some(whole));
            }
        }
    }

    /// Puts a frame where it belongs; the whole reply when it was the last part.
    fn close(&mut self, frame: Frame) -> Option<Frame> {
        let mut frame = frame;
        loop {
            let Some(open) = self.open.last_mut() else { return Some(frame) };
            open.items.push(frame);
            open.left -= 1;
            if open.left > 0 {
                return None;
            }
            frame = self.open.pop()?.finish();
        }
    }

    fn poll_item(&mut self) -> Result<Option<Option<Frame>>, ProtocolError> {
        if let Some((length, kind)) = self.bulk {
            return self.poll_bulk(length, kind);
        }
        let line = match self.line.take(&mut self.buffer, LINE_BYTES_MAX) {
            Line::Partial => return Ok(None),
            Line::TooLong => return Err(ProtocolError::new("too long a line")),
            Line::Whole(line) => line,
        };
        let word = line.get(1..).and_then(|rest| rest.strip_suffix(b"\r"));
        let word = word.ok_or_else(|| ProtocolError::new("line without CRLF"))?;
        let text = || String::from_utf8_lossy(word).into_owned();
        let kind = line.first().copied().unwrap_or_default();
        let frame = match kind {
            b'+' => Frame::Simple(text().into()),
            b'-' => Frame::Error(text()),
            b':' => Frame::Integer(integer(word).ok_or_else(|| ProtocolError::new("integer"))?),
            b'_' => Frame::Null,
            b'$' | b'=' if word == b"-1" => Frame::Null,
            b'*' if word == b"-1" => Frame::Null,
            b'$' | b'=' => {
                self.bulk = Some((length(&line, BULK_BYTES_MAX)?, kind));
                return Ok(Some(None));
            }
            b'*' | b'%' => return self.open(length(&line, ITEMS_MAX)?, kind == b'%'),
            _ => return Err(ProtocolError::new("unknown kind of reply")),
        };
        Ok(Some(Some(frame)))
    }

    fn open(&mut self, count: usize, is_map: bool) -> Result<Option<Option<Frame>>, ProtocolError> {
        let open = Open { left: if is_map { 2 * count } else { count }, items: Vec::new(), is_map };
        if open.left == 0 {
            return Ok(Some(Some(open.finish())));
        }
        if self.open.len() >= NESTING_MAX {
            return Err(ProtocolError::new("nested too deep"));
        }
        self.open.push(open);
        Ok(Some(None))
    }

    fn poll_bulk(
        &mut self,
        length: usize,
        kind: u8,
    ) -> Result<Option<Option<Frame>>, ProtocolError> {
        if self.buffer.len() < length + 2 {
            return Ok(None);
        }
        self.bulk = None;
        let bytes = self.buffer.split_to(length).freeze();
        if !self.buffer.starts_with(b"\r\n") {
            return Err(ProtocolError::new("bulk string without CRLF"));
        }
        self.buffer.advance(2);
        if kind == b'$' {
            return Ok(Some(Some(Frame::Bulk(bytes))));
        }
        let text = bytes.get(4..).ok_or_else(|| ProtocolError::new("text without a format"))?;
        Ok(Some(Some(Frame::Text(String::from_utf8_lossy(text).into_owned()))))
    }
}

impl Open {
    fn finish(self) -> Frame {
        if !self.is_map {
            return Frame::Array(self.items);
        }
        let mut items = self.items.into_iter();
        let mut pairs = Vec::with_capacity(items.len() / 2);
        while let (Some(key), Some(value)) = (items.next(), items.next()) {
            pairs.push((key, value));
        }
        Frame::Map(pairs)
    }
}

fn length(line: &[u8], max: usize) -> Result<usize, ProtocolError> {
    let length = header_number(line).and_then(|length| usize::try_from(length).ok());
    length.filter(|&length| length <= max).ok_or_else(|| ProtocolError::new("length"))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::protocol::Protocol;

    fn decode(bytes: &[u8], step: usize) -> (Vec<Frame>, bool) {
        let mut decoder = FrameDecoder::default();
        let mut frames = Vec::new();
        for chunk in bytes.chunks(step) {
            decoder.buffer_mut().extend_from_slice(chunk);
            loop {
                match decoder.poll_frame() {
                    Ok(Some(frame)) => frames.push(frame),
                    Ok(None) => break,
                    Err(_) => return (frames, true),
                }
            }
        }
        (frames, false)
    }

    fn frame() -> impl Strategy<Value = Frame> {
        let leaf = prop_oneof![
            "[a-z ]{0,8}".prop_map(|word| Frame::Simple(word.into())),
            "[a-z ]{0,8}".prop_map(Frame::Error),
            any::<i64>().prop_map(Frame::Integer),
            proptest::collection::vec(any::<u8>(), 0..20).prop_map(Frame::bulk),
            ".{0,8}".prop_map(Frame::Text),
            Just(Frame::Null),
        ];
        leaf.prop_recursive(4, 32, 5, |inner| {
            let pairs = proptest::collection::vec((inner.clone(), inner.clone()), 0..4);
            prop_oneof![
                proptest::collection::vec(inner, 0..5).prop_map(Frame::Array),
                pairs.prop_map(Frame::Map),
            ]
        })
    }

    proptest! {
        #[test]
        fn replies_come_back(frames in proptest::collection::vec(frame(), 0..4), step in 1..50usize) {
            let mut out = BytesMut::new();
            frames.iter().for_each(|frame| frame.encode(Protocol::Resp3, &mut out));
            prop_assert_eq!(decode(&out, step), (frames, false));
        }

        #[test]
        fn arbitrary_bytes_never_panic(bytes in "[*%$:+=_0-9a\r\n-]{0,80}", step in 1..9usize) {
            let whole = decode(bytes.as_bytes(), 1000);
            prop_assert_eq!(decode(bytes.as_bytes(), step), whole);
        }
    }

    #[test]
    fn nesting_has_an_end() {
        assert!(decode("*1\r\n".repeat(NESTING_MAX + 1).as_bytes(), 1000).1);
        let fine = format!("{}:1\r\n", "*1\r\n".repeat(NESTING_MAX));
        assert_eq!(decode(fine.as_bytes(), 1000).0.len(), 1);
    }
}
