use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Weak};
use std::time::Duration;

use bytes::Bytes;
use parking_lot::RwLock;
use slotmesh_slots::{MonoTime, NodeId, Reader, SLOT_COUNT, Seq, Slot};

use crate::frame::{Down, FrameError, Up};
use crate::{Wake, Watcher};

/// Pings go each so many parts of the shortest bound, so that one may be late.
const PINGS_PER_BOUND: u32 = 3;

/// Peers a node can watch; a slot's cell has two bytes for them.
const PEERS_MAX: usize = 4096;

/// The place of this node, and the number of the stream that stands for its own writes: there is none.
const OWN_PLACE: u16 = 1;
const OWN_STREAM: u64 = 0;

/// A local tier: where the values are.
pub trait Sink: Send + Sync {
    /// A key whose bytes hash to this was written at this seq of its slot: whatever is kept under it and is older goes, and
    /// whatever was fetched before and arrives later is not taken in. For a slot of this node it is called under the slot's lock, so it
    /// neither waits for one nor runs code that might, such as a value's `Drop`.
    fn invalidate(&self, slot: Slot, seq: Seq, hash: u64);
}

/// A slot's generation before a value of it was asked for.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Ticket(u32);

/// The generation of its slot that a value belongs to. Values of another one are not served.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Stamp(pub u32);

/// Whether a value may be served.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Readable {
    /// It is within the bound.
    Yes,
    /// Not now: nothing was heard of its owner for too long. It may be again.
    NotNow,
    /// Never again.
    No,
}

/// The side of those who keep values of slots that others own, one for all local tiers of a node.
pub struct Subscriber {
    me: NodeId,
    slots: Box<[AtomicU64]>,
    peers: RwLock<Peers>,
    /// By the peer's place.
    current: Box<[Current]>,
    sinks: RwLock<Vec<(Weak<dyn Sink>, Duration)>>,
    wake: Wake,
}

struct Peers {
    by_node: BTreeMap<NodeId, Peer>,
    free: Vec<u16>,
    streams: u64,
}

struct Peer {
    place: u16,
    /// The open stream.
    stream: Option<u64>,
    wanted: bool,
}

/// What is known of a peer without a lock.
struct Current {
    /// When the latest echoed ping was sent, in microseconds.
    known: AtomicU64,
    /// Whether values of its slots were asked for since the last ping.
    asked: AtomicBool,
}

/// A slot's generation and the place of the peer whose writes it hears of, zero for none.
#[derive(Clone, Copy)]
struct Cell(u64);

impl Cell {
    const fn new(generation: u32, place: u16) -> Self {
        Self((generation as u64) << 16 | place as u64)
    }

    const fn generation(self) -> u32 {
        (self.0 >> 16) as u32
    }

    const fn place(self) -> u16 {
        self.0 as u16
    }
}

impl Subscriber {
    /// One that watches nobody. `wake` is called with a peer to which a stream, or a ping, is wanted; with this node itself when
    /// [`Subscriber::vouch`] is.
    #[must_use]
    pub fn new(me: NodeId, wake: Wake) -> Self {
        let current = || Current { known: AtomicU64::new(0), asked: AtomicBool::new(false) };
        let own = Peer { place: OWN_PLACE, stream: Some(OWN_STREAM), wanted: true };
        let peers = Peers {
            by_node: BTreeMap::from_iter([(me, own)]),
            free: (OWN_PLACE + 1..PEERS_MAX as u16).rev().collect(),
            streams: OWN_STREAM,
        };
        Self {
            me,
            slots: (0..SLOT_COUNT).map(|_| AtomicU64::new(0)).collect(),
            peers: RwLock::new(peers),
            current: (0..PEERS_MAX).map(|_| current()).collect(),
            sinks: RwLock::default(),
            wake,
        }
    }

    /// Adds a local tier that serves nothing older than this.
    pub fn register(&self, sink: &Arc<dyn Sink>, max_staleness: Duration) {
        let mut sinks = self.sinks.write();
        sinks.retain(|(sink, _)| sink.strong_count() > 0);
        sinks.push((Arc::downgrade(sink), max_staleness));
    }

