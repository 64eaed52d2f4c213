use bytes::Bytes;
use slotmesh_slots::{Epoch, MonoTime, Seq, Version};

use crate::blob::{Blob, Blobs};
use crate::digest;

/// A value as read: a handle to its bytes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Entry {
    /// The value: a copy while it is small, else a handle to the stored bytes, which keeps their memory alive after an
    /// overwrite or delete.
    pub value: Bytes,
    /// The slot version of the mutation that wrote the value; the token for compare-and-set.
    pub version: Version,
    /// When it expires; `None` is never.
    pub deadline: Option<MonoTime>,
}

/// Stands for "never": later than any reachable time.
pub(crate) const NEVER: MonoTime = MonoTime::from_micros(u64::MAX);

/// Uses of an entry that the eviction hand can tell apart.
const FREQUENCY_MAX: u8 = 3;

const FREQUENCY: u8 = 0b11;
const HAS_DEADLINE: u8 = 1 << 2;
const HAS_BLOB: u8 = 1 << 3;
/// The entry waits in the queue of newcomers.
const YOUNG: u8 = 1 << 4;
/// What becomes of an entry when it is rewritten stays.
const USAGE: u8 = FREQUENCY | YOUNG;

// An entry in its page: flags, length of the key, length of what stands for the value, epoch, seq, deadline if there is one,
// key, value. Not aligned: that would cost more room than the loads gain.
const KEY_LEN: usize = 1;
const VALUE_LEN: usize = 3;
const EPOCH: usize = 5;
const SEQ: usize = 9;
const DEADLINE: usize = 17;
const HEAD_BYTES: usize = 17;
const DEADLINE_BYTES: usize = 8;

/// Stands for the value where that is a blob.
const PLACE_BYTES: usize = 4;

/// An entry as its page holds it.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Stored<'a> {
    /// From the entry's first byte on, to the end of the page or beyond the entry's.
    bytes: &'a [u8],
    blobs: Option<&'a Blobs>,
}

impl<'a> Stored<'a> {
    #[inline]
    pub(crate) fn new(bytes: &'a [u8], blobs: Option<&'a Blobs>) -> Self {
        Self { bytes, blobs }
    }

    /// Bytes of the page that it takes.
    #[inline]
    pub(crate) fn size(&self) -> usize {
        self.key_start() + self.key_len() + self.value_len()
    }

    /// It as it lies in the page.
    pub(crate) fn bytes(&self) -> &'a [u8] {
        &self.bytes[..self.size()]
    }

    #[inline]
    pub(crate) fn key(&self) -> &'a [u8] {
        if self.flags() & HAS_BLOB != 0
            && let Some(key) = self.blob().and_then(Blob::key)
        {
            return key;
        }
        let start = self.key_start();
        &self.bytes[start..start + self.key_len()]
    }

    /// The value's bytes.
    #[inline]
    pub(crate) fn value_bytes(&self) -> &'a [u8] {
        match self.blob() {
            Some(blob) => blob.value_bytes(),
            None => self.in_page(),
        }
    }

    /// The value for a reader.
    #[inline]
    pub(crate) fn value(&self) -> Bytes {
        match self.blob() {
            Some(blob) => blob.value(),
            None => Bytes::copy_from_slice(self.in_page()),
        }
    }

    #[inline]
    pub(crate) fn entry(&self) -> Entry {
        Entry { value: self.value(), version: self.version(), deadline: self.deadline() }
    }

    #[inline]
    pub(crate) fn version(&self) -> Version {
        Version::new(Epoch(u32::from_le_bytes(self.array(EPOCH))), Seq(self.u64(SEQ)))
    }

    #[inline]
    pub(crate) fn deadline(&self) -> Option<MonoTime> {
        let has = self.flags() & HAS_DEADLINE != 0;
        has.then(|| MonoTime::from_micros(self.u64(DEADLINE)))
    }

    /// The deadline with [`NEVER`] for none.
    #[inline]
    pub(crate) fn expires_at(&self) -> MonoTime {
        self.deadline().unwrap_or(NEVER)
    }

    #[inline]
    pub(crate) fn is_expired(&self, now: MonoTime) -> bool {
        self.expires_at() <= now
    }

    pub(crate) fn frequency(&self) -> u8 {
        self.flags() & FREQUENCY
    }

    pub(crate) fn is_young(&self) -> bool {
        self.flags() & YOUNG != 0
    }

    /// How it was used and whether it is young, for another entry to take over.
    pub(crate) fn usage(&self) -> Usage {
        Usage(self.flags() & USAGE)
    }

    /// The entry's part of the slot's digest, given [`digest::key_hash`] of its key.
    pub(crate) fn digest(&self, key_hash: u128) -> u128 {
        let value_hash = match self.blob() {
            Some(blob) => blob.value_hash(),
            None => digest::value_hash(self.in_page()),
        };
        digest::entry_digest(key_hash, value_hash, self.version())
    }

    /// Whether a large value still hashes to what it did when it was stored; a small one's hash is not kept.
    pub(crate) fn is_intact(&self) -> bool {
        self.blob().is_none_or(|blob| digest::value_hash(blob.value_bytes()) == blob.value_hash())
    }

    /// Where the blob is, if the value is one.
    #[inline]
    pub(crate) fn blob_place(&self) -> Option<u32> {
        let place = || self.in_page().first_chunk().map(|&bytes| u32::from_le_bytes(bytes));
        if self.flags() & HAS_BLOB != 0 { place() } else { None }
    }

    #[inline]
    fn blob(&self) -> Option<&'a Blob> {
        self.blobs?.get(self.blob_place()?)
    }

    #[inline]
    fn in_page(&self) -> &'a [u8] {
        let start = self.key_start() + self.key_len();
        &self.bytes[start..start + self.value_len()]
    }

    #[inline]
    fn flags(&self) -> u8 {
        self.bytes[0]
    }

    #[inline]
    fn key_start(&self) -> usize {
        if self.flags() & HAS_DEADLINE != 0 { HEAD_BYTES + DEADLINE_BYTES } else { HEAD_BYTES }
    }

    #[inline]
    fn key_len(&self) -> usize {
        usize::from(u16::from_le_bytes(self.array(KEY_LEN)))
    }

    #[inline]
    fn value_len(&self) -> usize {
        usize::from(u16::from_le_bytes(self.array(VALUE_LEN)))
    }

    #[inline]
    fn u64(&self, at: usize) -> u64 {
        u64::from_le_bytes(self.array(at))
    }

    #[inline]
    fn array<const N: usize>(&self, at: usize) -> [u8; N] {
        std::array::from_fn(|i| self.bytes[at + i])
    }
}

