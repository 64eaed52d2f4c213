//! A few thousand inputs of the fuzz target `redis_answers`.

mod bytes;

#[test]
fn any_bytes_of_a_server_are_an_answer_or_an_error() {
    let mut state = 0x9e37_79b9_7f4a_7c15_u64;
    let mut random = || {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        (state >> 24) as u8
    };
    for _ in 0..20_000 {
        let input: Vec<u8> = (0..random() % 24).map(|_| random()).collect();
        bytes::survives(&input);
    }
}
