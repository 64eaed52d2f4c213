//! Who loads what is not there: of all callers in the cluster one at a time loads a key, and the others wait for what it comes to.
//!
//! The slot's primary gives a caller that finds nothing a **lease** to load (Nishtala et al.: Scaling Memcache at Facebook, NSDI 2013, §3.2.1,
//! where who comes second is told to come again; here it waits). A lease ends with the write or removal of its key, which makes what
//! is loaded under it worthless; when its holder says so; when it is over; and when its node is no member any more. An error of the
//! loader is given to all who wait, and to all who ask until it may be tried again.
//!
//! Kept by the primary alone and within bounds: who asks a new primary may load a second time, and so may who finds no room.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

use bytes::Bytes;
use parking_lot::Mutex;
use slotmesh_slots::{MonoTime, NodeId, Slot};

use crate::request::{LoadEnd, LoadTerms};

/// Parts that are locked on their own.
const SHARDS: usize = 64;

/// Keys that are being loaded or rest after an error; who asks for more loads without a lease.
const KEYS_MAX: usize = 1 << 16;

/// Callers that wait for one key: one for each node and cache, so that this is never reached by honest ones.
const WAITING_MAX: usize = 1 << 12;

/// Bytes of an error that are kept.
const MESSAGE_BYTES_MAX: usize = 1 << 10;

/// The leases of all slots, and who waits for them (`W`).
pub(super) struct Loads<W> {
    shards: [Mutex<BTreeMap<Bytes, OfKey<W>>>; SHARDS],
    keys: AtomicUsize,
    ready: Mutex<Vec<(W, Ready)>>,
    /// Whether there may be any, so that writes need not lock to find none.
    is_ready: AtomicBool,
}

struct OfKey<W> {
    slot: Slot,
    lease: Option<Lease>,
    /// The error, and until when it is not tried again.
    failed: Option<(Bytes, MonoTime)>,
    waiting: Vec<(W, MonoTime)>,
}

struct Lease {
    node: NodeId,
    token: u64,
    until: MonoTime,
}

/// What becomes of who asks.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Asked<W> {
    /// It loads.
    Granted(W),
    /// It does not load: that was tried a moment ago, by whomever, or somebody does and it will not wait.
    Ended(W, LoadEnd),
    /// It waits: [`Loads::take_ready`] has it later.
    Waits,
}

/// Why somebody waits no longer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Ready {
    /// It may ask again: the key was written or removed, or the lease is free.
    Again,
    /// The load came to this.
    Ended(LoadEnd),
}

impl<W> Loads<W> {
    pub(super) fn new() -> Self {
        Self {
            shards: std::array::from_fn(|_| Mutex::default()),
            keys: AtomicUsize::new(0),
            ready: Mutex::default(),
            is_ready: AtomicBool::new(false),
        }
    }

    /// Asks for the lease of a key that is not there; under the slot's lock, so that no write comes in between. Who has to wait does so until
    /// `patience` is over.
    pub(super) fn ask(
        &self,
        (slot, key): (Slot, &Bytes),
        terms: &LoadTerms,
        patience: MonoTime,
        now: MonoTime,
        who: W,
    ) -> Asked<W> {
        let mut shard = self.shard(slot).lock();
        let Some(known) = shard.get_mut(key) else {
            if self.keys.load(Ordering::Relaxed) < KEYS_MAX {
                self.keys.fetch_add(1, Ordering::Relaxed);
                let lease = Some(Lease::of(terms, now));
                let of_key = OfKey { slot, lease, failed: None, waiting: Vec::new() };
                shard.insert(key.clone(), of_key);
            }
            return Asked::Granted(who);
        };
        if let Some((message, until)) = known.failed.as_ref().filter(|(_, until)| *until > now) {
            let (message, retry_after) = (message.clone(), *until - now);
            return Asked::Ended(who, LoadEnd::Failed { message, retry_after });
        }
        match &known.lease {
            Some(lease) if lease.until > now && lease.node != terms.node => {}
            _ => {
                (known.lease, known.failed) = (Some(Lease::of(terms, now)), None);
                return Asked::Granted(who);
            }
        }
        if patience <= now {
            return Asked::Ended(who, LoadEnd::Released);
        }
        if known.waiting.len() >= WAITING_MAX {
            return Asked::Granted(who);
        }
        known.waiting.push((who, patience));
        Asked::Waits
    }

