//! Arbitrary bytes, cut anywhere, as a Redis client's stream: every split gives the same commands and the same error,
//! nothing panics, and no command goes beyond the limits. The same bytes as replies, which come back when encoded again.

#![no_main]

use bytes::{Bytes, BytesMut};
use libfuzzer_sys::fuzz_target;
use slotmesh_resp::CommandLimits;
use slotmesh_resp::protocol::{CommandDecoder, Frame, FrameDecoder, Protocol, ProtocolError};

/// Small, so that lengths above them are found soon.
const LIMITS: CommandLimits =
    CommandLimits { args_max: 8, arg_bytes_max: 40, command_bytes_max: 400 };

fuzz_target!(|input: &[u8]| {
    let Some((&[first, second], bytes)) = input.split_first_chunk::<2>() else { return };
    let steps = [usize::from(first) + 1, usize::from(second % 8) + 1];
    let whole = commands(bytes, [usize::MAX; 2]);
    assert_eq!(whole, commands(bytes, steps), "split into {steps:?}");
    assert_eq!(whole, commands(bytes, [1, 1]), "byte by byte");
    for command in &whole.0 {
        assert!(!command.is_empty() && command.len() <= LIMITS.args_max);
    }
    let replies = frames(bytes, [usize::MAX; 2]);
    assert_eq!(replies, frames(bytes, steps), "split into {steps:?}");
    let mut encoded = BytesMut::new();
    replies.iter().for_each(|frame| frame.encode(Protocol::Resp3, &mut encoded));
    // Line ends within words become blanks when encoded, so the second time nothing changes any more.
    let again = frames(&encoded, [usize::MAX; 2]);
    let mut twice = BytesMut::new();
    again.iter().for_each(|frame| frame.encode(Protocol::Resp3, &mut twice));
    assert_eq!(encoded, twice);
});

/// All commands and the error at their end, with chunks of these sizes by turns.
fn commands(bytes: &[u8], steps: [usize; 2]) -> (Vec<Vec<Bytes>>, Option<ProtocolError>) {
    let mut decoder = CommandDecoder::new(LIMITS);
    let mut commands = Vec::new();
    for chunk in chunks(bytes, steps) {
        decoder.buffer_mut().extend_from_slice(chunk);
        loop {
            match decoder.poll_command() {
                Ok(Some(command)) => commands.push(command),
                Ok(None) => break,
                Err(error) => return (commands, Some(error)),
            }
        }
    }
    (commands, None)
}

fn frames(bytes: &[u8], steps: [usize; 2]) -> Vec<Frame> {
    let mut decoder = FrameDecoder::default();
    let mut frames = Vec::new();
    for chunk in chunks(bytes, steps) {
        decoder.buffer_mut().extend_from_slice(chunk);
        while let Ok(Some(frame)) = decoder.poll_frame() {
            frames.push(frame);
        }
    }
    frames
}

fn chunks(bytes: &[u8], steps: [usize; 2]) -> impl Iterator<Item = &[u8]> {
    let mut rest = bytes;
    steps.into_iter().cycle().map_while(move |step| {
        let (chunk, behind) = rest.split_at_checked(step.min(rest.len()))?;
        rest = behind;
        (!chunk.is_empty()).then_some(chunk)
    })
}
