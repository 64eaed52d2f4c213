use bytes::{Buf, Bytes, BytesMut};

/// Finds lines in a growing buffer without looking at any byte twice.
#[derive(Debug, Default)]
pub(super) struct LineScanner {
    scanned: usize,
}

/// What the scanner found at the beginning of the buffer.
pub(super) enum Line {
    /// A line, taken out of the buffer without its `\n`.
    Whole(Bytes),
    /// No end yet, and still within the limit.
    Partial,
    /// Longer than the limit, ended or not.
    TooLong,
}

impl LineScanner {
    pub(super) fn take(&mut self, buffer: &mut BytesMut, bytes_max: usize) -> Line {
        let unseen = buffer.get(self.scanned..).unwrap_or_default();
        match unseen.iter().position(|&byte| byte == b'\n').map(|at| self.scanned + at) {
            Some(end) if end > bytes_max => Line::TooLong,
            Some(end) => {
                self.scanned = 0;
                let line = buffer.split_to(end).freeze();
                buffer.advance(1);
                Line::Whole(line)
            }
            None if buffer.len() > bytes_max => Line::TooLong,
            None => {
                self.scanned = buffer.len();
                Line::Partial
            }
        }
    }
}

/// The decimal number of a header line, behind its type byte and before its `\r`.
pub(super) fn header_number(line: &[u8]) -> Option<i64> {
    let digits = line.get(1..)?.strip_suffix(b"\r")?;
    integer(digits)
}

/// A decimal integer with nothing around it.
pub(crate) fn integer(digits: &[u8]) -> Option<i64> {
    // `parse` would take a plus sign, which Redis does not.
    if digits.first() == Some(&b'+') {
        return None;
    }
    std::str::from_utf8(digits).ok()?.parse().ok()
}
