use std::time::Duration;

use bytes::{BufMut, Bytes, BytesMut};

use crate::id::{Epoch, NodeId, Seq, Version};
use crate::slot::Slot;

/// Why bytes from a peer could not be read. The input is dropped; nothing changed.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum DecodeError {
    /// The input ended before the field that was being read.
    #[error("input ends {missing} bytes early")]
    Truncated {
        /// How many more bytes the field needs.
        missing: usize,
    },
    /// A field holds a value that no sender writes.
    #[error("invalid input: {0}")]
    Invalid(&'static str),
    /// Bytes are left after the last field.
    #[error("{0} bytes too many")]
    Trailing(usize),
}

/// Appends fixed-layout fields (big endian) to a growing buffer.
#[derive(Debug, Default)]
pub struct Writer(BytesMut);

impl Writer {
    /// An empty buffer.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// An empty buffer that holds `bytes` before it grows.
    #[must_use]
    pub fn with_capacity(bytes: usize) -> Self {
        Self(BytesMut::with_capacity(bytes))
    }

    /// Appends one byte.
    pub fn u8(&mut self, value: u8) {
        self.0.put_u8(value);
    }

    /// Appends two bytes.
    pub fn u16(&mut self, value: u16) {
        self.0.put_u16(value);
    }

    /// Appends four bytes.
    pub fn u32(&mut self, value: u32) {
        self.0.put_u32(value);
    }

    /// Appends eight bytes.
    pub fn u64(&mut self, value: u64) {
        self.0.put_u64(value);
    }

    /// Appends sixteen bytes.
    pub fn u128(&mut self, value: u128) {
        self.0.put_u128(value);
    }

    /// Appends a slot number.
    pub fn slot(&mut self, slot: Slot) {
        self.u16(slot.number());
    }

    /// Appends a node identity.
    pub fn node(&mut self, node: NodeId) {
        self.u64(node.get());
    }

    /// Appends a node identity, or zero for none.
    pub fn node_option(&mut self, node: Option<NodeId>) {
        self.u64(node.map_or(0, NodeId::get));
    }

    /// Appends an epoch and a seq.
    pub fn version(&mut self, version: Version) {
        self.u32(version.epoch.0);
        self.u64(version.seq.0);
    }

    /// Appends a duration in milliseconds, rounded up so that it never shrinks to nothing; `None` and longer ones
    /// become the largest value.
    pub fn duration_option(&mut self, duration: Option<Duration>) {
        let millis = duration.map_or(NO_DURATION, |d| {
            u64::try_from(d.as_micros().div_ceil(1000)).unwrap_or(NO_DURATION)
        });
        self.u64(millis);
    }

    /// Appends a length (`u32`) and the bytes. Callers keep what they append below 4 GiB.
    pub fn bytes(&mut self, bytes: &[u8]) {
        self.u32(bytes.len() as u32);
        self.0.put_slice(bytes);
    }

    /// Appends bytes without a length.
    pub fn raw(&mut self, bytes: &[u8]) {
        self.0.put_slice(bytes);
    }

    /// Number of bytes written so far.
    #[must_use]
    pub fn len(&self) -> usize {
        self.0.len()
    }

    /// Whether nothing was written yet.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// The bytes written.
    #[must_use]
    pub fn finish(self) -> Bytes {
        self.0.freeze()
    }

    /// The buffer itself, for writers that keep appending frames to it.
    #[must_use]
    pub fn into_inner(self) -> BytesMut {
        self.0
    }
}

/// Reads fixed-layout fields; every method fails instead of reading past the end.
#[derive(Debug)]
pub struct Reader<'a> {
    rest: &'a [u8],
    /// The shared buffer that `rest` is the tail of, so that byte fields can be handed out without a copy.
    shared: Option<&'a Bytes>,
}

impl<'a> Reader<'a> {
    /// Reads from a slice; byte fields are copied.
    #[must_use]
    pub fn new(input: &'a [u8]) -> Self {
        Self { rest: input, shared: None }
    }

    /// Reads from a shared buffer; byte fields are slices of it, which keep all of it alive.
    #[must_use]
    pub fn shared(input: &'a Bytes) -> Self {
        Self { rest: input, shared: Some(input) }
    }

    /// Number of bytes not read yet.
    #[must_use]
    pub fn remaining(&self) -> usize {
        self.rest.len()
    }

