/// Longest key that any store takes, in bytes: the entry header keeps its length in 16 bits.
pub const KEY_BYTES_LIMIT: usize = u16::MAX as usize;

/// Sizes of a [`Store`](crate::Store).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct StoreConfig {
    /// Memory that all entries together may take, in bytes: keys, values and what they need beside
    /// ([`Store::used_bytes`](crate::Store::used_bytes)). More keeps more and evicts later. The store reports that it is over
    /// budget; evicting is up to its caller. Sane: 16 MiB to three quarters of the host's memory.
    pub budget_bytes: usize,
    /// Longest value taken, in bytes. Larger values hold the slot's lock longer while they are copied and hashed.
    /// Sane: 64 KiB to 64 MiB.
    pub value_bytes_max: usize,
    /// Longest key taken, in bytes; at most [`KEY_BYTES_LIMIT`], larger settings count as that.
    pub key_bytes_max: usize,
    /// Memory that the caller's log of records has beside this budget: of large values that were removed and are still held, so much is
    /// taken to be held by it.
    pub log_bytes: usize,
    /// What the hash of the keys begins with. `None` draws it at random, so that nobody can choose keys that collide; a
    /// simulation gives it, for what is evicted first depends on it.
    pub hash_seed: Option<u64>,
}

impl Default for StoreConfig {
    /// 256 MiB in all, values up to 8 MiB, keys up to 4 KiB, no log.
    fn default() -> Self {
        Self {
            budget_bytes: 256 << 20,
            value_bytes_max: 8 << 20,
            key_bytes_max: 4 << 10,
            log_bytes: 0,
            hash_seed: None,
        }
    }
}
