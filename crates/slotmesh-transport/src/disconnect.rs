use quinn::{ConnectionError, VarInt};
use slotmesh_slots::Generation;

use crate::frame::FrameError;

/// Why there is no connection to a peer.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum Disconnect {
    /// No attempt has ended yet.
    #[error("the first connection is still being made")]
    Connecting,
    /// The peer said that it leaves: it serves nothing any more.
    #[error("the peer has left")]
    Leaving,
    /// One side will not talk to the other.
    #[error("refused: {0}")]
    Refused(RefusedReason),
    /// Nothing was heard from the peer for the idle time.
    #[error("nothing was heard from the peer for too long")]
    Idle,
    /// The process at the peer's address does not know the connection: the peer has crashed and another runs there, or it
    /// has given the connection up because nothing reached it for the idle time.
    #[error("the peer's process was replaced, or has given the connection up")]
    Restarted,
    /// The connection broke in some other way.
    #[error("the connection was lost")]
    Lost,
    /// Nobody answered at the address.
    #[error("no answer from the address: {0}")]
    Unreachable(String),
    /// The peer sent bytes that are no frames; this side closed the connection.
    #[error("the peer broke the protocol: {0}")]
    BadFrame(FrameError),
    /// The peer closed the connection because of bytes that this side sent.
    #[error("the peer rejected a frame: {0}")]
    RejectedFrame(String),
    /// The peer closed the connection in an orderly way, without leaving the cluster.
    #[error("the peer closed the connection")]
    PeerClosed,
    /// This side closed it: the endpoint was closed or the last handle dropped.
    #[error("closed by this side")]
    Closed,
}

/// Why two processes do not talk to each other. Read from the side that gets it: `theirs` is always the other one's.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum RefusedReason {
    /// The certificates come from different secrets.
    #[error("the peer does not share this cluster's secret")]
    OtherSecret,
    /// The peer has the secret but another cluster name.
    #[error("the peer belongs to the cluster {theirs:?}")]
    OtherCluster {
        /// The other side's cluster name.
        theirs: String,
    },
    /// The peer speaks another version; zero when it did not say which.
    #[error("the peer speaks protocol version {theirs}")]
    OtherProtocol {
        /// The other side's protocol version.
        theirs: u16,
    },
    /// The peer belongs to another founding of a cluster of this name.
    #[error("the peer belongs to generation {theirs} of the cluster")]
    OtherGeneration {
        /// The other side's generation.
        theirs: Generation,
    },
    /// The peer's certificate names another node than the one that was expected or that it claims to be.
    #[error("the peer's certificate names another node")]
    NotThePeer,
    /// The other side is about to end, or has too many connections or handshakes; a later attempt can succeed.
    #[error("it ends, or has too many connections or handshakes")]
    Busy,
}

/// An application close: error code and text. The text carries the closing side's own value where the other side
/// reports one, and is readable in a packet log.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Close {
    pub(crate) code: u32,
    pub(crate) text: String,
}

pub(crate) const CODE_CLOSED: u32 = 0;
pub(crate) const CODE_LEAVING: u32 = 1;
const CODE_OTHER_CLUSTER: u32 = 2;
const CODE_OTHER_PROTOCOL: u32 = 3;
const CODE_OTHER_GENERATION: u32 = 4;
const CODE_NOT_THE_PEER: u32 = 5;
const CODE_BUSY: u32 = 6;
const CODE_BAD_FRAME: u32 = 7;

impl Close {
    fn new(code: u32, text: impl Into<String>) -> Self {
        Self { code, text: text.into() }
    }

    /// How to tell the other side, whose cluster name and generation are ours to send: `ours` is what it will read as
    /// "theirs".
    pub(crate) fn of(why: &Disconnect, ours: &crate::Hello) -> Self {
        match why {
            Disconnect::Leaving => Self::new(CODE_LEAVING, "leaving"),
            Disconnect::BadFrame(error) => Self::new(CODE_BAD_FRAME, error.to_string()),
            Disconnect::Refused(RefusedReason::OtherCluster { .. }) => {
                Self::new(CODE_OTHER_CLUSTER, ours.cluster.clone())
            }
            Disconnect::Refused(RefusedReason::OtherProtocol { .. }) => {
                Self::new(CODE_OTHER_PROTOCOL, crate::PROTOCOL_VERSION.to_string())
            }
            Disconnect::Refused(RefusedReason::OtherGeneration { .. }) => {
                let text = ours.generation.map_or_else(String::new, generation_text);
                Self::new(CODE_OTHER_GENERATION, text)
            }
            Disconnect::Refused(RefusedReason::NotThePeer) => {
                Self::new(CODE_NOT_THE_PEER, "certificate names another node")
            }
            Disconnect::Refused(RefusedReason::Busy) => Self::new(CODE_BUSY, "busy"),
            _ => Self::plain(),
        }
    }

    /// Closes the connection unless it is closed: QUIC would forget the reason that it had.
    pub(crate) fn apply(&self, connection: &quinn::Connection) {
        if connection.close_reason().is_none() {
            connection.close(self.code.into(), self.text.as_bytes());
        }
    }

    /// An orderly close without a reason.
    pub(crate) fn plain() -> Self {
        Self::new(CODE_CLOSED, "closed")
    }

