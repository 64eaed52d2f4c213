use std::time::Duration;

use quinn::{ConnectionId, ConnectionIdGenerator};
use rand::Rng;

/// Random connection ids. The usual keyed ones would let a restarted process take the packets of its predecessor's
/// connections for noise; it must answer them with a stateless reset.
#[derive(Debug)]
pub(crate) struct RandomIds;

/// 64 random bits never meet by chance among the few thousand connections of a process.
const ID_BYTES: usize = 8;

impl ConnectionIdGenerator for RandomIds {
    fn generate_cid(&mut self) -> ConnectionId {
        let id: [u8; ID_BYTES] = rand::rng().random();
        ConnectionId::new(&id)
    }

    fn cid_len(&self) -> usize {
        ID_BYTES
    }

    fn cid_lifetime(&self) -> Option<Duration> {
        None
    }
}
