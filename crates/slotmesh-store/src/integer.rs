use bytes::Bytes;
use slotmesh_slots::{Epoch, MonoTime};

use crate::error::StoreError;
use crate::guard::SlotGuard;
use crate::outcome::IncrementOutcome;
use crate::update::{Change, Current};

impl SlotGuard<'_> {
    /// Adds `delta` to the key's value, a decimal text as in Redis; a missing one counts as zero. The deadline stays.
    ///
    /// # Errors
    /// When the value is no integer, the sum overflows, the key is too large or the epoch is older than the slot's.
    /// Nothing changed then.
    pub fn increment(
        &mut self,
        epoch: Epoch,
        key: &Bytes,
        delta: i64,
        now: MonoTime,
    ) -> Result<IncrementOutcome, StoreError> {
        let mut value = 0;
        let outcome = self.try_update(epoch, key, now, |current| {
            value = sum(current.as_ref().map(Current::value), delta)?;
            let deadline = current.and_then(|current| current.deadline());
            Ok(Change::Put { value: Bytes::from(value.to_string()), deadline })
        })?;
        // What was written last in the slot is the sum.
        let version = self.version();
        Ok(IncrementOutcome { record: outcome.record, value, version, existed: outcome.existed })
    }
}

/// Reads a decimal integer of 64 bits exactly as Redis does (`string2ll`): no sign but a leading minus, no leading zeros, no
/// spaces, no minus zero. That is the form that `to_string` writes, so a value that came back equal is in it.
fn parse(value: &[u8]) -> Option<i64> {
    let text = std::str::from_utf8(value).ok()?;
    let number: i64 = text.parse().ok()?;
    (number.to_string() == text).then_some(number)
}

/// The value plus `delta`; nothing counts as zero.
fn sum(value: Option<&[u8]>, delta: i64) -> Result<i64, StoreError> {
    let current = match value {
        Some(value) => parse(value).ok_or(StoreError::NotAnInteger)?,
        None => 0,
    };
    current.checked_add(delta).ok_or(StoreError::Overflow)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(value: &str, delta: i64, expected: &Result<i64, StoreError>) {
        assert_eq!(&sum(Some(value.as_bytes()), delta), expected, "{value:?}");
    }

    #[test]
    fn only_what_redis_takes_is_an_integer() {
        check("0", 5, &Ok(5));
        check("-12", 2, &Ok(-10));
        check("9223372036854775807", -1, &Ok(i64::MAX - 1));
        check("-9223372036854775808", 0, &Ok(i64::MIN));
        for value in
            ["", " 1", "1 ", "+1", "01", "-0", "-", "1.0", "0x1", "9223372036854775808", "é"]
        {
            check(value, 1, &Err(StoreError::NotAnInteger));
        }
        check("9223372036854775807", 1, &Err(StoreError::Overflow));
        check("-9223372036854775808", -1, &Err(StoreError::Overflow));
        assert_eq!(sum(None, i64::MIN), Ok(i64::MIN));
    }
}
