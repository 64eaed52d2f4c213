//! What servers tell: keys that were written, and loads that ended.

use std::collections::HashMap;
use std::sync::Arc;

use parking_lot::Mutex;
use slotmesh_coherence::{Subscriber, key_hash};
use slotmesh_node::CoarseClock;
use slotmesh_slots::{NodeId, Slot};
use tokio::sync::Notify;

use crate::names::{Named, Names};

/// Whom a server's words reach.
pub(crate) struct Hearing {
    pub(crate) names: Names,
    pub(crate) subscriber: Arc<Subscriber>,
    pub(crate) clock: CoarseClock,
    pub(crate) key_seed: u64,
    /// By server: who pings it.
    pingers: Arc<Mutex<HashMap<NodeId, Arc<Notify>>>>,
    /// By the key's hash: who waits for somebody else's load, and how many do.
    waiting: Mutex<HashMap<u64, (Arc<Notify>, usize)>>,
}

impl Hearing {
    pub(crate) fn new(names: Names, me: NodeId) -> Self {
        let pingers = Arc::new(Mutex::new(HashMap::<NodeId, Arc<Notify>>::new()));
        let woken = Arc::clone(&pingers);
        let wake = move |peer| {
            if let Some(pinger) = woken.lock().get(&peer) {
                pinger.notify_one();
            }
        };
        // Marks of tags and filters of guards are the same for all processes.
        let key_seed = key_hash(0, names.prefix());
        Self {
            names,
            subscriber: Arc::new(Subscriber::new(me, Box::new(wake))),
            clock: CoarseClock::start(),
            key_seed,
            pingers,
            waiting: Mutex::default(),
        }
    }

    /// Who is woken when the server is to be pinged, because values of it are read.
    pub(crate) fn add_pinger(&self, peer: NodeId) -> Arc<Notify> {
        let pinger = Arc::new(Notify::new());
        self.pingers.lock().insert(peer, Arc::clone(&pinger));
        pinger
    }

    pub(crate) fn forget(&self, peer: NodeId) {
        self.pingers.lock().remove(&peer);
        let _gone = self.subscriber.retain(|known| known != peer);
    }

    /// Something happened to what has this name.
    pub(crate) fn hear(&self, name: &[u8]) {
        let (key, is_written) = match self.names.parse(name) {
            Some(Named::Value(key)) => (key, true),
            Some(Named::Lease(key)) => (key, false),
            None => return,
        };
        let hash = self.hash(key);
        if is_written {
            self.subscriber.note_write(Slot::of_key(key), hash);
        }
        if let Some((waiting, _)) = self.waiting.lock().get(&hash) {
            waiting.notify_waiters();
        }
    }

    /// Everything is gone.
    pub(crate) fn hear_all(&self) {
        Slot::all().for_each(|slot| self.subscriber.drop_slot(slot));
        self.waiting.lock().values().for_each(|(waiting, _)| waiting.notify_waiters());
    }

    /// Waits for news of a key.
    pub(crate) fn wait_for(&self, key: &[u8]) -> News<'_> {
        let hash = self.hash(key);
        let mut waiting = self.waiting.lock();
        let (notify, count) = waiting.entry(hash).or_default();
        *count += 1;
        News { hearing: self, hash, notify: Arc::clone(notify) }
    }

    fn hash(&self, key: &[u8]) -> u64 {
        key_hash(self.key_seed, key)
    }
}

/// Somebody waits for news of a key.
pub(crate) struct News<'a> {
    hearing: &'a Hearing,
    hash: u64,
    pub(crate) notify: Arc<Notify>,
}

impl Drop for News<'_> {
    fn drop(&mut self) {
        let mut waiting = self.hearing.waiting.lock();
        if let Some((_, count)) = waiting.get_mut(&self.hash) {
            *count -= 1;
            if *count == 0 {
                waiting.remove(&self.hash);
            }
        }
    }
}
