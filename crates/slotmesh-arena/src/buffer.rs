#![expect(unsafe_code, reason = "a handle to memory")]

use std::fmt;
use std::ops::{Deref, DerefMut};
use std::ptr::NonNull;

use crate::arena::{Arena, Core};
use crate::class::{self, BLOCK_BYTES_MAX, OWNER_BYTES};
use crate::evacuation::SpanId;
use crate::heap;
use crate::owner::Owner;
use crate::span::Span;

/// Bytes of one owner. Those that no block is large enough for are the global allocator's, as are all while the arena uses that, and
/// never moved.
pub struct Buffer {
    /// In a span, behind the owner; dangling if there are none.
    bytes: NonNull<u8>,
    len: u32,
    is_heap: bool,
}

const _: () = assert!(size_of::<Buffer>() == 16);

// SAFETY: its bytes are its own, as a vector's are.
unsafe impl Send for Buffer {}
// SAFETY: as above.
unsafe impl Sync for Buffer {}

impl Buffer {
    pub(crate) fn new(arena: &Arena, bytes: usize, owner: Owner) -> Self {
        let len = Self::capacity(bytes);
        if bytes == 0 {
            Self::default()
        } else if arena.uses_heap() || !is_block(bytes) {
            let len = heap::size(bytes);
            Self { bytes: heap::allocate(len), len: len as u32, is_heap: true }
        } else {
            let block = arena.take(class::of(with_owner(len)), owner);
            // SAFETY: the block has its owner's bytes and so many more.
            Self { bytes: unsafe { block.add(OWNER_BYTES) }, len: len as u32, is_heap: false }
        }
    }

    /// The length of a buffer that is asked for so many bytes, or eight less.
    ///
    /// # Panics
    /// If it is nearly 4 GiB or more.
    #[must_use]
    pub fn capacity(bytes: usize) -> usize {
        assert!(bytes <= u32::MAX as usize - 16, "a buffer of {bytes} bytes");
        if bytes == 0 {
            0
        } else if is_block(bytes) {
            class::size(class::of(with_owner(bytes))) - OWNER_BYTES
        } else {
            heap::size(bytes)
        }
    }

    /// Memory that it takes.
    #[must_use]
    pub fn footprint(&self) -> usize {
        match self.len() {
            0 => 0,
            len if self.is_heap => heap::footprint(len),
            len => with_owner(len),
        }
    }

    /// Whether it has to be moved for the span to become free.
    #[must_use]
    pub fn is_in(&self, span: SpanId) -> bool {
        let is_of_span = !self.is_empty() && !self.is_heap;
        // SAFETY: it is a block of a span.
        is_of_span && unsafe { Span::of(self.block()) } == span.0
    }

    /// What [`Buffer::from_raw`] takes.
    #[inline]
    pub(crate) fn raw(&self) -> (NonNull<u8>, usize, bool) {
        (self.bytes, self.len(), self.is_heap)
    }

    /// # Safety
    /// [`Buffer::raw`] must have given these, of a buffer that was forgotten, and this must be called once.
    #[inline]
    pub(crate) unsafe fn from_raw(bytes: NonNull<u8>, len: u32, is_heap: bool) -> Self {
        Self { bytes, len, is_heap }
    }

    /// The block of a span.
    fn block(&self) -> NonNull<u8> {
        // SAFETY: the owner's bytes are before those that are handed out.
        unsafe { self.bytes.sub(OWNER_BYTES) }
    }
}

fn is_block(len: usize) -> bool {
    len <= BLOCK_BYTES_MAX - OWNER_BYTES
}

fn with_owner(len: usize) -> usize {
    OWNER_BYTES + len
}

impl Default for Buffer {
    fn default() -> Self {
        Self { bytes: NonNull::dangling(), len: 0, is_heap: false }
    }
}

impl Deref for Buffer {
    type Target = [u8];

    #[inline]
    fn deref(&self) -> &[u8] {
        // SAFETY: so many bytes are the buffer's own, and all memory of regions and of the heap is initialised.
        unsafe { std::slice::from_raw_parts(self.bytes.as_ptr(), self.len as usize) }
    }
}

impl DerefMut for Buffer {
    #[inline]
    fn deref_mut(&mut self) -> &mut [u8] {
        // SAFETY: as above, and the buffer is borrowed for writing.
        unsafe { std::slice::from_raw_parts_mut(self.bytes.as_ptr(), self.len as usize) }
    }
}

impl Drop for Buffer {
    fn drop(&mut self) {
        if self.is_empty() {
            return;
        }
        // SAFETY: the memory is the buffer's, which ends here; it goes back to where it is from.
        unsafe {
            if self.is_heap {
                heap::free(self.bytes, self.len());
            } else {
                Core::put_back(self.block());
            }
        }
    }
}

impl fmt::Debug for Buffer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Buffer").field("len", &self.len).finish_non_exhaustive()
    }
}
