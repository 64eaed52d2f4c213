//! Bytes of any kind as what a Redis server sends: an answer, an invalidation or an error, never a panic.

#![no_main]

#[path = "../../crates/slotmesh-redis/tests/bytes/mod.rs"]
mod bytes;

use libfuzzer_sys::fuzz_target;

fuzz_target!(|input: &[u8]| bytes::survives(input));
