//! Random operations on an arena against copies of what its blocks should hold.

#![no_main]

use std::collections::BTreeMap;

use libfuzzer_sys::fuzz_target;
use slotmesh_arena::{Arena, Buffer, Owner, Shared};
use slotmesh_fuzz::noise;

/// Bytes of input that make one operation.
const OPERATION_BYTES: usize = 4;

/// Operations made of one input where no coverage guides the fuzzer to longer ones.
const STRETCHED_OPERATIONS: usize = 4_000;

/// Blocks at a time.
const BLOCKS_MAX: usize = 2_000;

enum Block {
    Buffer(Buffer),
    Shared(Vec<Shared>),
}

/// An arena, its blocks by owner, and what they should hold.
struct Harness {
    arena: Arena,
    blocks: BTreeMap<u64, (Block, Vec<u8>)>,
    next: u64,
}

fuzz_target!(|input: &[u8]| {
    let length = STRETCHED_OPERATIONS * OPERATION_BYTES;
    let input = if cfg!(fuzzing) { input.to_vec() } else { noise(input).take(length).collect() };
    let Some((&first, operations)) = input.split_first() else { return };
    let mut harness = Harness::new(first % 4 > 0);
    for operation in operations.as_chunks::<OPERATION_BYTES>().0 {
        harness.run(*operation);
    }
    harness.finish();
});

impl Harness {
    /// With blocks in spans from the start, or in the global allocator's memory.
    fn new(in_spans: bool) -> Self {
        let arena = Arena::new();
        arena.use_heap(!in_spans);
        Self { arena, blocks: BTreeMap::new(), next: 0 }
    }

    fn run(&mut self, [kind, first, second, third]: [u8; OPERATION_BYTES]) {
        let argument = usize::from(u16::from_le_bytes([first, second]));
        let bytes = match third % 4 {
            0 => argument % 25_000,
            1 => argument % 2_000,
            _ => argument % 300,
        };
        match kind % 16 {
            0..=3 => self.buffer(bytes, third),
            4..=7 => self.share(bytes, third),
            8..=11 => self.remove(argument),
            12 => self.write_or_clone(argument, third),
            13 => self.evacuate(argument % 200),
            14 => self.other_handle(argument),
            _ => {
                // A burst of removals is what makes an arena sparse.
                (0..usize::from(third) * 2).for_each(|step| self.remove(argument + 7 * step));
            }
        }
    }

    fn buffer(&mut self, bytes: usize, fill: u8) {
        if self.blocks.len() < BLOCKS_MAX {
            let mut buffer = self.arena.buffer(bytes, Owner::new(self.next));
            assert!((bytes..=Buffer::capacity(bytes) + 8).contains(&buffer.len()));
            buffer.fill(fill);
            let copy = buffer.to_vec();
            self.blocks.insert(self.next, (Block::Buffer(buffer), copy));
            self.next += 1;
        }
    }

    fn share(&mut self, bytes: usize, fill: u8) {
        if self.blocks.len() < BLOCKS_MAX {
            let copy = vec![fill; bytes];
            let shared = self.arena.share(&copy, self.next, Owner::new(self.next));
            assert_eq!(shared.is_some(), bytes <= Shared::BYTES_MAX);
            if let Some(shared) = shared {
                self.blocks.insert(self.next, (Block::Shared(vec![shared]), copy));
                self.next += 1;
            }
        }
    }

    fn chosen(&self, choice: usize) -> Option<u64> {
        let at = choice % self.blocks.len().max(1);
        self.blocks.keys().nth(at).copied()
    }

    fn remove(&mut self, choice: usize) {
        let Some(owner) = self.chosen(choice) else { return };
        if let Some((block, copy)) = self.blocks.remove(&owner) {
            check(owner, &block, &copy);
        }
    }

    fn write_or_clone(&mut self, choice: usize, fill: u8) {
        let Some(owner) = self.chosen(choice) else { return };
        match self.blocks.get_mut(&owner) {
            Some((Block::Buffer(buffer), copy)) => {
                buffer.fill(fill);
                copy.fill(fill);
            }
            Some((Block::Shared(handles), _)) if fill.is_multiple_of(2) => {
                handles.push(handles[0].clone())
            }
            Some((Block::Shared(handles), _)) => handles.truncate(1),
            None => {}
        }
    }

    fn evacuate(&mut self, steps: usize) {
        let Some(mut evacuation) = self.arena.evacuation() else { return };
        for _ in 0..steps {
            let Some(span) = evacuation.span() else { return };
            let Some(owner) = evacuation.next_owner() else { return };
            match self.blocks.get_mut(&owner.number()) {
                Some((Block::Buffer(buffer), _)) if buffer.is_in(span) => {
                    let mut moved = self.arena.buffer(buffer.len(), owner);
                    moved.copy_from_slice(buffer);
                    *buffer = moved;
                    assert!(!buffer.is_in(span));
                }
                Some((Block::Shared(handles), copy))
                    if handles.len() == 1 && handles[0].is_in(span) =>
                {
                    handles[0] = self.arena.share(copy, owner.number(), owner).expect("it was one");
                }
                _ => {}
            }
        }
    }

    /// Handles to the arena come and go, also while one evacuates.
    fn other_handle(&mut self, argument: usize) {
        let other = self.arena.clone();
        let evacuation = other.evacuation();
        drop(self.arena.clone());
        drop(evacuation);
        if argument.is_multiple_of(2) {
            self.arena = other;
        }
    }

    fn finish(self) {
        let Self { arena, blocks, .. } = self;
        drop(arena);
        // Blocks outlive their arena.
        blocks.into_iter().for_each(|(owner, (block, copy))| check(owner, &block, &copy));
    }
}

fn check(owner: u64, block: &Block, copy: &[u8]) {
    match block {
        Block::Buffer(buffer) => assert_eq!(buffer[..], *copy),
        Block::Shared(handles) => {
            for shared in handles {
                assert_eq!((shared.word(), &shared[..]), (owner, copy));
                assert_eq!(shared.is_unique(), handles.len() == 1);
            }
        }
    }
}
