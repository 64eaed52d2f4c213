#![expect(unsafe_code, reason = "keeps the locks that the spans' states need")]

use std::ptr::NonNull;
use std::sync::{Arc, OnceLock};

use crate::buffer::Buffer;
use crate::class::{self, COUNT};
use crate::evacuation::Moving;
use crate::list::List;
use crate::owner::Owner;
use crate::shared::Shared;
use crate::span::{Span, UNLISTED};
use crate::spare::Spare;
use crate::sync::{AtomicBool, AtomicUsize, Mutex, Ordering};

/// Lists for each class, so that threads that allocate the same size seldom meet.
const LANES: usize = 4;

/// Memory from which on all of them are used: each class's last span is used in part only, in every lane.
const LANES_FROM_BYTES: usize = 128 << 20;

/// No list.
const NONE: usize = usize::MAX;

/// Lanes while blocks come from the global allocator.
const HEAP: usize = 0;

/// Memory in blocks: see the crate's page. Cheap to clone; every clone is the same arena.
#[derive(Debug)]
pub struct Arena(pub(crate) Arc<Core>);

#[derive(Debug)]
pub(crate) struct Core {
    /// Handles to the arena. Blocks hold the core too, but ask for nothing.
    arenas: AtomicUsize,
    /// None of them before the first span: they take 50 KiB.
    pub(crate) lists: OnceLock<Box<[Listed]>>,
    spare: Mutex<Spare>,
    /// A power of two, or [`HEAP`].
    lanes: AtomicUsize,
    /// Slack of all lists and spare spans, as of when a span was last taken or given back.
    slack_bytes: AtomicUsize,
    /// The list that should be evacuated, or whose span is.
    pub(crate) sparse: AtomicUsize,
    pub(crate) moving: Mutex<Option<Moving>>,
}

/// A list, and what can be read of it without the lock.
#[derive(Debug)]
#[repr(align(64))]
pub(crate) struct Listed {
    list: Mutex<List>,
    slack_bytes: AtomicUsize,
    is_sparse: AtomicBool,
}

impl Default for Arena {
    fn default() -> Self {
        Self::new()
    }
}

impl Arena {
    /// An arena; it takes next to nothing until something is allocated.
    #[must_use]
    pub fn new() -> Self {
        Self(Arc::new(Core {
            arenas: AtomicUsize::new(1),
            lists: OnceLock::new(),
            spare: Mutex::default(),
            lanes: AtomicUsize::new(1),
            slack_bytes: AtomicUsize::new(0),
            sparse: AtomicUsize::new(NONE),
            moving: Mutex::new(None),
        }))
    }

    /// Has new blocks come from the global allocator, or from the arena's own memory again: for who knows that there are only a few
    /// of each size, of which spans of their own would take several times as much. They are never moved, and what the global
    /// allocator loses among them is not counted.
    pub fn use_heap(&self, yes: bool) {
        if yes {
            self.0.lanes.store(HEAP, Ordering::Relaxed);
            self.0.spare.lock().forget_kept();
            self.0.sum_up();
        } else {
            // Those that there are when it is another thread that said so.
            let relaxed = Ordering::Relaxed;
            let _ = self.0.lanes.compare_exchange(HEAP, 1, relaxed, relaxed);
        }
    }

    /// Whether new blocks come from the global allocator.
    #[inline]
    #[must_use]
    pub fn uses_heap(&self) -> bool {
        self.0.lanes.load(Ordering::Relaxed) == HEAP
    }

    /// Bytes to write, at least so many; [`Buffer::capacity`] says how many more. What they hold is not specified.
    #[must_use]
    pub fn buffer(&self, bytes: usize, owner: Owner) -> Buffer {
        Buffer::new(self, bytes, owner)
    }

    /// A copy of the bytes that may be shared, with a word beside; `None` if there are more than [`Shared::BYTES_MAX`].
    #[must_use]
    pub fn share(&self, bytes: &[u8], word: u64, owner: Owner) -> Option<Shared> {
        Shared::new(self, bytes, word, owner)
    }

