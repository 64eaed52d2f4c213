//! Embeddable, in-process cache cluster: the façade, which re-exports what an application needs and has no code of its own.
//! What is behind it lives in `slotmesh-node` ([`Node`]) and `slotmesh-cache` ([`Caches`], [`Cache`]).
//!
#![doc = include_str!("../../../README.md")]

pub use slotmesh_cache::{
    self as cache, Cache, CacheBuilder, CacheError, CacheKey, Caches, Codec, L1, Loaded,
};
pub use slotmesh_node::{
    Ack, CallOptions, ClusterSecret, Condition, Node, NodeConfig, NodeStatus, OpError, Phase,
    PutOptions, ReadySettings, Reply, StartError, Value,
};

#[cfg(feature = "redis")]
pub use slotmesh_redis as redis;

#[cfg(feature = "testing")]
pub use slotmesh_cache::testing;

#[cfg(test)]
mod tests {
    /// More names than this, and a newcomer no longer reads them all.
    const NAMES_MAX: usize = 25;

    #[test]
    fn the_facade_stays_small() {
        let source = include_str!("lib.rs");
        let exported = source.split("pub use ").skip(1).filter_map(|rest| rest.split_once(';'));
        let lists = exported.filter_map(|(list, _)| list.split_once('{'));
        let names = lists.flat_map(|(_, list)| list.split([',', '}']));
        let count = names.filter(|name| !name.trim().is_empty()).count();
        assert!((10..=NAMES_MAX).contains(&count), "{count} names");
        assert!(source.lines().count() <= 150);
    }
}
