//! The bodies that travel: each says what it is, and is filled with bytes that nothing else in the run has.

use bytes::Bytes;
use slotmesh_slots::{NodeId, Reader, Writer};

/// What the handler is to do with a request.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[repr(u8)]
pub enum Act {
    Echo = 0,
    /// Answer after a pause, which may be longer than the caller waits.
    Late = 1,
    Status = 2,
    Drop = 3,
    /// Say that there is too much to do, without a look at it.
    Busy = 4,
}

/// What the handler's status is.
pub const STATUS: u8 = 42;

impl Act {
    pub fn from_byte(byte: u8) -> Option<Self> {
        [Self::Echo, Self::Late, Self::Status, Self::Drop, Self::Busy]
            .into_iter()
            .find(|act| *act as u8 == byte)
    }
}

#[derive(Clone, Debug)]
pub struct Ask {
    pub call: u64,
    /// The only node that may answer, if the caller named one.
    pub expect: Option<NodeId>,
    pub pause_ms: u32,
    pub answer_bytes: u32,
    pub fill_bytes: usize,
}

impl Ask {
    pub fn encode(&self) -> Bytes {
        let mut out = Writer::new();
        out.u64(self.call);
        out.node_option(self.expect);
        out.u32(self.pause_ms);
        out.u32(self.answer_bytes);
        out.raw(&fill(self.call, self.fill_bytes));
        out.finish()
    }

    /// `None` when the bytes are not what [`Ask::encode`] made.
    pub fn decode(body: &Bytes) -> Option<Self> {
        let mut input = Reader::shared(body);
        let call = input.u64().ok()?;
        let expect = input.node_option().ok()?;
        let (pause_ms, answer_bytes) = (input.u32().ok()?, input.u32().ok()?);
        let rest = input.rest();
        let ask = Self { call, expect, pause_ms, answer_bytes, fill_bytes: rest.len() };
        (rest == fill(call, rest.len())).then_some(ask)
    }

    /// What this node answers.
    pub fn answer(&self, by: NodeId) -> Bytes {
        let mut out = Writer::new();
        out.node(by);
        out.raw(&fill(!self.call, self.answer_bytes as usize));
        out.finish()
    }

    /// Who gave the answer; `None` when it is not the answer to this.
    pub fn check_answer(&self, body: &Bytes) -> Option<NodeId> {
        let by = Reader::shared(body).node().ok()?;
        (*body == self.answer(by)).then_some(by)
    }
}

/// A frame of a stream, or its echo.
pub fn frame(stream: u64, number: u32, bytes: usize) -> Bytes {
    let mut out = Writer::new();
    out.u64(stream);
    out.u32(number);
    out.raw(&fill(stream ^ u64::from(number), bytes));
    out.finish()
}

pub fn read_frame(body: &Bytes) -> Option<(u64, u32)> {
    let mut input = Reader::shared(body);
    let (stream, number) = (input.u64().ok()?, input.u32().ok()?);
    let rest = input.rest();
    (rest == fill(stream ^ u64::from(number), rest.len())).then_some((stream, number))
}

pub fn message((sender, place, connection): super::ledger::Thread, number: u32) -> Bytes {
    let mut out = Writer::new();
    out.node(sender);
    out.u8(place);
    out.u32(connection);
    out.u32(number);
    out.finish()
}

pub fn read_message(body: &Bytes) -> Option<(super::ledger::Thread, u32)> {
    let mut input = Reader::shared(body);
    let sender = input.node().ok()?;
    let (place, connection) = (input.u8().ok()?, input.u32().ok()?);
    Some(((sender, place, connection), input.u32().ok()?))
}

pub fn datagram(number: u64, bytes: usize) -> Bytes {
    let mut out = Writer::new();
    out.u64(number);
    out.raw(&fill(number, bytes));
    out.finish()
}

pub fn read_datagram(body: &Bytes) -> Option<u64> {
    let mut input = Reader::shared(body);
    let number = input.u64().ok()?;
    let rest = input.rest();
    (rest == fill(number, rest.len())).then_some(number)
}

/// Bytes of a key (the mixer of splitmix64, by Steele, Lea and Flood 2014, over a counter).
fn fill(key: u64, bytes: usize) -> Vec<u8> {
    let mut state = key;
    let word = |_| {
        state = state.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut mixed = (state ^ (state >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        (mixed ^ (mixed >> 31)).to_le_bytes()
    };
    let mut filled: Vec<u8> = (0..bytes.div_ceil(8)).flat_map(word).collect();
    filled.truncate(bytes);
    filled
}
