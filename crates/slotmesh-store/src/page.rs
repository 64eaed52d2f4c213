use std::ops::Range;

use prefetch_index::prefetch_index;
use slotmesh_arena::{Buffer, Owner, SpanId};
use slotmesh_slots::{MonoTime, Version};

use crate::blob::Blob;
use crate::blobs::Blobs;
use crate::entry::{self, NewEntry, Stored};
use crate::home::{Home, Site};

/// A tag and the entry's offset.
pub(crate) const INDEX_BYTES: usize = 6;

const CACHE_LINE_BYTES: usize = 64;

/// Unused bytes that a page bears, one part in so many: fewer would mean more copying, more would be missing elsewhere.
const UNUSED_SHARE: usize = 8;

/// Room that a page gets when it grows, one byte in so many: fewer would mean more copying, more would lie unused. A small one gets
/// none, being copied in no time.
const ROOM_SHARE: usize = 16;
const ROOM_FROM_BYTES: usize = 1 << 10;

/// Entries in one piece of memory, as a database's slotted page: from the front an index of tags and offsets in the order of the
/// tags; the entries themselves from the back, each before the last.
///
/// A tag is 16 bits of the key's hash, evenly spread, so the place of one in the index is guessed from its value and found a
/// few steps from there. All of it is plain bytes, which nobody outside holds on to: entries may move whenever the page is locked, so
/// a page is compacted, grown or split by copying.
#[derive(Debug, Default)]
pub(crate) struct Page {
    bytes: Buffer,
    blobs: Option<Box<Blobs>>,
    /// How many entries.
    len: u32,
    /// Bytes at the back that entries lie in.
    used: u32,
    /// How many of those no entry has any more.
    dead: u32,
    /// What entries that are never evicted take, in [`STATE_UNIT`](entry::STATE_UNIT).
    state_units: u32,
}

/// What has to be known of a page of small values beside its bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Shape {
    pub(crate) len: u32,
    /// Bytes at the back that entries lie in.
    pub(crate) used: u32,
    /// Whether some of those are no entry's any more.
    pub(crate) has_dead: bool,
    /// Whether an entry is never evicted.
    pub(crate) has_state: bool,
}

impl Page {
    /// One with this memory and shape.
    #[inline]
    pub(crate) fn new(bytes: Buffer, shape: Shape) -> Self {
        let Shape { len, used, has_dead, has_state } = shape;
        let mut page = Self { bytes, len, used, ..Self::default() };
        if has_dead {
            page.dead = used - page.iter().map(|stored| stored.size()).sum::<usize>() as u32;
        }
        if has_state {
            page.state_units = page.iter().map(|stored| stored.state_units()).sum();
        }
        page
    }

    /// Its shape, unless it has large values.
    #[inline]
    pub(crate) fn shape(&self) -> Option<Shape> {
        let Self { len, used, dead, state_units, .. } = *self;
        let shape = Shape { len, used, has_dead: dead > 0, has_state: state_units > 0 };
        self.blobs.is_none().then_some(shape)
    }

    /// Its memory, which it has no more.
    #[inline]
    pub(crate) fn take_memory(&mut self) -> Buffer {
        std::mem::take(self).bytes
    }

    /// Bytes of its memory.
    #[inline]
    pub(crate) fn memory(&self) -> usize {
        self.bytes.len()
    }

    pub(crate) fn len(&self) -> usize {
        self.len as usize
    }

    /// Memory beside the page's own header.
    pub(crate) fn footprint(&self) -> usize {
        self.bytes.footprint() + self.blobs.as_ref().map_or(0, |blobs| blobs.footprint())
    }

    /// Of that, what a copy of the page takes: its large values are shared.
    pub(crate) fn copy_footprint(&self) -> usize {
        self.footprint() - self.blobs.as_ref().map_or(0, |blobs| blobs.bytes())
    }

    /// A copy that nobody finds in the slot; its large values are shared.
    pub(crate) fn copy(&self, site: Site<'_>) -> Self {
        let bytes = self.copied(self.bytes.len(), Site { owner: Owner::NOBODY, ..site });
        Self { bytes, blobs: self.blobs.clone(), ..*self }
    }

