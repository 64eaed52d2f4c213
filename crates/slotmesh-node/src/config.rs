use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::time::Duration;

use slotmesh_control::{RECOPY_AFTER, Reform};
use slotmesh_transport::ClusterSecret;

use crate::error::ConfigError;

/// How a node takes part in its cluster. `NodeConfig::new(secret)` is a single node on a loopback port of the system's
/// choice; set what differs.
#[derive(Clone, Debug)]
pub struct NodeConfig {
    /// Name of the cluster; nodes of other names are refused. At most 64 bytes.
    pub cluster: String,
    /// The operator's name for this node; need not be unique. At most 64 bytes.
    pub name: String,
    /// What all nodes of the cluster share: whoever has it can join.
    pub secret: ClusterSecret,
    /// Where the control endpoint listens (UDP), guarded by a TCP listener on the same port. Data lanes listen on ports of
    /// the system's choice at the same address. Other nodes must reach it, so it is no wildcard.
    pub bind: SocketAddr,
    /// Control endpoints of other nodes; one that is alive is enough. This node's own may be among them.
    pub seeds: Vec<SocketAddr>,
    /// Found a cluster only when this many candidates see each other, and every seed has answered or had 3 s for it: so with 1,
    /// which founds alone, one that starts beside a cluster joins it. More than half of the nodes meant to start, or two
    /// halves may found two clusters.
    pub expect: u16,
    /// Copies beside the primary that a newly founded cluster wants, 0 to 3. One survives any single crash.
    pub replicas: u8,
    /// Memory for everything this node stores, replicas included: entries with what they need beside, the slots' fixed 2 MiB,
    /// and a log of recent records, an eighth of it or 32 MiB. Connections and the process itself come on top.
    pub max_memory_bytes: usize,
    /// Failure zone of this node; replicas are placed in other zones where there are any.
    pub zone: String,
    /// Whether this node only votes: it never holds slots, but routes reads and writes as any other, and counts for `expect`
    /// and for the majority. Two nodes and a witness survive the loss of any one of the three.
    pub witness: bool,
    /// Its share of the slots is to the others' as their weights are: 2 beside two nodes of 1 holds half of what all hold. `None`
    /// weighs by [`max_memory_bytes`](Self::max_memory_bytes), in MiB: set it on all nodes of a cluster or on none. At least 1.
    pub weight: Option<u32>,
    /// Where this node's Redis listener can be reached, to be told to others.
    pub resp: Option<SocketAddr>,
    /// Threads for data traffic; 1 is right up to two cores.
    pub io_threads: usize,
    /// Behaviour that few need to change.
    pub ready: ReadySettings,
}

/// Rarely changed behaviour of a node.
#[derive(Clone, Debug)]
pub struct ReadySettings {
    /// How long an operation may take when the call does not say.
    pub call_timeout: Duration,
    /// How long a starting node waits for all copies to be in sync before it reports itself ready nevertheless.
    pub ready_cap: Duration,
    /// Whether a refused connection to a node's guard port proves its death. Nodes watch each other's port, so a failover then takes
    /// about a tenth of a second after a crash, not a whole one. Only where nothing but the node itself can refuse: no proxy, no
    /// rejecting firewall. The setting of the node that leads the control plane counts, so give all the same.
    pub refused_is_death: bool,
    /// How long copies that were lost with a node are waited for before they are made again on others, where nothing proves that it
    /// is dead: so nothing is carried about for one that is away for seconds, or that another process replaces. Longer leaves
    /// slots with fewer copies for longer; one that is down to its last copy waits for five seconds at most. Failover never
    /// waits. The setting of the node that leads the control plane counts, so give all the same. Sane: zero to some minutes.
    pub recopy_after: Duration,
    /// Copies of slots are slowed down, to a quarter of what links can carry at least, while 1 of 100 calls would wait longer
    /// than this for its turn beside them. Less makes calls more even while nodes join and leave, and that longer. Sane: 1 to
    /// 50 ms; `Duration::MAX` never slows down.
    pub copy_latency_max: Duration,
    /// What becomes of the cluster when the majority of its voters is lost. `Reform::After(d)`, or `d.into()`, gets it going again without
    /// anybody's help, but loses what only the others have, and where the others live on, cut off, both sides serve until
    /// they meet. Sane: never, or half a minute and more.
    pub reform: Reform,
}

impl Default for ReadySettings {
    fn default() -> Self {
        Self {
            call_timeout: Duration::from_secs(2),
            ready_cap: Duration::from_secs(600),
            refused_is_death: false,
            recopy_after: RECOPY_AFTER,
            copy_latency_max: Duration::from_millis(5),
            reform: Reform::Never,
        }
    }
}

