use bytes::Bytes;
use triomphe::{Arc, ThinArc};

use crate::digest;
use crate::footprint::allocated;

/// Longest key and value, together, that lie in the page itself. Copying so much out to a reader takes less time than
/// counting references would, and moving it within the page when others go is cheap; above it an allocation of its own, shared with
/// readers, costs less than the copies.
pub(crate) const INLINE_BYTES_MAX: usize = 512;

/// Values up to here are copied into an allocation of exactly their size, so that a value cut out of a network frame does
/// not keep the whole frame alive. Beyond it the copy (a few microseconds per 64 KiB, under the lock) costs more than a
/// frame's tail wastes, so the caller's buffer is kept.
const COPY_BYTES_MAX: usize = 64 << 10;

/// A value too large for its page, shared with whoever reads it. Eight bytes in itself: every one of them counts for each entry.
#[derive(Clone, Debug)]
pub(crate) enum Blob {
    /// A copy, in one allocation with its reference count and its hash.
    Copied(Copied),
    /// The caller's buffer, or a key that is too long for a page.
    Kept(Arc<Kept>),
}

/// The hash is kept so that removing a large value never reads it.
#[derive(Clone, Debug)]
pub(crate) struct Copied(ThinArc<u64, u8>);

#[derive(Debug)]
pub(crate) struct Kept {
    value_hash: u64,
    value: Bytes,
    /// Empty if it is in the page.
    key: Bytes,
}

impl AsRef<[u8]> for Copied {
    fn as_ref(&self) -> &[u8] {
        &self.0.slice
    }
}

/// What a reader holds of it. Not a handle to the buffer: others may hold that for reasons of their own, and who reads here would
/// not be told from them.
struct Shared(Arc<Kept>);

impl AsRef<[u8]> for Shared {
    fn as_ref(&self) -> &[u8] {
        &self.0.value
    }
}

impl Blob {
    /// The blob that an entry needs, if it does not fit its page.
    pub(crate) fn of(key: &[u8], value: &Bytes) -> Option<Self> {
        if key.len() + value.len() <= INLINE_BYTES_MAX {
            return None;
        }
        let value_hash = digest::value_hash(value);
        let large = value.len() > COPY_BYTES_MAX;
        let long_key = key.len() > INLINE_BYTES_MAX;
        if !large && !long_key {
            return Some(Self::Copied(Copied(ThinArc::from_header_and_slice(value_hash, value))));
        }
        let value = if large { value.clone() } else { Bytes::copy_from_slice(value) };
        let key = if long_key { Bytes::copy_from_slice(key) } else { Bytes::new() };
        Some(Self::Kept(Arc::new(Kept { value_hash, value, key })))
    }

    /// A handle to the value.
    pub(crate) fn value(&self) -> Bytes {
        match self {
            Self::Copied(copied) => Bytes::from_owner(copied.clone()),
            Self::Kept(kept) => Bytes::from_owner(Shared(kept.clone())),
        }
    }

    pub(crate) fn value_bytes(&self) -> &[u8] {
        match self {
            Self::Copied(copied) => copied.as_ref(),
            Self::Kept(kept) => &kept.value,
        }
    }

    pub(crate) fn value_hash(&self) -> u64 {
        match self {
            Self::Copied(copied) => copied.0.header.header,
            Self::Kept(kept) => kept.value_hash,
        }
    }

    /// Whether somebody beside the owner of this handle can read the value.
    pub(crate) fn is_shared(&self) -> bool {
        match self {
            Self::Copied(copied) => copied.0.with_arc(|arc| !arc.is_unique()),
            Self::Kept(kept) => !kept.is_unique(),
        }
    }

    /// The key, if it is here and not in the page.
    pub(crate) fn key(&self) -> Option<&Bytes> {
        match self {
            Self::Kept(kept) if !kept.key.is_empty() => Some(&kept.key),
            _ => None,
        }
    }

    /// Memory that it takes, the caller's buffer counted as if it were used for this value alone.
    pub(crate) fn footprint(&self) -> usize {
        match self {
            Self::Copied(copied) => allocated(COPIED_HEAD_BYTES + copied.as_ref().len()),
            Self::Kept(kept) => {
                let head = allocated(size_of::<Kept>() + size_of::<usize>());
                head + allocated(kept.key.len()) + allocated(kept.value.len())
            }
        }
    }
}

/// Reference count, hash and length before a copied value.
const COPIED_HEAD_BYTES: usize = 24;

