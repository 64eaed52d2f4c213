//! How a replica of a slot comes, keeps up, fails and goes.

use std::sync::Arc;
use std::sync::atomic::Ordering;

use bytes::Bytes;
use slotmesh_slots::{Epoch, Mistake, MonoTime, NodeList, Reader, Seq, Slot, Version};

use crate::error::LinkError;
use crate::event::PrimaryEvent;
use crate::link::{Link, Progress};
use crate::pace::Share;
use crate::primary::{Primary, PrimarySlot};
use crate::role::{After, Fault, Grow, Peer, Phase, Role};
use crate::wire::{Refusal, Up};

impl Primary {
    /// Ends a role and takes its replicas off their links.
    pub(crate) fn retire(&self, slot: Slot, role: Option<Box<Role>>, after: &mut After) {
        let peers = role.map_or_else(Vec::new, |role| role.end(after));
        peers.into_iter().for_each(|peer| leave(slot, peer, after));
    }

    /// Brings the role's replicas in line with the table.
    pub(crate) fn update(
        &self,
        role: &mut Role,
        new: &PrimarySlot,
        now: MonoTime,
        after: &mut After,
    ) {
        role.moving = new.moving;
        if std::mem::replace(&mut role.round, new.round) != new.round {
            // Another filling has begun since: what is being copied was struck in between, and starts again.
            let copies: Vec<Peer> = role.peers.extract_if(.., |peer| !peer.in_sync).collect();
            copies.into_iter().for_each(|peer| leave(role.slot, peer, after));
        }
        let named = |peer: &mut Peer| {
            new.in_sync.contains(peer.link.node) || new.copying.contains(peer.link.node)
        };
        let gone: Vec<Peer> = role.peers.extract_if(.., |peer| !named(peer)).collect();
        gone.into_iter().for_each(|peer| leave(role.slot, peer, after));
        self.join(role, &new.in_sync, true, now, after);
        self.join(role, &new.copying, false, now, after);
        role.advance(after);
    }

    fn join(
        &self,
        role: &mut Role,
        nodes: &NodeList,
        in_sync: bool,
        now: MonoTime,
        after: &mut After,
    ) {
        let (slot, epoch) = (role.slot, role.epoch);
        for node in nodes.iter() {
            if let Some(peer) = role.peer(node) {
                match (peer.in_sync, in_sync) {
                    (false, true) => (peer.in_sync, peer.grow) = (true, Grow::No),
                    (true, false) => {
                        // It left the set for a reason: what it has is asked for anew.
                        (peer.in_sync, peer.acked) = (false, Seq(0));
                        self.attach(slot, epoch, peer);
                    }
                    _ => continue,
                }
                after.links.push(peer.link.clone());
                continue;
            }
            let mut links = self.links.write();
            let link = self.link_or_new(&mut links, node, now);
            link.with(|link| link.members.insert(slot));
            drop(links);
            after.links.push(link.clone());
            let mut peer = Peer::new(link, in_sync);
            self.attach(slot, epoch, &mut peer);
            role.peers.push(peer);
        }
    }

    /// Asks the replica what it has of the slot, if the link is up.
    pub(crate) fn attach(&self, slot: Slot, epoch: Epoch, peer: &mut Peer) {
        let attach = self.next_attach.fetch_add(1, Ordering::Relaxed);
        let up = peer.link.with(|link| link.attach(slot, epoch, attach));
        (peer.attach, peer.phase) = if up { (attach, Phase::Asked) } else { (0, Phase::Detached) };
        peer.status = None;
    }

    /// Handles every message of a frame from the replica.
    pub(crate) fn answers(
        &self,
        link: &Arc<Link>,
        frame: &Bytes,
        now: MonoTime,
        after: &mut After,
    ) -> Result<(), LinkError> {
        let mut input = Reader::shared(frame);
        while input.remaining() > 0 {
            match Up::decode(&mut input)? {
                Up::Ack { position } => {
                    for progress in link.with(|link| link.acknowledge(position, now))? {
                        self.progress(link, progress, after);
                    }
                }
                Up::Status { slot, attach, version, digest } => {
                    self.status(link, (slot, attach), (version, digest), after);
                }
                Up::Nack { slot, attach, why } => self.nack(link, (slot, attach), why, after),
                Up::Pressure { bytes } => {
                    let replica = link.node;
                    after.events.push(PrimaryEvent::Pressure { replica, bytes });
                }
                Up::Share { percent } => {
                    link.with(|link| link.pace.ask(Share::percent(percent)));
                }
                Up::Echo { stamp } => link.with(|link| {
                    let stamp = (stamp > 0).then(|| MonoTime::from_micros(stamp));
                    link.echoed = link.echoed.max(stamp);
                }),
            }
        }
        Ok(())
    }

