#![expect(unsafe_code, reason = "maps memory")]

use std::alloc::Layout;
use std::ptr::NonNull;

use rustix::mm::{Advice, MapFlags, ProtFlags};

/// Spans lie together in segments, at addresses that are multiples of this, which is what a huge page takes.
pub(crate) const SEGMENT_BYTES: usize = 2 << 20;

/// Mapped memory in whole segments, readable, writable and zero; unmapped when dropped.
#[derive(Debug)]
pub(crate) struct Region {
    mapped: NonNull<u8>,
    mapped_bytes: usize,
    /// The first segment that nobody asked for yet.
    next: NonNull<u8>,
    segments_left: usize,
    pub(crate) is_huge: bool,
}

// SAFETY: it is memory of the process, bound to no thread.
unsafe impl Send for Region {}

impl Region {
    /// Maps so many segments. Ends the process when the system has none, as the standard library's collections do.
    pub(crate) fn map(segments: usize, is_huge: bool) -> Self {
        let bytes = segments * SEGMENT_BYTES;
        // More than is used, so that an aligned part is in it; what is never touched takes no memory.
        let mapped_bytes = bytes + SEGMENT_BYTES;
        let (protection, flags) = (ProtFlags::READ | ProtFlags::WRITE, MapFlags::PRIVATE);
        // SAFETY: a new mapping at an address that the system chooses touches nobody else's memory.
        let mapped = unsafe {
            rustix::mm::mmap_anonymous(std::ptr::null_mut(), mapped_bytes, protection, flags)
        };
        let Some(mapped) = mapped.ok().and_then(|mapped| NonNull::new(mapped.cast::<u8>())) else {
            let layout = Layout::from_size_align(mapped_bytes, 1).unwrap_or(Layout::new::<u8>());
            std::alloc::handle_alloc_error(layout)
        };
        let address = mapped.as_ptr().addr();
        let skipped = address.next_multiple_of(SEGMENT_BYTES) - address;
        // SAFETY: the mapping is longer by one segment than what is used of it.
        let next = unsafe { mapped.add(skipped) };
        let is_huge = is_huge && advise_huge(next, bytes);
        Self { mapped, mapped_bytes, next, segments_left: segments, is_huge }
    }

    /// A segment that was not handed out before.
    pub(crate) fn next_segment(&mut self) -> Option<NonNull<u8>> {
        self.segments_left = self.segments_left.checked_sub(1)?;
        let segment = self.next;
        // SAFETY: the end of the last segment is within the mapping or its end.
        self.next = unsafe { segment.add(SEGMENT_BYTES) };
        Some(segment)
    }
}

impl Drop for Region {
    fn drop(&mut self) {
        // SAFETY: the region is the mapping's only owner, and no block of it is left: each span in use holds the arena.
        let unmapped =
            unsafe { rustix::mm::munmap(self.mapped.as_ptr().cast(), self.mapped_bytes) };
        debug_assert!(unmapped.is_ok(), "{unmapped:?}");
    }
}

#[cfg(target_os = "linux")]
fn advise_huge(base: NonNull<u8>, bytes: usize) -> bool {
    // SAFETY: it is our mapping, and the advice changes no contents. A system without huge pages refuses: then there are none.
    let advised =
        unsafe { rustix::mm::madvise(base.as_ptr().cast(), bytes, Advice::LinuxHugepage) };
    advised.is_ok()
}

#[cfg(not(target_os = "linux"))]
fn advise_huge(_base: NonNull<u8>, _bytes: usize) -> bool {
    false
}

/// Gives memory back to the system, which maps zeros there when it is touched again; false when it did not.
///
/// # Safety
/// It must be whole pages of a region that hold nothing.
pub(crate) unsafe fn forget(start: NonNull<u8>, bytes: usize) -> bool {
    // SAFETY: it is part of a mapping of ours, and nothing in it is needed.
    #[cfg(target_os = "linux")]
    let given = unsafe { rustix::mm::madvise(start.as_ptr().cast(), bytes, Advice::LinuxDontNeed) };
    // SAFETY: as above.
    #[cfg(not(target_os = "linux"))]
    let given = unsafe { rustix::mm::madvise(start.as_ptr().cast(), bytes, Advice::DontNeed) };
    given.is_ok()
}
