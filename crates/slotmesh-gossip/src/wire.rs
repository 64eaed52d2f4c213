//! Layout of a datagram: header, body, then rumours up to the end.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

use bytes::Bytes;
use slotmesh_slots::{DecodeError, NodeId, Reader, Writer};

use crate::digest::{BUCKETS, Digest};

/// Longest datagram in bytes: fits every path that QUIC accepts (1,200 B) without IP fragments.
pub const DATAGRAM_MAX: usize = 1200;
/// Longest metadata of a member in bytes: any rumour fits beside any header and body.
pub const META_MAX: usize = 512;
/// Version of this layout, the first byte of every datagram.
pub(crate) const VERSION: u8 = 1;
/// Highest incarnation taken from others. Far above what one node can reach by refuting, and leaves room to refute it.
pub(crate) const INCARNATION_MAX: u64 = 1 << 62;
/// The shortest rumour (`Left`); less room than this is not worth a look at the queue.
pub(crate) const RUMOR_MIN: usize = 17;

const FLAG_WANT_SELF: u8 = 1;
const FLAG_LEAVING: u8 = 2;

/// Who sends.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Header {
    pub(crate) sender: NodeId,
    pub(crate) incarnation: u64,
    /// Where the sender receives datagrams.
    pub(crate) addr: SocketAddr,
    /// Whom the sender believes to be at the receiving address, if anybody.
    pub(crate) target: Option<NodeId>,
    /// The sender lacks the receiver's current description and asks for it.
    pub(crate) want_self: bool,
    /// The sender has announced that it leaves.
    pub(crate) leaving: bool,
}

/// What the datagram is for. Tokens match answers to questions.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Body {
    Ping {
        token: u32,
    },
    Ack {
        token: u32,
        about: NodeId,
    },
    PingReq {
        token: u32,
        node: NodeId,
        addr: SocketAddr,
    },
    Nack {
        token: u32,
    },
    Gossip,
    /// "This is what I know": asks for a [`Body::Feed`]. Token 0: answer only when something differs.
    Sync {
        token: u32,
        digest: Digest,
    },
    /// Members of the buckets that differ; `want` asks for the receiver's members of these buckets.
    Feed {
        token: u32,
        want: u64,
    },
}

/// A claim about one node at one of its incarnations.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Rumor {
    pub(crate) node: NodeId,
    pub(crate) incarnation: u64,
    pub(crate) claim: Claim,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Claim {
    Alive { addr: SocketAddr, meta: Bytes },
    Suspect { by: NodeId },
    Dead { by: NodeId },
    Left,
}

impl Rumor {
    /// Bytes on the wire.
    pub(crate) fn len(&self) -> usize {
        RUMOR_MIN
            + match &self.claim {
                Claim::Alive { addr, meta } => addr_len(addr) + 2 + meta.len(),
                Claim::Suspect { .. } | Claim::Dead { .. } => 8,
                Claim::Left => 0,
            }
    }

    fn write(&self, out: &mut Writer) {
        let kind = match self.claim {
            Claim::Alive { .. } => 0,
            Claim::Suspect { .. } => 1,
            Claim::Dead { .. } => 2,
            Claim::Left => 3,
        };
        out.u8(kind);
        out.node(self.node);
        out.u64(self.incarnation);
        match &self.claim {
            Claim::Alive { addr, meta } => {
                write_addr(out, *addr);
                out.u16(meta.len() as u16);
                out.raw(meta);
            }
            Claim::Suspect { by } | Claim::Dead { by } => out.node(*by),
            Claim::Left => {}
        }
    }

    fn read(input: &mut Reader<'_>) -> Result<Self, DecodeError> {
        let kind = input.u8()?;
        let node = input.node()?;
        let incarnation = read_incarnation(input)?;
        let claim = match kind {
            0 => {
                let addr = read_addr(input)?;
                let len = usize::from(input.u16()?);
                if len > META_MAX {
                    return Err(DecodeError::Invalid("metadata too long"));
                }
                Claim::Alive { addr, meta: Bytes::copy_from_slice(input.raw(len)?) }
            }
            1 => Claim::Suspect { by: input.node()? },
            2 => Claim::Dead { by: input.node()? },
            3 => Claim::Left,
            _ => return Err(DecodeError::Invalid("claim")),
        };
        Ok(Self { node, incarnation, claim })
    }
}

