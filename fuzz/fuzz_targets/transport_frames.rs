//! Arbitrary bytes, cut anywhere, as the RPC stream of a peer: every split gives the same frames and the same error,
//! nothing panics, and what came out encodes to the bytes that went in.

#![no_main]

use bytes::{BufMut, Bytes, BytesMut};
use libfuzzer_sys::fuzz_target;
use slotmesh_fuzz::noise;
use slotmesh_transport::{Frame, FrameDecoder, FrameError, FrameHeader, FrameType};

/// Small, so that lengths above it are found soon.
const BODY_BYTES_MAX: usize = 600;

fuzz_target!(|input: &[u8]| {
    let input = if cfg!(fuzzing) { input.to_vec() } else { stretch(input) };
    let Some((&[first, second], rest)) = input.split_first_chunk::<2>() else { return };
    for bytes in [Bytes::copy_from_slice(rest), nearly_right(rest)] {
        let whole = decode(&bytes, [usize::MAX, usize::MAX]);
        let steps = [usize::from(first) + 1, usize::from(second % 8) + 1];
        assert_eq!(whole, decode(&bytes, steps), "split into {steps:?}");
        assert_eq!(whole, decode(&bytes, [1, 1]), "byte by byte");
        let encoded = encode(&whole.0);
        assert_eq!(encoded, bytes.slice(..encoded.len()), "the frames are the stream's beginning");
    }
});

/// All frames and how the stream ended, with chunks of these sizes by turns.
fn decode(bytes: &Bytes, steps: [usize; 2]) -> (Vec<Frame>, FrameError) {
    let mut decoder = FrameDecoder::new(BODY_BYTES_MAX);
    let mut frames = Vec::new();
    let mut rest = bytes.clone();
    for &step in steps.iter().cycle() {
        if rest.is_empty() {
            break;
        }
        decoder.handle_bytes(rest.split_to(step.min(rest.len())));
        loop {
            match decoder.poll_frame() {
                Ok(Some(frame)) => frames.push(frame),
                Ok(None) => break,
                Err(error) => return (frames, error),
            }
        }
    }
    (frames, decoder.end())
}

fn encode(frames: &[Frame]) -> Bytes {
    let mut out = BytesMut::new();
    for frame in frames {
        frame.header.put(&mut out, frame.body.len());
        out.put_slice(&frame.body);
    }
    out.freeze()
}

/// Frames made of the input, one of whose bytes is then changed by it.
fn nearly_right(input: &[u8]) -> Bytes {
    let types = [FrameType::Request, FrameType::Reply, FrameType::Status, FrameType::Message];
    let mut out = BytesMut::new();
    for (index, seed) in input.chunks(3).take(40).enumerate() {
        let size = seed.iter().map(|&byte| usize::from(byte)).sum::<usize>() % BODY_BYTES_MAX;
        let frame_type = types[index % types.len()];
        FrameHeader { frame_type, tag: seed[0], id: size as u32, remaining_ms: index as u32 }
            .put(&mut out, size);
        out.put_bytes(seed[0], size);
    }
    if let (Some(&flip), false) = (input.last(), out.is_empty()) {
        let at = usize::from(flip) * 37 % out.len();
        out[at] ^= flip >> 4;
    }
    out.freeze()
}

/// Bytes made of one input where no coverage guides the fuzzer to longer ones.
const STRETCHED_BYTES: usize = 120;

fn stretch(input: &[u8]) -> Vec<u8> {
    input.iter().copied().chain(noise(input).take(STRETCHED_BYTES)).collect()
}
