#![expect(unsafe_code, reason = "finds spans by the addresses of their blocks")]

use std::cell::UnsafeCell;
use std::ptr::NonNull;

use crate::arena::Core;
use crate::class::SPAN_BYTES;
use crate::owner::Owner;
use crate::region::{self, SEGMENT_BYTES};
use crate::sync::{AtomicU32, AtomicU64, Ordering};

/// Spans of a segment. The first begins with the headers of all, so it is shorter.
pub(crate) const SPANS: usize = SEGMENT_BYTES / SPAN_BYTES;

const HEADERS_BYTES: usize = SPANS * size_of::<Header>();

/// The unit in which memory goes back to the system.
const SYSTEM_PAGE_BYTES: usize = 4 << 10;

/// Stands for no block, and for no place in a list.
const NONE: u16 = u16::MAX;
pub(crate) const UNLISTED: u32 = u32::MAX;

#[repr(C, align(64))]
struct Header {
    /// Never changes; while the span is in use, one count of it is the span's.
    core: *const Core,
    /// The list whose lock guards the state. Changes only while no block is out.
    list: AtomicU32,
    state: UnsafeCell<State>,
}

/// What the lock of the span's list guards.
#[derive(Debug)]
pub(crate) struct State {
    /// Its place among the list's spans with room.
    pub(crate) at: u32,
    /// Blocks that are out.
    pub(crate) live: u16,
    /// Blocks that were ever given out since the span is of this class. The rest was perhaps never touched.
    pub(crate) carved: u16,
    capacity: u16,
    /// The free block that came back last; each begins with the number of the one before.
    free: u16,
    /// Its blocks are being moved: it is in no list, and nothing is allocated from it.
    pub(crate) is_evacuated: bool,
    /// They were, and some could not be. So it is until one of those comes back.
    pub(crate) is_stuck: bool,
    /// Memory that it takes: up to the last byte that was touched since the system gave it.
    pub(crate) touched_bytes: u32,
}

impl State {
    pub(crate) fn is_full(&self) -> bool {
        self.live == self.capacity
    }

    /// Whether moving its blocks is of any use.
    pub(crate) fn is_worth_moving(&self) -> bool {
        self.live <= self.capacity - self.capacity / 8 && !self.is_stuck
    }

    pub(crate) fn is_listed(&self) -> bool {
        self.at != UNLISTED
    }
}

/// Where blocks of one size lie together. Copies are names: who holds what lock decides about the rest.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Span(NonNull<Header>);

// SAFETY: a name, bound to no thread. What it leads to is guarded by a lock or atomic.
unsafe impl Send for Span {}

impl Span {
    /// Writes the headers of a segment's spans and names them. A huge one takes memory as a whole.
    ///
    /// # Safety
    /// It must be a segment of a region that nothing lies in yet, and live as long as the core.
    pub(crate) unsafe fn lay_out(
        segment: NonNull<u8>,
        is_huge: bool,
        core: *const Core,
    ) -> [Self; SPANS] {
        let first = segment.cast::<Header>();
        std::array::from_fn(|number| {
            let state = State {
                at: UNLISTED,
                live: 0,
                carved: 0,
                capacity: 0,
                free: NONE,
                is_evacuated: false,
                is_stuck: false,
                touched_bytes: if is_huge { SPAN_BYTES as u32 } else { 0 },
            };
            let list = AtomicU32::new(UNLISTED);
            // SAFETY: the segment begins with room for so many headers, aligned for them.
            unsafe {
                let header = first.add(number);
                header.write(Header { core, list, state: UnsafeCell::new(state) });
                Self(header)
            }
        })
    }

    /// The span that a block lies in.
    ///
    /// # Safety
    /// It must be a block of a span.
    pub(crate) unsafe fn of(block: NonNull<u8>) -> Self {
        let address = block.as_ptr().addr();
        let within = address % SEGMENT_BYTES;
        // SAFETY: the segment begins so many bytes before, and with the headers of its spans. The block's pointer was made
        // from the region's and may go wherever that may.
        let header = unsafe { block.sub(within).cast::<Header>().add(within / SPAN_BYTES) };
        Self(header)
    }

    /// A number that no other span has.
    pub(crate) fn id(self) -> usize {
        self.0.as_ptr().addr()
    }

    pub(crate) fn core(self) -> *const Core {
        self.header().core
    }

    pub(crate) fn list(self) -> usize {
        self.header().list.load(Ordering::Relaxed) as usize
    }

