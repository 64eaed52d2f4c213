use bytes::Bytes;
use slotmesh_slots::{DecodeError, Generation, NodeId, Reader, Writer};

use crate::disconnect::RefusedReason;

/// Version of everything that is said after the hello. Peers with another version are refused.
pub const PROTOCOL_VERSION: u16 = 1;

/// Longest cluster name, in bytes: it also travels in the close frame of a refused connection, which is one packet.
pub const CLUSTER_NAME_BYTES_MAX: usize = 128;

/// Longest [`Hello::info`], in bytes.
pub const HELLO_INFO_BYTES_MAX: usize = 4096;

/// Longest hello on the wire, without its length.
pub(crate) const HELLO_BYTES_MAX: usize = HELLO_INFO_BYTES_MAX + CLUSTER_NAME_BYTES_MAX + 64;

/// What two processes tell each other before anything else, in both directions.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Hello {
    /// Name of the cluster, at most [`CLUSTER_NAME_BYTES_MAX`] bytes; must be equal on both sides.
    pub cluster: String,
    /// The sender; must be the node that its certificate names.
    pub node: NodeId,
    /// Which founding of the cluster the sender belongs to, once it knows; two known ones must be equal.
    pub generation: Option<Generation>,
    /// Which of the sender's I/O threads this connection comes from.
    pub lane: u8,
    /// Anything else that the layer above wants known at once, at most [`HELLO_INFO_BYTES_MAX`] bytes.
    pub info: Bytes,
}

impl Hello {
    /// Appends magic, protocol version, and the fields. The first two keep their place in every later version.
    pub(crate) fn encode(&self) -> Bytes {
        let mut out = Writer::new();
        out.u32(MAGIC);
        out.u16(PROTOCOL_VERSION);
        out.bytes(self.cluster.as_bytes());
        out.node(self.node);
        out.u8(u8::from(self.generation.is_some()));
        let generation = self.generation.unwrap_or(Generation { cluster: 0, reform: 0 });
        out.u128(generation.cluster);
        out.u32(generation.reform);
        out.u8(self.lane);
        out.bytes(&self.info);
        out.finish()
    }

    /// Reads what [`Hello::encode`] wrote, of this protocol version only.
    pub(crate) fn decode(bytes: &Bytes) -> Result<Self, HelloError> {
        let mut input = Reader::shared(bytes);
        if input.u32()? != MAGIC {
            return Err(DecodeError::Invalid("magic number of the hello").into());
        }
        let theirs = input.u16()?;
        if theirs != PROTOCOL_VERSION {
            return Err(HelloError::Refused(RefusedReason::OtherProtocol { theirs }));
        }
        let cluster = String::from_utf8(input.bytes()?.to_vec())
            .map_err(|_| DecodeError::Invalid("cluster name"))?;
        let node = input.node()?;
        let known = input.u8()? != 0;
        let generation = Generation { cluster: input.u128()?, reform: input.u32()? };
        let (lane, info) = (input.u8()?, Bytes::copy_from_slice(&input.bytes()?));
        input.end()?;
        if cluster.len() > CLUSTER_NAME_BYTES_MAX || info.len() > HELLO_INFO_BYTES_MAX {
            return Err(DecodeError::Invalid("length of a hello's field").into());
        }
        Ok(Self { cluster, node, generation: known.then_some(generation), lane, info })
    }

    /// Whether the two may talk to each other.
    pub(crate) fn check(&self, theirs: &Self) -> Result<(), RefusedReason> {
        if self.cluster != theirs.cluster {
            return Err(RefusedReason::OtherCluster { theirs: theirs.cluster.clone() });
        }
        match (self.generation, theirs.generation) {
            (Some(ours), Some(theirs)) if ours != theirs => {
                Err(RefusedReason::OtherGeneration { theirs })
            }
            _ => Ok(()),
        }
    }
}

/// Why a hello was not accepted.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) enum HelloError {
    /// It could be read, and says that the two do not belong together.
    Refused(RefusedReason),
    /// It could not be read.
    Invalid(DecodeError),
}

impl From<DecodeError> for HelloError {
    fn from(error: DecodeError) -> Self {
        Self::Invalid(error)
    }
}

const MAGIC: u32 = u32::from_be_bytes(*b"SLOT");

#[cfg(test)]
mod tests {
    use super::*;

    fn hello() -> Hello {
        Hello {
            cluster: "orders".into(),
            node: NodeId::from_random(7),
            generation: Some(Generation { cluster: 3, reform: 1 }),
            lane: 2,
            info: Bytes::from_static(b"zone a"),
        }
    }

    #[test]
    fn comes_back_and_every_cut_fails() {
        let bytes = hello().encode();
        assert_eq!(Hello::decode(&bytes), Ok(hello()));
        for cut in 0..bytes.len() {
            let error = Hello::decode(&bytes.slice(..cut)).unwrap_err();
            assert!(matches!(error, HelloError::Invalid(_)), "cut at {cut}: {error:?}");
        }
    }

    #[test]
    fn another_protocol_version_is_known_before_the_rest_is_read() {
        let bytes = Bytes::from_static(b"SLOT\0\x09whatever comes later");
        let refused = RefusedReason::OtherProtocol { theirs: 9 };
        assert_eq!(Hello::decode(&bytes), Err(HelloError::Refused(refused)));
    }

    #[test]
    fn generations_differ_only_when_both_are_known() {
        let other = Generation { cluster: 4, reform: 1 };
        let with = |generation| Hello { generation, ..hello() };
        assert_eq!(hello().check(&with(None)), Ok(()));
        assert_eq!(with(None).check(&hello()), Ok(()));
        let refused = RefusedReason::OtherGeneration { theirs: other };
        assert_eq!(hello().check(&with(Some(other))), Err(refused));
        let stranger = Hello { cluster: "users".into(), ..hello() };
        let refused = RefusedReason::OtherCluster { theirs: "users".into() };
        assert_eq!(hello().check(&stranger), Err(refused));
    }
}
