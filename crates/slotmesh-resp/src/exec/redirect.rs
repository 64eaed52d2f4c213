use bytes::Bytes;
use slotmesh_slots::Slot;

use super::table::Spec;
use crate::gateway::Gateway;
use crate::protocol::Frame;
use crate::session::Session;

/// With redirects on, what a client in cluster mode has to be told instead of an answer: `CROSSSLOT`, or `MOVED` when the
/// owner of the keys' slot can be reached by the client.
pub(super) fn check(
    gateway: &Gateway,
    session: &Session,
    spec: &Spec,
    args: &[Bytes],
) -> Option<Frame> {
    if !gateway.config.redirect {
        return None;
    }
    let mut slots = spec.keys_in(args).map(|key| Slot::of_key(key));
    let slot = slots.next()?;
    if slots.any(|other| other != slot) {
        return Some(Frame::error("CROSSSLOT Keys in request don't hash to the same slot"));
    }
    let owner = gateway.node.owner(slot)?;
    // Reads that may go anywhere are forwarded: the answer is still the owner's.
    if owner == gateway.node.id() || (session.reads_anywhere && !spec.writes()) {
        return None;
    }
    let status = gateway.node.status();
    let addr = status.cluster.members().get(&owner)?.info.resp?;
    Some(Frame::error(format!("MOVED {slot} {}:{}", addr.ip(), addr.port())))
}