    pub(crate) fn state_units(&self) -> u64 {
        self.state_units.into()
    }

    /// Bytes that its entries and their index take.
    pub(crate) fn live_bytes(&self) -> usize {
        (self.used - self.dead) as usize + INDEX_BYTES * self.len()
    }

    /// The entry that is the `at`-th in the order of tags.
    #[inline]
    pub(crate) fn entry(&self, at: usize) -> Option<Stored<'_>> {
        (at < self.len()).then(|| self.stored(self.start(at)))
    }

    /// The bytes of the entry that is the `at`-th, and what follows.
    #[inline]
    pub(crate) fn entry_bytes_mut(&mut self, at: usize) -> Option<&mut [u8]> {
        if at >= self.len() {
            return None;
        }
        let start = self.start(at);
        Some(&mut self.bytes[start..])
    }

    pub(crate) fn iter(&self) -> impl Iterator<Item = Stored<'_>> {
        (0..self.len()).map(|at| self.stored(self.start(at)))
    }

    /// Which entry has the key.
    #[inline]
    pub(crate) fn find(&self, tag: u16, key: &[u8]) -> Option<usize> {
        self.find_from(first_from(self.index(), tag), tag, key)
    }

    /// As [`Page::find`] once it is known where the tag's entries begin.
    #[inline]
    fn find_from(&self, at: usize, tag: u16, key: &[u8]) -> Option<usize> {
        find_in((&self.bytes, self.blobs.as_deref()), self.index(), (at, tag), key)
            .map(|(at, _)| at)
    }

    /// Has the processor fetch the part of the index where the tag will be.
    #[inline]
    pub(crate) fn prefetch_index(&self, tag: u16) {
        let at = INDEX_BYTES * guess(tag, self.len());
        prefetch_index(&*self.bytes, at.saturating_sub(4 * INDEX_BYTES));
        prefetch_index(&*self.bytes, at + 4 * INDEX_BYTES);
    }

    /// Has the processor fetch the first entry with the tag; where in the index that is.
    #[inline]
    pub(crate) fn prefetch_entry(&self, tag: u16) -> usize {
        let index = self.index();
        let at = first_from(index, tag);
        if let Some(&line) = index.get(at) {
            let start = self.bytes.len() - offset_of(line);
            prefetch_index(&*self.bytes, start);
            prefetch_index(&*self.bytes, start + CACHE_LINE_BYTES);
            prefetch_index(&*self.bytes, start + 3 * CACHE_LINE_BYTES / 2);
        }
        at
    }

    /// Notes a use of the entry with the key and reads it.
    #[inline]
    pub(crate) fn find_and_touch(&mut self, tag: u16, key: &[u8]) -> Option<Stored<'_>> {
        self.find_and_touch_from(first_from(self.index(), tag), tag, key)
    }

    #[inline]
    pub(crate) fn find_and_touch_from(
        &mut self,
        first: usize,
        tag: u16,
        key: &[u8],
    ) -> Option<Stored<'_>> {
        let bytes = (&self.bytes[..], self.blobs.as_deref());
        let (_, start) = find_in(bytes, self.index(), (first, tag), key)?;
        entry::touch(&mut self.bytes[start..]);
        Some(self.stored(start))
    }

    /// A young entry with the tag.
    pub(crate) fn find_young(&self, tag: u16) -> Option<usize> {
        let index = self.index();
        let first = first_from(index, tag);
        let same = index[first..].iter().take_while(|&&line| tag_of(line) == tag).count();
        (first..first + same).find(|&at| self.stored(self.start(at)).is_young())
    }

    /// See [`entry::grow_up`].
    pub(crate) fn grow_up(&mut self, at: usize) {
        let start = self.start(at);
        entry::grow_up(&mut self.bytes[start..]);
    }

    pub(crate) fn touch(&mut self, at: usize) {
        let start = self.start(at);
        entry::touch(&mut self.bytes[start..]);
    }

    pub(crate) fn cool(&mut self, at: usize) {
        let start = self.start(at);
        entry::cool(&mut self.bytes[start..]);
    }

    /// See [`entry::redate`].
    pub(crate) fn redate(&mut self, at: usize, version: Version, deadline: MonoTime) -> bool {
        let start = self.start(at);
        entry::redate(&mut self.bytes[start..], version, deadline)
    }

    /// Makes room for an entry of this size; false when the page would grow beyond so many bytes and can be split instead.
    pub(crate) fn make_room(&mut self, size: usize, bytes_max: usize, site: Site<'_>) -> bool {
        let needed = size + INDEX_BYTES;
        if self.free() >= needed {
            return true;
        }
        let (want, have) = (self.live_bytes() + needed, self.bytes.len());
        let is_worth = self.dead as usize * UNUSED_SHARE >= want;
        if want <= have && is_worth {
            self.rebuild(have, site);
            return true;
        }
        let roomy = roomy(want.max(have + 1));
        if roomy > bytes_max && self.len > 1 {
            return false;
        }
        self.rebuild(roomy, site);
        true
    }

    /// Adds an entry whose key is not there; there is room.
    pub(crate) fn insert(&mut self, tag: u16, new: NewEntry<'_>) {
        let place = self.add(tag, new.size());
        let start = place.start;
        new.write(&mut self.bytes[place], &mut self.blobs);
        self.state_units += self.stored(start).state_units();
    }

    /// Replaces an entry by one of the same key and size in place; its blob, if it had one.
    #[inline]
    pub(crate) fn replace(&mut self, at: usize, new: NewEntry<'_>) -> Option<Blob> {
        let start = self.start(at);
        let old = self.stored(start);
        let (size, units) = (old.size(), old.state_units());
        self.state_units -= units;
        let blob = self.take_blob(at);
        new.write(&mut self.bytes[start..start + size], &mut self.blobs);
        self.state_units += self.stored(start).state_units();
        blob
    }

    /// Takes an entry out; its blob, if it had one.
    pub(crate) fn remove(&mut self, at: usize) -> Option<Blob> {
        let start = self.start(at);
        self.state_units -= self.stored(start).state_units();
        let blob = self.take_blob(at);
        let size = self.stored(start).size() as u32;
        if start == self.bytes.len() - self.used as usize {
            self.used -= size;
        } else {
            self.dead += size;
        }
        let behind = INDEX_BYTES * (at + 1)..INDEX_BYTES * self.len();
        self.bytes.copy_within(behind, INDEX_BYTES * at);
        self.len -= 1;
        if self.blobs.as_ref().is_some_and(|blobs| blobs.is_empty()) {
            self.blobs = None;
        }
        if self.len == 0 {
            *self = Self::default();
        }
        blob
    }

    /// Gives memory back when much of it is unused.
    pub(crate) fn shrink(&mut self, site: Site<'_>) {
        let live = self.live_bytes();
        let is_sparse = self.blobs.as_ref().is_some_and(|blobs| blobs.is_sparse());
        if is_sparse || Buffer::capacity(roomy(live + live / UNUSED_SHARE)) < self.bytes.len() {
            self.split_off((site, site), |_| false);
        }
    }

    /// Moves the entries for which `goes` says so to a page of their own, at the second site.
    pub(crate) fn split_off(
        &mut self,
        sites: (Site<'_>, Site<'_>),
        mut goes: impl FnMut(&Stored<'_>) -> bool,
    ) -> Self {
        let mut parts = [Self::default(), Self::default()];
        let mut places = Vec::with_capacity(self.len());
        let mut bytes = [0, 0];
        for stored in self.iter() {
            let part = usize::from(goes(&stored));
            bytes[part] += stored.size() + INDEX_BYTES;
            places.push(part);
        }
        for ((part, bytes), site) in parts.iter_mut().zip(bytes).zip([sites.0, sites.1]) {
            part.rebuild(roomy(bytes), site);
        }
        for (at, part) in places.into_iter().enumerate() {
            self.hand_over(at, &mut parts[part]);
        }
        let [stays, goes] = parts;
        *self = stays;
        goes
    }

    /// Takes all entries of another page over.
    pub(crate) fn absorb(&mut self, mut other: Self, site: Site<'_>) {
        let want = self.live_bytes() + other.live_bytes();
        self.rebuild(roomy(want), site);
        for at in 0..other.len() {
            other.hand_over(at, self);
        }
    }

    /// Moves out of a span of the arena.
    pub(crate) fn leave(&mut self, span: SpanId, site: Site<'_>) {
        if self.bytes.is_in(span) {
            self.rebuild(self.bytes.len(), site);
        }
    }

    /// Moves a large value of an entry with the tag out of a span, unless somebody reads it.
    pub(crate) fn blob_leaves(&mut self, span: SpanId, tag: u16, home: Home<'_>) {
        let first = first_from(self.index(), tag);
        for at in first..self.len() {
            if self.tag(at) != tag {
                break;
            }
            let stored = self.stored(self.start(at));
            let place = stored.blob_place();
            let hash = home.hash(stored.key());
            if let (Some(place), Some(blobs)) = (place, &mut self.blobs) {
                blobs.leave(place, span, (home, hash));
            }
        }
    }

    /// Copies an entry to a page that has room, its blob moved. This page is only good for more of that afterwards.
    fn hand_over(&mut self, at: usize, to: &mut Self) {
        let start = self.start(at);
        to.state_units += self.stored(start).state_units();
        let (tag, blob) = (self.tag(at), self.take_blob(at));
        let stored = self.stored(start).bytes();
        let place = to.add(tag, stored.len());
        to.bytes[place.clone()].copy_from_slice(stored);
        if let Some(blob) = blob {
            let blob_place = to.blobs.get_or_insert_default().add(blob);
            entry::set_blob_place(&mut to.bytes[place], blob_place);
        }
    }

    /// Recounts what is kept incrementally and names the first difference.
    pub(crate) fn check(&self) -> Result<(), &'static str> {
        let sizes: usize = self.iter().map(|stored| stored.size()).sum();
        if sizes + self.dead as usize != self.used as usize {
            return Err("a page's bytes are miscounted");
        }
        let units: u32 = self.iter().map(|stored| stored.state_units()).sum();
        if units != self.state_units {
            return Err("what is never evicted is miscounted");
        }
        if (1..self.len()).any(|at| self.tag(at - 1) > self.tag(at)) {
            return Err("a page's index is out of order");
        }
        if self.used as usize + INDEX_BYTES * self.len() > self.bytes.len() {
            return Err("a page's entries run into its index");
        }
        Ok(())
    }

    /// The entry whose bytes begin here.
    #[inline]
    fn stored(&self, start: usize) -> Stored<'_> {
        Stored::new(&self.bytes[start..], self.blobs.as_deref())
    }

    fn take_blob(&mut self, at: usize) -> Option<Blob> {
        let place = self.stored(self.start(at)).blob_place()?;
        self.blobs.as_mut()?.take(place)
    }

    fn free(&self) -> usize {
        self.bytes.len() - INDEX_BYTES * self.len() - self.used as usize
    }

    #[inline]
    fn index(&self) -> &[IndexLine] {
        index_of(&self.bytes, self.len())
    }

    #[inline]
    fn tag(&self, at: usize) -> u16 {
        tag_of(self.index()[at])
    }

    /// Where an entry's bytes begin.
    #[inline]
    fn start(&self, at: usize) -> usize {
        self.bytes.len() - offset_of(self.index()[at])
    }

    /// Takes room for an entry of this size; where its bytes are to be.
    fn add(&mut self, tag: u16, size: usize) -> Range<usize> {
        let at = first_from(self.index(), tag);
        let behind = INDEX_BYTES * at..INDEX_BYTES * self.len();
        self.bytes.copy_within(behind, INDEX_BYTES * (at + 1));
        self.len += 1;
        self.used += size as u32;
        self.bytes[INDEX_BYTES * at..][..INDEX_BYTES].copy_from_slice(&line(tag, self.used));
        let start = self.bytes.len() - self.used as usize;
        start..start + size
    }

    /// Copies the live entries to memory of at least this size, without gaps.
    fn rebuild(&mut self, size: usize, site: Site<'_>) {
        if self.dead == 0 {
            self.bytes = self.copied(size, site);
            return;
        }
        let mut bytes = site.arena.buffer(size, site.owner);
        let size = bytes.len();
        (self.used, self.dead) = (0, 0);
        for at in 0..self.len() {
            let stored = self.stored(self.start(at)).bytes();
            let used = self.used + stored.len() as u32;
            bytes[size - used as usize..][..stored.len()].copy_from_slice(stored);
            bytes[INDEX_BYTES * at..][..INDEX_BYTES].copy_from_slice(&line(self.tag(at), used));
            self.used = used;
        }
        self.bytes = bytes;
    }

    /// Index and entries as they are, in memory of at least this size.
    fn copied(&self, size: usize, site: Site<'_>) -> Buffer {
        let mut bytes = site.arena.buffer(size, site.owner);
        let index = ..INDEX_BYTES * self.len();
        bytes[index].copy_from_slice(&self.bytes[index]);
        let data = &self.bytes[self.bytes.len() - self.used as usize..];
        let behind = bytes.len() - data.len()..;
        bytes[behind].copy_from_slice(data);
        bytes
    }
}

