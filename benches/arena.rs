//! Blocks of an arena beside those of the system's allocator: time of allocating, freeing and growing on one and two threads, and
//! memory that lies unused after sizes have changed.
//!
//! `cargo bench -p slotmesh-benches --bench arena [-- --quick]`

use std::hint::black_box;
use std::time::Instant;

use slotmesh_arena::{Arena, Buffer, Owner};
use slotmesh_benches::maps::resident_bytes;
use slotmesh_benches::{median, ratios};

/// Blocks that are there while others come and go, for each thread.
const LIVE: usize = 20_000;
/// Bytes of blocks: pages and small values of a store.
const SIZES: (usize, usize) = (40, 2_000);

fn main() {
    let quick = std::env::args().any(|argument| argument == "--quick");
    let (rounds, steps) = if quick { (3, 100_000) } else { (9, 1_000_000) };
    // Where memory is touched first it stays for good, so what is counted comes before what is timed.
    sizes_change(if quick { 32 << 20 } else { 256 << 20 });
    for live in [100 << 10, 300 << 10, 1 << 20, 3 << 20, 10 << 20, 50 << 20] {
        slack(live);
    }
    println!("{:>28} {:>7} {:>7}  ns each, medians of {rounds} rounds", "", "arena", "system");
    for threads in [1, 2] {
        for (name, grows) in [("take and free", false), ("grow in steps, free", true)] {
            let (mut ours, mut theirs) = (Vec::new(), Vec::new());
            for _ in 0..rounds {
                let arena = Arena::new();
                let take = |bytes, owner| arena.buffer(bytes, Owner::new(owner));
                ours.push(nanos((threads, steps, grows), &take));
                theirs.push(nanos((threads, steps, grows), &|bytes, _| vec_of(bytes)));
            }
            println!(
                "{name:>20} {threads} thread {:>7.1} {:>7.1}  {}",
                median(&ours),
                median(&theirs),
                ratios(&ours, &theirs)
            );
        }
    }
}

/// Memory of the system's allocator, not written.
fn vec_of(bytes: usize) -> Vec<u8> {
    Vec::with_capacity(bytes)
}

/// Replaces random blocks by others, or by ones a little larger until they are large.
fn nanos<B>(
    (threads, steps, grows): (u64, usize, bool),
    take: &(impl Fn(usize, u64) -> B + Sync),
) -> f64 {
    let work = |thread: u64| {
        let mut random = Random(88_172_645_463_325_252 + thread);
        let mut size = |old: usize| match old + old / 8 {
            next if grows && next < SIZES.1 => next,
            _ if grows => SIZES.0,
            _ => SIZES.0 + random.below(SIZES.1 - SIZES.0),
        };
        let mut blocks: Vec<(usize, B)> = (0..LIVE)
            .map(|number| {
                let bytes = size(SIZES.0 + number % (SIZES.1 - SIZES.0));
                (bytes, take(bytes, thread + number as u64))
            })
            .collect();
        let mut random = Random(362_436_069 + thread);
        let start = Instant::now();
        for _ in 0..steps {
            let at = random.below(LIVE);
            let bytes = size(blocks[at].0);
            blocks[at] = (bytes, black_box(take(bytes, thread + at as u64)));
        }
        start.elapsed().as_secs_f64() * 1e9 / steps as f64
    };
    let work = &work;
    std::thread::scope(|scope| {
        let workers: Vec<_> =
            (0..threads).map(|thread| scope.spawn(move || work(thread))).collect();
        let nanos = workers.into_iter().map(|worker| worker.join().expect("no worker fails"));
        nanos.sum::<f64>() / threads as f64
    })
}

/// Replaces blocks by others of these sizes: bytes that were asked for, and that the handles take.
type Phase<'a> = dyn Fn(&mut Random, (usize, usize)) -> (i64, i64) + 'a;

/// A store's change from values of one kind to another: memory of the process over what was asked for.
fn sizes_change(live: usize) {
    let ratio = |blocks: &Phase<'_>| {
        let mut random = Random(521_288_629);
        let before = resident_bytes();
        [(50, 1_050), (40, 200), (400, 3_000), (40, 60)].map(|sizes| {
            let (asked, handles) = blocks(&mut random, sizes);
            (resident_bytes() - before - handles) as f64 / asked as f64
        })
    };
    println!("{:>28} {:>7} {:>7}", "resident over asked for", "arena", "system");
    let arena = Arena::new();
    let ours = {
        let mut blocks = Moved { arena: &arena, blocks: Vec::new(), bytes: 0 };
        let blocks = std::cell::RefCell::new(&mut blocks);
        ratio(&|random, sizes| blocks.borrow_mut().turn_over(random, live, sizes))
    };
    let theirs = {
        let blocks = std::cell::RefCell::new((Vec::<Vec<u8>>::new(), 0));
        ratio(&|random, (least, most)| {
            let (blocks, bytes) = &mut *blocks.borrow_mut();
            for _ in 0..4 * live / least.midpoint(most) {
                let block = vec![1; least + random.below(most - least)];
                *bytes += block.len();
                blocks.push(block);
                while *bytes > live {
                    *bytes -= blocks.swap_remove(random.below(blocks.len())).len();
                }
            }
            (*bytes as i64, size_of_val(&blocks[..]) as i64)
        })
    };
    for (phase, (ours, theirs)) in ours.iter().zip(theirs).enumerate() {
        println!("{:>28} {ours:>7.2} {theirs:>7.2}", format!("after change {phase}"));
    }
}

