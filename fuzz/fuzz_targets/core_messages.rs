//! Arbitrary bytes into a brain and a data plane, as control messages, gossip datagrams, link frames and requests:
//! nothing panics and the invariants hold.

#![no_main]

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use libfuzzer_sys::fuzz_target;
use slotmesh_control::log::{LogMachine, LogStatus};
use slotmesh_control::{Command, LoadReport, NodeInfo, SlotLoads};
use slotmesh_core::{
    Ack, Brain, BrainConfig, Clock, ControlMachine, DataConfig, DataError, DataPlane, Op, Reply,
    Request, Wakers, decode_replies, encode_replies, wire,
};
use slotmesh_fuzz::noise;
use slotmesh_slots::{Class, Epoch, Generation, MonoTime, NodeId, NodeList, Reader, Slot};
use slotmesh_store::{ByteRange, Condition, ExpireCondition};

/// Bytes added to an input where no coverage guides the fuzzer to longer ones.
const STRETCHED_BYTES: usize = 1_000;

/// Bytes that make one operation.
const OPERATION_BYTES: usize = 12;

fuzz_target!(|input: &[u8]| {
    let more = if cfg!(fuzzing) { 0 } else { STRETCHED_BYTES };
    let input: Vec<u8> = input.iter().copied().chain(noise(input).take(more)).collect();
    let mut fixture = Fixture::new();
    let mut rest = &input[..];
    while let Some((&kind, tail)) = rest.split_first() {
        let (body, next) = tail.split_at((kind as usize >> 3).min(tail.len()).max(tail.len() / 2));
        fixture.step(kind, body);
        rest = next;
    }
    fixture.brain.check_invariants();
});

/// Of slot 0.
const SERVED_KEY: &[u8] = b"k596";

struct Still;

impl Clock for Still {
    fn now(&self) -> MonoTime {
        MonoTime::from_micros(1_000_000)
    }
}

struct Fixture {
    brain: Brain,
    data: Arc<DataPlane>,
    now: MonoTime,
}

fn me() -> NodeId {
    NodeId::from_random(1)
}

fn peer() -> NodeId {
    NodeId::from_random(2)
}

fn info(number: u16) -> NodeInfo {
    let control = SocketAddr::from(([127, 0, 0, 1], 7000 + number));
    NodeInfo {
        name: "n".into(),
        control,
        lanes: vec![],
        resp: None,
        zone: String::new(),
        witness: false,
        weight: 1,
    }
}

impl Fixture {
    /// A leader of two members, primary of one slot and replica of another.
    fn new() -> Self {
        let wakers = Wakers::default();
        let data = Arc::new(DataPlane::new(me(), DataConfig::default(), Arc::new(Still), wakers));
        let config = BrainConfig {
            info: info(1),
            seeds: vec![],
            expect: 2,
            replicas: 1,
            gossip: Default::default(),
            refused_is_death: false,
            recopy_after: slotmesh_control::RECOPY_AFTER,
            load_floor: Default::default(),
            reform: Default::default(),
            reform_wait: slotmesh_control::LEASES_OVER_AFTER,
        };
        let now = Still.now();
        let mut brain = Brain::new(me(), config, Arc::clone(&data), 1, now);
        let status = LogStatus {
            is_leader: true,
            caught_up: true,
            leader: Some(me()),
            leader_since: Some(now),
            quorum_acked: Some(now),
            voters: vec![me()],
            ..LogStatus::default()
        };
        let mut machine = ControlMachine::new();
        for command in commands() {
            machine.apply(1, &wire::encode(&command));
        }
        machine.take_deltas().for_each(|delta| brain.handle_applied(&delta, now));
        brain.handle_log_status(status, now);
        brain.handle_timeout(now);
        data.link_up(peer());
        data.primary_open(peer());
        Self { brain, data, now }
    }

    /// Carries out what comes back from the bytes that it is sent as.
    fn execute(&self, op: Op) {
        let bytes = Request::encode(Ack::Primary, &[op]);
        let read = Request::decode(&mut Reader::shared(&bytes));
        let op = read.ok().and_then(|request| request.ops.into_iter().next());
        let op = op.expect("what is encoded can be decoded");
        assert_eq!(Request::encode(Ack::Primary, std::slice::from_ref(&op)), bytes);
        let done = |answer: Result<Reply, DataError>| {
            let bytes = encode_replies(std::slice::from_ref(&answer));
            assert!(decode_replies(&bytes).is_ok());
        };
        self.data.execute(op, Ack::Primary, Box::new(done));
    }

