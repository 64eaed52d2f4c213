//! Nodes whose handler echoes and writes down what it saw, and a bare QUIC peer that can misbehave.
#![allow(dead_code, unreachable_pub, reason = "each test file uses its own part")]

use std::net::{Ipv4Addr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use parking_lot::Mutex;
use quinn::crypto::rustls::{QuicClientConfig, QuicServerConfig};
use slotmesh_slots::{Generation, NodeId};
use slotmesh_transport::{
    ClusterSecret, Disconnect, Endpoint, FrameStream, Handler, Hello, Identity, Peer, PeerInfo,
    Reply, Request, TransportConfig,
};

pub const LOOPBACK: SocketAddr = SocketAddr::new(std::net::IpAddr::V4(Ipv4Addr::LOCALHOST), 0);
pub const BUDGET: Duration = Duration::from_secs(10);
pub const CLUSTER: &str = "orders";
pub const SECRET: &str = "one secret of enough bytes";

/// Request kinds that the recorder understands.
pub const ECHO: u8 = 0;
pub const HOLD: u8 = 1;
pub const STATUS: u8 = 2;
pub const DROP: u8 = 3;
pub const BLOCK: u8 = 4;
pub const PANIC: u8 = 5;

pub const BLOCK_FOR: Duration = Duration::from_millis(100);

#[derive(Debug)]
pub enum Event {
    Connected(PeerInfo),
    Disconnected(PeerInfo, Disconnect),
    Refused(Disconnect),
    Message(u8, Bytes),
    Datagram(Bytes),
}

/// Echoes requests and writes everything down.
#[derive(Default)]
pub struct Recorder {
    pub events: Mutex<Vec<Event>>,
    pub requests: Mutex<Vec<(u8, usize)>>,
    pub held: Mutex<Vec<Reply>>,
    pub streams: Mutex<Vec<FrameStream>>,
}

impl Handler for Recorder {
    fn request(&self, _from: &PeerInfo, request: Request, reply: Reply) {
        self.requests.lock().push((request.kind, request.body.len()));
        match request.kind {
            ECHO => reply.send(request.body),
            HOLD => self.held.lock().push(reply),
            STATUS => reply.status(42, request.body),
            BLOCK => {
                std::thread::sleep(BLOCK_FOR);
                reply.send(request.body);
            }
            PANIC => panic!("a handler that panics, as the test wants"),
            _ => drop(reply),
        }
    }

    fn message(&self, _from: &PeerInfo, kind: u8, body: Bytes) {
        self.events.lock().push(Event::Message(kind, body));
    }

    fn datagram(&self, _from: &PeerInfo, body: Bytes) {
        self.events.lock().push(Event::Datagram(body));
    }

    fn stream(&self, _from: &PeerInfo, _kind: u8, stream: FrameStream) {
        self.streams.lock().push(stream);
    }

    fn connected(&self, peer: &PeerInfo) {
        self.events.lock().push(Event::Connected(peer.clone()));
    }

    fn disconnected(&self, peer: &PeerInfo, why: &Disconnect) {
        self.events.lock().push(Event::Disconnected(peer.clone(), why.clone()));
    }

    fn refused(&self, _addr: SocketAddr, why: &Disconnect) {
        self.events.lock().push(Event::Refused(why.clone()));
    }
}

impl Recorder {
    /// The first reason for which a connection of this recorder's side ended.
    pub fn disconnect(&self) -> Option<Disconnect> {
        self.events.lock().iter().find_map(|event| match event {
            Event::Disconnected(_, why) => Some(why.clone()),
            _ => None,
        })
    }

    pub fn refusal(&self) -> Option<Disconnect> {
        self.events.lock().iter().find_map(|event| match event {
            Event::Refused(why) => Some(why.clone()),
            _ => None,
        })
    }

    pub fn ever_connected(&self) -> bool {
        self.events.lock().iter().any(|event| matches!(event, Event::Connected(_)))
    }
}

pub struct Node {
    pub id: NodeId,
    pub endpoint: Endpoint,
    pub handler: Arc<Recorder>,
}

impl Node {
    pub fn start(number: u64) -> Self {
        Setup::new(number).start()
    }

    pub fn addr(&self) -> SocketAddr {
        self.endpoint.local_addr()
    }

    pub fn peer(&self, other: &Self) -> Peer {
        self.endpoint.peer(other.addr(), Some(other.id))
    }
}

pub struct Setup {
    pub secret: &'static str,
    pub hello: Hello,
    pub config: TransportConfig,
    pub addr: SocketAddr,
}

impl Setup {
    pub fn new(number: u64) -> Self {
        let config = TransportConfig { mtu_max: 6000, ..TransportConfig::default() };
        Self { secret: SECRET, hello: hello(number), config, addr: LOOPBACK }
    }

    pub fn generation(mut self, cluster: u128) -> Self {
        self.hello.generation = Some(Generation { cluster, reform: 0 });
        self
    }

    pub fn config(mut self, change: impl FnOnce(&mut TransportConfig)) -> Self {
        change(&mut self.config);
        self
    }

    pub fn start(self) -> Node {
        self.try_start().unwrap()
    }

    pub fn try_start(self) -> Result<Node, slotmesh_transport::BindError> {
        let handler = Arc::new(Recorder::default());
        let id = self.hello.node;
        let identity = identity(self.secret, id);
        let endpoint =
            Endpoint::bind(self.addr, &identity, self.hello, self.config, handler.clone())?;
        Ok(Node { id, endpoint, handler })
    }
}

pub fn hello(number: u64) -> Hello {
    Hello {
        cluster: CLUSTER.into(),
        node: NodeId::from_random(number),
        generation: None,
        lane: 0,
        info: Bytes::new(),
    }
}

pub fn identity(secret: &str, node: NodeId) -> Identity {
    Identity::from_secret(&ClusterSecret::new(secret).unwrap(), node).unwrap()
}

/// Waits until there is something; fails after ten seconds without.
pub async fn eventually<T>(what: &str, mut look: impl FnMut() -> Option<T>) -> T {
    let waited = async {
        loop {
            if let Some(found) = look() {
                return found;
            }
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
    };
    tokio::time::timeout(BUDGET, waited).await.unwrap_or_else(|_| panic!("never came: {what}"))
}

/// A hello as it travels, so that tests pin the layout and can lie in it.
pub fn raw_hello(protocol: u16, cluster: &str, node: u64) -> Vec<u8> {
    let mut body = b"SLOT".to_vec();
    body.extend(protocol.to_be_bytes());
    body.extend((cluster.len() as u32).to_be_bytes());
    body.extend(cluster.as_bytes());
    body.extend(node.to_be_bytes());
    body.extend([0; 1 + 16 + 4 + 1 + 4]);
    [&(body.len() as u32).to_be_bytes()[..], &body].concat()
}

/// A frame of the RPC stream as it travels.
pub fn raw_frame(frame_type: u8, kind: u8, id: u32, body: &[u8]) -> Vec<u8> {
    let mut frame = (body.len() as u32 + 10).to_be_bytes().to_vec();
    frame.extend([frame_type, kind]);
    frame.extend(id.to_be_bytes());
    frame.extend(10_000u32.to_be_bytes());
    frame.extend(body);
    frame
}

/// QUIC without this crate's framing, with a cluster identity.
pub struct RawPeer {
    pub endpoint: quinn::Endpoint,
    client: quinn::ClientConfig,
}

impl RawPeer {
    pub fn new(number: u64, transport: quinn::TransportConfig) -> Self {
        let identity = identity(SECRET, NodeId::from_random(number));
        let transport = Arc::new(transport);
        let server = QuicServerConfig::try_from(identity.server_tls()).unwrap();
        let mut server = quinn::ServerConfig::with_crypto(Arc::new(server));
        server.transport_config(transport.clone());
        let client = QuicClientConfig::try_from(identity.client_tls()).unwrap();
        let mut client = quinn::ClientConfig::new(Arc::new(client));
        client.transport_config(transport);
        Self { endpoint: quinn::Endpoint::server(server, LOOPBACK).unwrap(), client }
    }

    pub fn addr(&self) -> SocketAddr {
        self.endpoint.local_addr().unwrap()
    }

    pub async fn connect(&self, addr: SocketAddr) -> quinn::Connection {
        let client = self.client.clone();
        self.endpoint.connect_with(client, addr, "node.slotmesh").unwrap().await.unwrap()
    }

    /// Connects and gets through the hellos.
    pub async fn greet(
        &self,
        addr: SocketAddr,
        number: u64,
    ) -> (quinn::Connection, quinn::SendStream, quinn::RecvStream) {
        let connection = self.connect(addr).await;
        let (mut send, mut recv) = connection.open_bi().await.unwrap();
        send.write_all(&raw_hello(1, CLUSTER, number)).await.unwrap();
        let mut length = [0; 4];
        recv.read_exact(&mut length).await.unwrap();
        recv.read_exact(&mut vec![0; u32::from_be_bytes(length) as usize]).await.unwrap();
        (connection, send, recv)
    }
}

/// What the other side closed the connection with: code and text.
pub async fn closed_with(connection: &quinn::Connection) -> (u64, String) {
    let closed = tokio::time::timeout(BUDGET, connection.closed()).await;
    match closed.expect("the other side closes the connection") {
        quinn::ConnectionError::ApplicationClosed(close) => {
            (close.error_code.into_inner(), String::from_utf8_lossy(&close.reason).into_owned())
        }
        other => panic!("closed otherwise: {other}"),
    }
}
