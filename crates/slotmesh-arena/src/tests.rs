use std::collections::BTreeMap;

use proptest::prelude::*;

use crate::{Arena, Buffer, Owner, Shared};
use parking_lot::Mutex;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

/// What a block holds: bytes made of its number.
fn pattern(number: u64, len: usize) -> Vec<u8> {
    (0..len).map(|at| (number as usize * 31 + at) as u8).collect()
}

/// An arena, its blocks by number, and what they should hold.
#[derive(Default)]
struct Checked {
    arena: Arena,
    buffers: BTreeMap<u64, (Buffer, usize)>,
    shared: BTreeMap<u64, Vec<Shared>>,
    next: u64,
}

impl Checked {
    /// With blocks of spans only.
    fn of_spans() -> Self {
        Self::default()
    }

    fn buffer(&mut self, len: usize) {
        let number = self.take_number();
        let mut buffer = self.arena.buffer(len, Owner::new(number));
        let capacity = Buffer::capacity(len);
        assert!((len..=capacity + 8).contains(&buffer.len()), "{len} {capacity} {}", buffer.len());
        buffer[..len].copy_from_slice(&pattern(number, len));
        self.buffers.insert(number, (buffer, len));
    }

    fn share(&mut self, len: usize) {
        let number = self.take_number();
        let shared = self.arena.share(&pattern(number, len), number, Owner::new(number));
        assert_eq!(shared.is_some(), len <= Shared::BYTES_MAX);
        if let Some(shared) = shared {
            self.shared.insert(number, vec![shared]);
        }
    }

    fn take_number(&mut self) -> u64 {
        self.next += 1;
        self.next
    }

    /// Lets the `choice`-th go, or makes it shared by one more.
    fn change(&mut self, choice: usize, shares: bool) {
        let numbers: Vec<u64> =
            { self.buffers.keys() }.chain(self.shared.keys()).copied().collect();
        let Some(number) = numbers.get(choice % numbers.len().max(1)) else { return };
        match self.shared.get_mut(number) {
            Some(handles) if shares => handles.push(handles[0].clone()),
            Some(handles) if handles.len() > 1 => drop(handles.pop()),
            _ => {
                self.shared.remove(number);
                self.buffers.remove(number);
            }
        }
    }

    /// Moves up to so many blocks.
    fn evacuate(&mut self, steps: usize) {
        let Some(mut evacuation) = self.arena.evacuation() else { return };
        for _ in 0..steps {
            let (Some(span), Some(owner)) = (evacuation.span(), evacuation.next_owner()) else {
                return;
            };
            let number = owner.number();
            if let Some((buffer, len)) = self.buffers.get_mut(&number)
                && buffer.is_in(span)
            {
                let mut moved = self.arena.buffer(*len, owner);
                moved[..*len].copy_from_slice(&buffer[..*len]);
                *buffer = moved;
                assert!(!buffer.is_in(span));
            } else if let Some([handle]) =
                self.shared.get_mut(&number).map(|handles| &mut handles[..])
                && handle.is_in(span)
                && handle.is_unique()
            {
                *handle = self.arena.share(handle, handle.word(), owner).unwrap();
            }
        }
    }

    fn check(&self) {
        for (number, (buffer, len)) in &self.buffers {
            assert_eq!(buffer[..*len], pattern(*number, *len));
        }
        for (number, handles) in &self.shared {
            for shared in handles {
                assert_eq!(
                    (shared.word(), &shared[..]),
                    (*number, &pattern(*number, shared.len())[..])
                );
                assert_eq!(shared.is_unique(), handles.len() == 1);
            }
        }
        let buffers = self.buffers.values().map(|(buffer, _)| buffer);
        let in_spans = buffers.filter(|buffer| !buffer.is_empty() && !buffer.raw().2);
        let shared = self.shared.values().map(|handles| &handles[0]).filter(|one| !one.is_heap());
        let bytes: Vec<_> =
            in_spans.map(Buffer::footprint).chain(shared.map(Shared::footprint)).collect();
        let (resident, blocks) = self.arena.0.count();
        assert_eq!(blocks, bytes.len());
        self.arena.0.sum_up();
        assert_eq!(self.arena.slack_bytes(), resident - bytes.iter().sum::<usize>());
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 48, failure_persistence: None, ..ProptestConfig::default() })]
    #[test]
    fn blocks_hold_what_was_written(
        steps in prop::collection::vec((0..11_u8, any::<u16>()), 1..3_000)
    ) {
        let mut checked = Checked::default();
        for (kind, argument) in steps {
            let len = usize::from(argument);
            match kind {
                0 | 1 => checked.buffer(len % 300),
                2 => checked.buffer(len % 25_000),
                3 => checked.share(len % 700),
                4 => checked.share(len % 25_000),
                5 => checked.change(len, true),
                6..=8 => checked.change(len, false),
                9 => checked.arena.use_heap(len.is_multiple_of(3)),
                _ => checked.evacuate(len % 50),
            }
        }
        checked.check();
    }
}

