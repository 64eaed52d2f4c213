use std::time::{Duration, SystemTime, UNIX_EPOCH};

use crate::protocol::Frame;

use super::failure;

/// A decimal integer.
pub(super) fn integer(arg: &[u8]) -> Result<i64, Frame> {
    let digits = std::str::from_utf8(arg).ok().filter(|digits| !digits.starts_with('+'));
    digits.and_then(|digits| digits.parse().ok()).ok_or_else(failure::not_an_integer)
}

/// Whether a time counts in seconds or milliseconds.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Unit {
    Seconds,
    Millis,
}

/// A time span of a command, in milliseconds; may be negative.
pub(super) fn millis(arg: &[u8], unit: Unit, command: &str) -> Result<i64, Frame> {
    let number = integer(arg)?;
    let factor = if unit == Unit::Seconds { 1_000 } else { 1 };
    number.checked_mul(factor).ok_or_else(|| failure::invalid_expire(command))
}

/// A lifetime, which must be positive.
pub(super) fn lifetime(arg: &[u8], unit: Unit, command: &str) -> Result<Duration, Frame> {
    let millis = millis(arg, unit, command)?;
    let millis = u64::try_from(millis).ok().filter(|&millis| millis > 0);
    millis.map(Duration::from_millis).ok_or_else(|| failure::invalid_expire(command))
}

/// What is left until a point on the wall clock; nothing when it has passed. The point must be positive.
pub(super) fn until(arg: &[u8], unit: Unit, command: &str) -> Result<Duration, Frame> {
    let point = lifetime(arg, unit, command)?;
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    Ok(point.saturating_sub(now))
}