    /// Memory that the arena takes and that no block is in. As of when a span of 64 KiB was last taken or given back.
    #[must_use]
    pub fn slack_bytes(&self) -> usize {
        self.0.slack_bytes.load(Ordering::Relaxed)
    }

    /// Whether so much memory lies unused between blocks that they should be moved: see [`Arena::evacuation`]. Costs a load.
    #[inline]
    #[must_use]
    pub fn is_sparse(&self) -> bool {
        self.0.is_sparse()
    }

    /// A block of the class in a span, with its owner written.
    #[inline]
    pub(crate) fn take(&self, class: usize, owner: Owner) -> NonNull<u8> {
        let lanes = self.0.lanes.load(Ordering::Relaxed).max(1);
        let lane = owner.number() as usize & (lanes - 1);
        self.take_from(lane * COUNT + class, owner)
    }

    fn take_from(&self, number: usize, owner: Owner) -> NonNull<u8> {
        let listed = &self.0.lists()[number];
        let mut list = listed.list.lock();
        let (size, mut is_new) = (list.size(), false);
        let span = list.last().unwrap_or_else(|| {
            is_new = true;
            self.add_span(number, &mut list)
        });
        // SAFETY: the list is locked; a span in it has room, and blocks of its size.
        let block = unsafe {
            let before = span.state().touched_bytes;
            let block = span.take(size, owner);
            list.count(before, span.state().touched_bytes);
            block
        };
        list.count_taken();
        // SAFETY: the list is locked.
        let is_full = unsafe { span.state() }.is_full();
        if is_full {
            unlist(&mut list, span);
        }
        self.0.publish((number, listed), &list);
        drop(list);
        if is_new {
            self.0.sum_up();
        }
        block
    }

    fn add_span(&self, number: usize, list: &mut List) -> Span {
        let span = self.spare_span();
        // The span's; it is given back with the span.
        std::mem::forget(Arc::clone(&self.0));
        // SAFETY: it was spare, so nobody else knows it.
        let bytes = unsafe {
            span.begin(number, list.size());
            span.state().touched_bytes
        };
        list.count(0, bytes);
        enlist(list, span);
        span
    }

    fn spare_span(&self) -> Span {
        let mut spare = self.0.spare.lock();
        if spare.used_bytes() >= LANES_FROM_BYTES && !self.uses_heap() {
            self.0.lanes.store(LANES, Ordering::Relaxed);
        }
        if let Some(span) = spare.pop() {
            return span;
        }
        let (segment, is_huge) = spare.next_segment();
        // SAFETY: the segment is new. The core owns its region and goes last.
        let spans = unsafe { Span::lay_out(segment, is_huge, Arc::as_ptr(&self.0)) };
        // SAFETY: the spans are new.
        spans.into_iter().rev().for_each(|span| unsafe { spare.add(span) });
        // There is one: the last that was added.
        spare.pop().unwrap_or(spans[0])
    }
}

impl Clone for Arena {
    fn clone(&self) -> Self {
        // Nothing depends on the order, as for `Arc`.
        self.0.arenas.fetch_add(1, Ordering::Relaxed);
        Self(Arc::clone(&self.0))
    }
}

impl Drop for Arena {
    fn drop(&mut self) {
        // While there is another, an evacuation may be in its hands, even in this thread's.
        if self.0.arenas.fetch_sub(1, Ordering::AcqRel) != 1 {
            return;
        }
        // A span that is being evacuated would keep the core alive for good. Only an `Evacuation` that was forgotten has the lock.
        let moving = self.0.moving.try_lock().and_then(|mut moving| moving.take());
        if let Some(moving) = moving {
            self.0.end(moving);
        }
    }
}

impl Core {
    #[inline]
    fn lists(&self) -> &[Listed] {
        match self.lists.get() {
            Some(lists) => lists,
            None => self.make_lists(),
        }
    }

