//! Values written whole, and values read while they are changed.

use std::time::Duration;

use bytes::Bytes;
use slotmesh_node::{CallOptions, Condition, Op, OpError, PutOptions, Reply, Value};
use slotmesh_slots::Class;

use super::arguments::{Count, Unit};
use super::{Call, failure};
use crate::protocol::Frame;

/// How long an entry is to live, as `SET` and `GETEX` are told.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Lasting {
    /// A time, which is the next argument.
    Time(Count),
    /// `KEEPTTL` of `SET`, `PERSIST` of `GETEX`.
    Word,
}

/// The options of `SET` and of `GETEX`. Given twice, the last one counts; different ones for the same exclude each other.
#[derive(Default)]
struct Options<'a> {
    lasting: Option<(Lasting, &'a [u8])>,
    condition: Condition,
    get: bool,
}

impl<'a> Options<'a> {
    fn of_set(call: &Call<'a>) -> Result<Self, Frame> {
        let mut options = Self::default();
        let mut index = 3;
        while index < call.args.len() {
            match (call.word(index).as_str(), options.condition) {
                ("nx", Condition::Always | Condition::Absent) => {
                    options.condition = Condition::Absent;
                }
                ("xx", Condition::Always | Condition::Present) => {
                    options.condition = Condition::Present;
                }
                ("get", _) => options.get = true,
                (word, _) => options.take(word, "keepttl", call, &mut index)?,
            }
            index += 1;
        }
        Ok(options)
    }

    fn of_getex(call: &Call<'a>) -> Result<Self, Frame> {
        let mut options = Self::default();
        let mut index = 2;
        while index < call.args.len() {
            options.take(&call.word(index), "persist", call, &mut index)?;
            index += 1;
        }
        Ok(options)
    }

    /// Takes an option that says how long, with the time if it has one.
    fn take(
        &mut self,
        word: &str,
        alone: &str,
        call: &Call<'a>,
        index: &mut usize,
    ) -> Result<(), Frame> {
        let lasting = match word {
            "ex" => Lasting::Time(Count::FromNow(Unit::Seconds)),
            "px" => Lasting::Time(Count::FromNow(Unit::Millis)),
            "exat" => Lasting::Time(Count::At(Unit::Seconds)),
            "pxat" => Lasting::Time(Count::At(Unit::Millis)),
            word if word == alone => Lasting::Word,
            _ => return Err(failure::syntax()),
        };
        if self.lasting.is_some_and(|(other, _)| other != lasting) {
            return Err(failure::syntax());
        }
        let mut time = &[][..];
        if lasting != Lasting::Word {
            *index += 1;
            time = call.args.get(*index).ok_or_else(failure::syntax)?;
        }
        self.lasting = Some((lasting, time));
        Ok(())
    }

    fn ttl(&self, command: &str) -> Result<Option<Duration>, Frame> {
        match self.lasting {
            Some((Lasting::Time(count), time)) => count.lifetime(time, command).map(Some),
            Some((Lasting::Word, _)) | None => Ok(None),
        }
    }
}

pub(super) async fn set(call: &Call<'_>) -> Result<Frame, Frame> {
    let options = Options::of_set(call)?;
    let ttl = options.ttl("set")?;
    let keep_ttl = matches!(options.lasting, Some((Lasting::Word, _)));
    let condition = options.condition;
    let put = PutOptions { ttl, keep_ttl, condition, ..PutOptions::default() };
    if options.get {
        let once = PutOptions { call: CallOptions::once(), ..put };
        let node = &call.gateway.node;
        return previous(call, node.get_and_put(call.bytes(1), call.bytes(2), once).await);
    }
    let applied = self::put(call, call.bytes(2), put).await?;
    Ok(if applied { Frame::OK } else { Frame::Null })
}

pub(super) async fn setnx(call: &Call<'_>) -> Result<Frame, Frame> {
    let options = PutOptions { condition: Condition::Absent, ..PutOptions::default() };
    Ok(Frame::Integer(put(call, call.bytes(2), options).await?.into()))
}

/// `SETEX`, `PSETEX`.
pub(super) async fn setex(call: &Call<'_>, unit: Unit) -> Result<Frame, Frame> {
    let ttl = Some(Count::FromNow(unit).lifetime(call.arg(2), call.spec.name)?);
    put(call, call.bytes(3), PutOptions { ttl, ..PutOptions::default() }).await?;
    Ok(Frame::OK)
}

pub(super) async fn getset(call: &Call<'_>) -> Result<Frame, Frame> {
    let node = &call.gateway.node;
    let options = PutOptions { call: CallOptions::once(), ..PutOptions::default() };
    previous(call, node.get_and_put(call.bytes(1), call.bytes(2), options).await)
}

pub(super) async fn getdel(call: &Call<'_>) -> Result<Frame, Frame> {
    previous(call, call.gateway.node.get_and_delete(call.bytes(1)).await)
}

pub(super) async fn getex(call: &Call<'_>) -> Result<Frame, Frame> {
    let options = Options::of_getex(call)?;
    let node = &call.gateway.node;
    let (changes, ttl) = (options.lasting.is_some(), options.ttl(call.spec.name));
    match ttl {
        Ok(ttl) if changes => previous(call, node.get_and_expire(call.bytes(1), ttl).await),
        Ok(_) => previous(call, node.get(call.arg(1)).await),
        // As in Redis, a key that is not there makes nothing of the time.
        Err(refusal) => match previous(call, node.get(call.arg(1)).await)? {
            Frame::Null => Ok(Frame::Null),
            _ => Err(refusal),
        },
    }
}

/// Writes the command's key; whether the condition held. With a condition it takes a token, for a repetition would find what the
/// first attempt wrote, and Redis clients cannot tell that from another's write themselves. Without one it is the same twice,
/// and a token would cost memory for nothing.
async fn put(call: &Call<'_>, value: Bytes, options: PutOptions) -> Result<bool, Frame> {
    let PutOptions { ttl, keep_ttl, condition, .. } = options;
    let op = Op::Put { key: call.bytes(1), value, ttl, keep_ttl, condition, class: Class::Cache };
    let how = CallOptions { once: !op.is_idempotent(), ..CallOptions::default() };
    match call.gateway.node.execute(op, how).await {
        Ok(Reply::Put { applied, .. }) => Ok(applied),
        Ok(_) => Err(failure::unexpected()),
        Err(error) => Err(failure::operation(&error)),
    }
}

/// The value that was there, counted as read.
fn previous(call: &Call<'_>, found: Result<Option<Value>, OpError>) -> Result<Frame, Frame> {
    let found = found.map_err(|error| failure::operation(&error))?;
    call.gateway.counters.read(found.is_some());
    Ok(found.map_or(Frame::Null, |found| Frame::Bulk(found.value)))
}
