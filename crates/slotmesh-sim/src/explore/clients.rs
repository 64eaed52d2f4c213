use std::collections::hash_map::DefaultHasher;
use std::hash::{Hash, Hasher};

use bytes::Bytes;
use slotmesh_core::{DataError, Op, Reply};
use slotmesh_slots::{Class, Version};
use slotmesh_store::Condition;

use crate::history::{self, Action, Answer, Operation};

use super::cluster::KEY;

/// What the clients asked for and saw: writes of different values, and a read wherever one is possible.
#[derive(Default)]
pub(super) struct Clients {
    operations: Vec<Operation>,
    /// Events so far: the clock that all clients share.
    events: u64,
    writes: usize,
    /// The last read and the events before it.
    last_read: Option<(Option<i64>, u64)>,
    /// Acknowledged writes by version.
    pub(super) acknowledged: Vec<Version>,
    life: DefaultHasher,
}

impl Clients {
    pub(super) fn fingerprint(&self) -> u64 {
        self.life.finish()
    }

    pub(super) fn writes(&self) -> usize {
        self.writes
    }

    /// A client begins its write; what it asks for, and its number.
    pub(super) fn begin(&mut self) -> (usize, Op) {
        self.writes += 1;
        let value = self.writes as i64;
        self.event((0, value));
        let invoked = self.events;
        self.operations.push(Operation { invoked, returned: None, action: Action::Put(value) });
        let op = Op::Put {
            key: Bytes::from_static(KEY),
            value: Bytes::from(value.to_string()),
            ttl: None,
            keep_ttl: false,
            condition: Condition::Always,
            class: Class::Cache,
        };
        (self.operations.len() - 1, op)
    }

    /// It is told what came of it.
    pub(super) fn end(&mut self, number: usize, result: &Result<Reply, DataError>) {
        self.event((1, number as i64));
        match result {
            Ok(Reply::Put { existed, version, .. }) => {
                existed.hash(&mut self.life);
                let answer = Answer::Done { existed: *existed };
                self.operations[number].returned = Some((self.events, answer));
                self.acknowledged.extend(*version);
            }
            Ok(_) | Err(DataError::Ambiguous) => {}
            // It certainly did not happen: as good as a read that nobody saw.
            Err(_) => self.operations[number].action = Action::Get,
        }
    }

    /// Somebody reads. Of reads that tell nothing new only the first is kept.
    pub(super) fn read(&mut self, reply: &Reply) {
        let value = match reply {
            Reply::Value(value) => parse(&value.value),
            _ => None,
        };
        if self.last_read == Some((value, self.events)) {
            return;
        }
        self.event((2, value.unwrap_or(0)));
        let invoked = self.events;
        self.event((3, 0));
        let returned = Some((self.events, Answer::Value(value)));
        self.operations.push(Operation { invoked, returned, action: Action::Get });
        self.last_read = Some((value, self.events));
    }

    pub(super) fn check(&self) -> Result<(), String> {
        history::check(&self.operations).map_err(|why| format!("not linearizable: {why}"))
    }

    fn event(&mut self, what: (u8, i64)) {
        self.events += 1;
        what.hash(&mut self.life);
    }
}

fn parse(value: &Bytes) -> Option<i64> {
    std::str::from_utf8(value).ok()?.parse().ok()
}
