//! Requests to a slot's primary and their replies, with their fixed layout on the wire.

mod error;
mod load;
mod op;
mod op_layout;
mod reply;

use bytes::Bytes;
use slotmesh_slots::{DecodeError, Reader, Writer};

pub use self::error::DataError;
pub use self::load::{LoadEnd, LoadTerms};
pub use self::op::Op;
pub use self::reply::{Reply, Value, decode_replies, encode_replies};
use crate::data::Ack;

/// Most operations in one request: bounds the work done between two looks at the network.
pub const OPS_MAX: usize = 4_096;

/// Operations for slots of one node, answered together and in order.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Request {
    /// When writes count as done.
    pub ack: Ack,
    /// The operations; each succeeds or fails alone.
    pub ops: Vec<Op>,
}

impl Request {
    /// A request with these operations, at most [`OPS_MAX`], as bytes.
    #[must_use]
    pub fn encode(ack: Ack, ops: &[Op]) -> Bytes {
        let mut out = Writer::with_capacity(16 + ops.iter().map(Op::bytes).sum::<usize>());
        encode_ack(ack, &mut out);
        out.u16(ops.len() as u16);
        ops.iter().for_each(|op| op.encode(&mut out));
        out.finish()
    }

    /// Reads what [`Request::encode`] wrote.
    ///
    /// # Errors
    /// When bytes are missing, left over or invalid, or there are more than [`OPS_MAX`] operations.
    pub fn decode(input: &mut Reader<'_>) -> Result<Self, DecodeError> {
        let ack = decode_ack(input)?;
        let count = usize::from(input.u16()?);
        if count > OPS_MAX {
            return Err(DecodeError::Invalid("too many operations"));
        }
        let ops = (0..count).map(|_| Op::decode(input)).collect::<Result<_, _>>()?;
        input.end()?;
        Ok(Self { ack, ops })
    }
}

fn encode_ack(ack: Ack, out: &mut Writer) {
    match ack {
        Ack::All => out.u8(0),
        Ack::Primary => out.u8(1),
        Ack::AtLeast(copies) => {
            out.u8(2);
            out.u8(copies);
        }
    }
}

