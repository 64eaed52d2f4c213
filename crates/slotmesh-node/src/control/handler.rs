use std::net::SocketAddr;

use bytes::Bytes;
use slotmesh_transport::{Disconnect, Handler, PeerInfo, RefusedReason, Reply, Request};
use tokio::sync::mpsc;

use super::driver::Input;
use super::{LogSlot, kind};

/// Hands what arrives at the control endpoint to the control loop, and consensus messages to the log.
pub(crate) struct ControlHandler {
    pub(crate) inputs: mpsc::Sender<Input>,
    pub(crate) log: LogSlot,
}

impl ControlHandler {
    fn push(&self, input: Input) {
        // A full queue drops what peers send again anyway.
        if self.inputs.try_send(input).is_err() {
            tracing::debug!("control input dropped: the queue is full");
        }
    }
}

impl Handler for ControlHandler {
    fn request(&self, from: &PeerInfo, request: Request, reply: Reply) {
        if request.kind == kind::CONSENSUS {
            self.log.handle(from.node, &request, reply);
        }
    }

    fn message(&self, from: &PeerInfo, message_kind: u8, body: Bytes) {
        if message_kind == kind::BRAIN {
            self.push(Input::Message(from.node, body));
        }
    }

    fn datagram(&self, from: &PeerInfo, body: Bytes) {
        self.push(Input::Datagram(from.addr, body));
    }

    fn connected(&self, peer: &PeerInfo) {
        self.push(Input::Connected(peer.node, peer.addr, peer.generation));
    }

    fn unanswered(&self, addr: SocketAddr, _why: &Disconnect) {
        self.push(Input::Unanswered(addr));
    }

    fn disconnected(&self, peer: &PeerInfo, why: &Disconnect) {
        tracing::debug!(node = %peer.node, %why, "control connection ended");
        if *why != Disconnect::Closed {
            self.push(Input::Disconnected(peer.node, *why == Disconnect::Leaving));
        }
    }

    fn refused(&self, addr: SocketAddr, why: &Disconnect) {
        if let Disconnect::Refused(RefusedReason::OtherGeneration { theirs }) = why {
            self.push(Input::Refused(*theirs));
        }
        if let Disconnect::Refused(reason) = why {
            tracing::warn!(%addr, "no connection: {reason}");
        }
    }
}
