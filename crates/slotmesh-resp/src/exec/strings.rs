use std::time::Duration;

use bytes::Bytes;
use slotmesh_node::{CallOptions, Condition, Op, Reply, Value};

use super::arguments::{Unit, integer, lifetime, until};
use super::{Call, failure};
use crate::protocol::Frame;

/// Bytes of one `MGET` reply. Redis has no such bound; a client that asks for more would take the node's memory.
const REPLY_BYTES_MAX: usize = 64 << 20;

/// Keys of an `MGET` that are read together, between two looks at [`REPLY_BYTES_MAX`].
const READ_TOGETHER: usize = 512;

/// How often `SET … GET` tries again when somebody else writes the key in between.
const SWAPS_MAX: usize = 32;

pub(super) async fn run(call: Call<'_>) -> Frame {
    let outcome = match call.spec.name {
        "get" => get(&call).await,
        "set" => set(&call).await,
        "setnx" => setnx(&call).await,
        "setex" => setex(&call, Unit::Seconds).await,
        "psetex" => setex(&call, Unit::Millis).await,
        "mget" => mget(&call).await,
        "mset" => mset(&call).await,
        "incr" => add(&call, 1).await,
        "decr" => add(&call, -1).await,
        "incrby" => incrby(&call).await,
        "decrby" => decrby(&call).await,
        "strlen" => strlen(&call).await,
        _ => Err(failure::unknown_command(call.args)),
    };
    outcome.unwrap_or_else(|refusal| refusal)
}

/// The command's key as it is now, counted for `INFO`.
async fn read(call: &Call<'_>) -> Result<Option<Value>, Frame> {
    let value = call.gateway.node.get(call.arg(1)).await;
    let value = value.map_err(|error| failure::operation(&error))?;
    call.gateway.counters.read(value.is_some());
    Ok(value)
}

async fn get(call: &Call<'_>) -> Result<Frame, Frame> {
    Ok(read(call).await?.map_or(Frame::Null, |value| Frame::Bulk(value.value)))
}

async fn strlen(call: &Call<'_>) -> Result<Frame, Frame> {
    Ok(Frame::Integer(read(call).await?.map_or(0, |value| value.value.len() as i64)))
}

/// How a value is written.
#[derive(Default)]
struct SetOptions {
    ttl: Option<Duration>,
    keep_ttl: bool,
    condition: Condition,
    get: bool,
}

impl SetOptions {
    fn parse(call: &Call<'_>) -> Result<Self, Frame> {
        let mut options = Self::default();
        let mut index = 3;
        while index < call.args.len() {
            let lasting = options.ttl.is_some() || options.keep_ttl;
            let free = options.condition == Condition::Always;
            let time = call.args.get(index + 1).map(AsRef::as_ref);
            match (call.word(index).as_str(), time) {
                ("nx", _) if free => options.condition = Condition::Absent,
                ("xx", _) if free => options.condition = Condition::Present,
                ("get", _) => options.get = true,
                ("keepttl", _) if !lasting => options.keep_ttl = true,
                (word, Some(time)) if !lasting => {
                    options.ttl = Some(Self::time(word, time)?);
                    index += 1;
                }
                _ => return Err(failure::syntax()),
            }
            index += 1;
        }
        Ok(options)
    }

    fn time(word: &str, time: &[u8]) -> Result<Duration, Frame> {
        match word {
            "ex" => lifetime(time, Unit::Seconds, "set"),
            "px" => lifetime(time, Unit::Millis, "set"),
            "exat" => until(time, Unit::Seconds, "set"),
            "pxat" => until(time, Unit::Millis, "set"),
            _ => Err(failure::syntax()),
        }
    }
}

/// Writes the command's key; whether the condition held.
async fn put(call: &Call<'_>, value: Bytes, options: &SetOptions) -> Result<bool, Frame> {
    let SetOptions { ttl, keep_ttl, condition, .. } = *options;
    let op = Op::Put { key: call.bytes(1), value, ttl, keep_ttl, condition };
    match call.gateway.node.execute(op, CallOptions::default()).await {
        Ok(Reply::Put { applied, .. }) => Ok(applied),
        Ok(_) => Err(failure::unexpected()),
        Err(error) => Err(failure::operation(&error)),
    }
}

