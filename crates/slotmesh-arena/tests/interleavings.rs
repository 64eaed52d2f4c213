//! The arena under a scheduler that runs one thread at a time and chooses at random who goes on, at every lock and every atomic
//! (shuttle). Who fails prints the schedule, which `shuttle::replay` repeats.
//!
//! The crate's own files are compiled here, with a `sync` of this file's: nothing of it is in what others build. Shuttle knows
//! sequential consistency only, and races of plain memory are for the thread sanitizer.

#![expect(dead_code, unreachable_pub, reason = "they are a library's")]

#[path = "../src/arena.rs"]
mod arena;
#[path = "../src/buffer.rs"]
mod buffer;
#[path = "../src/class.rs"]
mod class;
#[path = "../src/evacuation.rs"]
mod evacuation;
#[path = "../src/heap.rs"]
mod heap;
#[path = "../src/list.rs"]
mod list;
#[path = "../src/owner.rs"]
mod owner;
#[path = "../src/region.rs"]
mod region;
#[path = "../src/shared.rs"]
mod shared;
#[path = "../src/span.rs"]
mod span;
#[path = "../src/spare.rs"]
mod spare;
mod sync;

use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Weak};

use arena::{Arena, Core};
use evacuation::Evacuation;
use owner::Owner;
use shared::Shared;
use shuttle::rand::Rng;
use shuttle::thread;
use sync::Mutex;

/// Schedules that are tried, each another one.
const SCHEDULES: usize = 1_500;

/// Blocks that were moved, in all schedules and tests.
static MOVED: AtomicUsize = AtomicUsize::new(0);

/// So few blocks fill a span that an evacuation's ends are near each other.
const LARGE: usize = 21_000;

/// What can be found of the blocks, as in a store: a lock for each.
type Places = Arc<Vec<Mutex<Option<Shared>>>>;

fn check(body: impl Fn() + Send + Sync + 'static) {
    shuttle::check_random(body, SCHEDULES);
}

fn share(arena: &Arena, number: usize, len: usize) -> Shared {
    let bytes = vec![number as u8; len];
    arena.share(&bytes, number as u64, Owner::new(number as u64)).expect("it is short")
}

/// So many blocks of which one in three is left: a third of the spans would do.
fn sparse_places(arena: &Arena, count: usize) -> Places {
    let mut blocks: Vec<_> = (0..count).map(|number| Some(share(arena, number, LARGE))).collect();
    blocks.iter_mut().enumerate().filter(|(number, _)| number % 3 > 0).for_each(|(_, block)| {
        block.take();
    });
    Arc::new(blocks.into_iter().map(Mutex::new).collect())
}

/// Each block is what it was, whoever moved it.
fn check_block(shared: &Shared, number: usize) {
    assert_eq!(shared.word(), number as u64);
    assert!(shared.iter().step_by(1_000).all(|&byte| byte == number as u8));
}

/// Moves what is named, as a store does: who is found under the lock and has no other handle.
fn move_all(arena: &Arena, places: &Places, mut evacuation: Evacuation<'_>) {
    while let Some(span) = evacuation.span()
        && let Some(owner) = evacuation.next_owner()
    {
        let number = owner.number() as usize;
        let mut place = places[number].lock();
        if let Some(shared) = &mut *place
            && shared.is_in(span)
            && shared.is_unique()
        {
            *shared = share(arena, number, shared.len());
            MOVED.fetch_add(1, Ordering::Relaxed);
        }
    }
}

fn evacuate(arena: &Arena, places: &Places) {
    if let Some(evacuation) = arena.evacuation() {
        move_all(arena, places, evacuation);
    }
}

/// Nothing is left that holds the memory.
fn check_gone(core: &Weak<Core>) {
    assert!(core.upgrade().is_none(), "something holds the core");
}

