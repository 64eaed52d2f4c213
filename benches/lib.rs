//! Workloads and measuring helpers shared by the benchmarks.

pub mod bare_quinn;
pub mod maps;
pub mod members;
pub mod traces;

/// Numbers below `keys`, the lower the more frequent (Zipf with exponent 0.99), always the same ones.
#[must_use]
pub fn zipf(keys: u32, count: usize) -> Vec<u32> {
    let mut sum = 0.0;
    let cumulative: Vec<f64> = (1..=keys)
        .map(|rank| {
            sum += f64::from(rank).powf(-0.99);
            sum
        })
        .collect();
    let mut random = random();
    let mut draw = || {
        let point = (random() >> 11) as f64 / (1_u64 << 53) as f64 * sum;
        cumulative.partition_point(|&below| below < point).min(keys as usize - 1) as u32
    };
    (0..count).map(|_| draw()).collect()
}

/// Numbers below `keys`, each as frequent as any other, always the same ones.
#[must_use]
pub fn uniform(keys: u32, count: usize) -> Vec<u32> {
    let mut random = random();
    (0..count).map(|_| (random() % u64::from(keys)) as u32).collect()
}

/// Marsaglia's xorshift from a fixed seed.
fn random() -> impl FnMut() -> u64 {
    let mut state = 0x2545_f491_4f6c_dd1d_u64;
    move || {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        state
    }
}

/// Length of a [`key`] in bytes.
pub const KEY_BYTES: usize = 16;

/// Sixteen hexadecimal digits, so that neighbours in rank are no neighbours in the order of keys.
#[must_use]
pub fn key(number: u32) -> [u8; KEY_BYTES] {
    let mixed = u64::from(number).wrapping_add(1).wrapping_mul(0x9e37_79b9_7f4a_7c15);
    std::array::from_fn(|digit| b"0123456789abcdef"[(mixed >> (digit * 4) & 15) as usize])
}

/// The middle one, and nothing that an outlier could move.
///
/// # Panics
/// When there are none.
#[must_use]
pub fn median(values: &[f64]) -> f64 {
    spread(values)[1]
}

/// The least, the middle one and the most.
///
/// # Panics
/// When there are none.
#[must_use]
pub fn spread(values: &[f64]) -> [f64; 3] {
    let mut sorted = values.to_vec();
    sorted.sort_by(f64::total_cmp);
    [sorted[0], sorted[sorted.len() / 2], sorted[sorted.len() - 1]]
}

/// The median of the rounds' ratios, and how far they lie apart.
///
/// # Panics
/// When there are no rounds.
#[must_use]
pub fn ratios(ours: &[f64], theirs: &[f64]) -> String {
    let ratios: Vec<f64> = ours.iter().zip(theirs).map(|(a, b)| a / b).collect();
    let [least, middle, most] = spread(&ratios);
    format!("ratio {middle:.2} ({least:.2} to {most:.2})")
}
