//! Arbitrary bytes into a brain and a data plane, as control messages, gossip datagrams, link frames and requests:
//! nothing panics and the invariants hold.

#![no_main]

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use libfuzzer_sys::fuzz_target;
use slotmesh_control::log::{LogMachine, LogStatus};
use slotmesh_control::{Command, NodeInfo};
use slotmesh_core::{
    Ack, Brain, BrainConfig, Clock, ControlMachine, DataConfig, DataPlane, Request, Wakers, wire,
};
use slotmesh_slots::{Epoch, Generation, MonoTime, NodeId, NodeList, Reader, Slot};

fuzz_target!(|input: &[u8]| {
    let mut fixture = Fixture::new();
    let mut rest = input;
    while let Some((&kind, tail)) = rest.split_first() {
        let (body, next) = tail.split_at((kind as usize >> 3).min(tail.len()).max(tail.len() / 2));
        fixture.step(kind, body);
        rest = next;
    }
    fixture.brain.check_invariants();
});

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
    NodeInfo { name: "n".into(), control, lanes: vec![], resp: None, zone: String::new() }
}

impl Fixture {
    /// A leader of two members, primary of one slot and replica of another.
    fn new() -> Self {
        let wakers = Wakers { link: Box::new(|_| {}), events: Box::new(|| {}) };
        let data = Arc::new(DataPlane::new(me(), DataConfig::default(), Arc::new(Still), wakers));
        let config = BrainConfig {
            info: info(1),
            seeds: vec![],
            expect: 2,
            replicas: 1,
            gossip: Default::default(),
            refused_is_death: false,
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

    fn step(&mut self, kind: u8, body: &[u8]) {
        self.now = self.now + Duration::from_millis(u64::from(kind));
        let from = SocketAddr::from(([127, 0, 0, 1], 7002));
        let bytes = Bytes::copy_from_slice(body);
        match kind % 8 {
            0 | 1 => {
                let _malformed = self.brain.handle_message(peer(), body, self.now).is_err();
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
                    for op in ops {
                        self.data.execute(op, Ack::All, Box::new(|_| {}));
                    }
                }
            }
            _ => self.brain.handle_timeout(self.now),
        }
        drop(self.data.poll_link(peer(), 64 << 10));
        self.brain.handle_data(self.now);
        while self.brain.poll_output().is_some() {}
    }
}

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