    /// What the list's lock guards.
    ///
    /// # Safety
    /// The caller must hold that lock, or know that nobody else knows the span; and the last borrow must have ended.
    pub(crate) unsafe fn state<'a>(self) -> &'a mut State {
        // SAFETY: the caller is the only one.
        unsafe { &mut *self.header().state.get() }
    }

    /// Makes it one of a list's spans, with blocks of this size.
    ///
    /// # Safety
    /// No block may be out, and nobody else may know the span.
    pub(crate) unsafe fn begin(self, list: usize, size: usize) {
        self.header().list.store(list as u32, Ordering::Relaxed);
        // SAFETY: nobody else knows the span.
        let state = unsafe { self.state() };
        let room = SPAN_BYTES - (self.start().as_ptr().addr() % SPAN_BYTES);
        (state.live, state.carved, state.free) = (0, 0, NONE);
        state.is_stuck = false;
        state.capacity = (room / size) as u16;
    }

    /// Takes a block, with its owner written.
    ///
    /// # Safety
    /// The caller must hold the list's lock; the span must not be full and the size must be its own.
    pub(crate) unsafe fn take(self, size: usize, owner: Owner) -> NonNull<u8> {
        // SAFETY: the caller holds the lock.
        let state = unsafe { self.state() };
        let number = if state.free == NONE {
            state.carved += 1;
            let carved_bytes = usize::from(state.carved) * size;
            state.touched_bytes = state.touched_bytes.max(carved_bytes as u32);
            state.carved - 1
        } else {
            state.free
        };
        state.live += 1;
        // SAFETY: there are more blocks than that.
        let block = unsafe { self.block(size, number) };
        let word = self.word(block);
        if number == state.free {
            state.free = word.load(Ordering::Relaxed) as u16;
        }
        word.store(owner.word(), Ordering::Relaxed);
        block
    }

    /// Takes a block back.
    ///
    /// # Safety
    /// The caller must hold the list's lock, and the block must be one of the span's that is out, used no more.
    pub(crate) unsafe fn put_back(self, size: usize, block: NonNull<u8>) {
        // SAFETY: the caller holds the lock.
        let state = unsafe { self.state() };
        let distance = block.as_ptr().addr() - self.start().as_ptr().addr();
        self.word(block).store(u64::from(state.free), Ordering::Relaxed);
        state.free = (distance / size) as u16;
        state.live -= 1;
        state.is_stuck = false;
    }

    /// Who has a block, if it is out and has an owner to be asked.
    ///
    /// # Safety
    /// The size must be the span's, and so many blocks must have been carved.
    pub(crate) unsafe fn owner(self, size: usize, number: u16) -> Option<Owner> {
        // SAFETY: the caller says that there are so many.
        let block = unsafe { self.block(size, number) };
        Owner::of_word(self.word(block).load(Ordering::Relaxed))
    }

    /// Gives its memory back to the system; it takes none then until it is touched.
    ///
    /// # Safety
    /// No block may be out, and nobody else may know the span.
    pub(crate) unsafe fn forget(self) {
        let start = self.start();
        let address = start.as_ptr().addr();
        let skipped = address.next_multiple_of(SYSTEM_PAGE_BYTES) - address;
        let bytes = SPAN_BYTES - start.as_ptr().addr() % SPAN_BYTES - skipped;
        // SAFETY: whole pages of the span, behind the headers, that hold no block.
        let given = unsafe { region::forget(start.add(skipped), bytes) };
        // SAFETY: nobody else knows the span.
        let state = unsafe { self.state() };
        if given {
            state.touched_bytes = 0;
        }
    }

    fn header(&self) -> &Header {
        // SAFETY: the header was written when the segment was laid out, lives as long as the core, and is only ever borrowed shared.
        unsafe { self.0.as_ref() }
    }

    /// Where the first block is.
    fn start(self) -> NonNull<u8> {
        let within = self.id() % SEGMENT_BYTES;
        let number = within / size_of::<Header>();
        let start = (number * SPAN_BYTES).max(HEADERS_BYTES);
        // SAFETY: the headers begin the segment, and the span is in it.
        unsafe { self.0.cast::<u8>().sub(within).add(start) }
    }

    /// # Safety
    /// The size must be the span's, and the span must have so many blocks.
    unsafe fn block(self, size: usize, number: u16) -> NonNull<u8> {
        // SAFETY: the caller says that it is in the span.
        unsafe { self.start().add(usize::from(number) * size) }
    }

    /// What a block begins with.
    fn word(&self, block: NonNull<u8>) -> &AtomicU64 {
        // SAFETY: every block begins with eight aligned bytes that are only ever used as this.
        unsafe { block.cast::<AtomicU64>().as_ref() }
    }
}
