use std::time::Duration;

use slotmesh_node::{CallOptions, Condition, Op, Reply, Value};

use super::arguments::{Unit, millis};
use super::{Call, failure};
use crate::protocol::Frame;

/// Keys of `EXISTS` that are read together: their values come along and are thrown away.
const READ_TOGETHER: usize = 512;

pub(super) async fn run(call: Call<'_>) -> Frame {
    let outcome = match call.spec.name {
        "del" | "unlink" => delete(&call).await,
        "exists" => exists(&call).await,
        "expire" => expire(&call, Unit::Seconds).await,
        "pexpire" => expire(&call, Unit::Millis).await,
        "persist" => persist(&call).await,
        "ttl" => ttl(&call, Unit::Seconds).await,
        "pttl" => ttl(&call, Unit::Millis).await,
        "type" => read(&call)
            .await
            .map(|value| Frame::Simple(if value.is_some() { "string" } else { "none" }.into())),
        _ => Err(failure::unknown_command(call.args)),
    };
    outcome.unwrap_or_else(|refusal| refusal)
}

async fn read(call: &Call<'_>) -> Result<Option<Value>, Frame> {
    call.gateway.node.get(call.arg(1)).await.map_err(|error| failure::operation(&error))
}

async fn delete(call: &Call<'_>) -> Result<Frame, Frame> {
    let op = |index| Op::Delete { key: call.bytes(index), condition: Condition::Always };
    let ops = (1..call.args.len()).map(op).collect();
    let mut removed = 0;
    for answer in call.gateway.node.execute_many(ops, CallOptions::default()).await {
        let reply = answer.map_err(|error| failure::operation(&error))?;
        removed += i64::from(matches!(reply, Reply::Delete { existed: true, .. }));
    }
    Ok(Frame::Integer(removed))
}

async fn exists(call: &Call<'_>) -> Result<Frame, Frame> {
    let mut found = 0;
    for keys in call.args.get(1..).unwrap_or_default().chunks(READ_TOGETHER) {
        let ops = keys.iter().map(|key| Op::Get { key: key.clone() }).collect();
        for answer in call.gateway.node.execute_many(ops, CallOptions::default()).await {
            let reply = answer.map_err(|error| failure::operation(&error))?;
            found += i64::from(matches!(reply, Reply::Value(_)));
        }
    }
    Ok(Frame::Integer(found))
}

async fn expire(call: &Call<'_>, unit: Unit) -> Result<Frame, Frame> {
    if call.args.len() > 3 {
        return Err(Frame::error(format!(
            "ERR Unsupported option {}",
            failure::shown(call.arg(3))
        )));
    }
    let millis = millis(call.arg(2), unit, call.spec.name)?;
    let node = &call.gateway.node;
    // A lifetime that is over removes the key, as in Redis.
    let applied = match u64::try_from(millis) {
        Ok(millis) if millis > 0 => {
            node.expire(call.bytes(1), Some(Duration::from_millis(millis))).await
        }
        _ => node.delete(call.bytes(1), CallOptions::default()).await,
    };
    applied
        .map(|applied| Frame::Integer(applied.into()))
        .map_err(|error| failure::operation(&error))
}

async fn persist(call: &Call<'_>) -> Result<Frame, Frame> {
    if read(call).await?.is_none_or(|value| value.ttl.is_none()) {
        return Ok(Frame::Integer(0));
    }
    let applied = call.gateway.node.expire(call.bytes(1), None).await;
    applied
        .map(|applied| Frame::Integer(applied.into()))
        .map_err(|error| failure::operation(&error))
}

async fn ttl(call: &Call<'_>, unit: Unit) -> Result<Frame, Frame> {
    let Some(value) = read(call).await? else { return Ok(Frame::Integer(-2)) };
    let Some(ttl) = value.ttl else { return Ok(Frame::Integer(-1)) };
    // Part of a millisecond counts: a key that lives never shows less than one.
    let millis = i64::try_from(ttl.as_micros().div_ceil(1_000)).unwrap_or(i64::MAX);
    Ok(Frame::Integer(match unit {
        Unit::Seconds => millis.saturating_add(500) / 1_000,
        Unit::Millis => millis,
    }))
}
