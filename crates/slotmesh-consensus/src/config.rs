use std::time::Duration;

use openraft::{Config, SnapshotPolicy};

use crate::ConsensusError;
use crate::message::SNAPSHOT_CHUNK_BYTES;

/// Settings of the control log; the same on all nodes. The defaults are for voters in one data centre, with the engine
/// on a thread that nothing else can hold up: a new leader 0.4 to 0.65 s after the loss of one.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ConsensusConfig {
    /// How often a leader speaks to each voter, and the deadline of each such message. Shorter notices a lost quorum
    /// sooner and costs messages. 20 to 200 ms.
    pub heartbeat: Duration,
    /// The shortest time without a leader after which a voter stands for election. More than twice the heartbeat.
    pub election_min: Duration,
    /// The longest such time, and how long a voter that heard its leader refuses to vote for another. A failover takes
    /// between this and twice this. Above the shortest by a few round trips at least, so that voters do not stand together.
    pub election_max: Duration,
    /// Entries after which the log is replaced by a snapshot. Less uses less memory, and sends snapshots more often.
    pub snapshot_after: u64,
    /// Entries kept behind a snapshot for voters that lag a little.
    pub snapshot_keep: u64,
    /// Bytes of commands in the log above which it is replaced by a snapshot at once and nothing is kept behind it.
    pub log_bytes_max: usize,
    /// Proposals that may wait at a time; more are refused.
    pub proposals_max: usize,
    /// How long a newcomer may take to receive what it needs before it votes.
    pub catch_up: Duration,
    /// Deadline of one piece of a snapshot. The engine's own default of 200 ms starves a busy receiver for ever.
    pub snapshot_timeout: Duration,
}

impl Default for ConsensusConfig {
    fn default() -> Self {
        Self {
            heartbeat: Duration::from_millis(50),
            election_min: Duration::from_millis(150),
            election_max: Duration::from_millis(300),
            snapshot_after: 1000,
            snapshot_keep: 500,
            log_bytes_max: 16 * 1024 * 1024,
            proposals_max: 1024,
            catch_up: Duration::from_secs(5),
            snapshot_timeout: Duration::from_secs(2),
        }
    }
}

/// Entries of one message at most: with commands of a few KiB it crosses the wire within a heartbeat, its deadline.
const PAYLOAD_ENTRIES_MAX: u64 = 64;

impl ConsensusConfig {
    pub(crate) fn validate(&self) -> Result<(), ConsensusError> {
        let checks = [
            (self.heartbeat < Duration::from_millis(1), "heartbeat is below 1 ms"),
            (self.election_min <= self.heartbeat * 2, "election_min is not above twice heartbeat"),
            (
                self.election_max < self.election_min + Duration::from_millis(1),
                "election_max is not above election_min",
            ),
            (self.snapshot_after == 0, "snapshot_after is zero"),
            (self.log_bytes_max == 0, "log_bytes_max is zero"),
            (self.proposals_max == 0, "proposals_max is zero"),
            (self.catch_up.is_zero(), "catch_up is zero"),
            (self.snapshot_timeout < Duration::from_millis(1), "snapshot_timeout is below 1 ms"),
        ];
        let problems: Vec<&str> =
            checks.iter().filter(|check| check.0).map(|check| check.1).collect();
        if problems.is_empty() { Ok(()) } else { Err(ConsensusError::Config(problems.join("; "))) }
    }

    pub(crate) fn engine(&self) -> Result<Config, ConsensusError> {
        self.validate()?;
        let config = Config {
            cluster_name: String::from("slotmesh"),
            heartbeat_interval: millis(self.heartbeat),
            election_timeout_min: millis(self.election_min),
            election_timeout_max: millis(self.election_max),
            install_snapshot_timeout: millis(self.snapshot_timeout),
            max_payload_entries: PAYLOAD_ENTRIES_MAX,
            snapshot_policy: SnapshotPolicy::LogsSinceLast(self.snapshot_after),
            // Never by itself: what its policy asks for may lie before what the follower asked for, and it panics.
            max_in_snapshot_log_to_keep: u64::MAX,
            // A voter behind by more gets the snapshot. Above snapshot_after, or the snapshot itself would be too old.
            replication_lag_threshold: self.snapshot_after.saturating_mul(2),
            snapshot_max_chunk_size: SNAPSHOT_CHUNK_BYTES as u64,
            ..Config::default()
        };
        config.validate().map_err(|problem| ConsensusError::Config(problem.to_string()))
    }
}

fn millis(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_defaults_are_valid() {
        assert!(ConsensusConfig::default().engine().is_ok());
    }

    #[test]
    fn all_problems_are_listed_at_once() {
        let config = ConsensusConfig {
            election_min: Duration::from_millis(100),
            election_max: Duration::from_millis(100),
            proposals_max: 0,
            ..ConsensusConfig::default()
        };
        let Err(ConsensusError::Config(problems)) = config.engine() else { panic!("accepted") };
        assert_eq!(problems.split("; ").count(), 3, "{problems}");
    }
}
