//! Parts of values: reading some bytes of one, writing some, appending.

use std::ops::Range;

use bytes::Bytes;
use slotmesh_slots::{Epoch, MonoTime};

use crate::entry::Entry;
use crate::error::StoreError;
use crate::guard::SlotGuard;
use crate::outcome::LengthOutcome;
use crate::update::{Change, Current};

/// Bytes of a value from one place to another, both included. Negative places count from the end, -1 being the last byte.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ByteRange {
    /// The first byte.
    pub start: i64,
    /// The last byte.
    pub end: i64,
}

impl From<(i64, i64)> for ByteRange {
    /// The first and the last byte.
    fn from((start, end): (i64, i64)) -> Self {
        Self { start, end }
    }
}

impl ByteRange {
    /// Where the range lies in a value of this length, exactly as Redis' `GETRANGE` has it: what is beyond the value is cut
    /// off, and places before its first byte count as that one, so an end far before still has the first byte in the range.
    #[must_use]
    pub fn within(self, len: usize) -> Range<usize> {
        let Self { start, end } = self;
        let len = i64::try_from(len).unwrap_or(i64::MAX);
        let from_start = |at: i64| if at < 0 { at.saturating_add(len).max(0) } else { at };
        let (first, last) = (from_start(start), from_start(end).min(len - 1));
        if (start < 0 && end < 0 && start > end) || first > last {
            return 0..0;
        }
        first as usize..last as usize + 1
    }
}

impl SlotGuard<'_> {
    /// As [`SlotGuard::get`], with this part of the value only. The part of a large value shares the whole of it.
    #[must_use]
    pub fn get_range(&self, key: &[u8], range: ByteRange, now: MonoTime) -> Option<Entry> {
        let entry = self.get(key, now)?;
        let value = entry.value.slice(range.within(entry.value.len()));
        Some(Entry { value, ..entry })
    }

    /// Adds the bytes at the end of the key's value; a missing one counts as empty. The deadline stays.
    ///
    /// # Errors
    /// When the value becomes too large, the key is, or the epoch is older than the slot's. Nothing changed then.
    pub fn append(
        &mut self,
        epoch: Epoch,
        key: &Bytes,
        suffix: &[u8],
        now: MonoTime,
    ) -> Result<LengthOutcome, StoreError> {
        self.rewrite(epoch, key, now, |old| Ok(Some([old, suffix].concat())))
    }

    /// Writes the bytes over the key's value from `offset` on; zeros fill what lies between its end and there, and a missing
    /// value counts as empty. The deadline stays. No bytes change nothing, wherever they are put.
    ///
    /// # Errors
    /// When the value becomes too large, the key is, or the epoch is older than the slot's. Nothing changed then.
    pub fn set_range(
        &mut self,
        epoch: Epoch,
        key: &Bytes,
        offset: u64,
        part: &[u8],
        now: MonoTime,
    ) -> Result<LengthOutcome, StoreError> {
        let max = self.store.config.value_bytes_max;
        self.rewrite(epoch, key, now, |old| {
            if part.is_empty() {
                return Ok(None);
            }
            let offset = usize::try_from(offset).unwrap_or(usize::MAX);
            let end = offset.saturating_add(part.len());
            if end > max {
                // Before memory is taken for the zeros.
                return Err(StoreError::ValueTooLarge { bytes: end, max });
            }
            let mut value = Vec::with_capacity(end.max(old.len()));
            value.extend_from_slice(old);
            value.resize(end.max(old.len()), 0);
            value[offset..end].copy_from_slice(part);
            Ok(Some(value))
        })
    }

    /// Replaces the key's value by what is made of it; for none it stays.
    fn rewrite(
        &mut self,
        epoch: Epoch,
        key: &Bytes,
        now: MonoTime,
        make: impl FnOnce(&[u8]) -> Result<Option<Vec<u8>>, StoreError>,
    ) -> Result<LengthOutcome, StoreError> {
        let mut length = 0;
        let outcome = self.try_update(epoch, key, now, |current| {
            let old = current.as_ref().map(Current::value).unwrap_or_default();
            let value = make(old)?;
            length = value.as_ref().map_or(old.len(), Vec::len);
            let deadline = current.and_then(|current| current.deadline());
            Ok(value.map_or(Change::Keep, |value| Change::Put { value: value.into(), deadline }))
        })?;
        let (record, version, existed) = (outcome.record, outcome.version, outcome.existed);
        Ok(LengthOutcome { record, length, version, existed })
    }
}

#[cfg(test)]
mod tests {
    use slotmesh_slots::{Seq, Slot};

    use super::*;
    use crate::{Put, Store, StoreConfig};

    const EPOCH: Epoch = Epoch(1);
    const NOW: MonoTime = MonoTime::from_micros(10);
    const BYTES_MAX: usize = 12;

    fn check_range(start: i64, end: i64, expected: &str) {
        let store = Store::new(StoreConfig::default());
        let mut guard = store.lock(Slot::of_key(b"k"));
        let _ = guard.put(EPOCH, Put::new("k", "Hello"), NOW).unwrap();
        let entry = guard.get_range(b"k", (start, end).into(), NOW).unwrap();
        assert_eq!(entry.value, expected, "{start} {end}");
        assert_eq!(entry.version, guard.version());
        assert!(guard.get_range(b"missing", ByteRange { start, end }, NOW).is_none());
    }