    /// What the other side's close means here.
    fn read(code: VarInt, text: &[u8]) -> Disconnect {
        let text = String::from_utf8_lossy(text).into_owned();
        let refused = match u32::try_from(code.into_inner()).unwrap_or(u32::MAX) {
            CODE_LEAVING => return Disconnect::Leaving,
            CODE_BAD_FRAME => return Disconnect::RejectedFrame(text),
            CODE_OTHER_CLUSTER => RefusedReason::OtherCluster { theirs: text },
            CODE_OTHER_PROTOCOL => {
                RefusedReason::OtherProtocol { theirs: text.parse().unwrap_or(0) }
            }
            CODE_OTHER_GENERATION => {
                RefusedReason::OtherGeneration { theirs: parse_generation(&text) }
            }
            CODE_NOT_THE_PEER => RefusedReason::NotThePeer,
            CODE_BUSY => RefusedReason::Busy,
            _ => return Disconnect::PeerClosed,
        };
        Disconnect::Refused(refused)
    }
}

impl From<ConnectionError> for Disconnect {
    fn from(error: ConnectionError) -> Self {
        match error {
            ConnectionError::ApplicationClosed(close) => {
                Close::read(close.error_code, &close.reason)
            }
            ConnectionError::ConnectionClosed(close) => transport_close(close.error_code.into()),
            ConnectionError::TransportError(error) => transport_close(error.code.into()),
            ConnectionError::Reset => Self::Restarted,
            ConnectionError::TimedOut => Self::Idle,
            ConnectionError::LocallyClosed => Self::Closed,
            ConnectionError::VersionMismatch => {
                Self::Refused(RefusedReason::OtherProtocol { theirs: 0 })
            }
            ConnectionError::CidsExhausted => Self::Lost,
        }
    }
}

/// QUIC's error codes: 0x2 is a refused connection, 0x1xx a TLS alert (RFC 9000 section 20.1, RFC 8446 section 6).
fn transport_close(code: u64) -> Disconnect {
    const CONNECTION_REFUSED: u64 = 0x2;
    const ALERT: u64 = 0x100;
    const NO_APPLICATION_PROTOCOL: u64 = ALERT + 120;
    /// bad_certificate, certificate_unknown, unknown_ca, decrypt_error, certificate_required.
    const CERTIFICATE_ALERTS: [u64; 5] =
        [ALERT + 42, ALERT + 46, ALERT + 48, ALERT + 51, ALERT + 116];
    match code {
        CONNECTION_REFUSED => Disconnect::Refused(RefusedReason::Busy),
        NO_APPLICATION_PROTOCOL => Disconnect::Refused(RefusedReason::OtherProtocol { theirs: 0 }),
        code if CERTIFICATE_ALERTS.contains(&code) => {
            Disconnect::Refused(RefusedReason::OtherSecret)
        }
        _ => Disconnect::Lost,
    }
}

fn generation_text(generation: Generation) -> String {
    format!("{:032x}.{}", generation.cluster, generation.reform)
}

/// An unreadable generation is shown as zero: the refusal stands whatever it says.
fn parse_generation(text: &str) -> Generation {
    let (cluster, reform) = text.split_once('.').unwrap_or_default();
    Generation {
        cluster: u128::from_str_radix(cluster, 16).unwrap_or(0),
        reform: reform.parse().unwrap_or(0),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use bytes::Bytes;
    use slotmesh_slots::NodeId;

    /// What side A closes with, as side B reads it; B's `theirs` must be A's own value.
    #[test]
    fn the_other_side_reads_the_same_reason_with_the_closers_value() {
        let generation = Generation { cluster: 0xfeed << 100, reform: 3 };
        let ours = crate::Hello {
            cluster: "orders".into(),
            node: NodeId::from_random(1),
            generation: Some(generation),
            lane: 0,
            info: Bytes::new(),
        };
        let check = |why: Disconnect, read: Disconnect| {
            let close = Close::of(&why, &ours);
            assert_eq!(Close::read(close.code.into(), close.text.as_bytes()), read);
        };
        let refused = Disconnect::Refused;
        check(Disconnect::Leaving, Disconnect::Leaving);
        check(Disconnect::Closed, Disconnect::PeerClosed);
        check(
            refused(RefusedReason::OtherCluster { theirs: "x".into() }),
            refused(RefusedReason::OtherCluster { theirs: "orders".into() }),
        );
        check(
            refused(RefusedReason::OtherProtocol { theirs: 9 }),
            refused(RefusedReason::OtherProtocol { theirs: crate::PROTOCOL_VERSION }),
        );
        check(
            refused(RefusedReason::OtherGeneration {
                theirs: Generation { cluster: 1, reform: 1 },
            }),
            refused(RefusedReason::OtherGeneration { theirs: generation }),
        );
        check(refused(RefusedReason::NotThePeer), refused(RefusedReason::NotThePeer));
        check(refused(RefusedReason::Busy), refused(RefusedReason::Busy));
        check(
            Disconnect::BadFrame(FrameError::UnknownType(77)),
            Disconnect::RejectedFrame("unknown frame type 77".into()),
        );
    }

    #[test]
    fn unreadable_texts_still_give_a_reason() {
        let read = |code: u32| Close::read(code.into(), &[0xff, 0xfe]);
        let none = Generation { cluster: 0, reform: 0 };
        assert_eq!(
            read(CODE_OTHER_GENERATION),
            Disconnect::Refused(RefusedReason::OtherGeneration { theirs: none })
        );
        assert_eq!(
            read(CODE_OTHER_PROTOCOL),
            Disconnect::Refused(RefusedReason::OtherProtocol { theirs: 0 })
        );
        assert_eq!(read(4711), Disconnect::PeerClosed);
    }
}
