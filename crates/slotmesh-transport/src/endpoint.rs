use std::collections::HashMap;
use std::fmt;
use std::net::{SocketAddr, UdpSocket};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Weak};
use std::time::Duration;

use bytes::Bytes;
use parking_lot::Mutex;
use quinn::{AsyncUdpSocket, Runtime};
use slotmesh_slots::{Generation, NodeId};

use crate::clock;
use crate::config::TransportConfig;
use crate::connection_id::RandomIds;
use crate::disconnect::{CODE_CLOSED, CODE_LEAVING, Disconnect};
use crate::drive::ReadyLink;
use crate::error::BindError;
use crate::filter::{FilteredSocket, PacketFilter};
use crate::handler::{Handler, PeerInfo};
use crate::handshake::{self, Ours};
use crate::hello::{CLUSTER_NAME_BYTES_MAX, HELLO_INFO_BYTES_MAX, Hello};
use crate::identity::Identity;
use crate::log_limiter::LogLimiter;
use crate::peer::{Peer, PeerHandle};

/// Handshakes of strangers under way at once; more are refused. A handshake takes 0.7 ms of CPU time, so this many are
/// half a tenth of a second of work.
pub const HALF_OPEN_MAX: usize = 64;

/// From this many handshakes under way on, strangers must first prove that their address is theirs.
const VALIDATE_ADDRESS_FROM: usize = HALF_OPEN_MAX / 4;

/// Bytes of strangers' first packets that wait to be looked at, over all of them.
const INCOMING_BYTES_MAX: u64 = 1 << 20;

/// Peers may be set to larger packets than this side; those that fit Ethernet are taken always.
const UDP_PAYLOAD_ETHERNET: u16 = 1472;

/// Longest wait for peers to confirm a close.
const CLOSE_WAIT: Duration = Duration::from_secs(1);

/// A UDP socket that accepts connections of the cluster's other processes and dials them.
///
/// Cheap to clone. When the last clone is dropped the endpoint closes as [`Endpoint::close`]`(false)` does, without
/// waiting; peers' handles then fail with `NotConnected`.
#[derive(Clone)]
pub struct Endpoint {
    inner: Arc<EndpointInner>,
    _open: Arc<CloseOnDrop>,
}

impl Endpoint {
    /// Opens the socket and accepts connections from now on.
    ///
    /// Must be called inside a tokio runtime, on which all the endpoint's work then happens; a current-thread runtime on
    /// its own thread is the fastest.
    ///
    /// # Errors
    /// When the settings or the hello are invalid, there is no runtime, or the address is taken.
    pub fn bind(
        addr: SocketAddr,
        identity: &Identity,
        hello: Hello,
        config: TransportConfig,
        handler: Arc<dyn Handler>,
    ) -> Result<Self, BindError> {
        let (addr, socket) = open(addr, identity, &hello, &config)?;
        Self::bind_on(addr, socket, identity, hello, config, handler)
    }

    /// As [`Endpoint::bind`], with a filter that packets have to pass on their way out: for partitions in tests.
    ///
    /// # Errors
    /// As [`Endpoint::bind`].
    #[doc(hidden)]
    pub fn bind_filtered(
        addr: SocketAddr,
        identity: &Identity,
        hello: Hello,
        config: TransportConfig,
        handler: Arc<dyn Handler>,
        passes: PacketFilter,
    ) -> Result<Self, BindError> {
        let (addr, socket) = open(addr, identity, &hello, &config)?;
        let socket = Arc::new(FilteredSocket { addr, socket, passes });
        Self::bind_on(addr, socket, identity, hello, config, handler)
    }

