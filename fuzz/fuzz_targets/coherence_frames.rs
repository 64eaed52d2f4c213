//! Frames of local tiers' streams, valid and damaged, in any order: no panic. The harness is the one of the crate's tests.

#![no_main]

#[path = "../../crates/slotmesh-coherence/tests/inputs/mod.rs"]
mod inputs;

use inputs::Harness;
use libfuzzer_sys::fuzz_target;
use slotmesh_fuzz::noise;

/// Bytes made of one input where no coverage guides the fuzzer to longer ones.
const STRETCHED_BYTES: usize = 2_000;

fuzz_target!(|input: &[u8]| {
    let _ = if cfg!(fuzzing) { Harness::run(input) } else { Harness::run(&stretch(input)) };
});

fn stretch(input: &[u8]) -> Vec<u8> {
    input.iter().copied().chain(noise(input).take(STRETCHED_BYTES)).collect()
}