    #[cold]
    fn make_lists(&self) -> &[Listed] {
        self.lists.get_or_init(|| {
            let lists = (0..LANES * COUNT).map(|number| Listed {
                list: Mutex::new(List::new(class::size(number % COUNT))),
                slack_bytes: AtomicUsize::new(0),
                is_sparse: AtomicBool::new(false),
            });
            lists.collect()
        })
    }

    /// Takes a block back.
    ///
    /// # Safety
    /// It must be a block that [`Arena::take`] gave of a span, and nobody may use it any more.
    pub(crate) unsafe fn put_back(block: NonNull<u8>) {
        // SAFETY: it is a block of a span in use, which holds the core.
        let span = unsafe { Span::of(block) };
        let (core, number) = (span.core(), span.list());
        // No function has a reference to the core beyond the unlocking: if the span was not free then, another thread may make it so
        // at once, and the core end with it.
        // SAFETY: as above.
        let listed = unsafe { &(*core).lists()[number] };
        let mut list = listed.list.lock();
        // SAFETY: the list is locked, and the caller gives the block up.
        let is_free = unsafe { put_back_to(&mut list, span, block) };
        // SAFETY: until the list is unlocked, the span is either in use or this thread's.
        unsafe { (*core).publish((number, listed), &list) };
        drop(list);
        if is_free {
            // SAFETY: no block of it is out, and it is in no list.
            unsafe { Self::give_back(span) };
        }
    }

    /// Makes a span spare and lets go of the core, which may end with it.
    ///
    /// # Safety
    /// It must have been in use, with no block out, and nobody else may know it.
    unsafe fn give_back(span: Span) {
        // As the span has it: made by an `Arc`, and good for more than a reference to the core would be.
        let core = span.core();
        {
            // SAFETY: the span's count of the core is let go only below.
            let this = unsafe { &*core };
            let may_keep = this.spare.lock().may_keep();
            // SAFETY: nobody else knows it, and no block is out.
            unsafe {
                if !may_keep {
                    span.forget();
                }
                this.spare.lock().add(span);
            }
            this.sum_up();
        }
        // SAFETY: the count that the span had; the core was made by an `Arc`.
        unsafe { Arc::decrement_strong_count(core) };
    }

    /// Notes a list's slack for who has no lock, and whether it is too much.
    fn publish(&self, (number, listed): (usize, &Listed), list: &List) {
        listed.slack_bytes.store(list.slack_bytes(), Ordering::Relaxed);
        let is_sparse = list.is_sparse();
        if listed.is_sparse.load(Ordering::Relaxed) != is_sparse {
            // Either it has its turn here, or `turn_to_next` sees the mark: all four are in one order.
            listed.is_sparse.store(is_sparse, Ordering::SeqCst);
            if is_sparse {
                self.give_turn(number);
            }
        }
    }

    /// The list's turn, if it is no other's.
    fn give_turn(&self, number: usize) {
        let order = Ordering::SeqCst;
        let _ = self.sparse.compare_exchange(NONE, number, order, order);
    }

    fn is_sparse(&self) -> bool {
        self.sparse.load(Ordering::Relaxed) != NONE
    }

    /// The list that was sparse is no more: another has its turn.
    fn turn_to_next(&self) {
        self.sparse.store(NONE, Ordering::SeqCst);
        let is_sparse = |listed: &Listed| listed.is_sparse.load(Ordering::SeqCst);
        if let Some(next) = self.lists().iter().position(is_sparse) {
            self.give_turn(next);
        }
    }

    pub(crate) fn sum_up(&self) {
        // Locked until it is noted, so that who comes last notes last.
        let spare = self.spare.lock();
        let lists = self.lists.get().into_iter().flatten();
        let lists = lists.map(|listed| listed.slack_bytes.load(Ordering::Relaxed));
        let slack_bytes = lists.sum::<usize>() + spare.kept_bytes();
        self.slack_bytes.store(slack_bytes, Ordering::Relaxed);
    }

