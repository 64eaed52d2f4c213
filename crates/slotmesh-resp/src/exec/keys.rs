use slotmesh_node::{CallOptions, Condition, Op, Reply};

use super::arguments::{Count, Unit};
use super::{Call, failure, lifetimes};
use crate::protocol::Frame;

/// Keys of `EXISTS` and `TOUCH` that are asked for together.
const ASKED_TOGETHER: usize = 512;

pub(super) async fn run(call: Call<'_>) -> Frame {
    let outcome = match call.spec.name {
        "del" | "unlink" => delete(&call).await,
        "exists" | "touch" => count(&call).await,
        "expire" => lifetimes::expire(&call, Count::FromNow(Unit::Seconds)).await,
        "pexpire" => lifetimes::expire(&call, Count::FromNow(Unit::Millis)).await,
        "expireat" => lifetimes::expire(&call, Count::At(Unit::Seconds)).await,
        "pexpireat" => lifetimes::expire(&call, Count::At(Unit::Millis)).await,
        "persist" => lifetimes::persist(&call).await,
        "ttl" => lifetimes::left(&call, Unit::Seconds).await,
        "pttl" => lifetimes::left(&call, Unit::Millis).await,
        "expiretime" => lifetimes::end(&call, Unit::Seconds).await,
        "pexpiretime" => lifetimes::end(&call, Unit::Millis).await,
        "type" => kind(&call).await,
        _ => Err(failure::unknown_command(call.args)),
    };
    outcome.unwrap_or_else(|refusal| refusal)
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

/// How many of the keys there are, one that is named twice counted twice. Their values stay where they are.
async fn count(call: &Call<'_>) -> Result<Frame, Frame> {
    let mut found = 0;
    for keys in call.args.get(1..).unwrap_or_default().chunks(ASKED_TOGETHER) {
        let ops = keys.iter().map(|key| Op::Touch { key: key.clone() }).collect();
        for answer in call.gateway.node.execute_many(ops, CallOptions::default()).await {
            let reply = answer.map_err(|error| failure::operation(&error))?;
            found += i64::from(matches!(reply, Reply::Touched { existed: true }));
        }
    }
    Ok(Frame::Integer(found))
}

async fn kind(call: &Call<'_>) -> Result<Frame, Frame> {
    let exists = call.gateway.node.touch(call.bytes(1)).await;
    let exists = exists.map_err(|error| failure::operation(&error))?;
    Ok(Frame::Simple(if exists { "string" } else { "none" }.into()))
}
