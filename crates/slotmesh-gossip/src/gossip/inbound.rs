//! What a datagram does.

use std::net::SocketAddr;

use slotmesh_slots::{MonoTime, Reader};

use super::Gossip;
use super::merge::Source;
use crate::error::GossipError;
use crate::member::MemberState;
use crate::wire::{Body, Claim, DATAGRAM_MAX, Datagram, Header, Rumor, VERSION};

impl Gossip {
    /// Takes a datagram. Answers go to the address that the sender names as its own; `from` is where the datagram
    /// came from, and when the two agree a new identity there proves that an older one is gone.
    ///
    /// # Errors
    /// When the datagram cannot be read; nothing changed then, and the sender should not be punished for one.
    pub fn handle_datagram(
        &mut self,
        from: SocketAddr,
        bytes: &[u8],
        now: MonoTime,
    ) -> Result<(), GossipError> {
        let datagram = parse(from, bytes)?;
        let Datagram { header, body, rumors } = datagram;
        if header.sender == self.me.node {
            self.came_back(&body);
            return Ok(());
        }
        self.note_sender(&header, now);
        for rumor in rumors {
            let source = match &body {
                _ if rumor.node == header.sender => Source::Itself,
                Body::Feed { .. } => Source::Feed,
                _ => Source::Rumor,
            };
            self.apply(rumor, source, now);
        }
        self.displace_older(header.sender, from, now);
        let answered = self.handle_body(&header, body, now);
        if !answered && !self.has_left() {
            self.answer_needs(&header, now);
        }
        self.finish(now);
        Ok(())
    }

    /// An own datagram: a seed is this node under another address.
    fn came_back(&mut self, body: &Body) {
        if let Body::Sync { token, .. } = body {
            self.seeds.is_own(*token);
        }
    }

    fn note_sender(&mut self, header: &Header, now: MonoTime) {
        if header.leaving {
            let rumor =
                Rumor { node: header.sender, incarnation: header.incarnation, claim: Claim::Left };
            self.apply(rumor, Source::Itself, now);
        }
        if let Some(entry) = self.roster.get_mut(header.sender) {
            entry.announced = entry.announced.max(header.incarnation);
        }
    }

    /// True when the sender got an answer, which carries everything it may need.
    fn handle_body(&mut self, header: &Header, body: Body, now: MonoTime) -> bool {
        let sender = (header.sender, header.addr);
        match body {
            // A node that leaves still answers: its silence would only make others suspect what they will hear anyway.
            Body::Ping { token } => {
                let own = self.own_rumor();
                let first = if header.want_self { std::slice::from_ref(&own) } else { &[] };
                let ack = Body::Ack { token, about: self.me.node };
                self.send(header.addr, Some(header.sender), &ack, first);
                return true;
            }
            _ if self.has_left() => {}
            Body::Ack { token, about } => self.acked(sender.0, sender.1, token, about, now),
            Body::PingReq { token, node, addr } => self.relay(sender, token, node, addr, now),
            Body::Nack { token } => self.nacked(header.sender, token),
            Body::Gossip => {}
            Body::Sync { token, digest } => return self.answer_sync(sender, token, &digest),
            Body::Feed { token, want } => {
                self.seeds.answered(token, header.sender);
                if want != 0 {
                    self.feed_back(sender, want);
                }
            }
        }
        false
    }

    /// Introduces this node to one that asks, asks one back that is not known, and tells one that is held for dead.
    fn answer_needs(&mut self, header: &Header, now: MonoTime) {
        let dead = self
            .roster
            .get(header.sender)
            .is_some_and(|entry| entry.member.state == MemberState::Dead);
        if header.want_self || (self.wants(header.sender) && !header.leaving) {
            self.introduce(header.sender, header.addr);
        } else if dead {
            self.nudge(header.sender, now);
        }
    }
}

