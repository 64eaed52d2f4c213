use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use bytes::Bytes;
use parking_lot::Mutex;
use slotmesh_slots::NodeId;
use slotmesh_transport::{
    Disconnect, FrameStream, Handler, PeerInfo, RefusedReason, Reply, Request,
};

use super::ledger::Ledger;
use super::wire::{self, Act, Ask, STATUS};

/// Does what requests ask for and holds everything that arrives against the ledger.
pub struct Recorder {
    id: NodeId,
    ledger: Arc<Ledger>,
    open: Mutex<BTreeMap<Side, u32>>,
    /// How many connections to each address this side has made.
    dialled: Mutex<BTreeMap<SocketAddr, u32>>,
    /// Replies not given yet.
    owed: AtomicUsize,
}

/// Who is at the other end, and whether this end has dialled.
type Side = (NodeId, bool);

impl Recorder {
    pub fn new(id: NodeId, ledger: Arc<Ledger>) -> Arc<Self> {
        Arc::new(Self {
            id,
            ledger,
            open: Mutex::default(),
            dialled: Mutex::default(),
            owed: AtomicUsize::new(0),
        })
    }

    pub fn open_connections(&self) -> u32 {
        self.open.lock().values().sum()
    }

    pub fn owed(&self) -> usize {
        self.owed.load(Ordering::Relaxed)
    }

    pub fn connections_made(&self, to: SocketAddr) -> u32 {
        self.dialled.lock().get(&to).copied().unwrap_or(0)
    }

    fn check_open(&self, from: &PeerInfo, what: &str) {
        let open = self.open.lock().get(&(from.node, from.dialled)).is_some_and(|count| *count > 0);
        self.ledger.expect(open, || format!("{what} from {} without a connection", from.node));
    }

    fn answer(&self, act: Act, ask: &Ask, reply: Reply) {
        self.ledger.call_executed(ask.call, self.id);
        let misled = ask.expect.is_some_and(|node| node != self.id);
        self.ledger.expect(!misled, || format!("call {} reached {}", ask.call, self.id));
        match act {
            Act::Status => reply.status(STATUS, ask.answer(self.id)),
            Act::Drop | Act::Busy => drop(reply),
            Act::Echo | Act::Late => reply.send(ask.answer(self.id)),
        }
        self.owed.fetch_sub(1, Ordering::Relaxed);
    }

    /// As the handler's method, with a handle that tasks can keep.
    fn take_request(self: Arc<Self>, request: &Request, reply: Reply) {
        let asked = Act::from_byte(request.kind).zip(Ask::decode(&request.body));
        let Some((act, ask)) = asked else {
            return self.ledger.violation("a request arrived garbled".into());
        };
        if act == Act::Busy {
            return reply.busy();
        }
        self.owed.fetch_add(1, Ordering::Relaxed);
        if act != Act::Late {
            return self.answer(act, &ask, reply);
        }
        tokio::spawn(async move {
            tokio::time::sleep(Duration::from_millis(ask.pause_ms.into())).await;
            self.answer(act, &ask, reply);
        });
    }

    fn note_end(&self, peer: &PeerInfo, why: &Disconnect) {
        let has_left = self.ledger.has_left(peer.node);
        match why {
            Disconnect::Leaving => self
                .ledger
                .expect(has_left, || format!("{} is said to leave and has not", peer.node)),
            Disconnect::BadFrame(_) | Disconnect::RejectedFrame(_) | Disconnect::Refused(_) => {
                self.ledger.violation(format!("connection with {} ended: {why}", peer.node));
            }
            Disconnect::Restarted => self.ledger.reset(peer.node),
            Disconnect::Idle => self.ledger.tally.note("connection idle"),
            _ => {}
        }
    }
}

/// What the endpoint gets: handlers are called by reference, and late answers need to keep theirs.
pub struct Shared(pub Arc<Recorder>);

impl Handler for Shared {
    fn request(&self, from: &PeerInfo, request: Request, reply: Reply) {
        self.0.check_open(from, "a request");
        self.0.clone().take_request(&request, reply);
    }

    fn message(&self, from: &PeerInfo, _kind: u8, body: Bytes) {
        self.0.check_open(from, "a message");
        self.0.ledger.tally.note("message arrived");
        match wire::read_message(&body) {
            Some((thread, number)) => self.0.ledger.message(thread, number),
            None => self.0.ledger.violation("a message arrived garbled".into()),
        }
    }

    fn datagram(&self, _from: &PeerInfo, body: Bytes) {
        self.0.ledger.tally.note("unreliable message arrived");
        match wire::read_datagram(&body) {
            Some(number) => self.0.ledger.datagram(number),
            None => self.0.ledger.violation("an unreliable message arrived garbled".into()),
        }
    }

    fn stream(&self, _from: &PeerInfo, _kind: u8, stream: FrameStream) {
        tokio::spawn(echo(stream, self.0.ledger.clone()));
    }

    fn connected(&self, peer: &PeerInfo) {
        *self.0.open.lock().entry((peer.node, peer.dialled)).or_default() += 1;
        if peer.dialled {
            let mut dialled = self.0.dialled.lock();
            let made = dialled.entry(peer.addr).or_default();
            *made += 1;
            let what = if *made == 1 { "connected" } else { "reconnected" };
            self.0.ledger.tally.note(what);
        }
    }

    fn disconnected(&self, peer: &PeerInfo, why: &Disconnect) {
        self.0.check_open(peer, "a disconnect");
        if let Some(count) = self.0.open.lock().get_mut(&(peer.node, peer.dialled)) {
            *count = count.saturating_sub(1);
        }
        self.0.note_end(peer, why);
    }

    fn refused(&self, addr: SocketAddr, why: &Disconnect) {
        let fair =
            matches!(why, Disconnect::Refused(RefusedReason::NotThePeer | RefusedReason::Busy));
        self.0.ledger.expect(fair, || format!("refused by {addr}: {why}"));
    }
}

/// Sends every frame back; ends its own direction well only when the other ended well.
async fn echo(stream: FrameStream, ledger: Arc<Ledger>) {
    let (mut sender, mut receiver) = stream.into_split();
    let mut name = None;
    loop {
        match receiver.recv().await {
            Ok(Some(frame)) => {
                let Some((stream, number)) = wire::read_frame(&frame) else {
                    return ledger.violation("a frame arrived garbled".into());
                };
                ledger.stream_frame(stream, number);
                name = Some(stream);
                ledger.tally.note("frame arrived");
                if sender.send(wire::frame(stream, number, 20)).await.is_err() {
                    return;
                }
            }
            Ok(None) => return name.into_iter().for_each(|name| ledger.stream_complete(name)),
            Err(why) => {
                ledger.stream_broke(name, &why);
                return sender.abort();
            }
        }
    }
}