    fn progress(&self, link: &Link, progress: Progress, after: &mut After) {
        let mut place = self.slot(progress.slot);
        let Some(role) = place.as_mut() else { return };
        let Some(peer) = role.peer(link.node).filter(|peer| peer.attach == progress.attach) else {
            return;
        };
        peer.acked = peer.acked.max(progress.seq);
        if peer.phase == Phase::Copying {
            peer.phase = Phase::Attached;
        }
        role.advance(after);
    }

    /// Decides from the version that the replica holds how it gets the rest.
    fn status(
        &self,
        link: &Link,
        (slot, attach): (Slot, u64),
        (version, digest): (Version, u128),
        after: &mut After,
    ) {
        let mut place = self.slot(slot);
        let Some(role) = place.as_mut() else { return };
        let (last, replica) = (role.last, link.node);
        let Some(peer) = role.peer(replica) else { return };
        if peer.attach != attach || peer.phase != Phase::Asked {
            return;
        }
        peer.status = Some((version, digest));
        let prefix = version == last || self.ring.follows(slot, version);
        match (peer.counts(), prefix) {
            (true, true) => {
                peer.follow(slot, version.seq);
                if version == last {
                    after.events.push(PrimaryEvent::Compare { replica, slot });
                }
                role.advance(after);
            }
            (true, false) if !Mistake::RepairInPlace.is_planted() => {
                drop(place);
                self.fault(link, (slot, attach), Fault::Lacks, after);
            }
            _ => {
                (peer.phase, peer.acked) = (Phase::Copying, Seq(0));
                link.with(|link| link.want_snapshot(slot));
            }
        }
    }

    fn nack(&self, link: &Link, (slot, attach): (Slot, u64), why: Refusal, after: &mut After) {
        let fault = match why {
            Refusal::Gap { .. } => Fault::Gap,
            Refusal::Corrupt => Fault::Corrupt,
            Refusal::StaleEpoch { .. } => Fault::Refused,
        };
        let faulty = self.fault(link, (slot, attach), fault, after);
        if let (true, Refusal::StaleEpoch { promised }) = (faulty, why) {
            after.events.push(PrimaryEvent::Refused { slot, node: link.node, promised });
        }
    }

    /// Stops sending the slot to a replica. False when that attachment is over already.
    pub(crate) fn fault(
        &self,
        link: &Link,
        (slot, attach): (Slot, u64),
        fault: Fault,
        after: &mut After,
    ) -> bool {
        let mut place = self.slot(slot);
        let Some(role) = place.as_mut() else { return false };
        let epoch = role.epoch;
        let Some(peer) = role.peer(link.node).filter(|peer| peer.attach == attach && attach != 0)
        else {
            return false;
        };
        peer.detach();
        peer.phase = Phase::Faulty(fault);
        if peer.in_sync && fault != Fault::Gap {
            after.events.push(PrimaryEvent::Shrink { slot, epoch, node: link.node });
        }
        link.with(|link| link.detach(slot));
        after.suspects.push((slot, link.node));
        // A copy that counted at the barrier does so no more.
        role.advance(after);
        true
    }
}

impl Peer {
    /// The link or the attachment is gone. A copy that was proposed still counts.
    pub(crate) fn detach(&mut self) {
        (self.attach, self.phase) = (0, Phase::Detached);
        if self.grow == Grow::Barrier {
            self.grow = Grow::No;
        }
    }

    /// The replica has everything up to `seq`: it gets what follows.
    pub(crate) fn follow(&mut self, slot: Slot, seq: Seq) {
        self.phase = Phase::Attached;
        self.acked = self.acked.max(seq);
        self.link.with(|link| link.resume(slot, self.attach, seq.next()));
    }
}

/// Takes a replica of the slot off its link.
fn leave(slot: Slot, peer: Peer, after: &mut After) {
    peer.link.with(|link| {
        link.members.remove(slot);
        link.detach(slot);
    });
    after.links.push(peer.link);
}
