use std::cell::Cell;
use std::num::NonZero;

use bytes::Bytes;
use slotmesh_slots::{Epoch, MonoTime, Seq, Version};

use crate::block;
use crate::config::KEY_BYTES_LIMIT;
use crate::digest;

/// What an entry counts against the budget beyond its key and value, in bytes. Entries lie in the table itself, 64 bytes each
/// in a table between 8/15 and 4/5 full: 80 to 120. Reference count, length, rounding and the allocator's headers add about 30.
/// 160 is near the upper end, so that the budget rather holds than not. A constant and not what this moment's table takes:
/// equal contents count the same on every node.
pub const ENTRY_OVERHEAD_BYTES: usize = 160;

/// Values up to here are copied behind their key into one buffer of exactly that size: one allocation, one cache miss
/// less per read, and a small value cut out of a network frame does not keep the whole frame alive. Beyond it the copy
/// (a few microseconds per 64 KiB, under the lock) costs more than a frame's tail wastes, so the caller's buffer is kept.
pub(crate) const COPY_BYTES_MAX: usize = 64 << 10;

/// Uses of an entry that the eviction hand can tell apart.
const FREQUENCY_MAX: u8 = 3;
const FREQUENCY_BITS: u32 = 2;

/// The furthest that an entry may lie from where it belongs in the table.
pub(crate) const DISPLACEMENT_MAX: u8 = u8::MAX >> FREQUENCY_BITS;

/// A value as read: a handle to the stored bytes, no copy.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Entry {
    /// The value. Holding it keeps its memory alive after an overwrite or delete.
    pub value: Bytes,
    /// The slot version of the mutation that wrote the value; the token for compare-and-set.
    pub version: Version,
    /// When it expires; `None` is never.
    pub deadline: Option<MonoTime>,
}

/// An entry as the table holds it: 64 bytes, one cache line's worth. Not aligned to one: that gained nothing measurable and
/// cost 70 bytes an entry in the allocator.
#[derive(Debug)]
pub(crate) struct Stored {
    body: Body,
    value_hash: u64,
    deadline: MonoTime,
    // The version in two fields: as one it would pad the entry beyond 64 bytes.
    seq: Seq,
    epoch: Epoch,
    /// Length of the key at the head of a joined body.
    key_len: u16,
    /// How often it was used since the eviction hand last passed, saturating, in the lower two bits; above them how far
    /// it lies from where it belongs. A cell, because reads only see `&self`; the slot's lock serializes them.
    standing: Cell<u8>,
    /// Bits of the key's hash. Never zero, so that an empty place in the table is no larger than an entry.
    tag: NonZero<u8>,
}

/// Key and value in memory.
#[derive(Debug)]
enum Body {
    /// The key, then the value.
    Joined(Bytes),
    /// A large value in the caller's buffer, or a key beyond the 16-bit length (which only a peer with other limits sends).
    Split(Box<(Bytes, Bytes)>),
}

/// Stands for "never": later than any reachable time.
pub(crate) const NEVER: MonoTime = MonoTime::from_micros(u64::MAX);

impl Stored {
    pub(crate) fn new(key: &[u8], value: &Bytes, version: Version, deadline: MonoTime) -> Self {
        Self {
            value_hash: digest::value_hash(value),
            body: Body::new(key, value),
            deadline,
            seq: version.seq,
            epoch: version.epoch,
            key_len: key.len().min(KEY_BYTES_LIMIT) as u16,
            standing: Cell::new(0),
            tag: NonZero::<u8>::MIN,
        }
    }

    pub(crate) fn key(&self) -> &[u8] {
        match &self.body {
            Body::Joined(bytes) => &bytes[..usize::from(self.key_len)],
            Body::Split(parts) => &parts.0,
        }
    }

    /// A handle to the key.
    pub(crate) fn key_handle(&self) -> Bytes {
        match &self.body {
            Body::Joined(bytes) => bytes.slice(..usize::from(self.key_len)),
            Body::Split(parts) => parts.0.clone(),
        }
    }

    /// A handle to the value.
    pub(crate) fn value(&self) -> Bytes {
        match &self.body {
            Body::Joined(bytes) => bytes.slice(usize::from(self.key_len)..),
            Body::Split(parts) => parts.1.clone(),
        }
    }