    /// As what it watches the publisher of its own node, which has to know it: [`Publisher::attach`](crate::Publisher::attach).
    #[must_use]
    pub const fn own(&self) -> Watcher {
        Watcher { node: self.me, stream: OWN_STREAM }
    }

    /// At this time the node held its lease, so it knew of all writes to its own slots: what a peer says with an echo.
    pub fn vouch(&self, now: MonoTime) {
        self.current[usize::from(OWN_PLACE)].known.fetch_max(now.as_micros(), Ordering::AcqRel);
    }

    /// Whether values of the node's own slots were asked for since this was last asked, and [`Subscriber::vouch`] is wanted.
    #[must_use]
    pub fn wants_voucher(&self) -> bool {
        self.current[usize::from(OWN_PLACE)].asked.swap(false, Ordering::Relaxed)
    }

    /// What the node's own publisher tells.
    pub(crate) fn take_own(&self, record: Down) {
        match record {
            Down::Invalidated { slot, seq, hash } => self.invalidate(slot, seq, hash),
            Down::Dropped { slot } => self.drop_slot(slot),
            Down::Echo { .. } => {}
        }
    }

    /// How often [`Subscriber::poll_ping`] wants to be called; `None` while there is no local tier.
    #[must_use]
    pub fn ping_interval(&self) -> Option<Duration> {
        let sinks = self.sinks.read();
        let live = sinks.iter().filter(|(sink, _)| sink.strong_count() > 0);
        live.map(|(_, bound)| *bound / PINGS_PER_BOUND).min()
    }

    /// To be taken before a value of the slot is asked for.
    #[must_use]
    pub fn ticket(&self, slot: Slot) -> Ticket {
        Ticket(self.cell(slot).generation())
    }

    /// By which stream the peer is to tell of writes, to be sent with the request for a value; `None` while there is none, and
    /// then one is wanted, and nothing that the peer answers can be kept.
    #[must_use]
    pub fn watcher(&self, peer: NodeId) -> Option<Watcher> {
        let open = self.peers.read().by_node.get(&peer).map(|peer| (peer.stream, peer.place));
        match open {
            Some((Some(stream), place)) => {
                if !self.current[usize::from(place)].asked.swap(true, Ordering::Relaxed) {
                    (self.wake)(peer);
                }
                Some(Watcher { node: self.me, stream })
            }
            _ => {
                self.want(peer);
                None
            }
        }
    }

    /// Takes in a value that the peer answered with, having noted this watcher before it looked: the stamp that the value is to
    /// be kept with. `None` when it must not be kept: the slot was dropped since the ticket was taken, or the stream has ended.
    #[must_use]
    pub fn admit(&self, slot: Slot, ticket: Ticket, peer: NodeId, by: Watcher) -> Option<Stamp> {
        // Held to the end: a stream that ends after this drops the slot again.
        let peers = self.peers.read();
        let known = peers.by_node.get(&peer)?;
        if known.stream != Some(by.stream) {
            return None;
        }
        let cell = self.cell(slot);
        if cell.generation() != ticket.0 {
            return None;
        }
        if cell.place() == known.place {
            return Some(Stamp(ticket.0));
        }
        // Another owner than before: what else is under way came from that one.
        let next = Cell::new(ticket.0.wrapping_add(1), known.place);
        let swapped = self.slots[slot.index()].compare_exchange(
            cell.0,
            next.0,
            Ordering::AcqRel,
            Ordering::Acquire,
        );
        swapped.is_ok().then(|| Stamp(next.generation()))
    }

    /// The stamp for a value that this node wrote itself, if writes of others to the slot would be heard of and were since
    /// the ticket was taken.
    #[must_use]
    pub fn admit_own(&self, slot: Slot, ticket: Ticket) -> Option<Stamp> {
        let cell = self.cell(slot);
        (cell.generation() == ticket.0 && cell.place() != 0).then_some(Stamp(ticket.0))
    }