impl NodeConfig {
    /// A node that founds a cluster alone, with 256 MiB and one wanted replica.
    #[must_use]
    pub fn new(secret: ClusterSecret) -> Self {
        Self {
            cluster: "slotmesh".to_owned(),
            name: "node".to_owned(),
            secret,
            bind: SocketAddr::new(IpAddr::V4(Ipv4Addr::LOCALHOST), 0),
            seeds: Vec::new(),
            expect: 1,
            replicas: 1,
            max_memory_bytes: 256 << 20,
            zone: String::new(),
            witness: false,
            weight: None,
            resp: None,
            io_threads: 1,
            ready: ReadySettings::default(),
        }
    }

    /// What this node weighs beside others.
    pub(crate) fn weight(&self) -> u32 {
        let mebibytes = || u32::try_from(self.max_memory_bytes >> 20).unwrap_or(u32::MAX);
        self.weight.unwrap_or_else(mebibytes)
    }

    /// Looks for settings that cannot work, all at once.
    ///
    /// # Errors
    /// Names every problem.
    pub fn check(&self) -> Result<(), ConfigError> {
        let mut problems = Vec::new();
        let mut check = |fine: bool, problem: String| {
            if !fine {
                problems.push(problem);
            }
        };
        let names = [("cluster", &self.cluster), ("name", &self.name), ("zone", &self.zone)];
        for (field, value) in names {
            let fine = value.len() <= NAME_BYTES_MAX && !value.chars().any(char::is_control);
            check(
                fine,
                format!(
                    "{field} must be at most {NAME_BYTES_MAX} bytes without control characters"
                ),
            );
        }
        check(!self.cluster.is_empty(), "cluster must have a name".to_owned());
        check(
            is_one_host(self.bind.ip()),
            format!("bind {} must be the address of one host, not a wildcard or many", self.bind),
        );
        for seed in self.seeds.iter().filter(|it| it.port() == 0 || !is_one_host(it.ip())) {
            check(false, format!("seed {seed} must be the address and port of one node"));
        }
        check(self.expect >= 1, "expect must be at least 1".to_owned());
        check(
            usize::from(self.expect) <= EXPECT_MAX,
            format!("expect must be at most {EXPECT_MAX}"),
        );
        let alone = self.expect > 1 && self.seeds.iter().all(|seed| *seed == self.bind);
        check(!alone, format!("expect {} needs at least one seed beside this node", self.expect));
        check(self.seeds.len() <= SEEDS_MAX, format!("at most {SEEDS_MAX} seeds"));
        check(self.replicas <= 3, "replicas must be 0 to 3".to_owned());
        check(
            self.weight != Some(0),
            "the weight must be at least 1; a node that holds nothing is a witness".to_owned(),
        );
        check(
            self.max_memory_bytes >= MEMORY_MIN,
            format!("max memory must be at least {} MiB", MEMORY_MIN >> 20),
        );
        let hasty = matches!(self.ready.reform, Reform::After(after) if after < REFORM_AFTER_MIN);
        check(!hasty, format!("reform must come after {} s or later", REFORM_AFTER_MIN.as_secs()));
        check(
            (1..=IO_THREADS_MAX).contains(&self.io_threads),
            format!("io_threads must be 1 to {IO_THREADS_MAX}"),
        );
        if problems.is_empty() { Ok(()) } else { Err(ConfigError { problems }) }
    }
}

/// Names travel in every gossip announcement, which has 512 bytes for all metadata.
const NAME_BYTES_MAX: usize = 64;

/// More founding nodes than this gain nothing: only five ever vote.
const EXPECT_MAX: usize = 99;

/// A reform that comes before a failover or an election had its time would split healthy clusters.
const REFORM_AFTER_MIN: Duration = Duration::from_secs(5);

/// Seeds are only to find the first live node.
const SEEDS_MAX: usize = 256;

/// Below this the fixed costs (tables, ring, connections) would be most of the memory.
const MEMORY_MIN: usize = 1 << 20;

/// Addresses of the lanes travel in the gossip announcement.
const IO_THREADS_MAX: usize = 8;

/// Neither a wildcard nor an address of many.
fn is_one_host(ip: IpAddr) -> bool {
    let broadcast = matches!(ip, IpAddr::V4(ip) if ip.is_broadcast());
    !ip.is_unspecified() && !ip.is_multicast() && !broadcast
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn all_problems_are_told_at_once() {
        let mut config = NodeConfig::new(ClusterSecret::new("0123456789abcdef").unwrap());
        config.check().unwrap();
        config.bind = "0.0.0.0:7600".parse().unwrap();
        config.expect = 3;
        config.replicas = 9;
        config.max_memory_bytes = 17;
        config.io_threads = 0;
        config.weight = Some(0);
        let error = config.check().unwrap_err();
        assert_eq!(error.problems.len(), 6, "{error}");
        config.seeds = ["127.0.0.1:0", "255.255.255.255:7600"].map(|it| it.parse().unwrap()).into();
        let error = config.check().unwrap_err();
        assert_eq!(error.problems.len(), 7, "{error}");
    }
}