/// A datagram being written.
#[derive(Debug)]
pub(crate) struct Packet {
    out: Writer,
}

impl Packet {
    pub(crate) fn new(header: &Header, body: &Body) -> Self {
        let mut out = Writer::with_capacity(DATAGRAM_MAX);
        out.u8(VERSION);
        out.u8(body.kind());
        let want = if header.want_self { FLAG_WANT_SELF } else { 0 };
        let leaving = if header.leaving { FLAG_LEAVING } else { 0 };
        out.u8(want | leaving);
        out.node(header.sender);
        out.u64(header.incarnation);
        out.node_option(header.target);
        write_addr(&mut out, header.addr);
        body.write(&mut out);
        Self { out }
    }

    pub(crate) fn room(&self) -> usize {
        DATAGRAM_MAX.saturating_sub(self.out.len())
    }

    /// Appends the rumour if it fits.
    pub(crate) fn push(&mut self, rumor: &Rumor) -> bool {
        let fits = rumor.len() <= self.room();
        if fits {
            rumor.write(&mut self.out);
        }
        fits
    }

    pub(crate) fn finish(self) -> Bytes {
        self.out.finish()
    }
}

/// A datagram that was read whole.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Datagram {
    pub(crate) header: Header,
    pub(crate) body: Body,
    pub(crate) rumors: Vec<Rumor>,
}

impl Datagram {
    /// Reads everything after the version byte, or nothing.
    pub(crate) fn read(input: &mut Reader<'_>) -> Result<Self, DecodeError> {
        let kind = input.u8()?;
        let flags = input.u8()?;
        if flags & !(FLAG_WANT_SELF | FLAG_LEAVING) != 0 {
            return Err(DecodeError::Invalid("flags"));
        }
        let header = Header {
            sender: input.node()?,
            incarnation: read_incarnation(input)?,
            target: input.node_option()?,
            addr: read_addr(input)?,
            want_self: flags & FLAG_WANT_SELF != 0,
            leaving: flags & FLAG_LEAVING != 0,
        };
        let body = Body::read(kind, input)?;
        let mut rumors = Vec::new();
        while input.remaining() > 0 {
            rumors.push(Rumor::read(input)?);
        }
        Ok(Self { header, body, rumors })
    }
}

impl Body {
    const fn kind(&self) -> u8 {
        match self {
            Self::Ping { .. } => 0,
            Self::Ack { .. } => 1,
            Self::PingReq { .. } => 2,
            Self::Nack { .. } => 3,
            Self::Gossip => 4,
            Self::Sync { .. } => 5,
            Self::Feed { .. } => 6,
        }
    }

    fn write(&self, out: &mut Writer) {
        match self {
            Self::Ping { token } | Self::Nack { token } => out.u32(*token),
            Self::Ack { token, about } => {
                out.u32(*token);
                out.node(*about);
            }
            Self::PingReq { token, node, addr } => {
                out.u32(*token);
                out.node(*node);
                write_addr(out, *addr);
            }
            Self::Gossip => {}
            Self::Sync { token, digest } => {
                out.u32(*token);
                digest.0.iter().for_each(|bucket| out.u64(*bucket));
            }
            Self::Feed { token, want } => {
                out.u32(*token);
                out.u64(*want);
            }
        }
    }

    fn read(kind: u8, input: &mut Reader<'_>) -> Result<Self, DecodeError> {
        Ok(match kind {
            0 => Self::Ping { token: input.u32()? },
            1 => Self::Ack { token: input.u32()?, about: input.node()? },
            2 => {
                Self::PingReq { token: input.u32()?, node: input.node()?, addr: read_addr(input)? }
            }
            3 => Self::Nack { token: input.u32()? },
            4 => Self::Gossip,
            5 => {
                let token = input.u32()?;
                let mut buckets = Box::new([0; BUCKETS]);
                for bucket in buckets.iter_mut() {
                    *bucket = input.u64()?;
                }
                Self::Sync { token, digest: Digest(buckets) }
            }
            6 => Self::Feed { token: input.u32()?, want: input.u64()? },
            _ => return Err(DecodeError::Invalid("kind of datagram")),
        })
    }
}

