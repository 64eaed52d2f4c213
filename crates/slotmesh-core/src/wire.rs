//! The one place that serializes control messages: a version byte, then bincode with a size limit.
//!
//! Rare messages go through here (gossip metadata, leases, commands, snapshots of the cluster state); hot frames have
//! hand-laid layouts elsewhere.

use bytes::Bytes;
use serde::Serialize;
use serde::de::DeserializeOwned;

/// First byte of every control message. Raised when a message changes its shape; other versions are refused.
pub const WIRE_VERSION: u8 = 7;

/// Largest control message read, and the most memory decoding may claim. A cluster state whose every slot differs from
/// its neighbours takes about 700 KiB.
pub const WIRE_BYTES_MAX: usize = 4 << 20;

/// Why bytes from a peer are no control message. The message is dropped; nothing changed.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum WireError {
    /// The sender speaks another version of the control messages.
    #[error("control message of version {theirs}, this node speaks {WIRE_VERSION}")]
    OtherVersion {
        /// The version the sender wrote.
        theirs: u8,
    },
    /// Larger than any control message.
    #[error("control message of {0} bytes is larger than {WIRE_BYTES_MAX}")]
    TooLarge(usize),
    /// Cut short, followed by rubbish, or not a message at all.
    #[error("malformed control message: {0}")]
    Malformed(String),
}

/// The message as bytes.
///
/// # Panics
/// Never for the types of this crate: all of them can be serialized.
#[must_use]
#[allow(
    clippy::expect_used,
    reason = "plain data always serializes; a failure is a bug of this crate"
)]
pub fn encode<T: Serialize>(message: &T) -> Bytes {
    let mut bytes = vec![WIRE_VERSION];
    bincode::serde::encode_into_std_write(message, &mut bytes, CONFIG)
        .expect("plain data serializes");
    Bytes::from(bytes)
}

/// The message in the bytes.
///
/// # Errors
/// When the version differs, the message is too large, cut short or followed by more bytes.
pub fn decode<T: DeserializeOwned>(bytes: &[u8]) -> Result<T, WireError> {
    let Some((&version, body)) = bytes.split_first() else {
        return Err(WireError::Malformed("no bytes".into()));
    };
    if version != WIRE_VERSION {
        return Err(WireError::OtherVersion { theirs: version });
    }
    if body.len() > WIRE_BYTES_MAX {
        return Err(WireError::TooLarge(body.len()));
    }
    match bincode::serde::decode_from_slice(body, CONFIG) {
        Ok((message, read)) if read == body.len() => Ok(message),
        Ok((_, read)) => Err(WireError::Malformed(format!("{} bytes too many", body.len() - read))),
        Err(error) => Err(WireError::Malformed(error.to_string())),
    }
}

type Config = bincode::config::Configuration<
    bincode::config::LittleEndian,
    bincode::config::Varint,
    bincode::config::Limit<WIRE_BYTES_MAX>,
>;
const CONFIG: Config = bincode::config::standard().with_limit::<WIRE_BYTES_MAX>();

#[cfg(test)]
mod tests {
    use slotmesh_slots::{Epoch, NodeId, Slot, SlotState, SlotTable, TableDelta};

    use super::*;

    #[test]
    fn bad_bytes_are_typed_errors() {
        let good = encode(&("abc", 7u64));
        assert_eq!(decode::<(String, u64)>(&good).unwrap(), ("abc".to_owned(), 7));
        for cut in 0..good.len() {
            assert!(decode::<(String, u64)>(&good[..cut]).is_err(), "cut at {cut}");
        }
        let longer = [&good[..], &[0]].concat();
        assert!(matches!(decode::<(String, u64)>(&longer), Err(WireError::Malformed(_))));
        let other = [&[9], &good[1..]].concat();
        assert!(matches!(
            decode::<(String, u64)>(&other),
            Err(WireError::OtherVersion { theirs: 9 })
        ));
    }

    #[test]
    fn a_lying_length_claims_no_memory() {
        // A byte string of 2^62 bytes, of which none follow.
        let bytes = [&[WIRE_VERSION, 253][..], &(1u64 << 62).to_le_bytes()].concat();
        assert!(decode::<Vec<u8>>(&bytes).is_err());
    }

    /// What a reform proposes, which has to fit one command of the control log.
    #[test]
    fn a_table_of_which_no_two_slots_are_alike_takes_less_than_a_mebibyte() {
        let node = |number: usize| NodeId::from_random(1 << 60 | number as u64);
        let state = |slot: Slot| {
            let at = slot.index();
            let in_sync = [at / 7, at / 11, at / 13].map(|it| node(100 + it % 97));
            let primary = Some(node(at % 89));
            let epoch = Epoch(1_000_000 + at as u32);
            SlotState {
                epoch,
                primary,
                in_sync: in_sync.into_iter().collect(),
                ..SlotState::default()
            }
        };
        let mut table = SlotTable::new();
        let changed = Slot::all().map(|slot| (slot, state(slot)));
        assert!(table.apply(&TableDelta::new(0, 1, changed)));
        let bytes = encode(&table.full_delta()).len();
        assert!((400 << 10..1 << 20).contains(&bytes), "{bytes}");
    }
}
