use bytes::Bytes;
use slotmesh_slots::{Class, Epoch, MonoTime, Seq, Version};

use crate::blob::{Blob, BlobRef};
use crate::blobs::Blobs;
use crate::block;
use crate::digest;
use crate::home::Home;
use crate::page::INDEX_BYTES;

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
    /// Whether it may be evicted.
    pub class: Class,
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
/// Lengths and numbers take their full width: one of them is more than the short form holds.
const LONG: u8 = 1 << 5;
/// The entry is never evicted.
const STATE: u8 = 1 << 6;
// The last bit is free for values that are no strings: set, it will say that a byte with the kind follows the head.
/// What becomes of an entry when it is rewritten stays.
const USAGE: u8 = FREQUENCY | YOUNG;

// An entry in its page: flags, length of the key, length of what stands for the value, epoch, seq, deadline if there is one,
// key, value. Not aligned: that would cost more room than the loads gain.

/// How wide the fields of an entry's head are, and so where.
struct Layout {
    len: usize,
    epoch: usize,
    seq: usize,
    deadline: usize,
}

/// Lengths up to 255 bytes, 65,535 epochs and 2^40 mutations of a slot, nine years of microseconds since the host's start.
const SHORT: Layout = Layout { len: 1, epoch: 2, seq: 5, deadline: 6 };
const FULL: Layout = Layout { len: 2, epoch: 4, seq: 8, deadline: 8 };

impl Layout {
    #[inline]
    const fn of(flags: u8) -> Self {
        if flags & LONG != 0 { FULL } else { SHORT }
    }

    const fn epoch_at(&self) -> usize {
        1 + 2 * self.len
    }

    const fn seq_at(&self) -> usize {
        self.epoch_at() + self.epoch
    }

    const fn deadline_at(&self) -> usize {
        self.seq_at() + self.seq
    }
}

/// Whether a number fits so many bytes.
const fn fits(number: u64, bytes: usize) -> bool {
    bytes >= 8 || number >> (8 * bytes) == 0
}

