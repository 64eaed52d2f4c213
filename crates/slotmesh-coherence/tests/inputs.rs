//! Arbitrary frames never panic. The same harness is fuzzed (`coherence_frames`).

#[path = "inputs/mod.rs"]
mod harness;

use harness::Harness;
use rand::rngs::StdRng;
use rand::{RngCore, SeedableRng};

#[test]
fn random_inputs_are_taken_or_refused() {
    let (mut taken, mut refused) = (0, 0);
    for seed in 0..500 {
        let mut input = [0; 3_000];
        StdRng::seed_from_u64(seed).fill_bytes(&mut input);
        let end = Harness::run(&input);
        taken += end.taken;
        refused += end.refused;
    }
    assert!(taken > 500, "the inputs reach the protocol: {taken}");
    assert!(refused > 500, "and damaged ones are refused: {refused}");
}