    /// The holder of the lease says what its load came to, unless that was a write. False if it holds none.
    pub(super) fn end(
        &self,
        (slot, key): (Slot, &Bytes),
        token: u64,
        end: LoadEnd,
        now: MonoTime,
    ) -> bool {
        let mut shard = self.shard(slot).lock();
        let known = shard.get_mut(key);
        let Some(known) =
            known.filter(|known| known.lease.as_ref().is_some_and(|it| it.token == token))
        else {
            return false;
        };
        known.lease = None;
        let ready = match end {
            LoadEnd::Released => Ready::Again,
            LoadEnd::Nothing => Ready::Ended(LoadEnd::Nothing),
            LoadEnd::Failed { message, retry_after } => {
                let message = message.slice(..message.len().min(MESSAGE_BYTES_MAX));
                known.failed = Some((message.clone(), now + retry_after));
                Ready::Ended(LoadEnd::Failed { message, retry_after })
            }
        };
        self.release(&mut known.waiting, &ready);
        if known.failed.is_none() {
            self.remove(&mut shard, key);
        }
        true
    }

    /// A key is written or removed, under the slot's lock.
    pub(super) fn key_changed(&self, slot: Slot, key: &Bytes) {
        if !self.is_empty() {
            self.remove(&mut self.shard(slot).lock(), key);
        }
    }

    /// All of a slot is, or this node ceases to serve it.
    pub(super) fn slot_changed(&self, slot: Slot) {
        if !self.is_empty() {
            let mut shard = self.shard(slot).lock();
            let keys: Vec<Bytes> =
                shard.iter().filter(|it| it.1.slot == slot).map(|it| it.0.clone()).collect();
            keys.iter().for_each(|key| self.remove(&mut shard, key));
        }
    }

    /// Ends the leases that are over, and of nodes that are gone, and waits that took too long.
    pub(super) fn sweep(&self, now: MonoTime, is_gone: impl Fn(NodeId) -> bool) {
        if self.is_empty() {
            return;
        }
        for shard in &self.shards {
            let mut over = Vec::new();
            let mut shard = shard.lock();
            for (key, known) in shard.iter_mut() {
                let ended = |lease: &mut Lease| lease.until <= now || is_gone(lease.node);
                if known.lease.take_if(ended).is_some() {
                    self.release(&mut known.waiting, &Ready::Again);
                }
                let late = |waiting: &mut (W, MonoTime)| waiting.1 <= now;
                let late = known.waiting.extract_if(.., late).map(|(who, _)| who);
                self.make_ready(late, &Ready::Ended(LoadEnd::Released));
                known.failed.take_if(|(_, until)| *until <= now);
                if known.lease.is_none() && known.failed.is_none() {
                    over.push(key.clone());
                }
            }
            over.iter().for_each(|key| self.remove(&mut shard, key));
        }
    }

    /// Those who wait no longer; to be asked for after each call that may end a wait, under no lock.
    pub(super) fn take_ready(&self) -> Vec<(W, Ready)> {
        if !self.is_ready.load(Ordering::Acquire) {
            return Vec::new();
        }
        let mut ready = self.ready.lock();
        self.is_ready.store(false, Ordering::Release);
        std::mem::take(&mut *ready)
    }

    /// Whether nothing is being loaded.
    pub(super) fn is_empty(&self) -> bool {
        self.keys.load(Ordering::Relaxed) == 0
    }

    fn remove(&self, shard: &mut BTreeMap<Bytes, OfKey<W>>, key: &Bytes) {
        if let Some(mut known) = shard.remove(key) {
            self.keys.fetch_sub(1, Ordering::Relaxed);
            self.release(&mut known.waiting, &Ready::Again);
        }
    }

    fn release(&self, waiting: &mut Vec<(W, MonoTime)>, why: &Ready) {
        self.make_ready(waiting.drain(..).map(|(who, _)| who), why);
    }

    fn make_ready(&self, who: impl Iterator<Item = W>, why: &Ready) {
        let mut who = who.peekable();
        if who.peek().is_some() {
            let mut ready = self.ready.lock();
            ready.extend(who.map(|who| (who, why.clone())));
            self.is_ready.store(true, Ordering::Release);
        }
    }

    fn shard(&self, slot: Slot) -> &Mutex<BTreeMap<Bytes, OfKey<W>>> {
        &self.shards[slot.index() % SHARDS]
    }
}