    /// As [`Endpoint::bind`], on a socket of the caller's making that has this address: for tests over a modelled
    /// network.
    ///
    /// # Errors
    /// When the settings or the hello are invalid, or there is no runtime.
    #[doc(hidden)]
    pub fn bind_on(
        addr: SocketAddr,
        socket: Arc<dyn AsyncUdpSocket>,
        identity: &Identity,
        hello: Hello,
        config: TransportConfig,
        handler: Arc<dyn Handler>,
    ) -> Result<Self, BindError> {
        let runtime = runtime()?;
        check(&config, &hello, identity)?;
        let quic = quinn::Endpoint::new_with_abstract_socket(
            endpoint_config(identity, addr, config.mtu_max)?,
            Some(server_config(identity, &config)?),
            socket,
            // Its timers and its time are tokio's, so they stand still with a paused clock.
            Arc::new(quinn::TokioRuntime),
        )
        .map_err(|source| BindError::Socket { addr, source })?;
        let mut client = quinn::ClientConfig::new(Arc::new(identity.quic_client()?));
        client.transport_config(config.dialled());
        let inner = Arc::new(EndpointInner {
            quic,
            addr,
            client,
            hello: Mutex::new(hello),
            config: Arc::new(config),
            handler,
            runtime,
            peers: Mutex::new(HashMap::new()),
            closing: AtomicBool::new(false),
            half_open: Counter::default(),
            accepted: Counter::default(),
            log: LogLimiter::default(),
        });
        inner.runtime.spawn(accept(inner.clone()));
        Ok(Self { _open: Arc::new(CloseOnDrop(inner.clone())), inner })
    }

    /// The address of the socket, with the port that the system chose if none was given.
    #[must_use]
    pub fn local_addr(&self) -> SocketAddr {
        self.inner.addr
    }

    /// Changes what later connections say of this side. Those that stand keep what they said.
    ///
    /// # Errors
    /// When `info` is longer than [`HELLO_INFO_BYTES_MAX`]; nothing changes then.
    pub fn set_hello(&self, generation: Option<Generation>, info: Bytes) -> Result<(), BindError> {
        if info.len() > HELLO_INFO_BYTES_MAX {
            return Err(BindError::Hello("info is too long"));
        }
        let mut hello = self.inner.hello.lock();
        hello.generation = generation;
        hello.info = info;
        Ok(())
    }

    /// A handle to the process at this address; with `expect`, to this node and no other.
    ///
    /// Nothing happens until it is first used. From then on a connection is kept, and made again with growing pauses
    /// when it is lost, until the last clone of the handle is dropped. Handles of the same address and expectation share
    /// one connection.
    #[must_use]
    pub fn peer(&self, addr: SocketAddr, expect: Option<NodeId>) -> Peer {
        let mut peers = self.inner.peers.lock();
        if let Some(handle) = peers.get(&(addr, expect)).and_then(Weak::upgrade) {
            return Peer::new(handle);
        }
        peers.retain(|_, handle| handle.strong_count() > 0);
        let handle = PeerHandle::new(self.inner.clone(), addr, expect);
        peers.insert((addr, expect), Arc::downgrade(&handle));
        Peer::new(handle)
    }

    /// Number of connections that peers have opened to this endpoint and that stand.
    #[must_use]
    pub fn accepted_connections(&self) -> usize {
        self.inner.accepted.count()
    }

    /// Closes all connections, refuses new ones, and waits up to a second for peers to notice.
    ///
    /// With `leaving`, peers are told that this process serves nothing any more, which they may act upon at once. Calls
    /// under way fail. Not cancellation safe in that a dropped close may leave peers to find out by time-out.
    pub async fn close(&self, leaving: bool) {
        self.inner.close(leaving);
        // Peers that do not confirm find out by themselves.
        let _ = tokio::time::timeout(CLOSE_WAIT, self.inner.quic.wait_idle()).await;
    }
}

impl fmt::Debug for Endpoint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Endpoint({})", self.inner.addr)
    }
}

/// An address, and the node that must answer there.
type Target = (SocketAddr, Option<NodeId>);

