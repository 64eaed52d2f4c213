//! Random operations on a store and a replica that is fed its records, against the oracle of the store's own tests.

#![no_main]

#[path = "../../crates/slotmesh-store/tests/oracle/mod.rs"]
mod oracle;

use libfuzzer_sys::fuzz_target;
use oracle::{Harness, OPERATION_BYTES};

/// Operations made of one input where no coverage guides the fuzzer to longer ones.
const STRETCHED_OPERATIONS: usize = 150;

fuzz_target!(|input: &[u8]| {
    if cfg!(fuzzing) { Harness::run(input) } else { Harness::run(&stretch(input)) }
});

/// A plain build has no coverage feedback, so libFuzzer stays with inputs of a few bytes: take them as a seed.
fn stretch(input: &[u8]) -> Vec<u8> {
    // FNV-1a, then xorshift64: the same input gives the same operations.
    let fold = |hash: u64, &byte: &u8| (hash ^ u64::from(byte)).wrapping_mul(0x100_0000_01b3);
    let mut state = input.iter().fold(0xcbf2_9ce4_8422_2325, fold) | 1;
    let next = || {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        (state >> 24) as u8
    };
    std::iter::repeat_with(next).take(STRETCHED_OPERATIONS * OPERATION_BYTES).collect()
}
