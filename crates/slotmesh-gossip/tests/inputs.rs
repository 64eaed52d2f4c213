//! Arbitrary inputs never panic and never break an invariant. The same harness is fuzzed (`gossip_inputs`).

#[path = "inputs/mod.rs"]
mod harness;

use harness::Harness;
use rand::rngs::StdRng;
use rand::{RngCore, SeedableRng};

#[test]
fn random_inputs_keep_the_invariants() {
    let (mut events, mut refused) = (0, 0);
    for seed in 0..2_000 {
        let mut input = [0; 2_000];
        StdRng::seed_from_u64(seed).fill_bytes(&mut input);
        let end = Harness::run(&input);
        events += end.events;
        refused += end.refused;
    }
    assert!(events > 2_000, "the inputs reach the protocol: {events}");
    assert!(refused > 2_000, "and damaged ones are refused: {refused}");
}