#[test]
fn what_is_left_of_many_moves_together() {
    for (len, one_in) in [(50, 40), (1_000, 40), (5_000, 8)] {
        let mut checked = Checked::of_spans();
        let count = (40 << 20) / len as u64;
        (0..count).for_each(
            |number| if number % 2 == 0 { checked.buffer(len) } else { checked.share(len) },
        );
        checked.check();
        let full = checked.arena.0.count().0;
        checked.buffers.retain(|number, _| number % one_in == 1);
        checked.shared.retain(|number, _| number % one_in == 0);
        assert!(checked.arena.is_sparse(), "{len}");
        for _ in 0..100_000 {
            checked.evacuate(8);
        }
        checked.check();
        assert!(!checked.arena.is_sparse() && !checked.arena.0.has_sparse_list(), "{len}");
        let (resident, live) = (checked.arena.0.count().0, 2 * full / one_in as usize);
        assert!(resident < live + live / 16 + (3 << 20), "{len} {resident} of {full}");
    }
}

#[test]
fn blocks_that_cannot_be_moved_are_not_tried_for_ever() {
    let mut checked = Checked::of_spans();
    (0..20_000).for_each(|_| checked.share(1_000));
    checked.shared.retain(|number, _| number % 20 == 0);
    // Others hold them.
    let held: Vec<Shared> = checked.shared.values().map(|handles| handles[0].clone()).collect();
    let mut named = 0;
    while checked.arena.is_sparse() {
        // None when those that were looked at are all stuck.
        let Some(mut evacuation) = checked.arena.evacuation() else { continue };
        while evacuation.next_owner().is_some() {
            named += 1;
        }
        assert!(named < 10_000);
    }
    assert!(named > 0);
    drop(held);
    checked.check();
}

#[test]
fn a_few_that_cannot_be_moved_do_not_keep_the_others() {
    let mut checked = Checked::default();
    (0..40_000).for_each(|_| checked.share(1_000));
    let full = checked.arena.0.count().0;
    checked.shared.retain(|number, _| number % 20 == 0);
    // In ten spans of some 650.
    let held = checked.shared.values().take(10).map(|handles| handles[0].clone());
    let held: Vec<Shared> = held.collect();
    for _ in 0..100_000 {
        checked.evacuate(8);
    }
    let left = checked.arena.0.count().0;
    assert!(left < full / 20 + full / 300 + (2 << 20), "{left} of {full}");
    drop(held);
    checked.check();
}

#[test]
fn blocks_outlive_their_arena() {
    let arena = Arena::new();
    let buffer = arena.buffer(100, Owner::NOBODY);
    let share = |word| {
        arena.use_heap(word % 2 == 0);
        arena.share(b"shared", word, Owner::new(word)).unwrap()
    };
    let shared: Vec<_> = (0..5_000).map(share).collect();
    let core = Arc::downgrade(&arena.0);
    drop(arena);
    assert!(shared.iter().all(|shared| shared[..] == *b"shared"));
    drop((buffer, shared));
    assert!(core.upgrade().is_none(), "the memory is gone with the last of them");
}

#[test]
fn an_arena_may_go_while_another_handle_evacuates() {
    let mut checked = Checked::of_spans();
    (0..20_000).for_each(|_| checked.buffer(1_000));
    checked.buffers.retain(|number, _| number % 20 == 0);
    let other = checked.arena.clone();
    let mut evacuation = other.evacuation().unwrap();
    assert!(evacuation.next_owner().is_some());
    let span = evacuation.span();
    drop(checked);
    assert_eq!(evacuation.span(), span, "it goes on");
}

#[test]
fn nobody_waits_for_an_evacuation_that_was_forgotten() {
    let mut checked = Checked::of_spans();
    (0..20_000).for_each(|_| checked.buffer(1_000));
    checked.buffers.retain(|number, _| number % 20 == 0);
    std::mem::forget(checked.arena.evacuation().unwrap());
    // The memory stays for good.
    drop(checked);
}

#[test]
fn a_small_arena_wastes_little() {
    let mut checked = Checked::default();
    checked.arena.use_heap(true);
    let pages = 150;
    // Blocks that grow together, as the pages of a store that fills, leave something of every size behind.
    for len in (40..4_500).step_by(90) {
        for _ in 0..pages {
            checked.buffer(len);
            let (next, oldest) = (checked.next, checked.next.saturating_sub(pages));
            assert_eq!(checked.buffers.remove(&oldest).is_some(), oldest > 0 && next > pages);
        }
        checked.check();
        assert!(checked.arena.slack_bytes() <= 200 << 10, "{}", checked.arena.slack_bytes());
    }
}

