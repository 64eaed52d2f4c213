//! Joining and anti-entropy, which are the same: "this is the digest of what I know", answered by the members of the
//! buckets that differ.

use std::collections::VecDeque;
use std::net::SocketAddr;

use rand::Rng;
use slotmesh_slots::{MonoTime, NodeId};

use super::Gossip;
use super::merge::alive_rumor;
use crate::digest::{Digest, in_mask};
use crate::member::{Member, MemberState};
use crate::wire::{Body, Claim, Packet, Rumor};

/// Answers in progress; a whole rack that joins at one seed. Who finds no place tries again.
const FEEDS_MAX: usize = 64;
/// Datagrams of one feed per gossip tick: about 500 members without metadata at once.
const FEED_BURST: usize = 16;
/// Datagrams of all feeds per gossip tick (0.77 MB/s by default): a storm of joiners must not fill the network.
const FEED_BUDGET: usize = 64;

/// Members on their way to one node.
#[derive(Debug)]
struct Feed {
    to: SocketAddr,
    target: NodeId,
    token: u32,
    mask: u64,
    want: u64,
    /// The last member that was sent.
    cursor: Option<NodeId>,
    started: bool,
}

/// All feeds, and what may still be sent before the next tick.
#[derive(Debug)]
pub(super) struct Feeds {
    queue: VecDeque<Feed>,
    budget: usize,
}

impl Default for Feeds {
    fn default() -> Self {
        Self { queue: VecDeque::new(), budget: FEED_BUDGET }
    }
}

impl Feeds {
    pub(super) fn is_empty(&self) -> bool {
        self.queue.is_empty()
    }

    pub(super) fn clear(&mut self) {
        self.queue.clear();
    }

    pub(super) fn next_tick(&mut self) {
        self.budget = FEED_BUDGET;
    }

    pub(super) fn check_invariants(&self) {
        assert!(self.queue.len() <= FEEDS_MAX, "feeds are bounded");
        assert!(self.budget <= FEED_BUDGET, "the feed budget is bounded");
    }

    /// False when there is no place, or the same node is being fed already.
    fn add(&mut self, feed: Feed) -> bool {
        let fits = self.queue.len() < FEEDS_MAX
            && self.queue.iter().all(|other| other.to != feed.to || other.token != feed.token);
        if fits {
            self.queue.push_back(feed);
        }
        fits
    }
}

impl Gossip {
    pub(super) fn seed_timer(&mut self, now: MonoTime) {
        while let Some((index, seed)) = self.seeds.due(now) {
            let (addr, answered_by) = (seed.addr, seed.answered_by);
            let live = |node| self.roster.get(node).is_some_and(|e| e.member.state.is_live());
            let interval = self.config.seed_interval;
            if answered_by.is_some_and(live) || self.roster.live_at(addr).next().is_some() {
                self.seeds.satisfied(index, interval, now);
                continue;
            }
            let token = self.new_token();
            self.seeds.tried(index, token, interval, &mut self.rng, now);
            self.send_sync(addr, None, token);
        }
    }

    pub(super) fn sync_timer(&mut self, now: MonoTime) {
        if self.next_sync > now {
            return;
        }
        self.next_sync = now + self.config.sync_interval.mul_f64(self.rng.random_range(0.75..1.25));
        let partner = self.roster.pick(1, &mut self.rng, |e| e.member.state == MemberState::Alive);
        if let Some((node, addr)) = partner.first().copied() {
            self.send_sync(addr, Some(node), 0);
        }
    }

    /// Compares with a member at once: it came back from the other side of a partition.
    pub(super) fn start_sync(&mut self, node: NodeId) {
        if let Some(addr) = self.roster.get(node).map(|entry| entry.member.addr) {
            self.send_sync(addr, Some(node), 0);
        }
    }

    fn send_sync(&mut self, to: SocketAddr, target: Option<NodeId>, token: u32) {
        let own = self.own_rumor();
        let body = Body::Sync { token, digest: self.digest() };
        self.send(to, target, &body, &[own]);
    }

    fn digest(&self) -> Digest {
        let mut digest = Digest::empty();
        digest.add(self.me.node, self.me.incarnation);
        for entry in self.roster.iter().filter(|entry| entry.member.state.is_live()) {
            digest.add(entry.member.node, entry.described);
        }
        digest
    }

    /// Starts to send what the asker lacks; true when something was sent.
    pub(super) fn answer_sync(
        &mut self,
        asker: (NodeId, SocketAddr),
        token: u32,
        theirs: &Digest,
    ) -> bool {
        let mask = self.digest().difference(theirs);
        if mask == 0 && token == 0 {
            return false;
        }
        self.start_feed(asker, token, mask, mask)
    }

    pub(super) fn feed_back(&mut self, asker: (NodeId, SocketAddr), mask: u64) {
        self.start_feed(asker, 0, mask, 0);
    }

    fn start_feed(&mut self, to: (NodeId, SocketAddr), token: u32, mask: u64, want: u64) -> bool {
        let (target, to) = to;
        let feed = Feed { to, target, token, mask, want, cursor: None, started: false };
        let added = self.feeds.add(feed);
        if added {
            self.pump_feeds();
        }
        added && self.feeds.budget > 0
    }

    /// Sends a burst of each feed, as far as the budget goes. The first datagram opens with this node itself.
    pub(super) fn pump_feeds(&mut self) {
        for _ in 0..self.feeds.queue.len() {
            let Some(mut feed) = self.feeds.queue.pop_front() else { return };
            let mut done = false;
            for _ in 0..FEED_BURST {
                if done || self.feeds.budget == 0 {
                    break;
                }
                self.feeds.budget -= 1;
                done = self.send_feed(&mut feed);
            }
            if !done {
                self.feeds.queue.push_back(feed);
            }
        }
    }

    /// Sends the next datagram of a feed; true when it was the last.
    fn send_feed(&mut self, feed: &mut Feed) -> bool {
        let want = if feed.started { 0 } else { feed.want };
        let body = Body::Feed { token: feed.token, want };
        let mut packet = Packet::new(&self.header(Some(feed.target)), &body);
        if !feed.started {
            feed.started = true;
            packet.push(&self.own_rumor());
            if let Some(buddy) = self.buddy_rumor(feed.target) {
                packet.push(&buddy);
            }
        }
        let mut done = true;
        for entry in self.roster.after(feed.cursor).filter(|e| in_mask(e.member.node, feed.mask)) {
            let rumors = self.summary(&entry.member, entry.described);
            if rumors.iter().flatten().map(Rumor::len).sum::<usize>() > packet.room() {
                done = false;
                break;
            }
            rumors.iter().flatten().for_each(|rumor| {
                packet.push(rumor);
            });
            feed.cursor = Some(entry.member.node);
        }
        self.push_transmit(feed.to, packet.finish());
        done
    }

    /// What there is to say of a member: its description while it lives, then the doubt or the end.
    fn summary(&self, member: &Member, described: u64) -> [Option<Rumor>; 2] {
        // Passing a suspicion on is no observation of one's own.
        let by = self.suspicions.first_observer(member.node).unwrap_or(self.me.node);
        let claim = match member.state {
            MemberState::Alive => None,
            MemberState::Suspect => Some(Claim::Suspect { by }),
            MemberState::Dead => Some(Claim::Dead { by }),
            MemberState::Left => Some(Claim::Left),
        };
        let (node, incarnation) = (member.node, member.incarnation);
        let mut alive = alive_rumor(member);
        alive.incarnation = described;
        [
            member.state.is_live().then_some(alive),
            claim.map(|claim| Rumor { node, incarnation, claim }),
        ]
    }
}