/// As [`Page::find_and_touch`], of a page of so many small values that is only its bytes.
#[inline]
pub(crate) fn find_and_touch<'a>(
    bytes: &'a mut [u8],
    len: usize,
    tag: u16,
    key: &[u8],
) -> Option<Stored<'a>> {
    let index = index_of(bytes, len);
    let (_, start) = find_in((bytes, None), index, (first_from(index, tag), tag), key)?;
    entry::touch(&mut bytes[start..]);
    Some(Stored::new(&bytes[start..], None))
}

/// Where in the index the entry with the key is, whose tag's entries begin there, and where its bytes begin.
#[inline]
fn find_in(
    (bytes, blobs): (&[u8], Option<&Blobs>),
    index: &[IndexLine],
    (mut at, tag): (usize, u16),
    key: &[u8],
) -> Option<(usize, usize)> {
    while let Some(&line) = index.get(at)
        && tag_of(line) == tag
    {
        let start = bytes.len() - offset_of(line);
        // Mostly it is the one, and longer than a line.
        prefetch_index(bytes, start + CACHE_LINE_BYTES);
        if Stored::new(&bytes[start..], blobs).key() == key {
            return Some((at, start));
        }
        at += 1;
    }
    None
}

#[inline]
fn index_of(bytes: &[u8], len: usize) -> &[IndexLine] {
    bytes[..INDEX_BYTES * len].as_chunks().0
}

