//! QUIC with mutual TLS between nodes: identity from the cluster secret, framed multiplexed requests, ordered streams
//! and datagrams. It moves bytes and knows no cluster.
//!
//! An [`Endpoint`] is one UDP socket on one tokio runtime. It accepts connections, whose requests go to a [`Handler`],
//! and dials [`Peer`]s. A connection carries calls one way only, from the side that dialled; two nodes that call each
//! other hold one each way. On a connection there is one long-lived stream for all calls and one-way messages
//! (opening a stream per call would cost 2.5 to 5 times the CPU time), one more per [`FrameStream`], and QUIC datagrams.
//!
//! Who may talk: both sides show a certificate that only a holder of the [`ClusterSecret`] can sign, over TLS 1.3; then
//! both say [`Hello`], and part with a typed [`RefusedReason`] when protocol version, cluster name or generation differ.
//!
//! Everything is bounded: calls in flight and queued bytes per peer, requests being served per connection, frame sizes,
//! streams, connections and half-open handshakes. What exceeds a bound fails at once with [`CallError::Busy`] rather
//! than wait.
//!
//! Not done yet: bodies above 16 KiB travel on the stream of the calls, up to
//! [`frame_bytes_max`](TransportConfig::frame_bytes_max), and hold up the calls behind them; they will get streams of
//! their own. Certificates from files are not read yet; only the secret gives an identity.

mod backoff;
mod clock;
mod config;
mod connection_id;
mod disconnect;
mod drive;
mod endpoint;
mod error;
mod filter;
mod frame;
mod handler;
mod handshake;
mod hello;
mod identity;
mod leaf;
mod link;
mod log_limiter;
mod outbox;
mod peer;
mod pending;
mod ready;
mod secret;
mod stream;
mod verifier;

pub use config::TransportConfig;
pub use disconnect::{Disconnect, RefusedReason};
pub use endpoint::{Endpoint, HALF_OPEN_MAX};
pub use error::{BindError, BusyAt, CallError};
#[doc(hidden)]
pub use filter::PacketFilter;
pub use frame::{
    Frame, FrameDecoder, FrameError, FrameHeader, FrameType, HEADER_BYTES, LengthDecoder,
};
pub use handler::{Handler, PeerInfo, Reply, Request};
pub use hello::{CLUSTER_NAME_BYTES_MAX, HELLO_INFO_BYTES_MAX, Hello, PROTOCOL_VERSION};
pub use identity::{Identity, IdentityError};
pub use leaf::LEAF_VALIDITY;
pub use peer::{DATAGRAM_BYTES_MAX, LinkStats, Peer};
pub use secret::{ClusterSecret, SECRET_BYTES_MIN, SecretError};
pub use stream::{FrameReceiver, FrameSender, FrameStream, StreamError};
