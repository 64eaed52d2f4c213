//! Threads that read, fill, write and invalidate the same keys at once.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread;

use super::*;

const KEYS: u32 = 2_000;
const LIMITS: Limits = Limits { entries: 700, bytes: 100_000 };
const ROUNDS: u64 = 60_000;

/// The source: a counter for each key, which writers raise.
struct World {
    near: Owned,
    source: Vec<AtomicU64>,
    /// What is acknowledged: no read that begins now may show less.
    floor: Vec<AtomicU64>,
    done: AtomicBool,
}

fn random(state: &mut u64) -> u64 {
    *state ^= *state << 13;
    *state ^= *state >> 7;
    *state ^= *state << 17;
    *state
}

impl World {
    /// A few keys are used much, so that threads meet at them.
    fn key(state: &mut u64) -> u32 {
        let range = if random(state).is_multiple_of(2) { 16 } else { u64::from(KEYS) };
        (random(state) % range) as u32
    }

    fn read(&self, key: u32) {
        let floor = self.floor[key as usize].load(Ordering::SeqCst);
        let shown = match self.near.get(&key, at(0)) {
            Some(value) => *value,
            None => self.fetch(key),
        };
        assert!(shown >= floor, "key {key} showed {shown} after {floor} was acknowledged");
    }

    /// Reads the source and fills, with a pause between that lets others come first.
    fn fetch(&self, key: u32) -> u64 {
        let (ticket, cover) = self.near.fetch(key, slot(), at(0));
        let value = self.source[key as usize].load(Ordering::SeqCst);
        if value.is_multiple_of(8) {
            thread::yield_now();
        }
        self.near.fill(&key, ticket, fresh(value, value), cover);
        value
    }

    /// A write of this process.
    fn write(&self, key: u32) {
        let ticket = self.near.begin(key, slot(), at(0));
        let value = self.source[key as usize].fetch_add(1, Ordering::SeqCst) + 1;
        if value.is_multiple_of(2) {
            self.near.publish(key, slot(), value);
        }
        let known = (!value.is_multiple_of(4)).then(|| fresh(value, value));
        self.near.end_write(&key, ticket, known);
        self.floor[key as usize].fetch_max(value, Ordering::SeqCst);
    }

    /// A write of another node, which is acknowledged when this one has heard of it.
    fn hear(&self, key: u32) {
        let value = self.source[key as usize].fetch_add(1, Ordering::SeqCst) + 1;
        self.near.publish(key, slot(), value);
        self.floor[key as usize].fetch_max(value, Ordering::SeqCst);
    }

    /// The slot's owner changes: all that was written before is unknown here, and dropped.
    fn lose(&self, key: u32) {
        let value = self.source[key as usize].fetch_add(1, Ordering::SeqCst) + 1;
        self.near.publisher.drop_slot(slot());
        self.floor[key as usize].fetch_max(value, Ordering::SeqCst);
    }

    fn work(&self, thread: u64) {
        let mut state = 0x9e37_79b9_7f4a_7c15 ^ thread << 20;
        for _ in 0..ROUNDS {
            let key = Self::key(&mut state);
            match random(&mut state) % 64 {
                0 | 1 => self.write(key),
                2 => self.hear(key),
                3 if random(&mut state).is_multiple_of(64) => self.lose(key),
                _ => self.read(key),
            }
        }
    }

    fn watch(&self) {
        while !self.done.load(Ordering::SeqCst) {
            for shard in &self.near.shards {
                let (entries, bytes) = shard.0.read().size();
                assert!(entries <= LIMITS.entries && bytes <= LIMITS.bytes, "{entries} {bytes}");
            }
            thread::yield_now();
        }
    }
}

#[test]
fn no_thread_sees_what_was_overwritten_and_no_bound_breaks() {
    // What nobody tells of is not shown at all: time stands still here.
    let near = Owned::new(LIMITS, Duration::ZERO);
    near.vouch(at(1));
    let world = World {
        near,
        source: (0..KEYS).map(|_| AtomicU64::new(0)).collect(),
        floor: (0..KEYS).map(|_| AtomicU64::new(0)).collect(),
        done: AtomicBool::new(false),
    };
    thread::scope(|scope| {
        let workers: Vec<_> = (1..=4).map(|thread| (thread, &world)).collect();
        let workers =
            workers.into_iter().map(|(thread, world)| scope.spawn(move || world.work(thread)));
        let workers: Vec<_> = workers.collect();
        scope.spawn(|| world.watch());
        let outcomes: Vec<_> = workers.into_iter().map(|worker| worker.join()).collect();
        world.done.store(true, Ordering::SeqCst);
        outcomes.into_iter().for_each(|outcome| outcome.unwrap());
    });
    let (entries, bytes) = world.near.size();
    assert!(entries > 100 && entries <= LIMITS.entries && bytes <= LIMITS.bytes);
}