    #[test]
    fn ranges_are_cut_as_redis_cuts_them() {
        check_range(0, -1, "Hello");
        check_range(1, 3, "ell");
        check_range(-3, -2, "ll");
        check_range(3, 1_000, "lo");
        check_range(-1_000, 1, "He");
        check_range(5, 9, "");
        check_range(3, 2, "");
        check_range(-2, -3, "");
        check_range(-9, -8, "H");
        check_range(-8, -9, "");
        check_range(0, -1_000, "H");
        check_range(1, -1_000, "");
        check_range(i64::MIN, i64::MAX, "Hello");
        check_range(i64::MAX, i64::MIN, "");
        assert_eq!(ByteRange { start: 0, end: -1 }.within(0), 0..0);
        assert_eq!(ByteRange { start: i64::MIN, end: 0 }.within(0), 0..0);
    }

    type Rewrite<'a> = &'a dyn Fn(&mut SlotGuard<'_>) -> Result<LengthOutcome, StoreError>;

    /// Does it to a key that holds `old`, or nothing, and returns what the key holds then; on a refusal nothing may change.
    fn rewritten(old: Option<&'static str>, rewrite: Rewrite<'_>) -> Result<String, StoreError> {
        let config = StoreConfig { value_bytes_max: BYTES_MAX, ..StoreConfig::default() };
        let store = Store::new(config);
        let mut guard = store.lock(Slot::of_key(b"k"));
        let deadline = old.map(|_| MonoTime::from_micros(20));
        if let Some(old) = old {
            let _ = guard.put(EPOCH, Put { deadline, ..Put::new("k", old) }, NOW).unwrap();
        }
        let before = guard.get(b"k", NOW);
        let outcome = rewrite(&mut guard);
        let entry = guard.get(b"k", NOW);
        let Ok(outcome) = outcome else {
            assert_eq!(entry, before);
            return Err(outcome.unwrap_err());
        };
        assert_eq!(outcome.existed, old.is_some());
        assert_eq!(outcome.version, entry.as_ref().map(|entry| entry.version));
        assert_eq!(outcome.record.is_some(), guard.version().seq > Seq(u64::from(old.is_some())));
        let value = entry.as_ref().map_or_else(Bytes::new, |entry| entry.value.clone());
        assert_eq!(outcome.length, value.len());
        assert_eq!(entry.and_then(|entry| entry.deadline), deadline);
        Ok(String::from_utf8(value.to_vec()).unwrap())
    }

    fn check_append(old: Option<&'static str>, suffix: &str, expected: &str) {
        let key = Bytes::from_static(b"k");
        let appended = rewritten(old, &|guard| {
            let outcome = guard.append(EPOCH, &key, suffix.as_bytes(), NOW)?;
            assert!(outcome.record.is_some(), "even of nothing: it makes an empty entry");
            Ok(outcome)
        });
        assert_eq!(appended.as_deref(), Ok(expected));
    }

    #[test]
    fn appending_keeps_the_deadline() {
        check_append(None, "", "");
        check_append(None, "a", "a");
        check_append(Some("a"), "bc", "abc");
        check_append(Some("a"), "", "a");
        check_append(Some("123456"), "789012", "123456789012");
    }

    fn set_range(
        old: Option<&'static str>,
        offset: u64,
        part: &'static str,
    ) -> Result<String, StoreError> {
        let key = Bytes::from_static(b"k");
        rewritten(old, &|guard| guard.set_range(EPOCH, &key, offset, part.as_bytes(), NOW))
    }

    fn check_set_range(old: Option<&'static str>, offset: u64, part: &'static str, expected: &str) {
        assert_eq!(set_range(old, offset, part).as_deref(), Ok(expected), "{offset} {part}");
    }

    #[test]
    fn zeros_fill_what_lies_between() {
        check_set_range(Some("Hello"), 0, "J", "Jello");
        check_set_range(Some("Hello"), 4, "a!", "Hella!");
        check_set_range(Some("Hello"), 5, "!", "Hello!");
        check_set_range(Some("Hello"), 7, "!", "Hello\0\0!");
        check_set_range(None, 2, "a", "\0\0a");
        check_set_range(None, 0, "", "");
        check_set_range(None, u64::MAX, "", "");
        check_set_range(Some("Hello"), u64::MAX, "", "Hello");
        check_set_range(Some("Hello"), 11, "!", "Hello\0\0\0\0\0\0!");
    }

    #[test]
    fn what_would_be_too_large_is_refused_before_memory_is_taken() {
        let key = Bytes::from_static(b"k");
        let too_large = |bytes| StoreError::ValueTooLarge { bytes, max: BYTES_MAX };
        let appended =
            rewritten(Some("1234567"), &|guard| guard.append(EPOCH, &key, b"89abcd", NOW));
        assert_eq!(appended, Err(too_large(13)));
        assert_eq!(set_range(None, 12, "!"), Err(too_large(13)));
        assert_eq!(set_range(Some("a"), u64::MAX, "!"), Err(too_large(usize::MAX)));
        assert_eq!(set_range(Some("a"), 1 << 62, "!"), Err(too_large((1 << 62) + 1)));
    }
}