    /// Whether a value with this stamp may be served where everything that was written before `since` has to be known. That time is the
    /// bound before now, where now was read after the value was asked for. To be asked under the lock that [`Sink::invalidate`] takes to
    /// remove the value: a voucher that comes after the value's removal must not count for it.
    #[inline]
    #[must_use]
    pub fn readable(&self, slot: Slot, stamp: Stamp, since: MonoTime) -> Readable {
        let cell = self.cell(slot);
        if cell.generation() != stamp.0 || cell.place() == 0 {
            return Readable::No;
        }
        let current = &self.current[usize::from(cell.place())];
        let known = current.known.load(Ordering::Acquire);
        // Written only when it changes: the line stays shared.
        if !current.asked.load(Ordering::Relaxed) {
            self.ask(cell.place());
        }
        if known > since.as_micros() { Readable::Yes } else { Readable::NotNow }
    }

    /// How far behind their owners values may be, of those that may be served within this bound: the time for which nothing was heard of
    /// the owner that is heard of least, and is still within it. Zero where nobody's values may be served.
    #[must_use]
    pub fn staleness(&self, bound: Duration, now: MonoTime) -> Duration {
        let peers = self.peers.read();
        let known =
            |peer: &Peer| self.current[usize::from(peer.place)].known.load(Ordering::Acquire);
        let ages =
            peers.by_node.values().map(|it| now.saturating_since(MonoTime::from_micros(known(it))));
        ages.filter(|age| *age < bound).max().unwrap_or_default()
    }

    /// Whether a value with this stamp will never be served again.
    #[must_use]
    pub fn is_dropped(&self, slot: Slot, stamp: Stamp) -> bool {
        self.cell(slot).generation() != stamp.0
    }

    #[cold]
    fn ask(&self, place: u16) {
        self.current[usize::from(place)].asked.store(true, Ordering::Relaxed);
        self.wake_place(place);
    }

    /// Peers to which a stream is wanted and none is open.
    #[must_use]
    pub fn wanted(&self) -> Vec<NodeId> {
        let peers = self.peers.read();
        let wanted = peers.by_node.iter().filter(|(_, peer)| peer.wanted && peer.stream.is_none());
        wanted.map(|(node, _)| *node).collect()
    }

    /// A stream to the peer is opened: its first frame. What the peer answers for it is kept from now on. `None` where there is no room
    /// for another peer, and for the node itself, which has none.
    #[must_use]
    pub fn open(&self, peer: NodeId) -> Option<(Watcher, Bytes)> {
        if peer == self.me {
            return None;
        }
        let mut peers = self.peers.write();
        peers.streams += 1;
        let stream = peers.streams;
        let known = peers.entry(peer)?;
        let before = known.stream.replace(stream);
        let place = known.place;
        known.wanted = true;
        if before.is_some() {
            self.drop_all(place);
        }
        Some((Watcher { node: self.me, stream }, Up::Hello { stream }.encode()))
    }

    /// A frame came on the stream, before this time.
    ///
    /// # Errors
    /// When it is not what a publisher sends: close the stream.
    pub fn handle_frame(
        &self,
        peer: NodeId,
        by: Watcher,
        frame: &[u8],
        now: MonoTime,
    ) -> Result<(), FrameError> {
        let mut input = Reader::new(frame);
        while input.remaining() > 0 {
            match Down::decode(&mut input)? {
                Down::Invalidated { slot, seq, hash } => self.invalidate(slot, seq, hash),
                Down::Dropped { slot } => self.drop_slot(slot),
                Down::Echo { sent } if sent > now => return Err(FrameError::Future),
                Down::Echo { sent } => self.note_echo(peer, by, sent),
            }
        }
        Ok(())
    }

    /// The ping to send now on the stream; `None` while nobody asks for values of the peer's slots.
    #[must_use]
    pub fn poll_ping(&self, peer: NodeId, now: MonoTime) -> Option<Bytes> {
        let place = usize::from(self.peers.read().by_node.get(&peer)?.place);
        let asked = self.current[place].asked.swap(false, Ordering::Relaxed);
        asked.then(|| Up::Ping { sent: now }.encode())
    }