fn decode_ack(input: &mut Reader<'_>) -> Result<Ack, DecodeError> {
    match input.u8()? {
        0 => Ok(Ack::All),
        1 => Ok(Ack::Primary),
        2 => Ok(Ack::AtLeast(input.u8()?)),
        _ => Err(DecodeError::Invalid("ack level")),
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use proptest::prelude::*;
    use slotmesh_coherence::Watcher;
    use slotmesh_slots::{Class, Epoch, NodeId, Seq, Slot, Token, Version};
    use slotmesh_store::{ByteRange, Condition, ExpireCondition};

    use super::*;

    const NODE: NodeId = NodeId::new(77).unwrap();

    fn terms(stale: Option<Version>) -> LoadTerms {
        let (lasts, patience) = (Duration::from_secs(30), Duration::from_millis(250));
        LoadTerms { node: NODE, token: u64::MAX, lasts, patience, stale }
    }

    fn failed() -> LoadEnd {
        let message = Bytes::from_static(b"no route to the database");
        LoadEnd::Failed { message, retry_after: Duration::from_secs(1) }
    }

    fn ops() -> Vec<Op> {
        let key = Bytes::from_static(b"key");
        let value = Bytes::from(vec![b'v'; 100]);
        let version = Version::new(Epoch(3), Seq(4));
        vec![
            Op::Get { key: key.clone() },
            Op::Put {
                class: Class::Cache,
                key: key.clone(),
                value: value.clone(),
                ttl: Some(Duration::from_millis(1500)),
                keep_ttl: true,
                condition: Condition::FillSince(version),
            },
            Op::Delete { key: key.clone(), condition: Condition::Version(version) },
            Op::Increment { key: key.clone(), delta: -7 },
            Op::GetRange { key: key.clone(), range: ByteRange { start: 1, end: -2 } },
            Op::Touch { key: key.clone() },
            Op::Watch { key: key.clone(), by: None },
            Op::Watch { key: key.clone(), by: Some(Watcher { node: NODE, stream: 1 << 40 }) },
            Op::Load { key: key.clone(), by: None, terms: terms(None) },
            Op::Load {
                key: key.clone(),
                by: Some(Watcher { node: NODE, stream: 7 }),
                terms: terms(Some(version)),
            },
            Op::EndLoad { key: key.clone(), token: 8, end: LoadEnd::Nothing },
            Op::EndLoad { key: key.clone(), token: 8, end: failed() },
            Op::Append { key: key.clone(), value: value.clone() },
            Op::SetRange { key: key.clone(), offset: u64::MAX, value: value.clone() },
            Op::GetAndPut {
                class: Class::Cache,
                key: key.clone(),
                value,
                ttl: None,
                keep_ttl: false,
                condition: Condition::Absent,
            },
            Op::GetAndDelete { key: key.clone() },
            Op::Call {
                key: key.clone(),
                function: Bytes::from_static(b"add"),
                version: 1 << 30,
                input: Bytes::from(vec![b'i'; 50]),
                class: Class::State,
            },
            Op::GetAndExpire { key, ttl: Some(Duration::ZERO) },
            Op::Clear { slot: Slot::of_key(b"key") },
        ]
    }

    /// Writes with a token, the second one again.
    fn onces() -> impl Iterator<Item = Op> {
        let writes = ops().into_iter().filter(|op| !op.is_read()).enumerate();
        writes.map(|(number, op)| {
            let mut op = op.once(Token(u128::MAX - number as u128));
            if number == 1 {
                op.note_age(Duration::from_millis(70));
            }
            op
        })
    }

    fn expires() -> impl Iterator<Item = Op> {
        use ExpireCondition::{Always, Earlier, Later, Set, SetAndEarlier, Unset};
        [Always, Unset, Set, Later, Earlier, SetAndEarlier].into_iter().map(|condition| {
            let (key, ttl) = (Bytes::from_static(b"key"), Some(Duration::from_secs(9)));
            Op::Expire { key, ttl, condition }
        })
    }

    #[test]
    fn requests_come_back_and_truncations_are_refused() {
        let ops = ops().into_iter().chain(expires()).chain(onces()).collect();
        let request = Request { ack: Ack::Primary, ops };
        let bytes = Request::encode(request.ack, &request.ops);
        assert_eq!(Request::decode(&mut Reader::shared(&bytes)).unwrap(), request);
        for op in &request.ops {
            let bytes = Request::encode(request.ack, std::slice::from_ref(op));
            assert!(bytes.len() <= 3 + op.bytes(), "{op:?} takes no more than it says");
        }
        for cut in 0..bytes.len() {
            assert!(Request::decode(&mut Reader::new(&bytes[..cut])).is_err(), "cut at {cut}");
        }
        for ack in [Ack::All, Ack::AtLeast(3)] {
            let bytes = Request::encode(ack, &request.ops);
            assert_eq!(Request::decode(&mut Reader::shared(&bytes)).unwrap().ack, ack);
        }
    }

    #[test]
    fn what_nobody_sends_is_refused() {
        for op in onces() {
            let mut bytes = Request::encode(Ack::All, std::slice::from_ref(&op)).to_vec();
            let inner = 4 + size_of::<Token>() + size_of::<u64>();
            // Nothing, a read, another token, what does not exist.
            for tag in [0, 1, 14, 15, 16, 17, 255] {
                bytes[inner] = tag;
                let refused = Request::decode(&mut Reader::new(&bytes));
                assert!(refused.is_err(), "{op:?} of {tag}");
            }
        }
        for op in ops().into_iter().chain(expires()) {
            let mut bytes = Request::encode(Ack::All, std::slice::from_ref(&op)).to_vec();
            // Behind the ack level and the count.
            assert!((1..=18).contains(&bytes[3]) && bytes[3] != 14, "the tag of {op:?}");
            for tag in [0, 19, 255] {
                bytes[3] = tag;
                let refused = Request::decode(&mut Reader::new(&bytes));
                assert!(refused.is_err(), "{op:?} as {tag}");
            }
        }
        for op in expires() {
            let mut bytes = Request::encode(Ack::All, &[op]).to_vec();
            *bytes.last_mut().unwrap() = 6;
            let refused = Request::decode(&mut Reader::new(&bytes));
            assert_eq!(refused, Err(DecodeError::Invalid("expire condition")));
        }
    }

    #[test]
    fn replies_come_back_and_truncations_are_refused() {
        let version = Version::new(Epoch(1), Seq(2));
        let value =
            Value { value: Bytes::from_static(b"v"), version, ttl: Some(Duration::from_secs(1)) };
        let previous =
            |previous, version| Ok(Reply::Previous { previous, applied: true, version, copies: 2 });
        let watched = |found| Ok(Reply::Watched { owner: NODE, stream: 7, found: Box::new(found) });
        let replies = vec![
            previous(Some(value.clone()), None),
            previous(None, Some(version)),
            Ok(Reply::Touched { existed: true }),
            Ok(Reply::Length { bytes: 1 << 40, version: Some(version), copies: 2 }),
            Ok(Reply::Length { bytes: 0, version: None, copies: 1 }),
            watched(Reply::Value(value.clone())),
            watched(Reply::Missing { slot: version }),
            watched(Reply::MayLoad { slot: version }),
            watched(Reply::LoadEnded(failed())),
            Ok(Reply::LoadEnded(LoadEnd::Released)),
            Ok(Reply::LoadEnded(LoadEnd::Nothing)),
            Ok(Reply::EndedLoad { held: true }),
            Ok(Reply::Value(value)),
            Ok(Reply::Missing { slot: version }),
            Ok(Reply::Put { applied: true, version: Some(version), existed: false, copies: 2 }),
            Ok(Reply::Delete { applied: true, existed: true, version: None, copies: 1 }),
            Ok(Reply::Expire { applied: false }),
            Ok(Reply::Integer { value: -3, version, copies: 3 }),
            Ok(Reply::Cleared),
            Ok(Reply::Called {
                output: Bytes::from_static(b"out"),
                changed: true,
                version: Some(version),
                copies: 2,
            }),
            Err(DataError::NotOwner { owner: NodeId::new(4), version: 9 }),
            Err(DataError::Moving),
            Err(DataError::NoLease),
            Err(DataError::Busy),
            Err(DataError::Ambiguous),
            Err(DataError::TooLarge { bytes: 10, max: 9 }),
            Err(DataError::Full),
            Err(DataError::NotAnInteger),
            Err(DataError::Overflow),
            Err(DataError::TokenReused),
            Err(DataError::TooFewCopies { have: 1, wanted: 2 }),
            Err(DataError::NoFunction),
            Err(DataError::FunctionFailed { why: "an odd number".to_owned() }),
        ];
        let bytes = encode_replies(&replies);
        assert_eq!(decode_replies(&bytes).unwrap(), replies);
        for cut in 0..bytes.len() {
            assert!(decode_replies(&bytes.slice(..cut)).is_err(), "cut at {cut}");
        }
        let odd = Reply::Watched { owner: NODE, stream: 7, found: Box::new(Reply::Cleared) };
        assert!(decode_replies(&encode_replies(&[Ok(odd)])).is_err());
    }

    proptest! {
        #[test]
        fn arbitrary_bytes_never_panic(bytes in proptest::collection::vec(any::<u8>(), 0..64)) {
            let _ = Request::decode(&mut Reader::new(&bytes));
            let _ = decode_replies(&Bytes::from(bytes));
        }
    }
}
