use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::time::Instant;

use slotmesh_node::Node;

use crate::config::RespConfig;

/// What all connections of a listener share.
pub(crate) struct Gateway {
    pub(crate) node: Node,
    pub(crate) config: RespConfig,
    pub(crate) counters: Counters,
    pub(crate) started: Instant,
}

/// What happened on this listener since it started; for `INFO`.
#[derive(Default)]
pub(crate) struct Counters {
    /// Connections now.
    pub(crate) connected: AtomicUsize,
    /// Connections ever, those refused not included.
    pub(crate) accepted: AtomicU64,
    /// Connections refused because there were too many.
    pub(crate) refused: AtomicU64,
    /// Commands carried out.
    pub(crate) commands: AtomicU64,
    /// Replies that were errors.
    pub(crate) errors: AtomicU64,
    /// Keys read and found.
    pub(crate) hits: AtomicU64,
    /// Keys read and not found.
    pub(crate) misses: AtomicU64,
    /// Bytes that came.
    pub(crate) bytes_in: AtomicU64,
    /// Bytes that left.
    pub(crate) bytes_out: AtomicU64,
}

impl Counters {
    pub(crate) fn read(&self, found: bool) {
        let counter = if found { &self.hits } else { &self.misses };
        counter.fetch_add(1, Ordering::Relaxed);
    }
}

impl Gateway {
    pub(crate) fn new(node: Node, config: RespConfig) -> Self {
        Self { node, config, counters: Counters::default(), started: Instant::now() }
    }

    /// Whether this is the password. Takes the same time wherever the two differ.
    pub(crate) fn password_is(&self, given: &[u8]) -> bool {
        let Some(password) = &self.config.password else { return true };
        let password = password.as_bytes();
        let differences = password.iter().zip(given).fold(0, |sum, (a, b)| sum | (a ^ b));
        password.len() == given.len() && std::hint::black_box(differences) == 0
    }
}
