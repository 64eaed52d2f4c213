use std::collections::BTreeSet;
use std::sync::atomic::Ordering;
use std::time::Duration;

use slotmesh_slots::{Mistake, MonoTime, NodeId, Slot};

use crate::event::PrimaryEvent;
use crate::link::Link;
use crate::primary::Primary;
use crate::role::{After, Fault, Grow, Phase};

/// Replicas that failed, or that were proposed, and are looked at again.
#[derive(Debug, Default)]
pub(crate) struct Suspects {
    /// Without duplicates, so it is bounded by slots and replicas.
    replicas: BTreeSet<(Slot, NodeId)>,
    /// Set by the first timeout after one came.
    at: Option<MonoTime>,
}

impl Suspects {
    fn due(&self) -> Option<MonoTime> {
        (!self.replicas.is_empty()).then(|| self.at.unwrap_or(MonoTime::ZERO))
    }
}

impl Primary {
    /// Does what is due at `now`: heartbeats, asking for the removal of silent or failed replicas, attaching anew what
    /// missed something.
    pub fn handle_timeout(&self, now: MonoTime) {
        let mut after = After::default();
        let starved = self.was_starved(now);
        let links: Vec<_> = self.links.read().values().cloned().collect();
        for link in links {
            let silent = link.with(|state| {
                state.pace.wake(now);
                if starved {
                    state.silent_after = state.silent_after.max(now + self.config.silence);
                }
                if state.owes() {
                    state.stir(now, &self.config);
                }
                if state.up && now >= state.next_heartbeat {
                    state.beat(now, &self.config);
                }
                let silent = now >= state.silent_after;
                if silent {
                    state.silent_after = now + self.config.retry;
                    state.is_silent = true;
                }
                silent
            });
            if silent {
                self.silent(&link, &mut after);
            }
            after.links.push(link);
        }
        for (slot, node) in self.due_suspects(now) {
            if self.look_again(slot, node, &mut after) {
                after.suspects.push((slot, node));
            }
        }
        self.finish(after);
    }

    /// The driver had its turn: it hears the links if there is anything to hear. One that never says so is not expected to.
    pub fn note_driver(&self, now: MonoTime) {
        self.driver_seen.store(now.as_micros(), Ordering::Relaxed);
    }

    /// Whether this node itself, or its driver, was stopped or had no processor for a while: then it cannot have heard anybody,
    /// and whom it has not heard gets the time anew.
    fn was_starved(&self, now: MonoTime) -> bool {
        let late = |seen: u64| {
            seen > 0 && now.saturating_since(MonoTime::from_micros(seen)) > STARVED_AFTER
        };
        let timed = self.timed.swap(now.as_micros(), Ordering::Relaxed);
        late(timed) || late(self.driver_seen.load(Ordering::Relaxed))
    }

    /// Takes the replica for silent now, whatever was heard of it; one that is heard afterwards has to be added anew.
    pub fn give_up(&self, replica: NodeId, now: MonoTime) {
        let Ok(link) = self.link(replica) else { return };
        let mut after = After::default();
        link.with(|link| link.silent_after = now + self.config.retry);
        self.silent(&link, &mut after);
        self.finish(after);
    }

    /// When [`Primary::handle_timeout`] has something to do next.
    #[must_use]
    pub fn poll_timeout(&self) -> Option<MonoTime> {
        let links = self.links.read();
        let due = links.values().filter_map(|link| {
            link.with(|link| {
                let heartbeat = link.up.then_some(link.next_heartbeat);
                let silence = (!link.members.is_empty()).then_some(link.silent_after);
                heartbeat.into_iter().chain(silence).chain(link.pace.rest_until()).min()
            })
        });
        due.chain(self.suspects.lock().due()).min()
    }

    /// Puts replicas among those to look at again.
    pub(crate) fn suspect(&self, replicas: Vec<(Slot, NodeId)>) {
        if !replicas.is_empty() {
            self.suspects.lock().replicas.extend(replicas);
        }
    }

    fn due_suspects(&self, now: MonoTime) -> BTreeSet<(Slot, NodeId)> {
        let mut suspects = self.suspects.lock();
        if suspects.replicas.is_empty() || now < *suspects.at.get_or_insert(now + self.config.retry)
        {
            return BTreeSet::new();
        }
        suspects.at = None;
        std::mem::take(&mut suspects.replicas)
    }

    /// Nothing was heard of the replica: it has to leave the sets of its slots.
    fn silent(&self, link: &Link, after: &mut After) {
        let node = link.node;
        for slot in link.with(|link| link.members.clone()).iter() {
            let mut place = self.slot(slot);
            let Some(role) = place.as_mut() else { continue };
            let epoch = role.epoch;
            let Some(peer) = role.peer(node) else { continue };
            if peer.in_sync {
                let silently = Mistake::ShrinkWithoutCommit.is_planted();
                if silently || Mistake::AckBeforeShrink.is_planted() {
                    peer.in_sync = false;
                    role.advance(after);
                }
                if !silently {
                    after.events.push(PrimaryEvent::Shrink { slot, epoch, node });
                }
            } else if peer.grow == Grow::Barrier {
                // It may not keep writers waiting; the barrier is raised again with the next retry.
                peer.grow = Grow::Cooling;
                after.suspects.push((slot, node));
                role.advance(after);
            }
        }
    }

    /// Acts on a replica that failed, and repeats what was proposed; whether to look again.
    fn look_again(&self, slot: Slot, node: NodeId, after: &mut After) -> bool {
        let mut place = self.slot(slot);
        let Some(role) = place.as_mut() else { return false };
        let (epoch, round) = (role.epoch, role.round);
        let Some(peer) = role.peer(node) else { return false };
        let proposed = peer.grow == Grow::Proposed;
        if peer.grow == Grow::Cooling {
            peer.grow = Grow::No;
        }
        match peer.phase {
            Phase::Faulty(Fault::Gap) => self.attach(slot, epoch, peer),
            // One that was proposed counts, and is of no use: struck, it can no more be added by that proposal.
            Phase::Faulty(_) if peer.in_sync || proposed => {
                after.events.push(PrimaryEvent::Shrink { slot, epoch, node });
                return true;
            }
            Phase::Faulty(_) => self.attach(slot, epoch, peer),
            _ if proposed => {
                after.events.push(PrimaryEvent::Grow { slot, epoch, round, node });
                return true;
            }
            _ => {}
        }
        role.advance(after);
        after.links.extend(role.peer(node).map(|peer| peer.link.clone()));
        false
    }
}

/// Timers and drivers have their turn each 50 ms.
const STARVED_AFTER: Duration = Duration::from_millis(150);