/// Counts so many bytes as one, so that a page's count of the largest values fits 32 bits.
pub(crate) const STATE_UNIT: usize = 16;

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

    #[inline(always)]
    pub(crate) fn key(&self) -> &'a [u8] {
        if self.flags() & HAS_BLOB != 0
            && let Some(key) = self.blob().and_then(BlobRef::key)
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

    /// Key and value for somebody who keeps both, in one allocation where they are copied.
    pub(crate) fn key_and_value(&self) -> (Bytes, Bytes) {
        match self.blob() {
            Some(blob) => (Bytes::copy_from_slice(self.key()), blob.value()),
            None => block::pair(self.key(), self.in_page()),
        }
    }

    #[inline]
    pub(crate) fn entry(&self) -> Entry {
        let (version, deadline, class) = (self.version(), self.deadline(), self.class());
        Entry { value: self.value(), version, deadline, class }
    }

    #[inline]
    pub(crate) fn version(&self) -> Version {
        let (epoch, seq) = if self.is_long() {
            let epoch = self.number::<{ FULL.epoch }>(FULL.epoch_at());
            (epoch, self.number::<{ FULL.seq }>(FULL.seq_at()))
        } else {
            // Both in one word, with the byte before them.
            let word = self.number::<8>(SHORT.epoch_at() - 1);
            (word >> 8 & 0xffff, word >> 24)
        };
        Version::new(Epoch(epoch as u32), Seq(seq))
    }

    #[inline]
    pub(crate) fn deadline(&self) -> Option<MonoTime> {
        if self.flags() & HAS_DEADLINE == 0 {
            return None;
        }
        Some(MonoTime::from_micros(if self.is_long() {
            self.number::<{ FULL.deadline }>(FULL.deadline_at())
        } else {
            self.number::<{ SHORT.deadline }>(SHORT.deadline_at())
        }))
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

    #[inline]
    pub(crate) fn class(&self) -> Class {
        if self.flags() & STATE != 0 { Class::State } else { Class::Cache }
    }

    /// What it takes of the memory for entries that are never evicted, in [`STATE_UNIT`].
    #[inline]
    pub(crate) fn state_units(&self) -> u32 {
        match self.class() {
            Class::Cache => 0,
            Class::State => {
                let blob = self.blob().map_or(0, BlobRef::footprint);
                // With what its page has for it beside: a line of index, and an eighth that may be unused.
                let bytes = self.size() + INDEX_BYTES + blob;
                (bytes + bytes / 8).div_ceil(STATE_UNIT) as u32
            }
        }
    }

    /// How it was used and whether it is young, for another entry to take over.
    pub(crate) fn usage(&self) -> Usage {
        Usage(self.flags() & USAGE)
    }

    /// The entry's part of the slot's digest, given [`digest::key_hash`] of its key.
    pub(crate) fn digest(&self, key_hash: u128) -> u128 {
        self.digest_at(key_hash, self.version())
    }

    /// What that would be with this version.
    pub(crate) fn digest_at(&self, key_hash: u128, version: Version) -> u128 {
        let value_hash = match self.blob() {
            Some(blob) => blob.value_hash(),
            None => digest::value_hash(self.in_page()),
        };
        digest::entry_digest(key_hash, value_hash, version)
    }

    /// Whether a large value still hashes to what it did when it was stored; a small one's hash is not kept.
    pub(crate) fn is_intact(&self) -> bool {
        self.blob().is_none_or(|blob| digest::value_hash(blob.value_bytes()) == blob.value_hash())
    }

    /// Whether the value is a blob, which the page is not needed to tell.
    #[inline]
    pub(crate) fn is_blob(&self) -> bool {
        self.flags() & HAS_BLOB != 0
    }

    /// Where the blob is, if the value is one.
    #[inline]
    pub(crate) fn blob_place(&self) -> Option<u32> {
        let place = || self.in_page().first_chunk().map(|&bytes| u32::from_le_bytes(bytes));
        if self.flags() & HAS_BLOB != 0 { place() } else { None }
    }

    #[inline(always)]
    fn blob(&self) -> Option<BlobRef<'a>> {
        let place = self.blob_place()?;
        self.blobs?.get(place)
    }

    /// The value as it lies in the page: all of it, unless it is a blob.
    #[inline(always)]
    pub(crate) fn in_page(&self) -> &'a [u8] {
        let start = self.key_start() + self.key_len();
        &self.bytes[start..start + self.value_len()]
    }

    #[inline(always)]
    fn flags(&self) -> u8 {
        self.bytes[0]
    }

    #[inline(always)]
    fn key_start(&self) -> usize {
        head_bytes(self.flags())
    }

    #[inline(always)]
    fn is_long(&self) -> bool {
        self.flags() & LONG != 0
    }

    #[inline(always)]
    fn key_len(&self) -> usize {
        if self.is_long() { self.number::<{ FULL.len }>(1) as usize } else { self.bytes[1].into() }
    }

    #[inline(always)]
    fn value_len(&self) -> usize {
        const AT: usize = 1 + FULL.len;
        if self.is_long() { self.number::<{ FULL.len }>(AT) as usize } else { self.bytes[2].into() }
    }

    /// A number of so many bytes, which are known when this is compiled: a copy of any length would be a call.
    #[inline(always)]
    fn number<const BYTES: usize>(&self, at: usize) -> u64 {
        let bytes = self.bytes[at..].first_chunk::<BYTES>();
        let mut number = [0; 8];
        if let Some(bytes) = bytes {
            number[..BYTES].copy_from_slice(bytes);
        }
        u64::from_le_bytes(number)
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

/// Changes the version and the deadline of the entry that begins here, if there is room for them; false when the entry must be written anew.
pub(crate) fn redate(entry: &mut [u8], version: Version, deadline: MonoTime) -> bool {
    let flags = entry[0];
    let (has_deadline, layout) = (flags & HAS_DEADLINE != 0, Layout::of(flags));
    let (Version { epoch, seq }, micros) = (version, deadline.as_micros());
    let fits = fits(u64::from(epoch.0), layout.epoch)
        && fits(seq.0, layout.seq)
        && (!has_deadline || fits(micros, layout.deadline));
    if has_deadline != (deadline != NEVER) || !fits {
        return false;
    }
    let mut set = |at: usize, number: u64, bytes: usize| {
        entry[at..at + bytes].copy_from_slice(&number.to_le_bytes()[..bytes]);
    };
    set(layout.epoch_at(), u64::from(epoch.0), layout.epoch);
    set(layout.seq_at(), seq.0, layout.seq);
    if has_deadline {
        set(layout.deadline_at(), micros, layout.deadline);
    }
    true
}

/// Bytes before the key.
#[inline(always)]
fn head_bytes(flags: u8) -> usize {
    let layout = Layout::of(flags);
    layout.deadline_at() + if flags & HAS_DEADLINE != 0 { layout.deadline } else { 0 }
}

/// Tells the entry that begins here where its blob is now.
pub(crate) fn set_blob_place(entry: &mut [u8], place: u32) {
    let stored = Stored::new(entry, None);
    let start = stored.key_start() + stored.key_len();
    entry[start..start + PLACE_BYTES].copy_from_slice(&place.to_le_bytes());
}

/// A short head with a deadline is one number of 128 bits.
const _: () = assert!(SHORT.deadline_at() + SHORT.deadline == 16);

/// Writes a short head. Without a deadline it is shorter by that, and what is written in its place is written over by what follows.
#[inline]
fn write_short(
    out: &mut [u8],
    flags: u8,
    lens: (usize, usize),
    (epoch, seq, deadline): (u32, u64, u64),
) {
    let lens = lens.0 as u64 | (lens.1 as u64) << 8;
    let low = u64::from(flags) | lens << 8 | u64::from(epoch) << 24 | seq << 40;
    let high = seq >> 24 | deadline << 16;
    let bytes = (u128::from(high) << 64 | u128::from(low)).to_le_bytes();
    match out.first_chunk_mut() {
        Some(place) => *place = bytes,
        None => out.copy_from_slice(&bytes[..out.len()]),
    }
}

/// A full head as it is written, number by number.
struct Head<'a> {
    out: &'a mut [u8],
    at: usize,
}

