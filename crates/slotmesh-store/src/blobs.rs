use std::sync::Arc;

use slotmesh_arena::{Shared, SpanId};

use crate::blob::{Blob, BlobRef, Kept};
use crate::footprint::allocated;
use crate::home::Home;

/// The blobs of a page's entries, which know them by a number: of the place in one of the two lists, doubled, and which list.
#[derive(Clone, Debug, Default)]
pub(crate) struct Blobs {
    copied: Places<Shared>,
    kept: Places<Arc<Kept>>,
    /// Memory of the values.
    bytes: usize,
}

/// Handles at places that do not change. Eight bytes each: every one of them counts for each entry.
#[derive(Clone, Debug)]
struct Places<T> {
    handles: Vec<Option<T>>,
    taken: usize,
}

const _: () = assert!(size_of::<Option<Shared>>() == 8);

impl<T> Default for Places<T> {
    fn default() -> Self {
        Self { handles: Vec::new(), taken: 0 }
    }
}

impl<T> Places<T> {
    fn add(&mut self, handle: T) -> u32 {
        let free = (self.taken < self.handles.len())
            .then(|| self.handles.iter().position(Option::is_none))
            .flatten();
        self.taken += 1;
        if let Some(place) = free {
            self.handles[place] = Some(handle);
            return place as u32;
        }
        if self.handles.len() == self.handles.capacity() {
            // Smaller steps would leave the allocator with more holes than they save.
            self.handles.reserve_exact(2 + self.handles.len() / 4);
        }
        self.handles.push(Some(handle));
        (self.handles.len() - 1) as u32
    }

    fn get(&self, place: u32) -> Option<&T> {
        self.handles.get(place as usize)?.as_ref()
    }

    fn get_mut(&mut self, place: u32) -> Option<&mut T> {
        self.handles.get_mut(place as usize)?.as_mut()
    }

    fn take(&mut self, place: u32) -> Option<T> {
        let taken = self.handles.get_mut(place as usize)?.take();
        self.taken -= usize::from(taken.is_some());
        taken
    }

    fn is_sparse(&self) -> bool {
        self.handles.len() > 2 * self.taken + 8
    }

    fn footprint(&self) -> usize {
        allocated(self.handles.capacity() * size_of::<Option<T>>())
    }
}

const IS_KEPT: u32 = 1;

impl Blobs {
    pub(crate) fn add(&mut self, blob: Blob) -> u32 {
        self.bytes += blob.as_ref().footprint();
        match blob {
            Blob::Copied(copied) => self.copied.add(copied) << 1,
            Blob::Kept(kept) => self.kept.add(kept) << 1 | IS_KEPT,
        }
    }

    pub(crate) fn get(&self, number: u32) -> Option<BlobRef<'_>> {
        if number & IS_KEPT == 0 {
            self.copied.get(number >> 1).map(BlobRef::Copied)
        } else {
            self.kept.get(number >> 1).map(BlobRef::Kept)
        }
    }

    pub(crate) fn take(&mut self, number: u32) -> Option<Blob> {
        let blob = if number & IS_KEPT == 0 {
            Blob::Copied(self.copied.take(number >> 1)?)
        } else {
            Blob::Kept(self.kept.take(number >> 1)?)
        };
        self.bytes -= blob.as_ref().footprint();
        Some(blob)
    }

    /// Moves a value out of a span of the arena, unless somebody reads it.
    pub(crate) fn leave(&mut self, number: u32, span: SpanId, (home, hash): (Home<'_>, u64)) {
        if number & IS_KEPT == 0
            && let Some(copied) = self.copied.get_mut(number >> 1)
            && copied.is_in(span)
            && copied.is_unique()
            && let Some(moved) = home.arena.share(copied, copied.word(), home.blob_owner(hash))
        {
            // Elsewhere it may take another size: in the arena it is rounded up otherwise than by the global allocator.
            let before = BlobRef::Copied(copied).footprint();
            self.bytes = self.bytes + BlobRef::Copied(&moved).footprint() - before;
            *copied = moved;
        }
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.copied.taken + self.kept.taken == 0
    }

    /// Whether most places are free.
    pub(crate) fn is_sparse(&self) -> bool {
        self.copied.is_sparse() || self.kept.is_sparse()
    }

    /// Memory of the values themselves.
    pub(crate) fn bytes(&self) -> usize {
        self.bytes
    }

    pub(crate) fn footprint(&self) -> usize {
        let places = self.copied.footprint() + self.kept.footprint();
        self.bytes + places + allocated(size_of::<Self>())
    }
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;

    use super::*;
    use crate::home::TestHome;

    #[test]
    fn places_are_used_again_and_bytes_counted() {
        let value = Bytes::from(vec![1; 1_000]);
        let home = TestHome::new();
        let blob = || Blob::of((home.get(), 0), b"k", &value).unwrap();
        let mut blobs = Blobs::default();
        let places: Vec<u32> = (0..100).map(|_| blobs.add(blob())).collect();
        let full = blobs.footprint();
        assert!(full >= 100 * 1_000);
        for &place in &places[10..] {
            assert!(blobs.take(place).is_some() && blobs.take(place).is_none());
        }
        assert!(blobs.footprint() < full - 90 * 1_000 && !blobs.is_empty());
        assert!((0..90).map(|_| blobs.add(blob())).all(|place| place < 200));
        places.iter().for_each(|&place| drop(blobs.take(place)));
        assert!(blobs.is_empty() && blobs.get(0).is_none());
    }
}
