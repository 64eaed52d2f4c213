use std::time::Duration;

use slotmesh_node::{ExpireCondition, Value};

use super::arguments::{Count, Unit, wall_clock};
use super::{Call, failure};
use crate::protocol::Frame;

/// `EXPIRE`, `PEXPIRE`, `EXPIREAT`, `PEXPIREAT`. A lifetime that is over removes the key.
pub(super) async fn expire(call: &Call<'_>, count: Count) -> Result<Frame, Frame> {
    let condition = condition(call)?;
    let ttl = count.left(call.arg(2), call.spec.name)?;
    told(call.gateway.node.expire_if(call.bytes(1), Some(ttl), condition).await)
}

pub(super) async fn persist(call: &Call<'_>) -> Result<Frame, Frame> {
    told(call.gateway.node.expire(call.bytes(1), None).await)
}

fn told(applied: Result<bool, slotmesh_node::OpError>) -> Result<Frame, Frame> {
    applied
        .map(|applied| Frame::Integer(applied.into()))
        .map_err(|error| failure::operation(&error))
}

fn condition(call: &Call<'_>) -> Result<ExpireCondition, Frame> {
    let (mut nx, mut xx, mut gt, mut lt) = (false, false, false, false);
    for index in 3..call.args.len() {
        match call.word(index).as_str() {
            "nx" => nx = true,
            "xx" => xx = true,
            "gt" => gt = true,
            "lt" => lt = true,
            _ => {
                let given = failure::shown(call.arg(index));
                return Err(Frame::error(format!("ERR Unsupported option {given}")));
            }
        }
    }
    match (nx, xx, gt, lt) {
        (false, false, false, false) => Ok(ExpireCondition::Always),
        (true, false, false, false) => Ok(ExpireCondition::Unset),
        (true, ..) => {
            Err(Frame::error("ERR NX and XX, GT or LT options at the same time are not compatible"))
        }
        (_, _, true, true) => {
            Err(Frame::error("ERR GT and LT options at the same time are not compatible"))
        }
        // What is later than the lifetime there is needs one anyway.
        (_, _, true, _) => Ok(ExpireCondition::Later),
        (_, false, _, true) => Ok(ExpireCondition::Earlier),
        (_, true, _, true) => Ok(ExpireCondition::SetAndEarlier),
        (_, true, ..) => Ok(ExpireCondition::Set),
    }
}

/// `TTL`, `PTTL`.
pub(super) async fn left(call: &Call<'_>, unit: Unit) -> Result<Frame, Frame> {
    // Part of a millisecond counts: a key that lives never shows less than one.
    shown(call, unit, |ttl| ttl.as_micros().div_ceil(1_000)).await
}

/// `EXPIRETIME`, `PEXPIRETIME`: the wall clock's time when the lifetime is over, as far as this node's clock says now.
pub(super) async fn end(call: &Call<'_>, unit: Unit) -> Result<Frame, Frame> {
    shown(call, unit, |ttl| (wall_clock() + ttl).as_millis()).await
}

/// A number of milliseconds made of what is left, seconds rounded; -1 for a key without a lifetime, -2 for none.
async fn shown(
    call: &Call<'_>,
    unit: Unit,
    millis: impl FnOnce(Duration) -> u128,
) -> Result<Frame, Frame> {
    let found = call.gateway.node.get(call.arg(1)).await;
    let found: Option<Value> = found.map_err(|error| failure::operation(&error))?;
    let Some(value) = found else { return Ok(Frame::Integer(-2)) };
    let Some(ttl) = value.ttl else { return Ok(Frame::Integer(-1)) };
    let millis = i64::try_from(millis(ttl)).unwrap_or(i64::MAX);
    Ok(Frame::Integer(match unit {
        Unit::Seconds => millis.saturating_add(500) / 1_000,
        Unit::Millis => millis,
    }))
}
