use slotmesh_node::{CallOptions, Condition, Op, Reply, Value};
use slotmesh_slots::Class;

use super::arguments::{Unit, integer};
use super::{Call, exchange, failure, parts};
use crate::protocol::Frame;

/// Bytes of one `MGET` reply. Redis has no such bound; a client that asks for more would take the node's memory.
const REPLY_BYTES_MAX: usize = 64 << 20;

/// Keys of an `MGET` that are read together, between two looks at [`REPLY_BYTES_MAX`].
const READ_TOGETHER: usize = 512;

pub(super) async fn run(call: Call<'_>) -> Frame {
    let outcome = match call.spec.name {
        "get" => get(&call).await,
        "set" => exchange::set(&call).await,
        "setnx" => exchange::setnx(&call).await,
        "setex" => exchange::setex(&call, Unit::Seconds).await,
        "psetex" => exchange::setex(&call, Unit::Millis).await,
        "getset" => exchange::getset(&call).await,
        "getdel" => exchange::getdel(&call).await,
        "getex" => exchange::getex(&call).await,
        "append" => parts::append(&call).await,
        "setrange" => parts::setrange(&call).await,
        "getrange" | "substr" => parts::getrange(&call).await,
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
        class: Class::Cache,
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
