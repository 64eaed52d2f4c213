use std::sync::Arc;

use bytes::Bytes;
use slotmesh_arena::Shared;

use crate::digest;
use crate::footprint::allocated;
use crate::home::Home;

/// Longest key and value, together, that lie in the page itself. Copying so much out to a reader takes less time than
/// counting references would, and moving it within the page when others go is cheap; above it an allocation of its own, shared with
/// readers, costs less than the copies.
pub(crate) const INLINE_BYTES_MAX: usize = 512;

/// Values up to here are copied into an allocation of exactly their size, so that a value cut out of a network frame does
/// not keep the whole frame alive. Beyond it the copy (a few microseconds per 64 KiB, under the lock) costs more than a
/// frame's tail wastes, so the caller's buffer is kept.
const COPY_BYTES_MAX: usize = 64 << 10;

/// A value too large for its page, shared with whoever reads it.
#[derive(Debug)]
pub(crate) enum Blob {
    /// A copy in the arena, with its hash as the word: so removing a large value never reads it.
    Copied(Shared),
    /// The caller's buffer, a copy that is too large for the arena, or a key that is too long for a page.
    Kept(Arc<Kept>),
}

/// A [`Blob`] that is somebody else's.
#[derive(Clone, Copy, Debug)]
pub(crate) enum BlobRef<'a> {
    Copied(&'a Shared),
    Kept(&'a Arc<Kept>),
}

#[derive(Debug)]
pub(crate) struct Kept {
    value_hash: u64,
    value: Bytes,
    /// Empty if it is in the page.
    key: Bytes,
}

/// What a reader holds of it. Not a handle to the buffer: others may hold that for reasons of their own, and who reads here would
/// not be told from them.
struct Reader(Arc<Kept>);

impl AsRef<[u8]> for Reader {
    fn as_ref(&self) -> &[u8] {
        &self.0.value
    }
}

impl Blob {
    /// The blob that an entry needs, if it does not fit its page.
    pub(crate) fn of((home, hash): (Home<'_>, u64), key: &[u8], value: &Bytes) -> Option<Self> {
        if key.len() + value.len() <= INLINE_BYTES_MAX {
            return None;
        }
        let value_hash = digest::value_hash(value);
        let large = value.len() > COPY_BYTES_MAX;
        let long_key = key.len() > INLINE_BYTES_MAX;
        if !long_key
            && let Some(shared) = home.arena.share(value, value_hash, home.blob_owner(hash))
        {
            return Some(Self::Copied(shared));
        }
        let value = if large { value.clone() } else { Bytes::copy_from_slice(value) };
        let key = if long_key { Bytes::copy_from_slice(key) } else { Bytes::new() };
        Some(Self::Kept(Arc::new(Kept { value_hash, value, key })))
    }

    pub(crate) fn as_ref(&self) -> BlobRef<'_> {
        match self {
            Self::Copied(copied) => BlobRef::Copied(copied),
            Self::Kept(kept) => BlobRef::Kept(kept),
        }
    }

    /// Whether somebody beside the owner of this handle can read the value.
    pub(crate) fn is_shared(&self) -> bool {
        match self {
            Self::Copied(copied) => !copied.is_unique(),
            Self::Kept(kept) => Arc::strong_count(kept) > 1,
        }
    }
}

impl<'a> BlobRef<'a> {
    /// A handle to the value.
    pub(crate) fn value(self) -> Bytes {
        match self {
            Self::Copied(copied) => Bytes::from_owner(copied.clone()),
            Self::Kept(kept) => Bytes::from_owner(Reader(kept.clone())),
        }
    }

    pub(crate) fn value_bytes(self) -> &'a [u8] {
        match self {
            Self::Copied(copied) => copied,
            Self::Kept(kept) => &kept.value,
        }
    }

    pub(crate) fn value_hash(self) -> u64 {
        match self {
            Self::Copied(copied) => copied.word(),
            Self::Kept(kept) => kept.value_hash,
        }
    }

    /// The key, if it is here and not in the page.
    pub(crate) fn key(self) -> Option<&'a Bytes> {
        match self {
            Self::Kept(kept) if !kept.key.is_empty() => Some(&kept.key),
            _ => None,
        }
    }

    /// Memory that it takes, the caller's buffer counted as if it were used for this value alone.
    pub(crate) fn footprint(self) -> usize {
        match self {
            Self::Copied(copied) => copied.footprint(),
            Self::Kept(kept) => {
                let head = allocated(size_of::<Kept>() + 2 * size_of::<usize>());
                head + allocated(kept.key.len()) + allocated(kept.value.len())
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::home::TestHome;

    fn check(key_len: usize, value_len: usize, expected: Option<bool>) {
        let (key, value) = (vec![b'k'; key_len], Bytes::from(vec![b'v'; value_len]));
        let home = TestHome::new();
        let blob = Blob::of((home.get(), 0), &key, &value);
        let blob = blob.as_ref().map(Blob::as_ref);
        let shared = blob.map(|blob| blob.value().as_ptr() == value.as_ptr());
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
}
