//! Bytes of any kind as messages to a voter with a short log: it answers or refuses each, and its engine survives.

#![no_main]

#[path = "../../crates/slotmesh-consensus/tests/hostile/mod.rs"]
mod hostile;

use libfuzzer_sys::fuzz_target;

fuzz_target!(|input: &[u8]| hostile::survives(input));