impl Head<'_> {
    #[inline]
    fn number<const BYTES: usize>(&mut self, number: u64) {
        if let Some(place) = self.out[self.at..].first_chunk_mut::<BYTES>() {
            place.copy_from_slice(&number.to_le_bytes()[..BYTES]);
        }
        self.at += BYTES;
    }
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
    pub(crate) class: Class,
}

#[derive(Debug)]
pub(crate) enum NewValue<'a> {
    Inline(&'a [u8]),
    Blob(Blob),
}

impl<'a> NewEntry<'a> {
    /// A new entry; makes the blob that it needs.
    pub(crate) fn new(
        (home, hash): (Home<'_>, u64),
        (key, value): (&'a [u8], &'a Bytes),
        version: Version,
        deadline: MonoTime,
    ) -> Self {
        let blob = Blob::of((home, hash), key, value);
        let value = blob.map_or(NewValue::Inline(value), NewValue::Blob);
        let (usage, class) = Default::default();
        Self { key, value, version, deadline, usage, class }
    }

    /// See [`Stored::digest`].
    pub(crate) fn digest(&self, key_hash: u128) -> u128 {
        let value_hash = match &self.value {
            NewValue::Inline(value) => digest::value_hash(value),
            NewValue::Blob(blob) => blob.as_ref().value_hash(),
        };
        digest::entry_digest(key_hash, value_hash, self.version)
    }

    /// Bytes of a page that it will take.
    #[inline]
    pub(crate) fn size(&self) -> usize {
        head_bytes(self.flags()) + self.key_in_page().len() + self.value_in_page_len()
    }

    fn value_in_page_len(&self) -> usize {
        match &self.value {
            NewValue::Inline(value) => value.len(),
            NewValue::Blob(_) => PLACE_BYTES,
        }
    }

    fn flags(&self) -> u8 {
        let has_deadline = self.deadline != NEVER;
        let is_short = fits(self.key_in_page().len() as u64, SHORT.len)
            && fits(self.value_in_page_len() as u64, SHORT.len)
            && fits(self.version.epoch.0.into(), SHORT.epoch)
            && fits(self.version.seq.0, SHORT.seq)
            && (!has_deadline || fits(self.deadline.as_micros(), SHORT.deadline));
        let has_blob = matches!(self.value, NewValue::Blob(_));
        self.usage.0
            | if self.class == Class::State { STATE } else { 0 }
            | if has_deadline { HAS_DEADLINE } else { 0 }
            | if is_short { 0 } else { LONG }
            | if has_blob { HAS_BLOB } else { 0 }
    }

    /// Writes it to exactly [`NewEntry::size`] bytes.
    #[inline]
    pub(crate) fn write(self, out: &mut [u8], blobs: &mut Option<Box<Blobs>>) {
        let (flags, key) = (self.flags(), self.key_in_page());
        let place;
        let value = match self.value {
            NewValue::Inline(value) => value,
            NewValue::Blob(blob) => {
                place = blobs.get_or_insert_default().add(blob).to_le_bytes();
                &place
            }
        };
        let (lens, Version { epoch, seq }) = ((key.len(), value.len()), self.version);
        let deadline = self.deadline.as_micros();
        if flags & LONG == 0 {
            write_short(out, flags, lens, (epoch.0, seq.0, deadline));
        } else {
            let mut head = Head { out, at: 0 };
            head.number::<1>(flags.into());
            head.number::<{ FULL.len }>(lens.0 as u64);
            head.number::<{ FULL.len }>(lens.1 as u64);
            head.number::<{ FULL.epoch }>(epoch.0.into());
            head.number::<{ FULL.seq }>(seq.0);
            if flags & HAS_DEADLINE != 0 {
                head.number::<{ FULL.deadline }>(deadline);
            }
        }
        let rest = &mut out[head_bytes(flags)..];
        rest[..key.len()].copy_from_slice(key);
        rest[key.len()..].copy_from_slice(value);
    }

    /// The key, unless the blob has it.
    fn key_in_page(&self) -> &'a [u8] {
        match &self.value {
            NewValue::Blob(blob) if blob.as_ref().key().is_some() => &[],
            _ => self.key,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::blob::INLINE_BYTES_MAX;
    use crate::home::TestHome;

    const SEQ_MAX: u64 = (1 << 40) - 1;

    fn check(key_len: usize, value_len: usize, ((epoch, seq), deadline): ((u32, u64), MonoTime)) {
        let (key, value) = (vec![b'k'; key_len], Bytes::from(vec![b'v'; value_len]));
        let version = Version::new(Epoch(epoch), Seq(seq));
        let home = TestHome::new();
        let new = NewEntry::new((home.get(), 0), (&key, &value), version, deadline);
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
        let times = [NEVER, MonoTime::from_micros(5), MonoTime::from_micros(u64::MAX - 1)];
        let versions = [(7, 1), (0xffff, SEQ_MAX), (7, SEQ_MAX + 1), (0x1_0000, 1)];
        for numbers in times.iter().flat_map(|&at| versions.map(|version| (version, at))) {
            for key_len in [0, 1, 20, 255, 256, INLINE_BYTES_MAX, INLINE_BYTES_MAX + 1, 60_000] {
                for value_len in
                    [0, 1, 64, 255, 256, INLINE_BYTES_MAX - 20, INLINE_BYTES_MAX, 100_000]
                {
                    check(key_len, value_len, numbers);
                }
            }
        }
    }

    const fn at(epoch: u32, seq: u64) -> Version {
        Version::new(Epoch(epoch), Seq(seq))
    }

    #[test]
    fn a_deadline_changes_in_place_only_where_there_is_one() {
        let value = Bytes::from_static(b"v");
        let (soon, far) = (MonoTime::from_micros(9), MonoTime::from_micros(1 << 48));
        let (next, later) = (at(7, 2), at(7, SEQ_MAX + 1));
        for (before, (version, after), in_place) in [
            (NEVER, (next, NEVER), true),
            (NEVER, (later, NEVER), false),
            (NEVER, (next, soon), false),
            (soon, (next, NEVER), false),
            (soon, (next, soon), true),
            (soon, (later, soon), false),
            (soon, (at(0x1_0000, 2), soon), false),
            (soon, (next, far), false),
            (far, (later, soon), true),
        ] {
            let home = TestHome::new();
            let entry = (&b"k"[..], &value);
            let new = NewEntry::new((home.get(), 0), entry, at(7, 1), before);
            let mut page = vec![0; new.size()];
            new.write(&mut page, &mut None);
            assert_eq!(redate(&mut page, version, after), in_place);
            let now = if in_place { (version, after) } else { (at(7, 1), before) };
            let stored = Stored::new(&page, None);
            assert_eq!(
                (stored.version(), stored.expires_at(), &*stored.value()),
                (now.0, now.1, &b"v"[..])
            );
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
