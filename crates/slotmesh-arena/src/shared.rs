#![expect(unsafe_code, reason = "a counted handle to memory")]

use std::fmt;
use std::ops::Deref;
use std::ptr::NonNull;

use crate::arena::{Arena, Core};
use crate::class::{self, BLOCK_BYTES_MAX, OWNER_BYTES};
use crate::evacuation::SpanId;
use crate::heap;
use crate::owner::Owner;
use crate::span::Span;
use crate::sync::{AtomicU32, Ordering};

/// Bytes that do not change, with a word beside. Clones are handles to the same bytes, as an `Arc`'s are.
///
/// Who moves it first makes sure that nobody else can come by a handle, and then that there is no other: [`Shared::is_unique`].
pub struct Shared(NonNull<Head>);

/// What a shared block begins with.
#[repr(C)]
struct Head {
    /// Only ever used by the span, as an atomic; nobody's if it is of the heap.
    owner: [u8; OWNER_BYTES],
    handles: AtomicU32,
    len: u16,
    is_heap: bool,
    word: u64,
}

const HEAD_BYTES: usize = size_of::<Head>();

const _: () = assert!(Shared::BYTES_MAX <= u16::MAX as usize && HEAD_BYTES == 24);

/// More handles than this are a leak that would overflow the count.
const HANDLES_MAX: u32 = u32::MAX / 2;

// SAFETY: what it leads to does not change, but for the count, which is atomic.
unsafe impl Send for Shared {}
// SAFETY: as above.
unsafe impl Sync for Shared {}

impl Shared {
    /// The longest there are.
    pub const BYTES_MAX: usize = BLOCK_BYTES_MAX - HEAD_BYTES;

    pub(crate) fn new(arena: &Arena, bytes: &[u8], word: u64, owner: Owner) -> Option<Self> {
        if bytes.len() > Self::BYTES_MAX {
            return None;
        }
        let (class, is_heap) = (class::of(HEAD_BYTES + bytes.len()), arena.uses_heap());
        let block =
            if is_heap { heap::allocate(class::size(class)) } else { arena.take(class, owner) };
        let head = block.cast::<Head>();
        // SAFETY: the block has room for the head and the bytes, is aligned for the head, and is nobody else's. The owner is left
        // as it is.
        unsafe {
            let place = head.as_ptr();
            (&raw mut (*place).handles).write(AtomicU32::new(1));
            (&raw mut (*place).len).write(bytes.len() as u16);
            (&raw mut (*place).is_heap).write(is_heap);
            (&raw mut (*place).word).write(word);
            let to = head.cast::<u8>().add(HEAD_BYTES);
            to.copy_from_nonoverlapping(NonNull::from(bytes).cast(), bytes.len());
        }
        Some(Self(head))
    }

    /// The word beside the bytes.
    #[must_use]
    pub fn word(&self) -> u64 {
        // SAFETY: it was written when the handle was made and does not change.
        unsafe { (&raw const (*self.0.as_ptr()).word).read() }
    }

    /// Whether this is the only handle. Another thread may change that at any time unless it can come by no handle.
    #[must_use]
    pub fn is_unique(&self) -> bool {
        // Acquire: what others read is read before this one is moved or freed.
        self.handles().load(Ordering::Acquire) == 1
    }

    /// Memory that it takes.
    #[must_use]
    pub fn footprint(&self) -> usize {
        let size = class::size(class::of(HEAD_BYTES + self.len()));
        if self.is_heap() { heap::footprint(size) } else { size }
    }

    /// Whether it has to be moved for the span to become free.
    #[must_use]
    pub fn is_in(&self, span: SpanId) -> bool {
        // SAFETY: what is not of the heap is a block of a span.
        !self.is_heap() && unsafe { Span::of(self.0.cast()) == span.0 }
    }

    pub(crate) fn is_heap(&self) -> bool {
        // SAFETY: it was written when the handle was made and does not change.
        unsafe { (&raw const (*self.0.as_ptr()).is_heap).read() }
    }

    fn handles(&self) -> &AtomicU32 {
        // SAFETY: it was written when the handle was made and is only used as an atomic.
        unsafe { &(*self.0.as_ptr()).handles }
    }
}

impl Deref for Shared {
    type Target = [u8];

    #[inline]
    fn deref(&self) -> &[u8] {
        // SAFETY: so many bytes follow the head; they were written when the handle was made and do not change.
        unsafe {
            let len = (&raw const (*self.0.as_ptr()).len).read();
            let bytes = self.0.cast::<u8>().add(HEAD_BYTES);
            std::slice::from_raw_parts(bytes.as_ptr(), len.into())
        }
    }
}

impl AsRef<[u8]> for Shared {
    fn as_ref(&self) -> &[u8] {
        self
    }
}

impl Clone for Shared {
    fn clone(&self) -> Self {
        // As for `Arc`: nothing depends on the order, and a count that overflowed would free what is in use.
        if self.handles().fetch_add(1, Ordering::Relaxed) > HANDLES_MAX {
            std::process::abort();
        }
        Self(self.0)
    }
}

impl Drop for Shared {
    fn drop(&mut self) {
        if self.handles().fetch_sub(1, Ordering::Release) != 1 {
            return;
        }
        // What other holders read is read before the block is used again. A fence would do, but the thread sanitizer knows none.
        let _ = self.handles().load(Ordering::Acquire);
        let block = self.0.cast();
        if self.is_heap() {
            // SAFETY: this was the last handle, and the heap gave so much.
            unsafe { heap::free(block, class::size(class::of(HEAD_BYTES + self.len()))) };
        } else {
            // SAFETY: this was the last handle, and it is a block of a span.
            unsafe { Core::put_back(block) };
        }
    }
}

impl fmt::Debug for Shared {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Shared").field("len", &self.len()).finish_non_exhaustive()
    }
}