    /// The stream is lost, or was closed because nobody asks: nothing that is kept of the peer is served any more.
    pub fn close(&self, peer: NodeId, by: Watcher) {
        let mut peers = self.peers.write();
        if let Some(known) = peers.by_node.get_mut(&peer).filter(|it| it.stream == Some(by.stream))
        {
            known.stream = None;
            known.wanted = false;
            self.drop_all(known.place);
        }
    }

    /// Forgets the peers that are gone for good, and says which.
    pub fn retain(&self, mut stays: impl FnMut(NodeId) -> bool) -> Vec<NodeId> {
        let nodes: Vec<NodeId> = self.peers.read().by_node.keys().copied().collect();
        let gone: Vec<_> = nodes.into_iter().filter(|&it| it != self.me && !stays(it)).collect();
        for peer in &gone {
            let mut peers = self.peers.write();
            if let Some(known) = peers.by_node.remove(peer) {
                self.drop_all(known.place);
                peers.free.push(known.place);
            }
        }
        gone
    }

    /// A key with this hash was written by somebody, who knows when. Who calls it knows of writes from another source than a publisher, as of
    /// [`Subscriber::note_echo`] and [`Subscriber::drop_slot`].
    pub fn note_write(&self, slot: Slot, hash: u64) {
        self.invalidate(slot, Seq(u64::MAX), hash);
    }

    fn invalidate(&self, slot: Slot, seq: Seq, hash: u64) {
        for (sink, _) in self.sinks.read().iter() {
            if let Some(sink) = sink.upgrade() {
                sink.invalidate(slot, seq, hash);
            }
        }
    }

    /// Nothing that is kept of the slot is served any more. Also where another peer has the slot by now: something that the one before answered
    /// may be under way.
    pub fn drop_slot(&self, slot: Slot) {
        let next = |cell| Some(Cell::new(Cell(cell).generation().wrapping_add(1), 0).0);
        // It always has a next one.
        let _always =
            self.slots[slot.index()].fetch_update(Ordering::AcqRel, Ordering::Acquire, next);
    }

    fn drop_all(&self, place: u16) {
        self.current[usize::from(place)].known.store(0, Ordering::Release);
        for slot in Slot::all().filter(|slot| self.cell(*slot).place() == place) {
            self.drop_slot(slot);
        }
    }

    /// What the peer said on this stream up to now includes all that was written before this time.
    pub fn note_echo(&self, peer: NodeId, by: Watcher, sent: MonoTime) {
        let peers = self.peers.read();
        let known = peers.by_node.get(&peer).filter(|known| known.stream == Some(by.stream));
        if let Some(known) = known {
            let current = &self.current[usize::from(known.place)];
            current.known.fetch_max(sent.as_micros(), Ordering::AcqRel);
        }
    }

    fn want(&self, peer: NodeId) {
        let news = {
            let mut peers = self.peers.write();
            let Some(known) = peers.entry(peer) else { return };
            !std::mem::replace(&mut known.wanted, true)
        };
        if news {
            (self.wake)(peer);
        }
    }

    fn wake_place(&self, place: u16) {
        let peers = self.peers.read();
        let peer = peers.by_node.iter().find(|(_, peer)| peer.place == place);
        let peer = peer.map(|(node, _)| *node);
        drop(peers);
        peer.into_iter().for_each(|peer| (self.wake)(peer));
    }

    #[inline]
    fn cell(&self, slot: Slot) -> Cell {
        Cell(self.slots[slot.index()].load(Ordering::Acquire))
    }
}

impl Peers {
    fn entry(&mut self, node: NodeId) -> Option<&mut Peer> {
        if !self.by_node.contains_key(&node) {
            let place = self.free.pop()?;
            self.by_node.insert(node, Peer { place, stream: None, wanted: false });
        }
        self.by_node.get_mut(&node)
    }
}