    /// The next `count` bytes.
    ///
    /// # Errors
    /// When fewer are left.
    pub fn raw(&mut self, count: usize) -> Result<&'a [u8], DecodeError> {
        match self.rest.split_at_checked(count) {
            Some((head, tail)) => {
                self.rest = tail;
                Ok(head)
            }
            None => Err(DecodeError::Truncated { missing: count - self.rest.len() }),
        }
    }

    fn array<const N: usize>(&mut self) -> Result<[u8; N], DecodeError> {
        let mut array = [0; N];
        array.copy_from_slice(self.raw(N)?);
        Ok(array)
    }

    /// One byte.
    ///
    /// # Errors
    /// When the input has ended.
    pub fn u8(&mut self) -> Result<u8, DecodeError> {
        Ok(u8::from_be_bytes(self.array()?))
    }

    /// Two bytes.
    ///
    /// # Errors
    /// When the input is too short.
    pub fn u16(&mut self) -> Result<u16, DecodeError> {
        Ok(u16::from_be_bytes(self.array()?))
    }

    /// Four bytes.
    ///
    /// # Errors
    /// When the input is too short.
    pub fn u32(&mut self) -> Result<u32, DecodeError> {
        Ok(u32::from_be_bytes(self.array()?))
    }

    /// Eight bytes.
    ///
    /// # Errors
    /// When the input is too short.
    pub fn u64(&mut self) -> Result<u64, DecodeError> {
        Ok(u64::from_be_bytes(self.array()?))
    }

    /// Sixteen bytes.
    ///
    /// # Errors
    /// When the input is too short.
    pub fn u128(&mut self) -> Result<u128, DecodeError> {
        Ok(u128::from_be_bytes(self.array()?))
    }

    /// A slot number.
    ///
    /// # Errors
    /// When the input is too short or the number is 16384 or above.
    pub fn slot(&mut self) -> Result<Slot, DecodeError> {
        Slot::new(self.u16()?).ok_or(DecodeError::Invalid("slot number"))
    }

    /// A node identity.
    ///
    /// # Errors
    /// When the input is too short or the identity is zero.
    pub fn node(&mut self) -> Result<NodeId, DecodeError> {
        self.node_option()?.ok_or(DecodeError::Invalid("node identity of zero"))
    }

    /// A node identity or none.
    ///
    /// # Errors
    /// When the input is too short.
    pub fn node_option(&mut self) -> Result<Option<NodeId>, DecodeError> {
        Ok(NodeId::new(self.u64()?))
    }

    /// An epoch and a seq.
    ///
    /// # Errors
    /// When the input is too short.
    pub fn version(&mut self) -> Result<Version, DecodeError> {
        Ok(Version::new(Epoch(self.u32()?), Seq(self.u64()?)))
    }

    /// A duration in milliseconds or none.
    ///
    /// # Errors
    /// When the input is too short.
    pub fn duration_option(&mut self) -> Result<Option<Duration>, DecodeError> {
        let millis = self.u64()?;
        Ok((millis != NO_DURATION).then(|| Duration::from_millis(millis)))
    }

    /// A length and that many bytes. The length is checked against what is left before anything is allocated.
    ///
    /// # Errors
    /// When the input is too short.
    pub fn bytes(&mut self) -> Result<Bytes, DecodeError> {
        let count = self.u32()? as usize;
        let bytes = self.raw(count)?;
        Ok(self
            .shared
            .map_or_else(|| Bytes::copy_from_slice(bytes), |shared| shared.slice_ref(bytes)))
    }

    /// All bytes that are left.
    pub fn rest(&mut self) -> Bytes {
        let bytes = std::mem::take(&mut self.rest);
        self.shared.map_or_else(|| Bytes::copy_from_slice(bytes), |shared| shared.slice_ref(bytes))
    }

    /// Ends the reading.
    ///
    /// # Errors
    /// When bytes are left.
    pub fn end(&self) -> Result<(), DecodeError> {
        if self.rest.is_empty() { Ok(()) } else { Err(DecodeError::Trailing(self.rest.len())) }
    }
}

/// Stands for "no duration" on the wire: 584 million years are as good as never.
const NO_DURATION: u64 = u64::MAX;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn fields_come_back_and_nothing_is_read_past_the_end() {
        let mut out = Writer::new();
        out.u8(7);
        out.version(Version::new(Epoch(3), Seq(9)));
        out.bytes(b"abc");
        out.duration_option(Some(Duration::from_micros(1)));
        out.duration_option(None);
        let bytes = out.finish();
        for cut in 0..bytes.len() {
            assert!(read(&mut Reader::new(&bytes[..cut])).is_err(), "cut at {cut}");
        }
        let mut input = Reader::shared(&bytes);
        read(&mut input).unwrap();
        input.end().unwrap();
    }

    fn read(input: &mut Reader<'_>) -> Result<(), DecodeError> {
        assert_eq!(input.u8()?, 7);
        assert_eq!(input.version()?, Version::new(Epoch(3), Seq(9)));
        assert_eq!(&input.bytes()?[..], b"abc");
        assert_eq!(input.duration_option()?, Some(Duration::from_millis(1)));
        assert_eq!(input.duration_option()?, None);
        Ok(())
    }

    #[test]
    fn a_lying_length_allocates_nothing() {
        let mut input = Reader::new(&[0xff, 0xff, 0xff, 0xff, 1]);
        assert_eq!(input.bytes(), Err(DecodeError::Truncated { missing: u32::MAX as usize - 1 }));
    }
}