#[test]
fn handles_come_and_go_while_blocks_move() {
    check(|| {
        let arena = Arena::new();
        let core = Arc::downgrade(&arena.0);
        let places = sparse_places(&arena, 18);
        let threads: Vec<_> = (0..3)
            .map(|thread| {
                let (arena, places) = (arena.clone(), Arc::clone(&places));
                thread::spawn(move || match thread {
                    0 => (0..2).for_each(|_| evacuate(&arena, &places)),
                    _ => (0..3).for_each(|_| change(&arena, &places)),
                })
            })
            .collect();
        arena.use_heap(shuttle::rand::thread_rng().r#gen());
        drop(arena);
        threads.into_iter().for_each(|thread| thread.join().expect("it does not fail"));
        for (number, place) in places.iter().enumerate() {
            place.lock().iter().for_each(|shared| check_block(shared, number));
        }
        drop(places);
        check_gone(&core);
    });
    let moved = MOVED.load(Ordering::Relaxed);
    assert!(moved > SCHEDULES / 2, "{moved} blocks moved");
}

/// Reads a block and replaces it, removes it or makes a new one.
fn change(arena: &Arena, places: &Places) {
    let mut random = shuttle::rand::thread_rng();
    let number = random.gen_range(0..places.len());
    let held = places[number].lock().clone();
    let new = random.gen_bool(0.6).then(|| share(arena, number, LARGE - random.gen_range(0..99)));
    let old = std::mem::replace(&mut *places[number].lock(), new);
    drop(old);
    held.iter().for_each(|shared| check_block(shared, number));
}

#[test]
fn the_last_blocks_end_the_memory_once() {
    check(|| {
        let arena = Arena::new();
        let core = Arc::downgrade(&arena.0);
        let block = |number| {
            arena.use_heap(number == 3);
            share(&arena, number, LARGE)
        };
        let blocks: Vec<_> = (0..4).map(block).collect();
        drop(arena);
        let threads = blocks.into_iter().enumerate().map(|(number, block)| {
            let other = block.clone();
            thread::spawn(move || {
                check_block(&block, number);
                drop(block);
                check_block(&other, number);
            })
        });
        let threads: Vec<_> = threads.collect();
        threads.into_iter().for_each(|thread| thread.join().expect("it does not fail"));
        check_gone(&core);
    });
}

#[test]
fn an_arena_goes_while_its_last_blocks_do() {
    check(|| {
        let arena = Arena::new();
        let core = Arc::downgrade(&arena.0);
        // An evacuation has begun that nobody goes on with.
        let places = sparse_places(&arena, 9);
        let begun = arena.0.begin();
        assert!(begun.is_some());
        *arena.0.moving.lock() = begun;
        let other = arena.clone();
        let threads = [
            thread::spawn(move || drop(arena)),
            thread::spawn(move || drop(other)),
            thread::spawn(move || {
                places.iter().for_each(|place| drop(place.lock().take()));
            }),
        ];
        threads.into_iter().for_each(|thread| thread.join().expect("it does not fail"));
        check_gone(&core);
    });
}

#[test]
fn a_sparse_list_gets_its_turn() {
    const SIZES: [usize; 2] = [LARGE, 15_000];
    check(|| {
        let arena = Arena::new();
        let blocks = SIZES.map(|len| (0..14).map(|number| share(&arena, number, len)).collect());
        let threads = blocks.map(|mut blocks: Vec<Shared>| {
            let arena = arena.clone();
            thread::spawn(move || {
                // Looking for whose turn it is takes as many steps as there are lists: the other may come within.
                let delay = shuttle::rand::thread_rng().gen_range(0..600);
                (0..delay).for_each(|_| thread::yield_now());
                let mut number = 0;
                blocks.retain(|_| {
                    number += 1;
                    number % 3 == 0
                });
                // Nothing is moved: the list bears it, and the other has its turn.
                while let Some(mut evacuation) = arena.evacuation() {
                    while evacuation.next_owner().is_some() {}
                }
                blocks
            })
        });
        let kept = threads.map(|thread| thread.join().expect("it does not fail"));
        // Each is asked for until it has been borne, so none may be left that nobody asks for.
        while arena.is_sparse() {
            let Some(mut evacuation) = arena.evacuation() else { continue };
            while evacuation.next_owner().is_some() {}
        }
        assert!(!arena.0.has_sparse_list(), "a list waits for a turn that does not come");
        drop(kept);
    });
}