/// What an arena counts as unused while blocks grow together through all sizes up to 4.5 KiB, as pages of a store that fills do, most
/// of them go and others grow; evacuated whenever it says so.
fn slack(live: usize) {
    let arena = Arena::new();
    let mut moved = Moved { arena: &arena, blocks: Vec::new(), bytes: 0 };
    let mut random = Random(7);
    let (mut sum, mut count, mut when_full) = (0, 0, 0);
    for _ in 0..20 {
        while moved.blocks.len() < live / 1_000 {
            moved.push(32);
        }
        for _ in 0..40 * moved.blocks.len() {
            if moved.bytes >= live {
                break;
            }
            moved.grow(&mut random);
            sum += arena.slack_bytes();
            count += 1;
        }
        when_full = when_full.max(arena.slack_bytes());
        while moved.bytes > live / 10 {
            moved.remove(random.below(moved.blocks.len()));
        }
    }
    let (live, mean, when_full) = (live >> 10, (sum / count) >> 10, when_full >> 10);
    println!(
        "{live:>6} KiB live, slack {mean:>6} KiB in the mean, up to {when_full:>6} KiB when full"
    );
}

/// Blocks of an arena that move when it is sparse, by their place.
struct Moved<'a> {
    arena: &'a Arena,
    blocks: Vec<(usize, Buffer)>,
    bytes: usize,
}

impl Moved<'_> {
    fn push(&mut self, bytes: usize) {
        let mut buffer = self.arena.buffer(bytes, Owner::new(self.blocks.len() as u64));
        buffer.fill(1);
        self.bytes += bytes;
        self.blocks.push((bytes, buffer));
    }

    fn remove(&mut self, at: usize) {
        self.bytes -= self.blocks.swap_remove(at).0;
        // The one that has its place now has another owner.
        if let Some(&(bytes, _)) = self.blocks.get(at) {
            let mut buffer = self.arena.buffer(bytes, Owner::new(at as u64));
            buffer[..bytes].copy_from_slice(&self.blocks[at].1[..bytes]);
            self.blocks[at].1 = buffer;
        }
        self.evacuate();
    }

    fn turn_over(
        &mut self,
        random: &mut Random,
        live: usize,
        (least, most): (usize, usize),
    ) -> (i64, i64) {
        for _ in 0..4 * live / least.midpoint(most) {
            self.push(least + random.below(most - least));
            while self.bytes > live {
                self.remove(random.below(self.blocks.len()));
            }
        }
        (self.bytes as i64, size_of_val(&self.blocks[..]) as i64)
    }

    /// Makes one block larger by an eighth; one that is large begins anew.
    fn grow(&mut self, random: &mut Random) {
        let at = random.below(self.blocks.len());
        let old = self.blocks[at].0;
        let new = if old > 4_000 { SIZES.0 } else { old * 9 / 8 + 1 };
        let mut buffer = self.arena.buffer(new, Owner::new(at as u64));
        let kept = old.min(new);
        buffer[..kept].copy_from_slice(&self.blocks[at].1[..kept]);
        self.blocks[at] = (new, buffer);
        self.bytes = self.bytes - old + new;
        self.evacuate();
    }

    fn evacuate(&mut self) {
        if !self.arena.is_sparse() {
            return;
        }
        let Some(mut evacuation) = self.arena.evacuation() else { return };
        for _ in 0..8 {
            let Some(span) = evacuation.span() else { return };
            let Some(owner) = evacuation.next_owner() else { return };
            if let Some((bytes, buffer)) = self.blocks.get_mut(owner.number() as usize)
                && buffer.is_in(span)
            {
                let mut moved = self.arena.buffer(*bytes, owner);
                moved.copy_from_slice(buffer);
                *buffer = moved;
            }
        }
    }
}

/// Xorshift (Marsaglia 2003).
struct Random(u64);

impl Random {
    fn below(&mut self, bound: usize) -> usize {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        (self.0 % bound as u64) as usize
    }
}
