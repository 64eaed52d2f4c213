//! A few thousand inputs of the fuzz target `cache_codec`.

mod bytes;

#[test]
fn any_bytes_are_a_value_or_a_miss() {
    let mut state = 0x9e37_79b9_7f4a_7c15_u64;
    let mut random = || {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        (state >> 24) as u8
    };
    for round in 0..4_000 {
        // Small numbers make valid lengths and tags; separators make keys that could be mistaken.
        let alphabet: &[u8] = if round % 2 == 0 { &[0, 1, 2, 3, b'a'] } else { b":%3A5" };
        let input: Vec<u8> = (0..random() % 24)
            .map(|_| match random() % 4 {
                0 => random(),
                pick => alphabet[usize::from(pick.wrapping_mul(random())) % alphabet.len()],
            })
            .collect();
        bytes::survives(&input);
    }
}
