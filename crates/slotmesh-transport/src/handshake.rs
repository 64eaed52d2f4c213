//! From a QUIC connection to a link: certificates are checked against names, then hellos exchanged on the RPC stream,
//! the dialling side's first.

use std::net::SocketAddr;
use std::sync::Arc;

use bytes::{BufMut, Bytes, BytesMut};
use quinn::{Connection, ConnectionError, ReadExactError, RecvStream, SendStream};
use rustls::pki_types::CertificateDer;
use slotmesh_slots::NodeId;

use crate::config::TransportConfig;
use crate::disconnect::{Close, Disconnect, RefusedReason};
use crate::drive::ReadyLink;
use crate::frame::{FrameError, LENGTH_BYTES};
use crate::handler::PeerInfo;
use crate::hello::{HELLO_BYTES_MAX, Hello, HelloError};
use crate::identity::{SERVER_NAME, names_node};
use crate::link::Link;

/// What both directions of a handshake need to know of this side.
pub(crate) struct Ours {
    pub(crate) hello: Hello,
    pub(crate) config: Arc<TransportConfig>,
}

/// Connects to an address, and to this node only when one is expected.
pub(crate) async fn dial(
    endpoint: &quinn::Endpoint,
    client: quinn::ClientConfig,
    addr: SocketAddr,
    expect: Option<NodeId>,
    ours: Ours,
) -> Result<ReadyLink, Disconnect> {
    let limit = ours.config.handshake_timeout;
    let attempt = async {
        let connecting = endpoint
            .connect_with(client, addr, SERVER_NAME)
            .map_err(|error| Disconnect::Unreachable(error.to_string()))?;
        let connection = connecting.await.map_err(|error| match error {
            ConnectionError::TimedOut => Disconnect::Unreachable("nobody answered".into()),
            error => error.into(),
        })?;
        match greet_dialled(&connection, expect, &ours.hello).await {
            Ok((theirs, send, recv)) => Ok(ready(connection, theirs, ours, true, (send, recv))),
            Err(why) => Err(refuse(&connection, &ours.hello, why)),
        }
    };
    match tokio::time::timeout(limit, attempt).await {
        Ok(outcome) => outcome,
        Err(_) => Err(Disconnect::Unreachable(format!("nobody answered within {limit:?}"))),
    }
}

/// Completes a connection that a peer opens.
pub(crate) async fn accept(incoming: quinn::Incoming, ours: Ours) -> Result<ReadyLink, Disconnect> {
    let limit = ours.config.handshake_timeout;
    let attempt = async {
        let connection = incoming.accept()?.await?;
        match greet_accepted(&connection, &ours.hello).await {
            Ok((theirs, send, recv)) => Ok(ready(connection, theirs, ours, false, (send, recv))),
            Err(why) => Err(refuse(&connection, &ours.hello, why)),
        }
    };
    match tokio::time::timeout(limit, attempt).await {
        Ok(outcome) => outcome,
        Err(_) => Err(Disconnect::Unreachable(format!("no hello within {limit:?}"))),
    }
}

type Greeting = (Hello, SendStream, RecvStream);

async fn greet_dialled(
    connection: &Connection,
    expect: Option<NodeId>,
    ours: &Hello,
) -> Result<Greeting, Disconnect> {
    if let Some(node) = expect {
        check_certificate(connection, node)?;
    }
    let (mut send, mut recv) = connection.open_bi().await?;
    write_hello(&mut send, ours).await?;
    let theirs = read_hello(&mut recv).await?;
    check_certificate(connection, theirs.node)?;
    ours.check(&theirs).map_err(Disconnect::Refused)?;
    Ok((theirs, send, recv))
}

async fn greet_accepted(connection: &Connection, ours: &Hello) -> Result<Greeting, Disconnect> {
    let (mut send, mut recv) = connection.accept_bi().await?;
    let theirs = read_hello(&mut recv).await?;
    check_certificate(connection, theirs.node)?;
    ours.check(&theirs).map_err(Disconnect::Refused)?;
    write_hello(&mut send, ours).await?;
    Ok((theirs, send, recv))
}

fn ready(
    connection: Connection,
    theirs: Hello,
    ours: Ours,
    dialled: bool,
    (send, recv): (SendStream, RecvStream),
) -> ReadyLink {
    let Hello { node, generation, lane, info, .. } = theirs;
    let addr = connection.remote_address();
    let info = PeerInfo { node, addr, generation, lane, info, dialled };
    ReadyLink { link: Link::new(connection, info, ours.config, ours.hello), send, recv }
}

/// Tells the peer why, and gives the reason back.
fn refuse(connection: &Connection, ours: &Hello, why: Disconnect) -> Disconnect {
    Close::of(&why, ours).apply(connection);
    why
}

fn check_certificate(connection: &Connection, node: NodeId) -> Result<(), Disconnect> {
    let chain = connection
        .peer_identity()
        .and_then(|identity| identity.downcast::<Vec<CertificateDer<'static>>>().ok());
    match chain.as_deref().and_then(|chain| chain.first()) {
        Some(leaf) if names_node(leaf, node) => Ok(()),
        _ => Err(Disconnect::Refused(RefusedReason::NotThePeer)),
    }
}

async fn write_hello(send: &mut SendStream, ours: &Hello) -> Result<(), Disconnect> {
    let hello = ours.encode();
    let mut framed = BytesMut::with_capacity(LENGTH_BYTES + hello.len());
    // Far below 4 GiB: its fields were checked when the endpoint was opened.
    framed.put_u32(hello.len() as u32);
    framed.put_slice(&hello);
    send.write_chunk(framed.freeze()).await.map_err(|error| match error {
        quinn::WriteError::ConnectionLost(error) => error.into(),
        _ => Disconnect::Lost,
    })
}

async fn read_hello(recv: &mut RecvStream) -> Result<Hello, Disconnect> {
    let mut length = [0; LENGTH_BYTES];
    read_exact(recv, &mut length).await?;
    let bytes = u32::from_be_bytes(length) as usize;
    if bytes > HELLO_BYTES_MAX {
        let error = FrameError::Oversized { bytes, max: HELLO_BYTES_MAX };
        return Err(Disconnect::BadFrame(error));
    }
    let mut hello = vec![0; bytes];
    read_exact(recv, &mut hello).await?;
    Hello::decode(&Bytes::from(hello)).map_err(|error| match error {
        HelloError::Refused(reason) => Disconnect::Refused(reason),
        HelloError::Invalid(error) => Disconnect::BadFrame(FrameError::NoHello(error.to_string())),
    })
}

async fn read_exact(recv: &mut RecvStream, buffer: &mut [u8]) -> Result<(), Disconnect> {
    match recv.read_exact(buffer).await {
        Ok(()) => Ok(()),
        Err(ReadExactError::FinishedEarly(bytes)) => {
            Err(Disconnect::BadFrame(FrameError::Truncated { bytes }))
        }
        Err(ReadExactError::ReadError(quinn::ReadError::ConnectionLost(error))) => {
            Err(error.into())
        }
        Err(ReadExactError::ReadError(_)) => Err(Disconnect::BadFrame(FrameError::Ended)),
    }
}
