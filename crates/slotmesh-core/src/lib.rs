//! The deterministic node brain: composes store, gossip, replication and control; decides, never does IO.
