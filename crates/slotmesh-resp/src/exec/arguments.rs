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
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Unit {
    Seconds,
    Millis,
}

/// Whether a time counts from now on or is a point on the wall clock.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Count {
    FromNow(Unit),
    At(Unit),
}

impl Count {
    /// What is left of a time of a command; nothing when it is over.
    pub(super) fn left(self, arg: &[u8], command: &str) -> Result<Duration, Frame> {
        let millis = self.millis(arg, command)?;
        let left = Duration::from_millis(u64::try_from(millis).unwrap_or_default());
        Ok(match self {
            Self::FromNow(_) => left,
            Self::At(_) => left.saturating_sub(wall_clock()),
        })
    }

    /// As [`Count::left`] of a time that must be positive, where an entry is written anew.
    pub(super) fn lifetime(self, arg: &[u8], command: &str) -> Result<Duration, Frame> {
        if self.millis(arg, command)? <= 0 {
            return Err(failure::invalid_expire(command));
        }
        self.left(arg, command)
    }

    /// The time in milliseconds; may be negative.
    fn millis(self, arg: &[u8], command: &str) -> Result<i64, Frame> {
        let number = integer(arg)?;
        let (Self::FromNow(unit) | Self::At(unit)) = self;
        let factor = if unit == Unit::Seconds { 1_000 } else { 1 };
        let millis = number.checked_mul(factor).ok_or_else(|| failure::invalid_expire(command))?;
        // As in Redis, the point in time has to be a number too.
        let now = i64::try_from(wall_clock().as_millis()).unwrap_or_default();
        if matches!(self, Self::FromNow(_)) && millis > i64::MAX - now {
            return Err(failure::invalid_expire(command));
        }
        Ok(millis)
    }
}

/// Time since the epoch of the wall clock.
pub(super) fn wall_clock() -> Duration {
    SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default()
}
