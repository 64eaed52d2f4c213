use std::time::Duration;

/// Bounds and periods of replication on one node.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Config {
    /// Bytes of records queued or unacknowledged on one link before writers lose their credit and further records are
    /// re-read from the ring. More rides out longer stalls, less bounds what a slow replica costs. 1 to 64 MiB.
    pub window_bytes: usize,
    /// Snapshot bytes unacknowledged on one link. More fills faster on long round trips, less leaves more of the link to
    /// records. A batch is a quarter of it. 64 KiB to 4 MiB.
    pub snapshot_window_bytes: usize,
    /// Largest snapshot of one slot that a replica collects before it refuses. At least the largest slot.
    pub snapshot_bytes_max: usize,
    /// Bytes that a slot may write while a replica is being filled before its writers are throttled; well below the
    /// ring's size, or the copy falls off the ring and starts again.
    pub copy_lag_bytes: usize,
    /// Period of the heartbeats on a link that carries something. A quarter of `silence` or less.
    pub heartbeat: Duration,
    /// How long an in-sync replica may owe an answer before its removal is asked for.
    pub silence: Duration,
    /// The same for a link that rests: nothing was sent since the heartbeat before, and nothing is unacknowledged. There are as many
    /// links as pairs of nodes, and most of them rest most of the time.
    pub resting_heartbeat: Duration,
    /// How long a replica to which nothing was sent may stay silent. A quarter of it, or less, is `resting_heartbeat`.
    pub resting_silence: Duration,
    /// What a replica gets instead of `silence` before its first link: time to connect after an assignment or failover.
    pub connect_grace: Duration,
    /// Shortest time between two requests for the same removal, and between two attempts to attach a slot that failed.
    pub retry: Duration,
}

impl Default for Config {
    fn default() -> Self {
        Self {
            window_bytes: 8 << 20,
            snapshot_window_bytes: 256 << 10,
            // A slot is 1/16384 of the data; only one hash tag that holds most of a node's memory comes near.
            snapshot_bytes_max: 1 << 30,
            copy_lag_bytes: 8 << 20,
            heartbeat: Duration::from_millis(50),
            silence: Duration::from_millis(300),
            resting_heartbeat: Duration::from_millis(250),
            resting_silence: Duration::from_secs(1),
            connect_grace: Duration::from_secs(1),
            retry: Duration::from_millis(200),
        }
    }
}