/// What the endpoint, its tasks and the handles of peers share.
pub(crate) struct EndpointInner {
    quic: quinn::Endpoint,
    addr: SocketAddr,
    client: quinn::ClientConfig,
    hello: Mutex<Hello>,
    pub(crate) config: Arc<TransportConfig>,
    pub(crate) handler: Arc<dyn Handler>,
    pub(crate) runtime: tokio::runtime::Handle,
    peers: Mutex<HashMap<Target, Weak<PeerHandle>>>,
    closing: AtomicBool,
    half_open: Counter,
    accepted: Counter,
    log: LogLimiter,
}

impl EndpointInner {
    pub(crate) fn is_closing(&self) -> bool {
        self.closing.load(Ordering::Acquire)
    }

    /// Connects and exchanges hellos.
    pub(crate) async fn dial(
        &self,
        addr: SocketAddr,
        expect: Option<NodeId>,
    ) -> Result<ReadyLink, Disconnect> {
        let outcome =
            handshake::dial(&self.quic, self.client.clone(), addr, expect, self.ours()).await;
        if let Err(why) = &outcome {
            self.note_failure(addr, why);
            self.handler.unanswered(addr, why);
        }
        outcome
    }

    /// A peer has connected: whoever waits for it need not any more.
    fn heard_from(&self, peer: &PeerInfo) {
        let peers = self.peers.lock();
        for expect in [None, Some(peer.node)] {
            if let Some(handle) = peers.get(&(peer.addr, expect)).and_then(Weak::upgrade) {
                handle.heard(peer.node);
            }
        }
    }

    fn ours(&self) -> Ours {
        Ours { hello: self.hello.lock().clone(), config: self.config.clone() }
    }

    fn note_failure(&self, addr: SocketAddr, why: &Disconnect) {
        if self.is_closing() {
            return;
        }
        if let Some(suppressed) = self.log.allow(clock::now()) {
            tracing::warn!(%addr, %why, suppressed, "no connection");
        }
        if matches!(why, Disconnect::Refused(_)) {
            self.handler.refused(addr, why);
        }
    }

    fn close(&self, leaving: bool) {
        self.closing.store(true, Ordering::Release);
        let (code, text): (u32, &[u8]) =
            if leaving { (CODE_LEAVING, b"leaving") } else { (CODE_CLOSED, b"closed") };
        self.quic.close(code.into(), text);
        for handle in self.peers.lock().values().filter_map(Weak::upgrade) {
            handle.redial();
        }
    }
}

struct CloseOnDrop(Arc<EndpointInner>);

impl Drop for CloseOnDrop {
    fn drop(&mut self) {
        self.0.close(false);
    }
}

async fn accept(endpoint: Arc<EndpointInner>) {
    while let Some(incoming) = endpoint.quic.accept().await {
        let config = &endpoint.config;
        let addr = incoming.remote_address();
        let half_open = endpoint.half_open.enter(HALF_OPEN_MAX);
        let accepted = endpoint.accepted.enter(config.accepted_max);
        let (Some(half_open), Some(accepted)) = (half_open, accepted) else {
            endpoint.note_failure(addr, &Disconnect::Refused(crate::RefusedReason::Busy));
            incoming.refuse();
            continue;
        };
        let doubtful = endpoint.half_open.count() > VALIDATE_ADDRESS_FROM;
        if doubtful && !incoming.remote_address_validated() && incoming.may_retry() {
            // It cannot fail: whether a retry is allowed was just asked.
            let _ = incoming.retry();
            continue;
        }
        tokio::spawn(serve(endpoint.clone(), incoming, half_open, accepted));
    }
}

async fn serve(
    endpoint: Arc<EndpointInner>,
    incoming: quinn::Incoming,
    half_open: Entered,
    _accepted: Entered,
) {
    let addr = incoming.remote_address();
    match handshake::accept(incoming, endpoint.ours()).await {
        Ok(ready) => {
            drop(half_open);
            endpoint.heard_from(&ready.link.info);
            let handler = endpoint.handler.clone();
            // Held no longer than needed: the endpoint must be able to end while this connection lives.
            drop(endpoint);
            let why = ready.run(handler).await;
            tracing::debug!(%addr, %why, "accepted connection ended");
        }
        Err(why) => endpoint.note_failure(addr, &why),
    }
}