fn parse(from: SocketAddr, bytes: &[u8]) -> Result<Datagram, GossipError> {
    if bytes.len() > DATAGRAM_MAX {
        return Err(GossipError::TooLong { from, len: bytes.len() });
    }
    let mut input = Reader::new(bytes);
    let malformed = |reason| GossipError::Malformed { from, reason };
    let found = input.u8().map_err(malformed)?;
    if found != VERSION {
        return Err(GossipError::Version { from, found, ours: VERSION });
    }
    Datagram::read(&mut input).map_err(malformed)
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;
    use slotmesh_slots::NodeId;

    use super::*;
    use crate::GossipConfig;
    use crate::wire::tests::samples;

    const NOW: MonoTime = MonoTime::from_micros(1_000_000);

    fn gossip() -> Gossip {
        let addr = SocketAddr::from(([10, 0, 0, 1], 7600));
        Gossip::new(GossipConfig::default(), NodeId::from_random(1), addr, Bytes::new(), 1, NOW)
    }

    #[test]
    fn cut_or_damaged_datagrams_are_refused_and_change_nothing() {
        let from = SocketAddr::from(([10, 0, 0, 9], 7600));
        let mut gossip = gossip();
        let before = format!("{gossip:?}");
        let mut boundaries = 0;
        for bytes in samples() {
            for cut in 0..bytes.len() {
                if gossip.handle_datagram(from, &bytes[..cut], NOW).is_ok() {
                    // A cut between two rumours leaves a shorter datagram that is whole.
                    boundaries += 1;
                    gossip = self::gossip();
                    continue;
                }
                assert_eq!(format!("{gossip:?}"), before, "cut at {cut}");
            }
            let mut other = bytes.to_vec();
            other[0] = VERSION + 1;
            let refused = gossip.handle_datagram(from, &other, NOW);
            assert!(matches!(refused, Err(GossipError::Version { found: 2, .. })));
            other[0] = VERSION;
            other[1] = 200;
            assert!(gossip.handle_datagram(from, &other, NOW).is_err());
            other.resize(DATAGRAM_MAX + 1, 0);
            let refused = gossip.handle_datagram(from, &other, NOW);
            assert!(matches!(refused, Err(GossipError::TooLong { .. })));
            assert_eq!(format!("{gossip:?}"), before);
        }
        assert_eq!(boundaries, samples().len() * 5, "five rumours per sample");
    }

    #[test]
    fn whole_datagrams_of_every_kind_are_taken() {
        let from = SocketAddr::from(([10, 0, 0, 9], 7600));
        for bytes in samples() {
            let mut gossip = gossip();
            gossip.handle_datagram(from, &bytes, NOW).unwrap();
            gossip.check_invariants();
            assert!(gossip.poll_event().is_some());
        }
    }

    #[test]
    fn a_node_whose_description_is_outdated_or_unknown_is_asked_for_it() {
        let (mut left, mut right) = (gossip(), other());
        right.set_meta(Bytes::from_static(b"old"), NOW).unwrap();
        // An answer to nothing, without rumours: only the header tells that there is somebody.
        exchange(&mut right, &mut left);
        assert_eq!(left.member(right.me.node).unwrap().meta, "old");
        right.set_meta(Bytes::from_static(b"new"), NOW).unwrap();
        exchange(&mut right, &mut left);
        assert_eq!(left.member(right.me.node).unwrap().meta, "new");
    }

    fn other() -> Gossip {
        let addr = SocketAddr::from(([10, 0, 0, 2], 7600));
        Gossip::new(GossipConfig::default(), NodeId::from_random(2), addr, Bytes::new(), 2, NOW)
    }

    /// One bare datagram from the first to the second, then all that follows from it.
    fn exchange(first: &mut Gossip, second: &mut Gossip) {
        first.rumors = crate::rumor::RumorQueue::default();
        let target = second.me.node;
        first.send(second.me.addr, Some(target), &Body::Nack { token: 7 }, &[]);
        first.rumors = crate::rumor::RumorQueue::default();
        for _ in 0..3 {
            while let Some(transmit) = first.poll_transmit() {
                second.handle_datagram(first.me.addr, &transmit.bytes, NOW).unwrap();
            }
            while let Some(transmit) = second.poll_transmit() {
                first.handle_datagram(second.me.addr, &transmit.bytes, NOW).unwrap();
            }
        }
    }
}