impl Lease {
    fn of(terms: &LoadTerms, now: MonoTime) -> Self {
        Self { node: terms.node, token: terms.token, until: now + terms.lasts }
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    fn at(millis: u64) -> MonoTime {
        MonoTime::from_micros(millis * 1_000)
    }

    fn node(number: u64) -> NodeId {
        NodeId::from_random(number)
    }

    fn key() -> Bytes {
        Bytes::from_static(b"key")
    }

    struct World {
        loads: Loads<u64>,
        slot: Slot,
    }

    impl World {
        fn new() -> Self {
            Self { loads: Loads::new(), slot: Slot::of_key(b"key") }
        }

        /// The node asks at this time, for a lease of a second, and waits for a tenth of one.
        fn ask(&self, number: u64, now: u64) -> Asked<u64> {
            let lasts = Duration::from_secs(1);
            let patience = Duration::from_millis(100);
            let token = number * 10;
            let terms = LoadTerms { node: node(number), token, lasts, patience, stale: None };
            self.loads.ask((self.slot, &key()), &terms, at(now + 100), at(now), number)
        }

        fn end(&self, token: u64, end: LoadEnd, now: u64) -> bool {
            self.loads.end((self.slot, &key()), token, end, at(now))
        }

        fn failed(retry_millis: u64) -> LoadEnd {
            let message = Bytes::from_static(b"no database");
            LoadEnd::Failed { message, retry_after: Duration::from_millis(retry_millis) }
        }
    }

    #[test]
    fn one_loads_and_the_others_wait_until_the_key_is_written() {
        let world = World::new();
        assert_eq!(world.ask(1, 0), Asked::Granted(1));
        assert_eq!([world.ask(2, 0), world.ask(3, 0)], [Asked::Waits, Asked::Waits]);
        assert_eq!(world.ask(1, 0), Asked::Granted(1), "it has the lease already");
        assert!(world.loads.take_ready().is_empty());
        world.loads.key_changed(world.slot, &key());
        assert_eq!(world.loads.take_ready(), [(2, Ready::Again), (3, Ready::Again)]);
        assert!(world.loads.is_empty());
        assert!(!world.end(10, LoadEnd::Nothing, 1), "what it loads may be outdated");
    }

    #[test]
    fn who_will_not_wait_is_answered_at_once() {
        let world = World::new();
        assert_eq!(world.ask(1, 0), Asked::Granted(1));
        let (lasts, patience) = (Duration::from_secs(1), Duration::ZERO);
        let terms = LoadTerms { node: node(2), token: 20, lasts, patience, stale: None };
        let asked = world.loads.ask((world.slot, &key()), &terms, at(5), at(5), 2);
        assert_eq!(asked, Asked::Ended(2, LoadEnd::Released));
    }

    #[test]
    fn whatever_a_load_comes_to_is_for_all_who_wait() {
        for (end, expected) in [
            (LoadEnd::Nothing, Ready::Ended(LoadEnd::Nothing)),
            (LoadEnd::Released, Ready::Again),
            (World::failed(0), Ready::Ended(World::failed(0))),
        ] {
            let world = World::new();
            assert_eq!((world.ask(1, 0), world.ask(2, 0)), (Asked::Granted(1), Asked::Waits));
            assert!(!world.end(20, end.clone(), 1), "not its lease");
            assert!(world.end(10, end, 1));
            assert_eq!(world.loads.take_ready(), [(2, expected)]);
            assert_eq!(world.ask(2, 2), Asked::Granted(2));
        }
    }

    #[test]
    fn a_failed_load_is_not_tried_again_too_soon() {
        let world = World::new();
        assert_eq!(world.ask(1, 0), Asked::Granted(1));
        assert!(world.end(10, World::failed(50), 10));
        assert_eq!(world.ask(2, 30), Asked::Ended(2, World::failed(30)));
        assert_eq!(world.ask(2, 60), Asked::Granted(2));
        world.end(20, World::failed(50), 60);
        world.loads.sweep(at(110), |_| false);
        assert!(world.loads.is_empty());
    }

    #[test]
    fn leases_end_by_time_and_with_their_nodes_and_nobody_waits_for_ever() {
        for (sweep, gone, expected) in [
            (99, 9, vec![]),
            (99, 1, vec![(2, Ready::Again)]),
            (100, 9, vec![(2, Ready::Ended(LoadEnd::Released))]),
            (1_000, 9, vec![(2, Ready::Again)]),
        ] {
            let world = World::new();
            assert_eq!((world.ask(1, 0), world.ask(2, 0)), (Asked::Granted(1), Asked::Waits));
            world.loads.sweep(at(sweep), |it| it == node(gone));
            assert_eq!(world.loads.take_ready(), expected, "{sweep} {gone}");
        }
        let world = World::new();
        assert_eq!(world.ask(1, 0), Asked::Granted(1));
        assert_eq!(world.ask(2, 1_000), Asked::Granted(2), "nobody had to look before");
    }

    #[test]
    fn a_slot_that_is_given_away_takes_its_leases_along_and_no_other() {
        let world = World::new();
        assert_eq!((world.ask(1, 0), world.ask(2, 0)), (Asked::Granted(1), Asked::Waits));
        world.loads.slot_changed(Slot::of_key(b"other"));
        assert!(world.loads.take_ready().is_empty());
        world.loads.slot_changed(world.slot);
        assert_eq!(world.loads.take_ready(), [(2, Ready::Again)]);
    }
}
