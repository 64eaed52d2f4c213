//! Random operations on a primary and its replica against the oracle.

mod oracle;

use oracle::{Harness, OPERATION_BYTES};
use proptest::prelude::*;

proptest! {
    #![proptest_config(ProptestConfig { cases: 200, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn store_and_replica_follow_the_oracle(
        operations in proptest::collection::vec(any::<[u8; OPERATION_BYTES]>(), 0..400)
    ) {
        Harness::run(&operations.concat());
    }
}

/// Long enough for tables to grow, shrink and hold every key in every slot.
#[test]
fn a_long_run_follows_the_oracle() {
    let mut state = 0x9e37_79b9_7f4a_7c15_u64;
    let next = || {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        (state >> 24) as u8
    };
    let input: Vec<u8> = std::iter::repeat_with(next).take(OPERATION_BYTES * 30_000).collect();
    Harness::run(&input);
}