fn read_incarnation(input: &mut Reader<'_>) -> Result<u64, DecodeError> {
    let incarnation = input.u64()?;
    if incarnation > INCARNATION_MAX {
        return Err(DecodeError::Invalid("incarnation"));
    }
    Ok(incarnation)
}

const fn addr_len(addr: &SocketAddr) -> usize {
    match addr {
        SocketAddr::V4(_) => 7,
        SocketAddr::V6(_) => 19,
    }
}

/// Scope and flow of an IPv6 address mean nothing to other hosts and are left out.
fn write_addr(out: &mut Writer, addr: SocketAddr) {
    match addr.ip() {
        IpAddr::V4(ip) => {
            out.u8(4);
            out.raw(&ip.octets());
        }
        IpAddr::V6(ip) => {
            out.u8(6);
            out.raw(&ip.octets());
        }
    }
    out.u16(addr.port());
}

fn read_addr(input: &mut Reader<'_>) -> Result<SocketAddr, DecodeError> {
    let ip = match input.u8()? {
        4 => IpAddr::V4(Ipv4Addr::from_bits(input.u32()?)),
        6 => IpAddr::V6(Ipv6Addr::from_bits(input.u128()?)),
        _ => return Err(DecodeError::Invalid("kind of address")),
    };
    let port = input.u16()?;
    // Nobody can be reached there, and every node would keep trying.
    if ip.is_unspecified() || ip.is_multicast() || port == 0 {
        return Err(DecodeError::Invalid("address that cannot be dialled"));
    }
    Ok(SocketAddr::new(ip, port))
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;

    fn node(number: u64) -> NodeId {
        NodeId::from_random(number)
    }

    /// One datagram of every kind, each with rumours of every kind.
    pub(crate) fn samples() -> Vec<Bytes> {
        let addr = SocketAddr::from(([10, 0, 0, 9], 7600));
        let v6 = SocketAddr::from((Ipv6Addr::LOCALHOST, 7600));
        let bodies = [
            Body::Ping { token: 1 },
            Body::Ack { token: 2, about: node(5) },
            Body::PingReq { token: 3, node: node(6), addr: v6 },
            Body::Nack { token: 4 },
            Body::Gossip,
            Body::Sync { token: 5, digest: Digest::empty() },
            Body::Feed { token: 6, want: 3 },
        ];
        bodies.iter().map(|body| write(body, addr, v6)).collect()
    }

    fn write(body: &Body, addr: SocketAddr, v6: SocketAddr) -> Bytes {
        let header = Header {
            sender: node(77),
            incarnation: 3,
            addr,
            target: Some(node(1)),
            want_self: true,
            leaving: false,
        };
        let mut packet = Packet::new(&header, body);
        for claim in [
            Claim::Alive { addr, meta: Bytes::from_static(b"zone-a") },
            Claim::Alive { addr: v6, meta: Bytes::from_static(&[7; META_MAX]) },
            Claim::Suspect { by: node(8) },
            Claim::Dead { by: node(8) },
            Claim::Left,
        ] {
            let room = packet.room();
            let rumor = Rumor { node: node(40), incarnation: 2, claim };
            assert!(packet.push(&rumor));
            assert_eq!(room - packet.room(), rumor.len());
        }
        packet.finish()
    }

    #[test]
    fn every_kind_comes_back_as_written() {
        for bytes in samples() {
            let datagram = Datagram::read(&mut Reader::new(&bytes[1..])).unwrap();
            assert_eq!(datagram.rumors.len(), 5);
            let mut again = Packet::new(&datagram.header, &datagram.body);
            assert!(datagram.rumors.iter().all(|rumor| again.push(rumor)));
            assert_eq!(again.finish(), bytes);
        }
    }

    #[test]
    fn the_longest_rumour_fits_beside_the_longest_body() {
        for bytes in samples() {
            assert!(bytes.len() <= DATAGRAM_MAX, "{}", bytes.len());
        }
    }
}