    /// Chooses the span with the fewest blocks of the list that is sparse, if that is worth it.
    pub(crate) fn begin(&self) -> Option<Moving> {
        let number = self.sparse.load(Ordering::Relaxed);
        let listed = (number != NONE).then(|| &self.lists()[number])?;
        let mut list = listed.list.lock();
        let is_sparse = list.is_sparse();
        let (candidates, is_last) = list.candidates();
        // SAFETY: the list is locked.
        let live = |span: &Span| unsafe { span.state() }.live;
        // SAFETY: as above.
        let worth = candidates.iter().filter(|span| unsafe { span.state() }.is_worth_moving());
        let span = worth.copied().min_by_key(live);
        if list.looked_in_vain(span.is_some(), is_last) && is_sparse {
            // SAFETY: as above.
            list.bear(|span| unsafe { span.state() }.is_stuck = false);
        }
        if !list.is_sparse() {
            self.publish((number, listed), &list);
            self.turn_to_next();
            return None;
        }
        let span = span?;
        unlist(&mut list, span);
        // SAFETY: the list is locked.
        let end = unsafe {
            span.state().is_evacuated = true;
            span.state().carved
        };
        Some(Moving { span, size: list.size(), next: 0, end })
    }

    /// Ends what [`Core::begin`] began.
    pub(crate) fn end(&self, Moving { span, .. }: Moving) {
        let number = span.list();
        let listed = &self.lists()[number];
        let mut list = listed.list.lock();
        // SAFETY: the list is locked.
        let (is_free, is_full) = unsafe {
            let state = span.state();
            state.is_evacuated = false;
            state.is_stuck = true;
            (state.live == 0, state.is_full())
        };
        if is_free {
            discount(&mut list, span);
        } else if !is_full {
            enlist(&mut list, span);
        }
        self.publish((number, listed), &list);
        if !list.is_sparse() {
            self.turn_to_next();
        }
        drop(list);
        if is_free {
            // SAFETY: no block of it is out, and it is in no list.
            unsafe { Self::give_back(span) };
        }
    }

    /// For tests: whether there is a list to evacuate, be it its turn or not.
    #[cfg(test)]
    pub(crate) fn has_sparse_list(&self) -> bool {
        self.lists().iter().any(|listed| listed.is_sparse.load(Ordering::SeqCst))
    }

    /// For tests: memory that lists and spare spans take, and blocks that are out, counted anew.
    #[cfg(test)]
    pub(crate) fn count(&self) -> (usize, usize) {
        let lists: Vec<_> = self.lists().iter().map(|listed| listed.list.lock()).collect();
        let resident: usize = lists.iter().map(|list| list.resident_bytes()).sum();
        let resident = resident + self.spare.lock().kept_bytes();
        (resident, lists.iter().map(|list| list.live()).sum())
    }
}

/// Takes a block back; whether the span is free and nobody's now.
///
/// # Safety
/// The list must be the span's, and nobody may use the block any more.
unsafe fn put_back_to(list: &mut List, span: Span, block: NonNull<u8>) -> bool {
    // SAFETY: the list is locked, and the caller gives the block up.
    let (is_free, joins) = unsafe {
        span.put_back(list.size(), block);
        let state = span.state();
        let stays = !state.is_evacuated;
        (stays && state.live == 0, stays && !state.is_listed())
    };
    list.count_back();
    if is_free {
        unlist(list, span);
        discount(list, span);
    } else if joins {
        enlist(list, span);
    }
    is_free
}

/// Puts a span that was in no list into one, which is locked.
fn enlist(list: &mut List, span: Span) {
    let at = list.add(span);
    // SAFETY: the list is locked.
    unsafe { span.state() }.at = at;
}

/// Takes a span out of its list, which is locked, if it is in it.
fn unlist(list: &mut List, span: Span) {
    // SAFETY: the list is locked.
    let at = unsafe { std::mem::replace(&mut span.state().at, UNLISTED) };
    if let Some(moved) = list.remove(at) {
        // SAFETY: as above; it is another span.
        unsafe { moved.state() }.at = at;
    }
}

/// The list, which is locked, has the span no more.
fn discount(list: &mut List, span: Span) {
    // SAFETY: the list is locked.
    let bytes = unsafe { span.state() }.touched_bytes;
    list.count(bytes, 0);
}
