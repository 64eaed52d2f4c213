use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

/// Counts since the cache was built, and the size of its L1 now.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct CacheStats {
    /// Reads that L1 served, also by knowing that there is no value.
    pub l1_hits: u64,
    /// Reads of values that L1 had and did not show, because nothing was heard of their owner for
    /// [`max_staleness`](crate::L1::max_staleness). They went on to the cluster.
    pub l1_withheld: u64,
    /// Reads that the cluster served, also by knowing that there is no value.
    pub cluster_hits: u64,
    /// Reads that neither served: a `get` without a value, or a `get_or_load` that went on to its loader.
    pub misses: u64,
    /// Calls of `get_or_load` that joined one under way instead of asking and loading themselves.
    pub coalesced: u64,
    /// Loaders called.
    pub loads_started: u64,
    /// Loaders that returned a value, or that there is none.
    pub loads_ok: u64,
    /// Loaders that returned an error, panicked, or took too long.
    pub loads_failed: u64,
    /// Loaders called for what could still be shown, before its time was up or while it was stale.
    pub refreshes: u64,
    /// Loads that were answered without asking the source, because the [`guard`](crate::CacheBuilder::guard) knew that it has no such key.
    pub guarded: u64,
    /// Loads in whose place a stale value was shown: they failed, or were not to be tried yet, or went on meanwhile.
    pub stale_served: u64,
    /// Loaded values that the cluster did not take, because something newer was written or invalidated meanwhile.
    pub fills_refused: u64,
    /// Operations that the cluster failed.
    pub cluster_errors: u64,
    /// Values found with another codec or schema version, or that did not decode.
    pub undecodable: u64,
    /// Changes that the source got by [`write_behind`](crate::CacheBuilder::write_behind).
    pub written_behind: u64,
    /// How often it failed to take some of them.
    pub write_failures: u64,
    /// Changes that it has not got yet: lost if this process crashed now.
    pub unwritten: usize,
    /// How far behind the cluster what L1 shows now may be: never above [`max_staleness`](crate::L1::max_staleness), some tens of
    /// milliseconds where values are asked for, zero where L1 may show nothing of other nodes.
    pub staleness: Duration,
    /// Entries in L1.
    pub l1_entries: usize,
    /// Estimated bytes in L1.
    pub l1_bytes: usize,
}

/// One of the counts.
#[derive(Clone, Copy)]
pub(crate) enum Count {
    L1Hit,
    ClusterHit,
    Miss,
    Coalesced,
    LoadStarted,
    LoadOk,
    LoadFailed,
    Refresh,
    Guarded,
    StaleServed,
    FillRefused,
    ClusterError,
    Undecodable,
}

/// The counts of a cache; they order nothing.
#[derive(Default)]
pub(crate) struct Counters([AtomicU64; 13]);

impl Counters {
    pub(crate) fn add(&self, count: Count) {
        self.0[count as usize].fetch_add(1, Ordering::Relaxed);
    }

    /// The counts, with an empty L1.
    pub(crate) fn snapshot(&self) -> CacheStats {
        let of = |count: Count| self.0[count as usize].load(Ordering::Relaxed);
        CacheStats {
            l1_hits: of(Count::L1Hit),
            l1_withheld: 0,
            cluster_hits: of(Count::ClusterHit),
            misses: of(Count::Miss),
            coalesced: of(Count::Coalesced),
            loads_started: of(Count::LoadStarted),
            loads_ok: of(Count::LoadOk),
            loads_failed: of(Count::LoadFailed),
            refreshes: of(Count::Refresh),
            guarded: of(Count::Guarded),
            stale_served: of(Count::StaleServed),
            fills_refused: of(Count::FillRefused),
            cluster_errors: of(Count::ClusterError),
            undecodable: of(Count::Undecodable),
            written_behind: 0,
            write_failures: 0,
            unwritten: 0,
            staleness: Duration::ZERO,
            l1_entries: 0,
            l1_bytes: 0,
        }
    }
}
