use std::sync::Arc;

use bytes::Bytes;

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

/// A value too large for its page, shared with whoever reads it.
#[derive(Clone, Debug)]
pub(crate) struct Blob {
    /// Kept so that removing a large value never reads it.
    value_hash: u64,
    memory: Memory,
}

#[derive(Clone, Debug)]
enum Memory {
    /// A copy, with its reference count in the same allocation.
    Copied(Arc<[u8]>),
    /// The caller's buffer.
    Kept(Box<Bytes>),
    /// A key that is too long for a page, and the value.
    Keyed(Box<(Bytes, Bytes)>),
}

impl Blob {
    /// The blob that an entry needs, if it does not fit its page.
    pub(crate) fn of(key: &[u8], value: &Bytes) -> Option<Self> {
        if key.len() + value.len() <= INLINE_BYTES_MAX {
            return None;
        }
        let large = value.len() > COPY_BYTES_MAX;
        let memory = if key.len() > INLINE_BYTES_MAX {
            let kept = if large { value.clone() } else { Bytes::copy_from_slice(value) };
            Memory::Keyed(Box::new((Bytes::copy_from_slice(key), kept)))
        } else if large {
            Memory::Kept(Box::new(value.clone()))
        } else {
            Memory::Copied(Arc::from(&value[..]))
        };
        Some(Self { value_hash: digest::value_hash(value), memory })
    }

    /// A handle to the value.
    pub(crate) fn value(&self) -> Bytes {
        match &self.memory {
            Memory::Copied(value) => Bytes::from_owner(Arc::clone(value)),
            Memory::Kept(value) => Bytes::clone(value),
            Memory::Keyed(parts) => parts.1.clone(),
        }
    }

    pub(crate) fn value_bytes(&self) -> &[u8] {
        match &self.memory {
            Memory::Copied(value) => value,
            Memory::Kept(value) => value,
            Memory::Keyed(parts) => &parts.1,
        }
    }

    pub(crate) fn value_hash(&self) -> u64 {
        self.value_hash
    }

    /// The key, if it is here and not in the page.
    pub(crate) fn key(&self) -> Option<&Bytes> {
        match &self.memory {
            Memory::Keyed(parts) => Some(&parts.0),
            _ => None,
        }
    }

    /// Memory that it takes, the caller's buffer counted as if it were used for this value alone.
    pub(crate) fn footprint(&self) -> usize {
        match &self.memory {
            Memory::Copied(value) => allocated(REFERENCE_COUNT_BYTES + value.len()),
            Memory::Kept(value) => allocated(size_of::<Bytes>()) + allocated(value.len()),
            Memory::Keyed(parts) => {
                let (key, value) = &**parts;
                allocated(2 * size_of::<Bytes>()) + allocated(key.len()) + allocated(value.len())
            }
        }
    }
}

/// Strong and weak count at the head of an `Arc`.
const REFERENCE_COUNT_BYTES: usize = 16;

/// The blobs of a page's entries, which know them by their place.
#[derive(Debug, Default)]
pub(crate) struct Blobs {
    places: Vec<Option<Blob>>,
    free: Vec<u32>,
    bytes: usize,
}

impl Blobs {
    pub(crate) fn add(&mut self, blob: Blob) -> u32 {
        self.bytes += blob.footprint();
        if let Some(place) = self.free.pop() {
            self.places[place as usize] = Some(blob);
            return place;
        }
        if self.places.len() == self.places.capacity() {
            // An eighth at a time: doubling would waste more than the rest of the entry takes.
            self.places.reserve_exact(2 + self.places.len() / 8);
        }
        self.places.push(Some(blob));
        (self.places.len() - 1) as u32
    }

    pub(crate) fn get(&self, place: u32) -> Option<&Blob> {
        self.places.get(place as usize)?.as_ref()
    }

    pub(crate) fn take(&mut self, place: u32) -> Option<Blob> {
        let blob = self.places.get_mut(place as usize)?.take()?;
        self.bytes -= blob.footprint();
        self.free.push(place);
        Some(blob)
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.places.len() == self.free.len()
    }

    pub(crate) fn footprint(&self) -> usize {
        let places = allocated(self.places.capacity() * size_of::<Option<Blob>>());
        let free = allocated(self.free.capacity() * size_of::<u32>());
        self.bytes + places + free + allocated(size_of::<Self>())
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
