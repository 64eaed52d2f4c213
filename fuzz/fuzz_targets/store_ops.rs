//! Random operations on a store and a replica that is fed its records, against the oracle of the store's own tests.

#![no_main]

#[path = "../../crates/slotmesh-store/tests/oracle/mod.rs"]
mod oracle;

use libfuzzer_sys::fuzz_target;
use oracle::{Harness, OPERATION_BYTES};
use slotmesh_fuzz::noise;

/// Operations made of one input where no coverage guides the fuzzer to longer ones.
const STRETCHED_OPERATIONS: usize = 150;

fuzz_target!(|input: &[u8]| {
    let length = STRETCHED_OPERATIONS * OPERATION_BYTES;
    let input = if cfg!(fuzzing) { input.to_vec() } else { noise(input).take(length).collect() };
    Harness::run(&input);
});
