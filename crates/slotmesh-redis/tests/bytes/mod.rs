//! Answers of a server, made from bytes of any kind: arrays of numbers and texts as scripts answer them, and anything else. Shared by the smoke test and
//! the fuzz target.

use slotmesh_redis::read_anything;

pub(crate) fn survives(input: &[u8]) {
    read_anything(input);
    read_anything(&[b"space{", input].concat());
    let mut answer = format!("*{}\r\n", input.len().min(9)).into_bytes();
    for (at, byte) in input.iter().enumerate() {
        answer.extend(match byte % 4 {
            0 => format!(":{}\r\n", i64::from(*byte as i8) / 4).into_bytes(),
            1 => text(&input[at..at + usize::from(byte / 4).min(input.len() - at)]),
            2 => format!("*2\r\n:{byte}\r\n:{}\r\n", u32::from(*byte) << (byte / 8)).into_bytes(),
            _ => [&b"*2\r\n"[..], &text(&input[at..]), b":7\r\n"].concat(),
        });
    }
    read_anything(&answer);
}

fn text(bytes: &[u8]) -> Vec<u8> {
    [format!("${}\r\n", bytes.len()).as_bytes(), bytes, b"\r\n"].concat()
}