/// A count with a limit, left again by dropping the entry.
#[derive(Clone, Default)]
struct Counter(Arc<AtomicUsize>);

impl Counter {
    fn enter(&self, max: usize) -> Option<Entered> {
        if self.0.fetch_add(1, Ordering::Relaxed) >= max {
            self.0.fetch_sub(1, Ordering::Relaxed);
            return None;
        }
        Some(Entered(self.clone()))
    }

    fn count(&self) -> usize {
        self.0.load(Ordering::Relaxed)
    }
}

struct Entered(Counter);

impl Drop for Entered {
    fn drop(&mut self) {
        self.0.0.fetch_sub(1, Ordering::Relaxed);
    }
}

fn check(config: &TransportConfig, hello: &Hello, identity: &Identity) -> Result<(), BindError> {
    let problems = config.problems();
    if !problems.is_empty() {
        return Err(BindError::Config(problems));
    }
    if hello.node != identity.node() {
        return Err(BindError::Hello("it names another node than the certificate"));
    }
    if hello.cluster.len() > CLUSTER_NAME_BYTES_MAX || hello.info.len() > HELLO_INFO_BYTES_MAX {
        return Err(BindError::Hello("the cluster name or info is too long"));
    }
    Ok(())
}

fn runtime() -> Result<tokio::runtime::Handle, BindError> {
    tokio::runtime::Handle::try_current().map_err(|_| BindError::NoRuntime)
}

/// Opens no socket for what cannot be bound to it.
fn open(
    addr: SocketAddr,
    identity: &Identity,
    hello: &Hello,
    config: &TransportConfig,
) -> Result<(SocketAddr, Arc<dyn AsyncUdpSocket>), BindError> {
    runtime()?;
    check(config, hello, identity)?;
    let socket_error = |source| BindError::Socket { addr, source };
    let socket = UdpSocket::bind(addr).map_err(socket_error)?;
    let opened = socket.local_addr().map_err(socket_error)?;
    enlarge_buffers(&socket, config.socket_buffer_bytes);
    Ok((opened, quinn::TokioRuntime.wrap_udp_socket(socket).map_err(socket_error)?))
}

/// Best effort: the system caps buffers at its own limit, and works with small ones.
fn enlarge_buffers(socket: &UdpSocket, bytes: usize) {
    let receive = rustix::net::sockopt::set_socket_recv_buffer_size(socket, bytes);
    let send = rustix::net::sockopt::set_socket_send_buffer_size(socket, bytes);
    if let Err(error) = receive.and(send) {
        tracing::debug!(%error, bytes, "socket buffers stay as they are");
    }
}

fn endpoint_config(
    identity: &Identity,
    addr: SocketAddr,
    mtu_max: u16,
) -> Result<quinn::EndpointConfig, BindError> {
    let mut config = quinn::EndpointConfig::new(Arc::new(identity.reset_key(addr)));
    config.cid_generator(|| Box::new(RandomIds));
    config
        .max_udp_payload_size(mtu_max.max(UDP_PAYLOAD_ETHERNET))
        .map_err(|error| BindError::Config(vec![error.to_string()]))?;
    Ok(config)
}

fn server_config(
    identity: &Identity,
    config: &TransportConfig,
) -> Result<quinn::ServerConfig, BindError> {
    let mut server = quinn::ServerConfig::with_crypto(Arc::new(identity.quic_server()?));
    server
        .transport_config(config.accepted())
        .migration(false)
        .max_incoming(HALF_OPEN_MAX)
        .incoming_buffer_size_total(INCOMING_BYTES_MAX);
    Ok(server)
}
