//! Bytes of any kind as values of a typed cache, and keys cut from them: a value only where the header and the codec say so,
//! else a miss, never a panic; different keys stay different.

#![no_main]

#[path = "../../crates/slotmesh-cache/tests/bytes/mod.rs"]
mod bytes;

use libfuzzer_sys::fuzz_target;

fuzz_target!(|input: &[u8]| bytes::survives(input));