    fn step(&mut self, kind: u8, body: &[u8]) {
        self.now = self.now + Duration::from_millis(u64::from(kind));
        let from = SocketAddr::from(([127, 0, 0, 1], 7002));
        let bytes = Bytes::copy_from_slice(body);
        match kind % 8 {
            0 | 1 => {
                let _malformed = self.brain.handle_message(peer(), body, self.now).is_err();
                read_loads(body);
            }
            2 => {
                // Of the version that is spoken and of our generation (some, cluster 1, reform 0): more gets through.
                let body = [&[wire::WIRE_VERSION, 1, 1, 0], body].concat();
                let _malformed = self.brain.handle_message(peer(), &body, self.now).is_err();
            }
            3 => self.brain.handle_datagram(from, body, self.now),
            4 if self.data.handle_primary_frame(peer(), &bytes).is_err() => {
                self.data.primary_open(peer());
            }
            5 if self.data.handle_replica_frame(peer(), &bytes).is_err() => {
                self.data.link_down(peer());
                self.data.link_up(peer());
            }
            6 => {
                if let Ok(Request { ops, .. }) = Request::decode(&mut Reader::shared(&bytes)) {
                    ops.into_iter().for_each(|op| self.execute(op));
                }
                body.chunks(OPERATION_BYTES).filter_map(operation).for_each(|op| self.execute(op));
            }
            _ => self.brain.handle_timeout(self.now),
        }
        drop(self.data.poll_link(peer(), 64 << 10));
        self.brain.handle_data(self.now);
        while self.brain.poll_output().is_some() {}
    }
}

/// Loads that can be read name each slot once, in order, and are told again as the same.
fn read_loads(body: &[u8]) {
    let told = [&[wire::WIRE_VERSION], body].concat();
    if let Ok(report) = wire::decode::<LoadReport>(&told) {
        let mut slots = SlotLoads::default();
        let mut before = None;
        for (slot, bytes, writes) in report.slots.iter() {
            assert!(before.is_none_or(|before| before < slot));
            before = Some(slot);
            slots.push(slot, bytes, writes);
        }
        assert!(slots.iter().eq(report.slots.iter()));
    }
}

/// An operation on the slot that is served here, of the kind that the first byte says, with arguments from the others.
fn operation(body: &[u8]) -> Option<Op> {
    let (&[kind, condition, number], rest) = body.split_first_chunk()?;
    let (key, value) = (Bytes::from_static(SERVED_KEY), Bytes::copy_from_slice(rest));
    let number = match number {
        255 => u64::MAX,
        254 => i64::MAX as u64,
        number => number.into(),
    };
    let ttl = (condition & 64 == 0).then(|| Duration::from_millis(number));
    let (keep_ttl, entry) = (condition & 32 != 0, CONDITIONS[usize::from(condition) % 4]);
    let class = if condition & 16 != 0 { Class::State } else { Class::Cache };
    let expiry = EXPIRE_CONDITIONS[usize::from(condition) % 6];
    let range = ByteRange { start: number.cast_signed(), end: -i64::from(condition) };
    Some(match kind % 13 {
        0 => Op::Get { key },
        1 => Op::Put { key, value, ttl, keep_ttl, condition: entry, class },
        2 => Op::Delete { key, condition: entry },
        3 => Op::Expire { key, ttl, condition: expiry },
        4 => Op::Increment { key, delta: number.cast_signed() },
        5 => Op::GetRange { key, range },
        6 => Op::Touch { key },
        7 => Op::Append { key, value },
        8 => Op::SetRange { key, offset: number, value },
        9 => Op::GetAndPut { key, value, ttl, keep_ttl, condition: entry, class },
        10 => Op::GetAndDelete { key },
        11 => Op::GetAndExpire { key, ttl },
        _ => Op::Clear { slot: Slot::of_key(SERVED_KEY) },
    })
}

const CONDITIONS: [Condition; 4] =
    [Condition::Always, Condition::Absent, Condition::Present, Condition::Always];

const EXPIRE_CONDITIONS: [ExpireCondition; 6] = [
    ExpireCondition::Always,
    ExpireCondition::Unset,
    ExpireCondition::Set,
    ExpireCondition::Later,
    ExpireCondition::Earlier,
    ExpireCondition::SetAndEarlier,
];

fn commands() -> Vec<Command> {
    let generation = Generation { cluster: 1, reform: 0 };
    let members = vec![(me(), info(1)), (peer(), info(2))];
    let assign = |number: u16, primary, replica| Command::Assign {
        claims: Slot::new(number).map(|slot| (slot, Epoch(0))).into_iter().collect(),
        primary,
        in_sync: NodeList::from_iter([replica]),
    };
    vec![
        Command::Found { generation, replicas: 1, expect: 2, members },
        assign(0, me(), peer()),
        assign(1, peer(), me()),
    ]
}
