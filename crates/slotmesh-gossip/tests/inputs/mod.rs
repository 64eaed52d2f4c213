//! Random inputs to three engines: whole, damaged and invented datagrams, time, evidence. Shared by a test and a fuzz target.

use std::collections::VecDeque;
use std::net::SocketAddr;
use std::time::Duration;

use bytes::Bytes;
use slotmesh_gossip::{DATAGRAM_MAX, Event, Evidence, Gossip, GossipConfig, META_MAX, Transmit};
use slotmesh_slots::{MonoTime, NodeId};

const NODES: usize = 3;
/// Datagrams kept in flight; older ones are lost.
const IN_FLIGHT_MAX: usize = 64;

/// The engines and the datagrams between them.
pub(crate) struct Harness {
    nodes: Vec<Gossip>,
    in_flight: VecDeque<(SocketAddr, Transmit)>,
    now: MonoTime,
    /// Events seen, so that a test can tell that the inputs reach something.
    pub(crate) events: usize,
    /// Datagrams refused.
    pub(crate) refused: usize,
}

fn addr(index: usize) -> SocketAddr {
    SocketAddr::from(([10, 0, 0, 1 + index as u8], 7600))
}

impl Harness {
    /// Runs the operations that the bytes spell and checks the invariants after each.
    pub(crate) fn run(input: &[u8]) -> Self {
        let now = MonoTime::from_micros(1);
        let start = |index: usize| {
            let node = NodeId::from_random(index as u64 + 1);
            let config = GossipConfig::default();
            Gossip::new(config, node, addr(index), Bytes::new(), index as u64, now)
        };
        let nodes = (0..NODES).map(start).collect();
        let mut harness = Self { nodes, in_flight: VecDeque::new(), now, events: 0, refused: 0 };
        let mut rest = input;
        while let Some((operation, tail)) = rest.split_first_chunk::<4>() {
            rest = harness.operate(*operation, tail);
        }
        harness
    }

    /// One operation: what, on which node, and two bytes of detail.
    fn operate<'a>(&mut self, operation: [u8; 4], tail: &'a [u8]) -> &'a [u8] {
        let [kind, node, detail, more] = operation;
        let index = usize::from(node) % NODES;
        let now = self.now;
        let mut rest = tail;
        match kind % 16 {
            0..=4 => self.deliver(None),
            5 => self.deliver(Some((detail, more))),
            6 => {
                let (bytes, left) = tail.split_at(tail.len().min(usize::from(detail)));
                rest = left;
                self.feed(index, addr(usize::from(more) % 5), bytes);
            }
            7 => {
                let all = [
                    Evidence::Replied,
                    Evidence::ConnectionLost,
                    Evidence::Refused,
                    Evidence::Departed,
                ];
                let node = NodeId::from_random(u64::from(detail) % 5);
                self.nodes[index].handle_evidence(node, all[usize::from(more) % 4], now);
            }
            8 => {
                let meta = Bytes::from(vec![more; usize::from(detail) * 3]);
                let fits = meta.len() <= META_MAX;
                let set = self.nodes[index].set_meta(meta, now);
                assert!(fits || set.is_err(), "too long metadata is refused");
            }
            9 => self.nodes[index].add_seeds([addr(usize::from(detail) % 4)]),
            10 if detail == 0 => self.nodes[index].leave(now),
            11 => self.pass(Duration::from_millis(u64::from(detail) << (more % 12))),
            _ => self.next_timer(),
        }
        self.settle();
        rest
    }

    fn deliver(&mut self, damage: Option<(u8, u8)>) {
        let Some((from, transmit)) = self.in_flight.pop_front() else { return };
        let Some(index) = (0..NODES).find(|index| addr(*index) == transmit.to) else { return };
        let mut bytes = transmit.bytes.to_vec();
        let Some((at, value)) = damage else {
            let taken = self.nodes[index].handle_datagram(from, &bytes, self.now);
            assert_eq!(taken, Ok(()), "own datagrams are well formed");
            return;
        };
        let at = usize::from(at) * bytes.len() / 256;
        if value == 0 {
            bytes.truncate(at);
        } else {
            bytes[at] ^= value;
        }
        self.feed(index, from, &bytes);
    }

    fn feed(&mut self, index: usize, from: SocketAddr, bytes: &[u8]) {
        self.refused +=
            usize::from(self.nodes[index].handle_datagram(from, bytes, self.now).is_err());
    }

    /// Time passes, then all timers run, late as they are.
    fn pass(&mut self, duration: Duration) {
        self.now = self.now + duration;
        for node in &mut self.nodes {
            node.handle_timeout(self.now);
        }
    }

    /// The next timer runs in time.
    fn next_timer(&mut self) {
        let Some(at) = self.nodes.iter().filter_map(Gossip::poll_timeout).min() else { return };
        self.now = self.now.max(at);
        for node in &mut self.nodes {
            if node.poll_timeout().is_some_and(|at| at <= self.now) {
                node.handle_timeout(self.now);
                assert!(
                    node.poll_timeout().is_none_or(|at| at > self.now),
                    "a timer that ran is over"
                );
            }
        }
    }

    fn settle(&mut self) {
        for (index, node) in self.nodes.iter_mut().enumerate() {
            node.check_invariants();
            while let Some(transmit) = node.poll_transmit() {
                assert!(transmit.bytes.len() <= DATAGRAM_MAX);
                self.in_flight.push_back((addr(index), transmit));
            }
            while let Some(event) = node.poll_event() {
                self.events += usize::from(!matches!(event, Event::Paused(_)));
            }
        }
        while self.in_flight.len() > IN_FLIGHT_MAX {
            self.in_flight.pop_front();
        }
    }
}