/// The size for a page of so many bytes, with some room.
fn roomy(bytes: usize) -> usize {
    let room = if bytes < ROOM_FROM_BYTES { 0 } else { bytes / ROOM_SHARE };
    bytes + room
}

/// One entry's tag and the distance of its first byte from the page's end.
type IndexLine = [u8; INDEX_BYTES];

fn line(tag: u16, offset: u32) -> IndexLine {
    let (tag, offset) = (tag.to_le_bytes(), offset.to_le_bytes());
    [tag[0], tag[1], offset[0], offset[1], offset[2], offset[3]]
}

#[inline]
fn tag_of(line: IndexLine) -> u16 {
    u16::from_le_bytes([line[0], line[1]])
}

#[inline]
fn offset_of(line: IndexLine) -> usize {
    u32::from_le_bytes([line[2], line[3], line[4], line[5]]) as usize
}

/// About where in an index of this length the tag is.
#[inline]
fn guess(tag: u16, len: usize) -> usize {
    (usize::from(tag) * len) >> u16::BITS
}

/// The first entry whose tag is not below this one.
#[inline]
fn first_from(index: &[IndexLine], tag: u16) -> usize {
    let mut at = guess(tag, index.len());
    while at > 0 && tag_of(index[at - 1]) >= tag {
        at -= 1;
    }
    while at < index.len() && tag_of(index[at]) < tag {
        at += 1;
    }
    at
}
