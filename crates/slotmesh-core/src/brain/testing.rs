//! What the tests of the brain's parts begin with.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use slotmesh_control::{NodeInfo, Reform};
use slotmesh_slots::{MonoTime, NodeId};

use super::{Brain, BrainConfig};
use crate::data::{Clock, DataConfig, DataPlane, Wakers};

struct Stopped;

impl Clock for Stopped {
    fn now(&self) -> MonoTime {
        at(0)
    }
}

pub(super) fn at(millis: u64) -> MonoTime {
    MonoTime::from_micros(1 + 1_000 * millis)
}

pub(super) fn node(number: u64) -> NodeId {
    NodeId::from_random(number)
}

pub(super) fn addr(number: u64) -> SocketAddr {
    SocketAddr::from(([127, 0, 0, number as u8], 7600))
}

pub(super) fn info(number: u64) -> NodeInfo {
    let (name, zone) = (format!("n{number}"), String::new());
    let control = addr(number);
    NodeInfo { name, control, lanes: vec![], resp: None, zone, witness: false, weight: 1 }
}

/// A node that has just started and waits for so many.
pub(super) fn started(number: u64, seeds: Vec<SocketAddr>, expect: u16, replicas: u8) -> Brain {
    let sizes = DataConfig::default();
    let clock = Arc::new(Stopped);
    let data = Arc::new(DataPlane::new(node(number), sizes, clock, Wakers::default()));
    let config = BrainConfig {
        info: info(number),
        seeds,
        expect,
        replicas,
        gossip: slotmesh_gossip::GossipConfig::default(),
        refused_is_death: false,
        recopy_after: slotmesh_control::RECOPY_AFTER,
        load_floor: Default::default(),
        reform: Reform::Never,
        reform_wait: Duration::ZERO,
    };
    Brain::new(node(number), config, data, 7, at(0))
}