#[test]
fn there_are_no_lists_before_the_first_span() {
    let arena = Arena::new();
    arena.use_heap(true);
    let buffer = arena.buffer(100, Owner::NOBODY);
    assert!(arena.0.lists.get().is_none() && arena.slack_bytes() == 0 && !arena.is_sparse());
    drop(buffer);
    arena.use_heap(false);
    assert!(arena.0.lists.get().is_none());
    assert_eq!(arena.buffer(100, Owner::NOBODY).len(), 112);
    assert!(arena.0.lists.get().is_some());
}

#[test]
fn nobody_gets_less_than_was_asked_for() {
    for bytes in [usize::MAX, usize::MAX - 7, 1 << 32] {
        assert!(std::panic::catch_unwind(|| Buffer::capacity(bytes)).is_err());
    }
    assert!(Buffer::capacity(u32::MAX as usize - 16) < u32::MAX as usize);
}

#[test]
fn an_evacuation_does_not_keep_the_memory() {
    let mut checked = Checked::of_spans();
    (0..20_000).for_each(|_| checked.buffer(1_000));
    checked.buffers.retain(|number, _| number % 20 == 0);
    checked.evacuate(1);
    let core = Arc::downgrade(&checked.arena.0);
    checked.buffers.clear();
    assert!(core.upgrade().is_some_and(|core| core.moving.lock().is_some()));
    drop(checked);
    assert!(core.upgrade().is_none());
}

/// Memory of the process, from what Linux says of it.
#[cfg(target_os = "linux")]
fn resident_bytes() -> usize {
    let statm = std::fs::read_to_string("/proc/self/statm").unwrap();
    statm.split(' ').nth(1).unwrap().parse::<usize>().unwrap() * 4_096
}

#[cfg(target_os = "linux")]
#[test]
fn memory_goes_back_to_the_system() {
    const BYTES: usize = 300 << 20;
    let arena = Arena::new();
    let blocks: Vec<_> =
        (0..BYTES / 1_000).map(|number| arena.buffer(1_000, Owner::new(number as u64))).collect();
    let full = resident_bytes();
    assert!(arena.slack_bytes() < 4 << 20);
    drop(blocks);
    assert!(arena.slack_bytes() < 16 << 20, "{} bytes kept", arena.slack_bytes());
    assert_eq!(arena.0.count().1, 0);
    // Other tests allocate at the same time, but not that much.
    let left = resident_bytes();
    assert!(left + BYTES * 3 / 4 < full, "{left} of {full}");
}

#[test]
fn threads_share_and_move_blocks() {
    const PLACES: u64 = 400;
    let arena = Arena::new();
    let new = |number, len| {
        arena.share(&pattern(number, len), number, Owner::new(number)).expect("it is short")
    };
    let places: Vec<_> = (0..PLACES).map(|number| Mutex::new(new(number, 900))).collect();
    let (places, new, moved) = (&places, &new, &AtomicUsize::new(0));
    std::thread::scope(|scope| {
        let workers = [0, 1, 2].map(|thread| {
            scope.spawn(move || {
                for step in 0..60_000_u64 {
                    let number = (step * 7 + thread * 131) % PLACES;
                    let held = places[number as usize].lock().clone();
                    assert_eq!((held.word(), held[0]), (number, (number * 31) as u8));
                    if step % 3 == thread {
                        let new = new(number, 500 + (step % 800) as usize);
                        drop(std::mem::replace(&mut *places[number as usize].lock(), new));
                    }
                    assert_eq!(held[held.len() - 1], (number as usize * 31 + held.len() - 1) as u8);
                }
            })
        });
        // Blocks that come at once and go one by one leave something to move all the time.
        let mut passing = Vec::new();
        while moved.load(Ordering::Relaxed) == 0
            || workers.iter().any(|worker| !worker.is_finished())
        {
            if passing.is_empty() {
                passing = (0..3_000).map(|number| new(PLACES + number % 300, 900)).collect();
            }
            passing.truncate(passing.len() - 10);
            let Some(mut evacuation) = arena.evacuation() else { continue };
            while let (Some(span), Some(owner)) = (evacuation.span(), evacuation.next_owner()) {
                let Some(place) = places.get(owner.number() as usize) else { continue };
                let mut place = place.lock();
                if place.is_in(span) && place.is_unique() {
                    *place = arena.share(&place, place.word(), owner).unwrap();
                    moved.fetch_add(1, Ordering::Relaxed);
                }
            }
        }
    });
    for (number, place) in places.iter().enumerate() {
        assert_eq!(place.lock().word(), number as u64);
    }
}
