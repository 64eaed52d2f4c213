use bytes::Bytes;
use slotmesh_node::OpError;

use super::arguments::integer;
use super::{Call, failure};
use crate::protocol::Frame;

/// `GETRANGE` and its older name `SUBSTR`.
pub(super) async fn getrange(call: &Call<'_>) -> Result<Frame, Frame> {
    let range = (integer(call.arg(2))?, integer(call.arg(3))?);
    let found = call.gateway.node.get_range(call.bytes(1), range).await;
    let found = found.map_err(|error| failure::operation(&error))?;
    call.gateway.counters.read(found.is_some());
    Ok(Frame::Bulk(found.map_or_else(Bytes::new, |found| found.value)))
}

pub(super) async fn setrange(call: &Call<'_>) -> Result<Frame, Frame> {
    let offset = u64::try_from(integer(call.arg(2))?)
        .map_err(|_| Frame::error("ERR offset is out of range"))?;
    length(call, call.gateway.node.set_range(call.bytes(1), offset, call.bytes(3)).await)
}

pub(super) async fn append(call: &Call<'_>) -> Result<Frame, Frame> {
    length(call, call.gateway.node.append(call.bytes(1), call.bytes(2)).await)
}

fn length(call: &Call<'_>, written: Result<u64, OpError>) -> Result<Frame, Frame> {
    match written {
        Ok(bytes) => Ok(Frame::Integer(i64::try_from(bytes).unwrap_or(i64::MAX))),
        // The value that would come of it, not the key.
        Err(OpError::TooLarge { bytes, .. }) if bytes != call.arg(1).len() as u64 => {
            Err(failure::string_too_long())
        }
        Err(error) => Err(failure::operation(&error)),
    }
}
