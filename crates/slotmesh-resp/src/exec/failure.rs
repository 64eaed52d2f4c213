use bytes::Bytes;
use slotmesh_node::OpError;

use crate::protocol::Frame;

/// Bytes of an argument, or of all arguments, that an error repeats; as in Redis.
const SHOWN_BYTES_MAX: usize = 128;

/// What a failed operation is to a Redis client. The crate's page lists the meanings.
pub(super) fn operation(error: &OpError) -> Frame {
    Frame::Error(match error {
        OpError::Unavailable { .. } | OpError::Refused(_) | OpError::Stopped => {
            format!("CLUSTERDOWN {error}")
        }
        OpError::Busy => format!("TRYAGAIN {error}"),
        OpError::Ambiguous { why } => {
            format!("ERR outcome unknown, the write may have happened or happen yet: {why}")
        }
        OpError::Full => "OOM command not allowed when used memory > 'maxmemory'.".to_owned(),
        OpError::NotAnInteger => return not_an_integer(),
        error => format!("ERR {error}"),
    })
}

/// An owner answered with something that is no answer to the operation.
pub(super) fn unexpected() -> Frame {
    Frame::error("ERR outcome unknown, the owner answered something else")
}

pub(super) fn not_an_integer() -> Frame {
    Frame::error("ERR value is not an integer or out of range")
}

pub(super) fn syntax() -> Frame {
    Frame::error("ERR syntax error")
}

pub(super) fn invalid_expire(command: &str) -> Frame {
    Frame::error(format!("ERR invalid expire time in '{command}' command"))
}

/// A value would become longer than one may be.
pub(super) fn string_too_long() -> Frame {
    Frame::error("ERR string exceeds maximum allowed size (proto-max-bulk-len)")
}

pub(super) fn wrong_arity(command: &str) -> Frame {
    Frame::error(format!("ERR wrong number of arguments for '{command}' command"))
}

pub(super) fn no_auth() -> Frame {
    Frame::error("NOAUTH Authentication required.")
}

pub(super) fn wrong_password() -> Frame {
    Frame::error("WRONGPASS invalid username-password pair or user is disabled.")
}

pub(super) fn unknown_command(args: &[Bytes]) -> Frame {
    let (name, args) = args.split_first().map_or((&[][..], args), |(name, args)| (name, args));
    let mut beginning = String::new();
    for arg in args {
        if beginning.len() >= SHOWN_BYTES_MAX {
            break;
        }
        let left = SHOWN_BYTES_MAX - beginning.len();
        beginning.push_str(&format!("'{}' ", cut(arg, left)));
    }
    Frame::error(format!(
        "ERR unknown command '{}', with args beginning with: {beginning}",
        shown(name)
    ))
}

/// An argument as errors repeat it.
pub(super) fn shown(arg: &[u8]) -> String {
    cut(arg, SHOWN_BYTES_MAX)
}

fn cut(arg: &[u8], bytes_max: usize) -> String {
    String::from_utf8_lossy(arg.get(..bytes_max).unwrap_or(arg)).into_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(error: &OpError, expected: &str) {
        assert_eq!(operation(error), Frame::error(expected));
    }

    #[test]
    fn every_failure_has_its_code() {
        let why = || "it is down".to_owned();
        check(
            &OpError::Unavailable { why: why() },
            "CLUSTERDOWN no node may serve the slot now: it is down",
        );
        check(&OpError::Stopped, "CLUSTERDOWN the node is shut down");
        check(&OpError::Busy, "TRYAGAIN too much is under way");
        check(
            &OpError::Ambiguous { why: why() },
            "ERR outcome unknown, the write may have happened or happen yet: it is down",
        );
        check(&OpError::Full, "OOM command not allowed when used memory > 'maxmemory'.");
        check(&OpError::NotAnInteger, "ERR value is not an integer or out of range");
        check(&OpError::Overflow, "ERR increment or decrement would overflow");
        check(&OpError::TooLarge { bytes: 9, max: 8 }, "ERR 9 bytes are too many, 8 are allowed");
    }
}
