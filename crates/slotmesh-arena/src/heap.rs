#![expect(unsafe_code, reason = "allocates and frees")]

use std::alloc::Layout;
use std::ptr::NonNull;

/// What its blocks are aligned to, as those of spans are.
const ALIGNMENT: usize = 8;

/// Bytes of a block for so many: with the eight that malloc puts before each, a multiple of sixteen, which it would take anyway.
#[inline]
pub(crate) fn size(bytes: usize) -> usize {
    (bytes + ALIGNMENT).next_multiple_of(2 * ALIGNMENT) - ALIGNMENT
}

/// What a block of this size takes.
#[inline]
pub(crate) fn footprint(size: usize) -> usize {
    size + ALIGNMENT
}

/// Memory of the global allocator, zeroed. Ends the process when there is none.
pub(crate) fn allocate(size: usize) -> NonNull<u8> {
    let layout = layout(size);
    // SAFETY: the size is not zero.
    NonNull::new(unsafe { std::alloc::alloc_zeroed(layout) })
        .unwrap_or_else(|| std::alloc::handle_alloc_error(layout))
}

/// Frees it.
///
/// # Safety
/// [`allocate`] must have given it, with this size, and nobody may use it any more.
pub(crate) unsafe fn free(block: NonNull<u8>, size: usize) {
    // SAFETY: the caller says so.
    unsafe { std::alloc::dealloc(block.as_ptr(), layout(size)) };
}

fn layout(size: usize) -> Layout {
    Layout::from_size_align(size.max(ALIGNMENT), ALIGNMENT)
        .unwrap_or_else(|_| panic!("{size} bytes are more than memory has addresses"))
}
