//! Arbitrary datagrams, timers and evidence: no panic, invariants hold. The harness is the one of the crate's tests.

#![no_main]

#[path = "../../crates/slotmesh-gossip/tests/inputs/mod.rs"]
mod inputs;

use inputs::Harness;
use libfuzzer_sys::fuzz_target;

/// Bytes made of one input where no coverage guides the fuzzer to longer ones.
const STRETCHED_BYTES: usize = 2_000;

fuzz_target!(|input: &[u8]| {
    let _ = if cfg!(fuzzing) { Harness::run(input) } else { Harness::run(&stretch(input)) };
});

/// A plain build has no coverage feedback, so libFuzzer stays with inputs of a few bytes: take them as a seed.
fn stretch(input: &[u8]) -> Vec<u8> {
    let fold = |hash: u64, &byte: &u8| (hash ^ u64::from(byte)).wrapping_mul(0x100_0000_01b3);
    let mut state = input.iter().fold(0xcbf2_9ce4_8422_2325, fold) | 1;
    let mut stretched = input.to_vec();
    stretched.resize_with(input.len() + STRETCHED_BYTES, || {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        (state >> 24) as u8
    });
    stretched
}