/// How often an entry was used since the eviction hand last passed, saturating, and whether it is young.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Usage(u8);

impl Usage {
    /// An entry that joins the queue of newcomers.
    pub(crate) const YOUNG: Self = Self(YOUNG);

    /// With one use more.
    pub(crate) fn touched(self) -> Self {
        let mut flags = [self.0];
        touch(&mut flags);
        Self(flags[0])
    }
}

/// The entry that begins here is young no more; its uses so far were what that took.
pub(crate) fn grow_up(entry: &mut [u8]) {
    entry[0] &= !USAGE;
}

/// Changes the frequency of the entry that begins here; hot entries are at the maximum already and are not written again.
#[inline]
pub(crate) fn touch(entry: &mut [u8]) {
    if entry[0] & FREQUENCY < FREQUENCY_MAX {
        entry[0] += 1;
    }
}

/// Forgets one use of the entry that begins here.
pub(crate) fn cool(entry: &mut [u8]) {
    if entry[0] & FREQUENCY > 0 {
        entry[0] -= 1;
    }
}

/// Changes the deadline of the entry that begins here, if it has one and is to have one; false when the entry must be written anew.
pub(crate) fn set_deadline(entry: &mut [u8], deadline: MonoTime) -> bool {
    let fits = entry[0] & HAS_DEADLINE != 0 && deadline != NEVER;
    if fits {
        entry[DEADLINE..DEADLINE + DEADLINE_BYTES]
            .copy_from_slice(&deadline.as_micros().to_le_bytes());
    }
    fits || (entry[0] & HAS_DEADLINE == 0 && deadline == NEVER)
}

/// Tells the entry that begins here where its blob is now.
pub(crate) fn set_blob_place(entry: &mut [u8], place: u32) {
    let stored = Stored::new(entry, None);
    let start = stored.key_start() + stored.key_len();
    entry[start..start + PLACE_BYTES].copy_from_slice(&place.to_le_bytes());
}

/// An entry on its way into a page.
#[derive(Debug)]
pub(crate) struct NewEntry<'a> {
    pub(crate) key: &'a [u8],
    pub(crate) value: NewValue<'a>,
    pub(crate) version: Version,
    /// [`NEVER`] for none.
    pub(crate) deadline: MonoTime,
    pub(crate) usage: Usage,
}

#[derive(Debug)]
pub(crate) enum NewValue<'a> {
    Inline(&'a [u8]),
    Blob(Blob),
}

impl<'a> NewEntry<'a> {
    /// A new entry; makes the blob that it needs.
    pub(crate) fn new(
        key: &'a [u8],
        value: &'a Bytes,
        version: Version,
        deadline: MonoTime,
    ) -> Self {
        let value = Blob::of(key, value).map_or(NewValue::Inline(value), NewValue::Blob);
        Self { key, value, version, deadline, usage: Usage::default() }
    }

    /// See [`Stored::digest`].
    pub(crate) fn digest(&self, key_hash: u128) -> u128 {
        let value_hash = match &self.value {
            NewValue::Inline(value) => digest::value_hash(value),
            NewValue::Blob(blob) => blob.value_hash(),
        };
        digest::entry_digest(key_hash, value_hash, self.version)
    }

