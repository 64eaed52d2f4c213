#![expect(unsafe_code, reason = "a handle to memory, packed")]

use std::fmt;
use std::mem::ManuallyDrop;
use std::num::NonZeroUsize;
use std::ops::{Deref, DerefMut};
use std::ptr::NonNull;

use crate::buffer::Buffer;

/// A [`Buffer`] in eight bytes without alignment, for who has many of them and uses few at a time.
///
/// A pointer into a process's own memory needs 48 bits at most, on x86-64 and AArch64 and unless the process asks the system for
/// others, so the length fits beside it.
#[repr(C, packed)]
pub struct Compact(NonNull<u8>);

/// Bits of the address. Those above are the length, which is even, and whether it is the heap's.
const ADDRESS_BITS: u32 = 48;
const ADDRESS: u64 = (1 << ADDRESS_BITS) - 1;

// SAFETY: it is a buffer.
unsafe impl Send for Compact {}
// SAFETY: as above.
unsafe impl Sync for Compact {}

impl Compact {
    /// The same memory in another form.
    ///
    /// # Errors
    /// The buffer, if it is empty or longer than 64 KiB, or its address has too many bits.
    #[inline]
    pub fn new(buffer: Buffer) -> Result<Self, Buffer> {
        let (bytes, len, is_heap) = buffer.raw();
        let (address, size) = (bytes.addr().get() as u64, len as u64 | u64::from(is_heap));
        let fits = len > 0 && len.is_multiple_of(2) && len <= u16::MAX.into();
        if usize::BITS < u64::BITS || !fits || address > ADDRESS {
            return Err(buffer);
        }
        let _ = ManuallyDrop::new(buffer);
        Ok(Self(bytes.map_addr(|address| address | (size << ADDRESS_BITS) as usize)))
    }

    /// The buffer.
    #[inline]
    #[must_use]
    pub fn into_buffer(self) -> Buffer {
        let this = ManuallyDrop::new(self);
        // SAFETY: it is used no more.
        unsafe { this.buffer() }
    }

    /// # Safety
    /// It must be called once and last.
    #[inline]
    unsafe fn buffer(&self) -> Buffer {
        let (bytes, len, is_heap) = self.raw();
        // SAFETY: `new` forgot a buffer with these, and the caller sees to it that only one is made of it.
        unsafe { Buffer::from_raw(bytes, len as u32, is_heap) }
    }

    /// What [`Buffer::raw`] said.
    #[inline]
    fn raw(&self) -> (NonNull<u8>, usize, bool) {
        let tagged = self.0;
        let both = tagged.addr().get() as u64;
        let (address, size) = ((both & ADDRESS) as usize, both >> ADDRESS_BITS);
        let bytes = tagged.map_addr(|tagged| NonZeroUsize::new(address).unwrap_or(tagged));
        (bytes, (size & !1) as usize, size & 1 == 1)
    }
}

impl Deref for Compact {
    type Target = [u8];

    #[inline]
    fn deref(&self) -> &[u8] {
        let (bytes, len, _) = self.raw();
        // SAFETY: as for the buffer, which this is.
        unsafe { std::slice::from_raw_parts(bytes.as_ptr(), len) }
    }
}

impl DerefMut for Compact {
    #[inline]
    fn deref_mut(&mut self) -> &mut [u8] {
        let (bytes, len, _) = self.raw();
        // SAFETY: as above, and it is borrowed for writing.
        unsafe { std::slice::from_raw_parts_mut(bytes.as_ptr(), len) }
    }
}

impl Drop for Compact {
    fn drop(&mut self) {
        // SAFETY: this is the end of it.
        drop(unsafe { self.buffer() });
    }
}

impl fmt::Debug for Compact {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Compact").finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{Arena, Owner};

    #[test]
    fn buffers_come_back() {
        let arena = Arena::new();
        assert_eq!((size_of::<Option<Compact>>(), align_of::<Compact>()), (8, 1));
        // Half are the heap's, half spans'.
        let compact: Vec<_> = (0..4_000_usize)
            .filter_map(|number| {
                arena.use_heap(number % 2 == 0);
                let mut buffer = arena.buffer(1 + number * 7 % 21_000, Owner::new(number as u64));
                buffer.fill(number as u8);
                let (len, is_heap) = (buffer.len(), buffer.raw().2);
                Some((number, len, is_heap, Compact::new(buffer).ok()?))
            })
            .collect();
        assert_eq!(compact.len(), 4_000);
        assert_eq!(compact.iter().filter(|entry| entry.2).count(), 2_000);
        for (number, len, is_heap, compact) in compact {
            assert_eq!((compact.len(), compact[len - 1]), (len, number as u8));
            if number % 3 == 0 {
                continue;
            }
            let buffer = compact.into_buffer();
            assert_eq!((buffer.len(), buffer.raw().2), (len, is_heap));
            assert!(buffer.iter().all(|&byte| byte == number as u8));
        }
        for len in [0, 70_000] {
            assert!(Compact::new(arena.buffer(len, Owner::NOBODY)).is_err());
        }
        let core = std::sync::Arc::downgrade(&arena.0);
        drop(arena);
        assert!(core.upgrade().is_none(), "all memory came back");
    }
}
