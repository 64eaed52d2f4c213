use std::collections::BTreeMap;
use std::sync::{Arc, OnceLock};

use bytes::Bytes;
use parking_lot::RwLock;
use slotmesh_slots::{NodeId, Seq, Slot};

use crate::frame::{Down, FrameError, Up};
use crate::streams::{Marks, PLACES, Stream};
use crate::{Subscriber, Watcher};

/// Called when there is something to write to the node, or to close; from any thread, also under a slot's lock, so it only
/// flags.
pub type Wake = Box<dyn Fn(NodeId) + Send + Sync>;

/// The side of those who own slots: tells watchers what is written.
///
/// What a slot's lock is said to be held for is what makes the order: of two who hold it one comes first.
pub struct Publisher {
    streams: RwLock<Streams>,
    /// The node's own subscriber, and its place.
    own: OnceLock<(Arc<Subscriber>, usize)>,
    marks: Marks,
    wake: Wake,
}

#[derive(Default)]
struct Streams {
    by_node: BTreeMap<NodeId, Arc<Stream>>,
    places: Vec<Place>,
}

enum Place {
    Free,
    /// Its marks are being cleared.
    Taken,
    Used(Arc<Stream>),
    /// Of the node's own subscriber, which has no stream.
    Own,
}

impl Publisher {
    /// One without watchers.
    #[must_use]
    pub fn new(wake: Wake) -> Self {
        Self { streams: RwLock::default(), own: OnceLock::new(), marks: Marks::new(), wake }
    }

    /// Tells the node's own subscriber, which then watches as [`Subscriber::own`]: at once, in the call that publishes. Once, and before
    /// there are a thousand streams: a second one is not told.
    pub fn attach(&self, subscriber: Arc<Subscriber>) {
        self.own.get_or_init(|| {
            let mut streams = self.streams.write();
            let place = streams.take_place().expect("the first of a thousand");
            streams.places[place] = Place::Own;
            (subscriber, place)
        });
    }

    /// A node opened a stream and sent its first frame. An older stream of the node ends.
    ///
    /// # Errors
    /// [`FrameError::Malformed`], [`FrameError::OtherVersion`], [`FrameError::Order`]: it is no hello, or that of an older
    /// stream than the node has by now; [`FrameError::Full`]. Close the stream.
    pub fn open(&self, node: NodeId, hello: &[u8]) -> Result<Watcher, FrameError> {
        let Up::Hello { stream } = Up::decode(hello)? else { return Err(FrameError::Order) };
        let watcher = Watcher { node, stream };
        let place = self.streams.write().take_place().ok_or(FrameError::Full)?;
        // Before anybody can subscribe by the new stream: a mark removed after that would be missed.
        self.marks.clear(place);
        let mut streams = self.streams.write();
        let known = streams.by_node.get(&node);
        if known.is_some_and(|known| known.watcher.stream >= stream) {
            streams.places[place] = Place::Free;
            return Err(FrameError::Order);
        }
        streams.remove(node);
        let stream = Arc::new(Stream::new(watcher, place));
        streams.places[place] = Place::Used(Arc::clone(&stream));
        streams.by_node.insert(node, stream);
        drop(streams);
        (self.wake)(node);
        Ok(watcher)
    }

    /// Another frame came on the stream. `leased` says whether this node held its lease at a moment after the frame came.
    ///
    /// # Errors
    /// [`FrameError::Malformed`], [`FrameError::Order`]: close the stream.
    pub fn handle_frame(
        &self,
        watcher: Watcher,
        frame: &[u8],
        leased: bool,
    ) -> Result<(), FrameError> {
        let Up::Ping { sent } = Up::decode(frame)? else { return Err(FrameError::Order) };
        if leased && let Some(stream) = self.stream(watcher) {
            self.push(&stream, Down::Echo { sent });
        }
        Ok(())
    }

    /// What is to be written on the stream now; `None` when it has ended: close it.
    #[must_use]
    pub fn poll_frames(&self, watcher: Watcher) -> Option<Vec<Bytes>> {
        self.stream(watcher)?.poll_frames()
    }

    /// The stream is lost.
    pub fn close(&self, watcher: Watcher) {
        let mut streams = self.streams.write();
        if streams.current(watcher).is_some() {
            streams.remove(watcher.node);
        }
    }

    /// Whether the watcher is told of the slot's writes, as [`Publisher::subscribe`] would make sure.
    #[must_use]
    pub fn is_subscribed(&self, slot: Slot, watcher: Watcher) -> bool {
        self.place(watcher).is_some_and(|place| self.marks.has(slot, place))
    }

    /// From now on the watcher is told of the slot's writes; false when that stream of it is gone. Under the lock of a slot that
    /// this node serves, before the slot is read.
    #[must_use]
    pub fn subscribe(&self, slot: Slot, watcher: Watcher) -> bool {
        let Some(place) = self.place(watcher) else { return false };
        self.marks.set(slot, place);
        true
    }

    /// A key of the slot was written or removed, or would have been had it been there. Under the slot's lock, before
    /// anybody learns of it.
    pub fn publish(&self, slot: Slot, seq: Seq, hash: impl FnOnce() -> u64) {
        let mut places = self.marks.of(slot).peekable();
        if places.peek().is_none() {
            return;
        }
        let record = Down::Invalidated { slot, seq, hash: hash() };
        self.tell(places, record);
    }

    /// All that watchers keep of the slot may be old from now on, and they are told of no more writes. Under the slot's lock:
    /// when this node ceases to serve the slot, begins to hand it over or serves it in another epoch, and when all of it is cleared.
    pub fn drop_slot(&self, slot: Slot) {
        self.tell(self.marks.take(slot), Down::Dropped { slot });
    }

    fn tell(&self, places: impl Iterator<Item = usize>, record: Down) {
        let streams = self.streams.read();
        for place in places {
            match (streams.places.get(place), self.own.get()) {
                (Some(Place::Used(stream)), _) => self.push(stream, record),
                (Some(Place::Own), Some((subscriber, _))) => subscriber.take_own(record),
                _ => {}
            }
        }
    }

    fn push(&self, stream: &Stream, record: Down) {
        if stream.push(record) {
            (self.wake)(stream.watcher.node);
        }
    }

    fn place(&self, watcher: Watcher) -> Option<usize> {
        match self.own.get() {
            Some((subscriber, place)) if subscriber.own() == watcher => Some(*place),
            _ => Some(self.streams.read().current(watcher)?.place),
        }
    }

    fn stream(&self, watcher: Watcher) -> Option<Arc<Stream>> {
        self.streams.read().current(watcher).cloned()
    }
}

impl Streams {
    fn current(&self, watcher: Watcher) -> Option<&Arc<Stream>> {
        self.by_node.get(&watcher.node).filter(|stream| stream.watcher == watcher)
    }

    fn take_place(&mut self) -> Option<usize> {
        let free = self.places.iter().position(|place| matches!(place, Place::Free));
        let place = free.unwrap_or(self.places.len());
        if place >= PLACES {
            return None;
        }
        if place == self.places.len() {
            self.places.push(Place::Taken);
        } else {
            self.places[place] = Place::Taken;
        }
        Some(place)
    }

    fn remove(&mut self, node: NodeId) {
        if let Some(stream) = self.by_node.remove(&node) {
            stream.end();
            self.places[stream.place] = Place::Free;
        }
    }
}