    /// Bytes of a page that it will take.
    pub(crate) fn size(&self) -> usize {
        let value_len = match &self.value {
            NewValue::Inline(value) => value.len(),
            NewValue::Blob(_) => PLACE_BYTES,
        };
        let deadline = if self.deadline == NEVER { 0 } else { DEADLINE_BYTES };
        HEAD_BYTES + deadline + self.key_in_page().len() + value_len
    }

    /// Writes it to exactly [`NewEntry::size`] bytes.
    pub(crate) fn write(self, out: &mut [u8], blobs: &mut Option<Box<Blobs>>) {
        let key = self.key_in_page();
        let mut flags = self.usage.0;
        let place;
        let value = match self.value {
            NewValue::Inline(value) => value,
            NewValue::Blob(blob) => {
                flags |= HAS_BLOB;
                place = blobs.get_or_insert_default().add(blob).to_le_bytes();
                &place
            }
        };
        // Both are at most `INLINE_BYTES_MAX`.
        out[KEY_LEN..VALUE_LEN].copy_from_slice(&(key.len() as u16).to_le_bytes());
        out[VALUE_LEN..EPOCH].copy_from_slice(&(value.len() as u16).to_le_bytes());
        out[EPOCH..SEQ].copy_from_slice(&self.version.epoch.0.to_le_bytes());
        out[SEQ..HEAD_BYTES].copy_from_slice(&self.version.seq.0.to_le_bytes());
        let mut end = HEAD_BYTES;
        if self.deadline != NEVER {
            flags |= HAS_DEADLINE;
            end += DEADLINE_BYTES;
            out[DEADLINE..end].copy_from_slice(&self.deadline.as_micros().to_le_bytes());
        }
        out[0] = flags;
        out[end..end + key.len()].copy_from_slice(key);
        out[end + key.len()..].copy_from_slice(value);
    }

    /// The key, unless the blob has it.
    fn key_in_page(&self) -> &'a [u8] {
        match &self.value {
            NewValue::Blob(blob) if blob.key().is_some() => &[],
            _ => self.key,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::blob::INLINE_BYTES_MAX;

    fn check(key_len: usize, value_len: usize, deadline: MonoTime) {
        let (key, value) = (vec![b'k'; key_len], Bytes::from(vec![b'v'; value_len]));
        let version = Version::new(Epoch(7), Seq(u64::MAX - 1));
        let new = NewEntry::new(&key, &value, version, deadline);
        let (size, mut blobs) = (new.size(), None);
        // What follows in the page is not the entry's.
        let mut page = vec![0xee; size + 3];
        new.write(&mut page[..size], &mut blobs);
        touch(&mut page);
        let stored = Stored::new(&page, blobs.as_deref());
        assert_eq!(
            (stored.size(), stored.key(), stored.value_bytes()),
            (size, &key[..], &value[..])
        );
        assert_eq!((stored.value(), stored.version()), (value.clone(), version));
        assert_eq!((stored.expires_at(), stored.frequency()), (deadline, 1));
        assert_eq!(stored.deadline().is_none(), deadline == NEVER);
        assert!(stored.is_intact());
        let key_hash = digest::key_hash(&key);
        let expected = digest::entry_digest(key_hash, digest::value_hash(&value), version);
        assert_eq!(stored.digest(key_hash), expected);
    }

    #[test]
    fn every_size_comes_back() {
        for deadline in [NEVER, MonoTime::from_micros(5)] {
            for key_len in [0, 1, 20, INLINE_BYTES_MAX, INLINE_BYTES_MAX + 1, 60_000] {
                for value_len in [0, 1, 64, INLINE_BYTES_MAX - 20, INLINE_BYTES_MAX, 100_000] {
                    check(key_len, value_len, deadline);
                }
            }
        }
    }

    #[test]
    fn a_deadline_changes_in_place_only_where_there_is_one() {
        let value = Bytes::from_static(b"v");
        let soon = MonoTime::from_micros(9);
        for (before, after, in_place) in
            [(NEVER, NEVER, true), (NEVER, soon, false), (soon, NEVER, false), (soon, soon, true)]
        {
            let new = NewEntry::new(b"k", &value, Version::default(), before);
            let mut page = vec![0; new.size()];
            new.write(&mut page, &mut None);
            assert_eq!(set_deadline(&mut page, after), in_place);
        }
    }

    #[test]
    fn uses_are_counted_up_to_the_maximum() {
        let mut entry = [HAS_DEADLINE];
        (0..5).for_each(|_| touch(&mut entry));
        assert_eq!(entry, [HAS_DEADLINE | FREQUENCY_MAX]);
        (0..5).for_each(|_| cool(&mut entry));
        assert_eq!(entry, [HAS_DEADLINE]);
    }
}
