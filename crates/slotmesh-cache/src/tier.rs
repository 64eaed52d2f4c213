//! L1 as a cache uses it: with the marks that its entries are subject to, and the loads whose outcome would go there.

use std::sync::Arc;
use std::time::Duration;

use slotmesh_coherence::{KeyHasher, Sink, Watcher};
use slotmesh_slots::{MonoTime, NodeId, Seq, Slot};

use crate::backing::Backing;
use crate::builder::L1;
use crate::flight::Flights;
use crate::key::CacheKey;
use crate::marks::{Marks, Stamp, Standing};
use crate::near::{Cover, Fresh, InNear, Lookup, Near, Ticket};

/// How long L1 keeps what lives for ever.
pub(crate) const FOR_EVER: Duration = Duration::from_secs(365 * 24 * 60 * 60);

/// Something for L1.
pub(crate) struct Shown<V> {
    pub(crate) fresh: Fresh<V>,
    pub(crate) stamp: Option<Stamp>,
}

pub(crate) struct Tier<K, V> {
    local: Local<K, V>,
    flights: Arc<Flights<K, V>>,
    pub(crate) ttl_max: Duration,
}

/// Entries of a cache without marks have no stamps, and cost nothing for those.
enum Local<K, V> {
    Plain(Near<K, V>),
    Marked(Near<K, Marked<V>>),
}

struct Marked<V> {
    value: Option<Arc<V>>,
    stamp: Stamp,
}

macro_rules! with {
    ($tier:expr, $near:ident => $action:expr) => {
        match &$tier.local {
            Local::Plain($near) => $action,
            Local::Marked($near) => $action,
        }
    };
}

impl<K: CacheKey, V: Send + Sync + 'static> Tier<K, V> {
    pub(crate) fn new(
        backing: &Backing,
        l1: L1,
        hasher: KeyHasher,
        flights: &Arc<Flights<K, V>>,
        is_marked: bool,
    ) -> Arc<Self> {
        let subscriber = || Arc::clone(backing.subscriber());
        let (limits, bound) = (l1.limits, l1.max_staleness);
        let local = match is_marked {
            false => Local::Plain(Near::new(limits, hasher, subscriber(), bound)),
            true => Local::Marked(Near::new(limits, hasher, subscriber(), bound)),
        };
        let ttl_max = l1.ttl.unwrap_or(FOR_EVER).min(FOR_EVER);
        let tier = Arc::new(Self { local, flights: Arc::clone(flights), ttl_max });
        subscriber().register(&(Arc::clone(&tier) as Arc<dyn Sink>), bound);
        tier
    }

    pub(crate) fn lookup(&self, key: &K, now: MonoTime, marks: Option<&Marks<V>>) -> Lookup<V> {
        match &self.local {
            Local::Plain(near) => near.lookup(key, now),
            Local::Marked(near) => Self::unmarked(near.lookup(key, now), marks),
        }
    }

    /// What may be shown in want of better.
    pub(crate) fn spare(&self, key: &K, now: MonoTime, marks: Option<&Marks<V>>) -> Lookup<V> {
        match &self.local {
            Local::Plain(near) => near.get_stale(key, now),
            Local::Marked(near) => Self::unmarked(near.get_stale(key, now), marks),
        }
    }

    pub(crate) fn peek(
        &self,
        key: &K,
        now: MonoTime,
        marks: Option<&Marks<V>>,
    ) -> Option<InNear<V>> {
        match &self.local {
            Local::Plain(near) => near.peek(key, now),
            Local::Marked(near) => {
                let InNear { value, version, left } = near.peek(key, now)?;
                let value =
                    match Self::unmarked(value.map_or(Lookup::Nothing, Lookup::Value), marks) {
                        Lookup::Value(value) => Some(value),
                        Lookup::Absent => None,
                        Lookup::Nothing => return None,
                    };
                Some(InNear { value, version, left })
            }
        }
    }

    /// What is shown of an entry: nothing if its marks are against it, or not at hand.
    fn unmarked(found: Lookup<Marked<V>>, marks: Option<&Marks<V>>) -> Lookup<V> {
        let (Lookup::Value(found), Some(marks)) = (found, marks) else { return Lookup::Nothing };
        match (marks.at_hand(&found.stamp), &found.value) {
            (Some(Standing::Holds), Some(value)) => Lookup::Value(Arc::clone(value)),
            (Some(Standing::Holds), None) => Lookup::Absent,
            _ => Lookup::Nothing,
        }
    }

    pub(crate) fn ticket(&self, key: &K, slot: Slot, now: MonoTime) -> Ticket {
        with!(self, near => near.ticket(key, slot, now))
    }

    pub(crate) fn admit(&self, ticket: Ticket, owner: NodeId, by: Watcher) -> Cover {
        with!(self, near => near.admit(ticket, owner, by))
    }

    pub(crate) fn own_cover(&self, ticket: Ticket) -> Cover {
        with!(self, near => near.own_cover(ticket))
    }

    pub(crate) fn begin_write(&self, key: &K, slot: Slot, now: MonoTime) -> Ticket {
        with!(self, near => near.begin_write(key, slot, now))
    }

    pub(crate) fn end_write(&self, key: &K, ticket: Ticket, written: Option<Shown<V>>) {
        match &self.local {
            Local::Plain(near) => near.end_write(key, ticket, written.map(|it| it.fresh)),
            Local::Marked(near) => near.end_write(key, ticket, written.and_then(marked)),
        }
    }

    pub(crate) fn fill(&self, key: &K, ticket: Ticket, shown: Shown<V>, cover: Cover) {
        match &self.local {
            Local::Plain(near) => near.fill(key, ticket, shown.fresh, cover),
            Local::Marked(near) => {
                if let Some(fresh) = marked(shown) {
                    near.fill(key, ticket, fresh, cover);
                }
            }
        }
    }

    /// What [`Near::bounded`] says.
    pub(crate) fn bounded(&self, now: MonoTime) -> (u64, Duration) {
        with!(self, near => near.bounded(now))
    }

    /// Entries and estimated bytes.
    pub(crate) fn size(&self) -> (usize, usize) {
        with!(self, near => near.size())
    }
}

/// As an entry with a stamp.
fn marked<V>(shown: Shown<V>) -> Option<Fresh<Marked<V>>> {
    let Fresh { value, version, ttl, stale_for, bytes } = shown.fresh;
    let stamp = shown.stamp?;
    let bytes = bytes + size_of::<Marked<V>>() + size_of_val(&*stamp.tags);
    let value = Some(Arc::new(Marked { value, stamp }));
    Some(Fresh { value, version, ttl, stale_for, bytes })
}

impl<K: CacheKey, V: Send + Sync> Sink for Tier<K, V> {
    fn invalidate(&self, slot: Slot, seq: Seq, hash: u64) {
        with!(self, near => near.invalidate(slot, seq, hash));
        self.flights.forget(hash);
    }
}
