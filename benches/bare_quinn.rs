//! A bare quinn echo with the transport's framing and batching and nothing else: no limits, deadlines, hellos or
//! errors. What a call through the real transport costs is measured against it.

use std::net::SocketAddr;
use std::sync::Arc;

use bytes::{Buf, BufMut, Bytes, BytesMut};
use parking_lot::Mutex;
use quinn::crypto::rustls::{QuicClientConfig, QuicServerConfig};
use quinn::{AckFrequencyConfig, RecvStream, SendStream, TransportConfig, VarInt};
use slotmesh_transport::Identity;
use tokio::sync::{Notify, oneshot};

/// Length, type, tag, request id, remaining milliseconds.
const HEADER_BYTES: usize = 14;

/// Opens the echo server on a free port of the address and serves every connection. Needs a tokio runtime.
pub fn serve(addr: SocketAddr, identity: &Identity) -> quinn::Endpoint {
    let crypto = QuicServerConfig::try_from(identity.server_tls()).expect("TLS 1.3 settings");
    let mut config = quinn::ServerConfig::with_crypto(Arc::new(crypto));
    config.transport_config(transport());
    let endpoint = quinn::Endpoint::server(config, addr).expect("a free port");
    let accepting = endpoint.clone();
    tokio::spawn(async move {
        while let Some(incoming) = accepting.accept().await {
            let Ok(connection) = incoming.await else { continue };
            if let Ok((send, recv)) = connection.accept_bi().await {
                tokio::spawn(echo(connection, send, recv));
            }
        }
    });
    endpoint
}

/// One connection to an echo server.
pub struct BareClient {
    state: Mutex<State>,
    wake: Notify,
    connection: quinn::Connection,
}

type Caller = oneshot::Sender<Bytes>;

#[derive(Default)]
struct State {
    out: BytesMut,
    waiting: Vec<Option<Caller>>,
    free: Vec<u32>,
}

impl BareClient {
    /// Connects from a port of its own. Needs a tokio runtime.
    pub async fn connect(addr: SocketAddr, identity: &Identity) -> Arc<Self> {
        let crypto = QuicClientConfig::try_from(identity.client_tls()).expect("TLS 1.3 settings");
        let mut config = quinn::ClientConfig::new(Arc::new(crypto));
        config.transport_config(transport());
        let any_port = SocketAddr::new(addr.ip(), 0);
        let endpoint = quinn::Endpoint::client(any_port).expect("a free port");
        let connecting = endpoint.connect_with(config, addr, "node.slotmesh").expect("an address");
        let connection = connecting.await.expect("an echo server");
        let (send, recv) = connection.open_bi().await.expect("a stream");
        let state = Mutex::new(State::default());
        let client = Arc::new(Self { state, wake: Notify::new(), connection });
        tokio::spawn(client.clone().write(send));
        tokio::spawn(client.clone().read(recv));
        client
    }

    /// Sends a body and waits for its echo.
    pub async fn call(&self, body: &Bytes) -> Bytes {
        self.queue(body).await.expect("the echo server lives")
    }

    fn queue(&self, body: &Bytes) -> oneshot::Receiver<Bytes> {
        let (sender, answer) = oneshot::channel();
        let mut state = self.state.lock();
        let was_empty = state.out.is_empty();
        let id = match state.free.pop() {
            Some(id) => {
                state.waiting[id as usize] = Some(sender);
                id
            }
            None => {
                state.waiting.push(Some(sender));
                state.waiting.len() as u32 - 1
            }
        };
        put_frame(&mut state.out, id, body);
        drop(state);
        if was_empty {
            self.wake.notify_one();
        }
        answer
    }

    /// Calls to the system that sent something, so far.
    pub fn send_calls(&self) -> u64 {
        self.connection.stats().udp_tx.ios
    }

    fn settle(&self, frames: &mut Frames, answered: &mut Vec<(Option<Caller>, Bytes)>) {
        let mut state = self.state.lock();
        while let Some((id, body)) = frames.next() {
            let caller = state.waiting[id as usize].take();
            state.free.push(id);
            answered.push((caller, body));
        }
    }

    async fn write(self: Arc<Self>, mut send: SendStream) {
        loop {
            self.wake.notified().await;
            tokio::task::yield_now().await;
            let out = self.state.lock().out.split().freeze();
            if send.write_chunk(out).await.is_err() {
                return;
            }
        }
    }

    async fn read(self: Arc<Self>, mut recv: RecvStream) {
        let mut frames = Frames::default();
        let mut answered = Vec::new();
        while frames.fill(&mut recv).await {
            self.settle(&mut frames, &mut answered);
            for (caller, body) in answered.drain(..) {
                let _ = caller.map(|caller| caller.send(body));
            }
        }
    }
}

async fn echo(connection: quinn::Connection, mut send: SendStream, mut recv: RecvStream) {
    let mut frames = Frames::default();
    let mut out = BytesMut::new();
    while frames.fill(&mut recv).await {
        while let Some((id, body)) = frames.next() {
            put_frame(&mut out, id, &body);
        }
        if send.write_chunk(out.split().freeze()).await.is_err() {
            break;
        }
    }
    drop(connection);
}

/// Frames of a stream as they arrive.
#[derive(Default)]
struct Frames {
    partial: BytesMut,
    chunk: Bytes,
    chunks: std::collections::VecDeque<Bytes>,
}

impl Frames {
    async fn fill(&mut self, recv: &mut RecvStream) -> bool {
        let mut chunks: [Bytes; 32] = std::array::from_fn(|_| Bytes::new());
        match recv.read_chunks(&mut chunks).await {
            Ok(Some(count)) => {
                self.chunks.extend(chunks.into_iter().take(count));
                true
            }
            _ => false,
        }
    }

    fn next(&mut self) -> Option<(u32, Bytes)> {
        loop {
            if self.partial.is_empty()
                && let Some(total) = total(&self.chunk)
                && self.chunk.len() >= total
            {
                return Some(split(self.chunk.split_to(total)));
            }
            self.partial.extend_from_slice(&std::mem::take(&mut self.chunk));
            if let Some(total) = total(&self.partial)
                && self.partial.len() >= total
            {
                let frame = self.partial.split_to(total).freeze();
                self.chunk = std::mem::take(&mut self.partial).freeze();
                return Some(split(frame));
            }
            self.chunk = self.chunks.pop_front()?;
        }
    }
}

fn total(start: &[u8]) -> Option<usize> {
    Some(4 + u32::from_be_bytes(*start.first_chunk()?) as usize)
}

fn split(mut frame: Bytes) -> (u32, Bytes) {
    frame.advance(6);
    let id = frame.get_u32();
    frame.advance(4);
    (id, frame)
}

fn put_frame(out: &mut BytesMut, id: u32, body: &[u8]) {
    if out.capacity() - out.len() < HEADER_BYTES + body.len() {
        out.reserve((32 * 1024).max(HEADER_BYTES + body.len()));
    }
    out.put_u32((HEADER_BYTES - 4 + body.len()) as u32);
    out.put_u16(0);
    out.put_u32(id);
    out.put_u32(1000);
    out.put_slice(body);
}

fn transport() -> Arc<TransportConfig> {
    let mut acks = AckFrequencyConfig::default();
    acks.ack_eliciting_threshold(VarInt::from_u32(10));
    let mut transport = TransportConfig::default();
    transport.ack_frequency_config(Some(acks)).max_concurrent_bidi_streams(VarInt::from_u32(16));
    Arc::new(transport)
}