    pub(crate) fn entry(&self) -> Entry {
        let deadline = self.deadline();
        Entry { value: self.value(), version: self.version(), deadline }
    }

    pub(crate) fn version(&self) -> Version {
        Version::new(self.epoch, self.seq)
    }

    pub(crate) fn deadline(&self) -> Option<MonoTime> {
        (self.deadline != NEVER).then_some(self.deadline)
    }

    /// The deadline with [`NEVER`] for none.
    pub(crate) fn expires_at(&self) -> MonoTime {
        self.deadline
    }

    pub(crate) fn set_expires_at(&mut self, deadline: MonoTime) {
        self.deadline = deadline;
    }

    pub(crate) fn is_expired(&self, now: MonoTime) -> bool {
        self.deadline <= now
    }

    /// What the entry counts against the budget.
    pub(crate) fn bytes(&self) -> usize {
        let payload = match &self.body {
            Body::Joined(bytes) => bytes.len(),
            Body::Split(parts) => parts.0.len() + parts.1.len(),
        };
        payload + ENTRY_OVERHEAD_BYTES
    }

    /// The entry's part of the slot's digest, given [`digest::key_hash`] of its key.
    pub(crate) fn digest(&self, key_hash: u128) -> u128 {
        digest::entry_digest(key_hash, self.value_hash, self.version())
    }

    /// Whether the value still hashes to what it did when it was stored.
    pub(crate) fn is_intact(&self) -> bool {
        digest::value_hash(&self.value()) == self.value_hash
    }

    pub(crate) fn frequency(&self) -> u8 {
        self.standing.get() & FREQUENCY_MAX
    }

    /// Notes a use. Hot entries are at the maximum already and are not written again.
    pub(crate) fn touch(&self) {
        if self.frequency() < FREQUENCY_MAX {
            self.standing.set(self.standing.get() + 1);
        }
    }

    /// Forgets one use.
    pub(crate) fn cool(&self) {
        if self.frequency() > 0 {
            self.standing.set(self.standing.get() - 1);
        }
    }

    /// Takes over the standing of the entry that this one replaces, and its place in the table; the write counts as a
    /// use.
    pub(crate) fn take_place_of(&mut self, old: &Self) {
        self.tag = old.tag;
        self.standing.set(old.standing.get());
        self.touch();
    }

    /// How far it lies from where it belongs in the table.
    pub(crate) fn displacement(&self) -> u8 {
        self.standing.get() >> FREQUENCY_BITS
    }

    pub(crate) fn set_displacement(&self, displacement: u8) {
        self.standing.set(displacement << FREQUENCY_BITS | self.frequency());
    }

    pub(crate) fn tag(&self) -> NonZero<u8> {
        self.tag
    }

    pub(crate) fn set_tag(&mut self, tag: NonZero<u8>) {
        self.tag = tag;
    }
}

impl Body {
    fn new(key: &[u8], value: &Bytes) -> Self {
        if value.len() > COPY_BYTES_MAX || key.len() > KEY_BYTES_LIMIT {
            return Self::Split(Box::new((Bytes::copy_from_slice(key), value.clone())));
        }
        Self::Joined(block::join(key, value))
    }
}

const _: () = assert!(size_of::<Stored>() == 64 && size_of::<Option<Stored>>() == 64);

#[cfg(test)]
mod tests {
    use super::*;

    fn check(key_len: usize, value_len: usize, copied: bool) {
        let (key, value) = (vec![b'k'; key_len], Bytes::from(vec![b'v'; value_len]));
        let stored = Stored::new(&key, &value, Version::default(), NEVER);
        assert_eq!((stored.key(), &stored.value()), (&key[..], &value));
        assert_eq!(stored.key_handle(), key);
        assert_eq!(stored.bytes(), key_len + value_len + ENTRY_OVERHEAD_BYTES);
        assert_eq!(stored.value().as_ptr() != value.as_ptr(), copied, "{key_len} {value_len}");
        assert!(stored.is_intact());
    }

    #[test]
    fn small_values_leave_their_frame_and_large_ones_are_not_copied() {
        check(0, 1, true);
        check(3, 200, true);
        check(KEY_BYTES_LIMIT, COPY_BYTES_MAX, true);
        check(3, COPY_BYTES_MAX + 1, false);
        check(KEY_BYTES_LIMIT + 1, 5, false);
    }
}
