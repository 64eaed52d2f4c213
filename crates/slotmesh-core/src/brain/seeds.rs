use std::collections::BTreeSet;
use std::net::SocketAddr;
use std::time::Duration;

use slotmesh_slots::{Generation, MonoTime, NodeId};

use super::Brain;

/// How long founding waits for seeds that are silent: as long as an attempt to connect takes that nobody answers. One that
/// runs and can be reached answers the first packet.
const SEEDS_WAIT: Duration = Duration::from_secs(3);

/// Seeds of which this node does not know yet whether a cluster lives there.
#[derive(Debug)]
pub(super) struct Seeds {
    unheard: BTreeSet<SocketAddr>,
    until: MonoTime,
}

impl Seeds {
    /// Nobody was asked yet; `me` is no question.
    pub(super) fn new(seeds: &[SocketAddr], me: SocketAddr, now: MonoTime) -> Self {
        let unheard = seeds.iter().copied().filter(|seed| *seed != me).collect();
        Self { unheard, until: now + SEEDS_WAIT }
    }

    /// Whether some may still answer; `present` tells from where nodes were heard of by other ways. Once all are known or
    /// waited for long enough it stays so.
    fn are_awaited(&mut self, present: impl Fn(SocketAddr) -> bool, now: MonoTime) -> bool {
        if now >= self.until || self.unheard.iter().all(|seed| present(*seed)) {
            self.unheard.clear();
        }
        !self.unheard.is_empty()
    }
}

impl Brain {
    /// A connection to this node stands, whichever side made it: so it is alive, at this address, and belongs to the
    /// generation, if any, that it said.
    pub fn handle_connected(
        &mut self,
        node: NodeId,
        addr: SocketAddr,
        generation: Option<Generation>,
        now: MonoTime,
    ) {
        self.seeds.unheard.remove(&addr);
        if let Some(theirs) = generation.filter(|_| self.generation.is_none()) {
            self.peers.note_host(node, theirs);
            self.meet_generation(Some(node), theirs, now);
        }
    }

    /// An attempt to connect to this address ended without a connection.
    pub fn handle_unanswered(&mut self, addr: SocketAddr) {
        self.seeds.unheard.remove(&addr);
    }

    /// Whether a seed that has not answered yet may belong to a cluster: until then nobody founds or promises another one.
    pub(super) fn awaits_seeds(&mut self, now: MonoTime) -> bool {
        let peers = &self.peers;
        self.seeds.are_awaited(|seed| peers.lives_at(seed), now)
    }
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;

    use super::*;
    use crate::brain::Output;
    use crate::brain::testing::{addr, at, info, node, started};
    use crate::message::{Envelope, Message, Meta};
    use crate::wire;

    /// The given one of three nodes, each other's seeds, two of which found a cluster; it sees the other of the first two.
    fn starting(me: u64) -> Brain {
        let mut brain = started(me, (1..=3).map(addr).collect(), 2, 1);
        see(&mut brain, 3 - me);
        brain
    }

    fn see(brain: &mut Brain, number: u64) {
        let meta = Meta { info: info(number), generation: None };
        brain.handle_peer(node(number), addr(number), meta, at(0));
    }

    /// Whether the first asks the second for its promise at this time.
    fn asks(brain: &mut Brain, millis: u64) -> bool {
        brain.handle_timeout(at(millis));
        said(brain, |message| matches!(message, Message::FoundAsk(_)))
    }

    fn promises(brain: &mut Brain, millis: u64) -> bool {
        let generation = Generation { cluster: 9, reform: 0 };
        let envelope = Envelope { generation: None, message: Message::FoundAsk(generation) };
        brain.handle_message(node(1), &wire::encode(&envelope), at(millis)).unwrap();
        said(brain, |message| matches!(message, Message::FoundPromise(_)))
    }

    fn said(brain: &mut Brain, wanted: fn(&Message) -> bool) -> bool {
        let decode = |body: &Bytes| wire::decode::<Envelope>(body).unwrap().message;
        let outputs: Vec<Output> = std::iter::from_fn(|| brain.poll_output()).collect();
        let wanted =
            |output: &Output| matches!(output, Output::Send { body, .. } if wanted(&decode(body)));
        outputs.iter().any(wanted)
    }

    #[test]
    fn nobody_founds_or_promises_before_the_seeds_have_answered_or_were_waited_for() {
        let (mut first, mut second) = (starting(1), starting(2));
        assert!(!asks(&mut first, 2_900) && !promises(&mut second, 2_900));
        assert!(asks(&mut first, 3_000) && promises(&mut second, 3_000));
        for heard in [
            |brain: &mut Brain| brain.handle_unanswered(addr(3)),
            |brain: &mut Brain| brain.handle_connected(node(3), addr(3), None, at(0)),
            |brain: &mut Brain| see(brain, 3),
        ] {
            let (mut first, mut second) = (starting(1), starting(2));
            heard(&mut first);
            heard(&mut second);
            assert!(asks(&mut first, 50) && promises(&mut second, 50));
        }
    }

    #[test]
    fn who_is_answered_by_a_member_joins_its_cluster() {
        let (mut first, mut second) = (starting(1), starting(2));
        let theirs = Generation { cluster: 8, reform: 0 };
        first.handle_connected(node(3), addr(3), Some(theirs), at(0));
        assert_eq!(first.generation(), Some(theirs));
        assert!(!asks(&mut first, 3_000));
        // Bound to another founder it does not join, but neither does it forget.
        assert!(promises(&mut second, 3_000));
        second.handle_connected(node(3), addr(3), Some(theirs), at(3_000));
        assert_eq!(second.generation(), None);
        let release = Message::FoundRelease(Generation { cluster: 9, reform: 0 });
        let envelope = Envelope { generation: None, message: release };
        second.handle_message(node(1), &wire::encode(&envelope), at(3_010)).unwrap();
        second.handle_timeout(at(3_100));
        assert_eq!(second.generation(), Some(theirs));
    }

    #[test]
    fn a_member_that_is_gone_again_is_no_cluster_to_join() {
        let mut second = starting(2);
        assert!(promises(&mut second, 3_000));
        let theirs = Generation { cluster: 8, reform: 0 };
        second.handle_connected(node(3), addr(3), Some(theirs), at(3_000));
        second.handle_disconnect(node(3), false, at(3_010));
        second.founding.handle_release(node(1), Generation { cluster: 9, reform: 0 });
        second.handle_timeout(at(3_100));
        assert_eq!(second.generation(), None);
    }
}
