use std::collections::BTreeMap;
use std::net::SocketAddr;

use slotmesh_slots::{MonoTime, NodeId};

/// Probes done for others at the same time. A node is asked by about three others per probe interval; beyond this it
/// is flooded and stays silent, which costs the asker one helper.
pub(crate) const RELAYS_MAX: usize = 64;

/// A probe on behalf of another member.
#[derive(Debug, Clone)]
pub(crate) struct Relay {
    pub(crate) asker: NodeId,
    pub(crate) asker_addr: SocketAddr,
    pub(crate) asker_token: u32,
    pub(crate) node: NodeId,
    /// When the asker learns that no answer came so far; then until when a late answer is still passed on.
    pub(crate) nack_at: MonoTime,
    pub(crate) until: MonoTime,
    pub(crate) nacked: bool,
}

/// Running relays by the token of the ping they sent.
#[derive(Debug, Default)]
pub(crate) struct Relays(BTreeMap<u32, Relay>);

impl Relays {
    /// False when there are too many.
    pub(crate) fn add(&mut self, token: u32, relay: Relay) -> bool {
        let room = self.0.len() < RELAYS_MAX;
        if room {
            self.0.insert(token, relay);
        }
        room
    }

    /// Takes the relay that this answer belongs to.
    pub(crate) fn answered(&mut self, token: u32, about: NodeId) -> Option<Relay> {
        self.0.get(&token).filter(|relay| relay.node == about)?;
        self.0.remove(&token)
    }

    pub(crate) fn next_deadline(&self) -> Option<MonoTime> {
        self.0.values().map(|r| if r.nacked { r.until } else { r.nack_at }).min()
    }

    /// Drops what is over and returns the relays whose asker must now hear that no answer came.
    pub(crate) fn expire(&mut self, now: MonoTime) -> Vec<Relay> {
        self.0.retain(|_, relay| now < relay.until);
        let due = self.0.values_mut().filter(|relay| !relay.nacked && relay.nack_at <= now);
        due.map(|relay| {
            relay.nacked = true;
            relay.clone()
        })
        .collect()
    }

    pub(crate) fn clear(&mut self) {
        self.0.clear();
    }

    pub(crate) fn len(&self) -> usize {
        self.0.len()
    }
}