/// The blobs of a page's entries, which know them by their place.
#[derive(Clone, Debug)]
pub(crate) struct Blobs {
    places: Vec<Place>,
    /// The place that was given back last, or beyond all.
    free: u32,
    len: u32,
    bytes: usize,
}

#[derive(Clone, Debug)]
enum Place {
    Taken(Blob),
    /// And the one that was given back before it.
    Free(u32),
}

const _: () = assert!(size_of::<Place>() == 16);

const NO_PLACE: u32 = u32::MAX;

impl Default for Blobs {
    fn default() -> Self {
        Self { places: Vec::new(), free: NO_PLACE, len: 0, bytes: 0 }
    }
}

impl Blobs {
    pub(crate) fn add(&mut self, blob: Blob) -> u32 {
        self.bytes += blob.footprint();
        self.len += 1;
        if let Some(place) = self.places.get_mut(self.free as usize) {
            let freed = self.free;
            if let Place::Free(next) = std::mem::replace(place, Place::Taken(blob)) {
                self.free = next;
            }
            return freed;
        }
        if self.places.len() == self.places.capacity() {
            // Half as many more: smaller steps leave the allocator with more holes than they save.
            self.places.reserve_exact(2 + self.places.len() / 2);
        }
        self.places.push(Place::Taken(blob));
        (self.places.len() - 1) as u32
    }

    pub(crate) fn get(&self, place: u32) -> Option<&Blob> {
        match self.places.get(place as usize)? {
            Place::Taken(blob) => Some(blob),
            Place::Free(_) => None,
        }
    }

    pub(crate) fn take(&mut self, place: u32) -> Option<Blob> {
        let taken = self.places.get_mut(place as usize)?;
        match std::mem::replace(taken, Place::Free(self.free)) {
            Place::Taken(blob) => {
                self.free = place;
                self.len -= 1;
                self.bytes -= blob.footprint();
                Some(blob)
            }
            free @ Place::Free(_) => {
                *taken = free;
                None
            }
        }
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// Whether most places are free.
    pub(crate) fn is_sparse(&self) -> bool {
        self.places.len() > 2 * self.len as usize + 8
    }

    /// Memory of the values themselves.
    pub(crate) fn bytes(&self) -> usize {
        self.bytes
    }

    pub(crate) fn footprint(&self) -> usize {
        let places = allocated(self.places.capacity() * size_of::<Place>());
        self.bytes + places + allocated(size_of::<Self>())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(key_len: usize, value_len: usize, expected: Option<bool>) {
        let (key, value) = (vec![b'k'; key_len], Bytes::from(vec![b'v'; value_len]));
        let blob = Blob::of(&key, &value);
        let shared = blob.as_ref().map(|blob| blob.value().as_ptr() == value.as_ptr());
        assert_eq!(shared, expected, "{key_len} {value_len}");
        if let Some(blob) = blob {
            assert_eq!((blob.value(), blob.value_bytes()), (value.clone(), &value[..]));
            assert_eq!(blob.key().is_some(), key_len > INLINE_BYTES_MAX);
            assert!(blob.footprint() >= value_len);
            assert_eq!(blob.value_hash(), digest::value_hash(&value));
        }
    }

    #[test]
    fn what_fits_the_page_needs_no_blob_and_large_values_are_not_copied() {
        check(0, INLINE_BYTES_MAX, None);
        check(12, INLINE_BYTES_MAX - 12, None);
        check(1, INLINE_BYTES_MAX, Some(false));
        check(INLINE_BYTES_MAX, COPY_BYTES_MAX, Some(false));
        check(3, COPY_BYTES_MAX + 1, Some(true));
        check(INLINE_BYTES_MAX + 1, 5, Some(false));
        check(INLINE_BYTES_MAX + 1, COPY_BYTES_MAX + 1, Some(true));
    }

    #[test]
    fn places_are_used_again_and_bytes_counted() {
        let value = Bytes::from(vec![1; 1_000]);
        let blob = || Blob::of(b"k", &value).unwrap();
        let mut blobs = Blobs::default();
        let places: Vec<u32> = (0..100).map(|_| blobs.add(blob())).collect();
        let full = blobs.footprint();
        assert!(full >= 100 * 1_000);
        for &place in &places[10..] {
            assert!(blobs.take(place).is_some() && blobs.take(place).is_none());
        }
        assert!(blobs.footprint() < full - 90 * 1_000 && !blobs.is_empty());
        assert!((0..90).map(|_| blobs.add(blob())).all(|place| place < 100));
        places.iter().for_each(|&place| drop(blobs.take(place)));
        assert!(blobs.is_empty() && blobs.get(0).is_none());
    }
}