async fn set(call: &Call<'_>) -> Result<Frame, Frame> {
    let options = SetOptions::parse(call)?;
    if options.get {
        return swap(call, options).await;
    }
    let applied = put(call, call.bytes(2), &options).await?;
    Ok(if applied { Frame::OK } else { Frame::Null })
}

/// `SET … GET`: reads, then writes on the condition that the key still holds what was read.
async fn swap(call: &Call<'_>, options: SetOptions) -> Result<Frame, Frame> {
    let SetOptions { ttl, keep_ttl, condition: wanted, .. } = options;
    for _ in 0..SWAPS_MAX {
        let old = read(call).await?;
        let condition =
            old.as_ref().map_or(Condition::Absent, |old| Condition::Version(old.version));
        let refused = match wanted {
            Condition::Absent => old.is_some(),
            Condition::Present => old.is_none(),
            _ => false,
        };
        let options = SetOptions { ttl, keep_ttl, condition, get: true };
        if refused || put(call, call.bytes(2), &options).await? {
            return Ok(old.map_or(Frame::Null, |old| Frame::Bulk(old.value)));
        }
    }
    Err(Frame::error("TRYAGAIN others write the key all the time"))
}

async fn setnx(call: &Call<'_>) -> Result<Frame, Frame> {
    let options = SetOptions { condition: Condition::Absent, ..SetOptions::default() };
    Ok(Frame::Integer(put(call, call.bytes(2), &options).await?.into()))
}

async fn setex(call: &Call<'_>, unit: Unit) -> Result<Frame, Frame> {
    let ttl = Some(lifetime(call.arg(2), unit, call.spec.name)?);
    let options = SetOptions { ttl, ..SetOptions::default() };
    put(call, call.bytes(3), &options).await?;
    Ok(Frame::OK)
}

async fn mget(call: &Call<'_>) -> Result<Frame, Frame> {
    let keys = call.args.get(1..).unwrap_or_default();
    let mut items = Vec::with_capacity(keys.len());
    let mut bytes = 0;
    for keys in keys.chunks(READ_TOGETHER) {
        let ops = keys.iter().map(|key| Op::Get { key: key.clone() }).collect();
        for answer in call.gateway.node.execute_many(ops, CallOptions::default()).await {
            let item = match answer.map_err(|error| failure::operation(&error))? {
                Reply::Value(value) => Frame::Bulk(value.value),
                _ => Frame::Null,
            };
            call.gateway.counters.read(item != Frame::Null);
            bytes += item.size();
            items.push(item);
        }
        if bytes > REPLY_BYTES_MAX {
            let refusal = format!("ERR the reply would be larger than {REPLY_BYTES_MAX} bytes");
            return Err(Frame::Error(refusal));
        }
    }
    Ok(Frame::Array(items))
}

async fn mset(call: &Call<'_>) -> Result<Frame, Frame> {
    if call.args.len().is_multiple_of(2) {
        return Err(failure::wrong_arity("mset"));
    }
    // Of a key that is named twice the last value counts, whatever order the operations are carried out in.
    let mut named = std::collections::HashSet::new();
    let last_named = |&index: &usize| named.insert(call.arg(index));
    let places: Vec<usize> = (1..call.args.len()).step_by(2).rev().filter(last_named).collect();
    let op = |&index: &usize| Op::Put {
        key: call.bytes(index),
        value: call.bytes(index + 1),
        ttl: None,
        keep_ttl: false,
        condition: Condition::Always,
    };
    let ops = places.iter().map(op).collect();
    for answer in call.gateway.node.execute_many(ops, CallOptions::default()).await {
        answer.map_err(|error| failure::operation(&error))?;
    }
    Ok(Frame::OK)
}

async fn add(call: &Call<'_>, delta: i64) -> Result<Frame, Frame> {
    let sum = call.gateway.node.increment(call.bytes(1), delta).await;
    sum.map(Frame::Integer).map_err(|error| failure::operation(&error))
}

async fn incrby(call: &Call<'_>) -> Result<Frame, Frame> {
    add(call, integer(call.arg(2))?).await
}

async fn decrby(call: &Call<'_>) -> Result<Frame, Frame> {
    let delta = integer(call.arg(2))?.checked_neg();
    let delta = delta.ok_or_else(|| Frame::error("ERR decrement would overflow"))?;
    add(call, delta).await
}
