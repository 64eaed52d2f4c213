use std::time::{Duration, SystemTime, UNIX_EPOCH};

use crate::protocol::Frame;

use super::failure;

/// A decimal integer, written as Redis would write it: no sign but a minus, no zeros before it.
pub(super) fn integer(arg: &[u8]) -> Result<i64, Frame> {
    let number: Option<i64> = std::str::from_utf8(arg).ok().and_then(|digits| digits.parse().ok());
    let number = number.filter(|number| number.to_string().as_bytes() == arg);
    number.ok_or_else(failure::not_an_integer)
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
    let millis = number.checked_mul(factor).ok_or_else(|| failure::invalid_expire(command))?;
    // As in Redis, the point in time has to be a number too.
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_millis();
    if millis > i64::MAX - i64::try_from(now).unwrap_or_default() {
        return Err(failure::invalid_expire(command));
    }
    Ok(millis)
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
