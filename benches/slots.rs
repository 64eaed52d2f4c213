//! The slot of a key, hash tag search included, beside the table-driven CRC of the `crc16` crate alone.
//!
//! `cargo bench -p slotmesh-benches --bench slots [-- --quick]`

use std::hint::black_box;
use std::time::Instant;

use slotmesh_benches::{median, spread};
use slotmesh_slots::{SLOT_COUNT, Slot};

/// Keys in a round: so many that the loop around them costs nothing, so few that they stay in the fastest cache.
const KEYS: usize = 256;

fn main() {
    let quick = std::env::args().any(|argument| argument == "--quick");
    let (rounds, passes) = if quick { (5, 400) } else { (15, 4_000) };
    println!(
        "{:>24} {:>9} {:>9} {:>7}  ns per key, medians of {rounds} rounds",
        "", "slots", "crc16", "ratio"
    );
    for (name, len, tag) in [
        ("16 B", 16, false),
        ("32 B", 32, false),
        ("16 B with a hash tag", 16, true),
        ("200 B", 200, false),
    ] {
        let keys: Vec<Vec<u8>> = (0..KEYS).map(|number| key(number, len, tag)).collect();
        let mut ratios = Vec::new();
        let (mut ours, mut theirs) = (Vec::new(), Vec::new());
        for _ in 0..rounds {
            ours.push(nanos(&keys, passes, |key| Slot::of_key(key).number()));
            theirs.push(nanos(&keys, passes, |key| {
                crc16::State::<crc16::XMODEM>::calculate(key) % SLOT_COUNT as u16
            }));
            ratios.push(ours[ours.len() - 1] / theirs[theirs.len() - 1]);
        }
        let [least, _, most] = spread(&ratios);
        println!(
            "{name:>24} {:>9.2} {:>9.2} {:>7.2}  ({least:.2} to {most:.2})",
            median(&ours),
            median(&theirs),
            median(&ratios)
        );
    }
}

fn key(number: usize, len: usize, tag: bool) -> Vec<u8> {
    let text = if tag { format!("{{u{number:05}}}") } else { format!("key:{number:05}:") };
    text.bytes().chain(std::iter::repeat(b'x')).take(len).collect()
}

fn nanos(keys: &[Vec<u8>], passes: usize, slot: impl Fn(&[u8]) -> u16) -> f64 {
    let start = Instant::now();
    for _ in 0..passes {
        for key in keys {
            black_box(slot(black_box(key)));
        }
    }
    start.elapsed().as_secs_f64() * 1e9 / (passes * keys.len()) as f64
}
