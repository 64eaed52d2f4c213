//! Rivals measured beside slotmesh; the only package that depends on them.

pub mod bounded;
