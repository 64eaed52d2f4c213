//! What the scripts answer.

use std::time::Duration;

use bytes::Bytes;
use redis::Value as Raw;
use slotmesh_node::{LoadEnd, Reply, Value};
use slotmesh_slots::{Epoch, Seq, Version};

/// A server's versions are times in microseconds since 1970. Those of an epoch, which is thirteen days then, have so many bits, for local tiers keep few.
const SEQ_BITS: u32 = 40;

/// What `PTTL` says of a key that is not there.
const GONE: i64 = -2;

/// Bytes of a version before a value.
const VERSION_BYTES: usize = 8;

/// A server, or something that calls itself one, answered what no script of ours does.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Odd;

/// What somebody who asks to load is told.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Told {
    Reply(Reply),
    /// Somebody else loads it, under this token.
    Busy([u8; 8]),
}

/// A version as scripts have it; the lowest one is none of theirs.
pub(crate) fn version_bytes(version: Version) -> [u8; VERSION_BYTES] {
    (u64::from(version.epoch.0) << SEQ_BITS | version.seq.0).to_be_bytes()
}

/// A value behind its version, and how long it lives. What is too short for one is nobody's of ours.
pub(crate) fn get(answer: Raw) -> Result<Reply, Odd> {
    let mut fields = Fields::of(answer)?;
    let missing = Reply::Missing { slot: Version::default() };
    match fields.next()? {
        Raw::Nil => Ok(missing),
        Raw::BulkString(found) if found.len() < VERSION_BYTES => Ok(missing),
        Raw::BulkString(found) => match fields.int()? {
            GONE => Ok(missing),
            left => Ok(Reply::Value(value(found, left)?)),
        },
        _ => Err(Odd),
    }
}

pub(crate) fn put(answer: Raw) -> Result<Reply, Odd> {
    let mut fields = Fields::of(answer)?;
    let (applied, version, existed) = (fields.flag()?, fields.version_if_any()?, fields.flag()?);
    Ok(Reply::Put { applied, version, existed, copies: 1 })
}

pub(crate) fn get_and_put(answer: Raw) -> Result<Reply, Odd> {
    let mut fields = Fields::of(answer)?;
    let (applied, version, existed) = (fields.flag()?, fields.version_if_any()?, fields.flag()?);
    let previous = if existed { Some(fields.value()?) } else { None };
    Ok(Reply::Previous { previous, applied, version, copies: 1 })
}

pub(crate) fn delete(answer: Raw) -> Result<Reply, Odd> {
    let mut fields = Fields::of(answer)?;
    let (applied, existed) = (fields.flag()?, fields.flag()?);
    Ok(Reply::Delete { applied, existed, version: fields.version_if_any()?, copies: 1 })
}

pub(crate) fn load(answer: Raw) -> Result<Told, Odd> {
    let mut fields = Fields::of(answer)?;
    Ok(Told::Reply(match fields.int()? {
        1 => Reply::Value(fields.value()?),
        2 => Reply::MayLoad { slot: fields.version_if_any()?.ok_or(Odd)? },
        3 => return Ok(Told::Busy(*fields.bytes()?.first_chunk().ok_or(Odd)?)),
        4 => {
            let message = fields.bytes()?.into();
            let retry_after = millis(fields.int()?).ok_or(Odd)?;
            Reply::LoadEnded(LoadEnd::Failed { message, retry_after })
        }
        5 => Reply::LoadEnded(LoadEnd::Nothing),
        _ => return Err(Odd),
    }))
}

pub(crate) fn end_load(answer: &Raw) -> Result<Reply, Odd> {
    match *answer {
        Raw::Int(held @ 0..=1) => Ok(Reply::EndedLoad { held: held == 1 }),
        _ => Err(Odd),
    }
}

/// The parts of an answer, one after the other.
struct Fields(std::vec::IntoIter<Raw>);

impl Fields {
    fn of(answer: Raw) -> Result<Self, Odd> {
        match answer {
            Raw::Array(fields) => Ok(Self(fields.into_iter())),
            _ => Err(Odd),
        }
    }

    fn next(&mut self) -> Result<Raw, Odd> {
        self.0.next().ok_or(Odd)
    }

    fn int(&mut self) -> Result<i64, Odd> {
        match self.next()? {
            Raw::Int(number) => Ok(number),
            _ => Err(Odd),
        }
    }

    fn flag(&mut self) -> Result<bool, Odd> {
        match self.int()? {
            0 => Ok(false),
            1 => Ok(true),
            _ => Err(Odd),
        }
    }

    fn bytes(&mut self) -> Result<Vec<u8>, Odd> {
        match self.next()? {
            Raw::BulkString(bytes) => Ok(bytes),
            _ => Err(Odd),
        }
    }

    fn version_if_any(&mut self) -> Result<Option<Version>, Odd> {
        match self.bytes()? {
            none if none.is_empty() => Ok(None),
            some => version(&some).map(Some),
        }
    }

    fn value(&mut self) -> Result<Value, Odd> {
        let found = self.bytes()?;
        value(found, self.int()?)
    }
}

/// From what `PTTL` says; `None` is for ever.
fn millis(left: i64) -> Option<Duration> {
    u64::try_from(left).ok().map(Duration::from_millis)
}

fn value(found: Vec<u8>, left: i64) -> Result<Value, Odd> {
    let version = version(&found)?;
    let value = Bytes::from(found).split_off(VERSION_BYTES);
    Ok(Value { value, version, ttl: millis(left) })
}

fn version(bytes: &[u8]) -> Result<Version, Odd> {
    let micros = u64::from_be_bytes(*bytes.first_chunk().ok_or(Odd)?);
    Ok(Version::new(Epoch((micros >> SEQ_BITS) as u32), Seq(micros & ((1 << SEQ_BITS) - 1))))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn versions_keep_their_order() {
        let of = |micros: u64| version(&micros.to_be_bytes()).expect("a time");
        let times = [1, (1 << SEQ_BITS) - 1, 1 << SEQ_BITS, 1_796_096_389_392_587];
        assert!(
            times
                .windows(2)
                .all(|pair| Version::default() < of(pair[0]) && of(pair[0]) < of(pair[1]))
        );
        assert!(times.iter().all(|micros| version_bytes(of(*micros)) == micros.to_be_bytes()));
        assert_eq!(version(&[0; 7]), Err(Odd));
    }
}
