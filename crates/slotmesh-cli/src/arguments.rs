use std::net::SocketAddr;
use std::path::PathBuf;

use clap::{Args, Parser, Subcommand};

/// slotmesh: an in-process cache cluster, here as a process of its own.
#[derive(Debug, Parser)]
#[command(name = "slotmesh", version, propagate_version = true)]
pub(crate) struct Arguments {
    #[command(subcommand)]
    pub(crate) command: Command,
}

#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    /// Run a node until SIGTERM or SIGINT, which make it hand its slots over first (at most 25 s, and 4 s to end).
    Serve(Box<ServeArguments>),
    /// Print what a running node knows of itself and its cluster, as JSON.
    Status(AdminArguments),
    /// Have the cluster keep another number of copies beside the primary; returns when that is decided.
    Replicas(ReplicasArguments),
    /// Pause, resume or abort moves for balance; returns when that is decided. Lost copies and drains go on.
    Rebalance(RebalanceArguments),
    /// Have a member give its slots away and then leave; returns when that is decided. `slotmesh status` tells how far it is.
    Drain(DrainArguments),
    /// Have the nodes that this one sees go on without the others, when a majority of the voters is lost for good. What only the
    /// lost ones had is gone. Refused while a majority answers.
    Reform(AdminArguments),
}

/// Texts are kept as given: the settings are checked together, so that all problems are told at once.
#[derive(Debug, Args)]
#[command(after_help = "Secrets never stand on the command line:\n  \
    SLOTMESH_SECRET          the cluster secret, or --secret-file\n  \
    SLOTMESH_RESP_PASSWORD   password of the Redis listener; needed where it is not on loopback\n  \
    SLOTMESH_ADMIN_TOKEN     token of the admin listener; needed where it is not on loopback\n\
    Logs go to stderr, filtered by SLOTMESH_LOG or RUST_LOG (default: info).")]
pub(crate) struct ServeArguments {
    /// Name of this node; need not be unique.
    #[arg(long, default_value = "node")]
    pub(crate) name: String,
    /// Address of the control endpoint (UDP, and the same port on TCP); other nodes must reach it.
    #[arg(long, value_name = "ADDR", default_value = "127.0.0.1:7600")]
    pub(crate) bind: String,
    /// Control endpoint of another node; may be repeated, or list several with commas.
    #[arg(long, value_name = "ADDR", value_delimiter = ',')]
    pub(crate) seed: Vec<String>,
    /// Found a cluster only when this many nodes see each other.
    #[arg(long, value_name = "NODES", default_value = "1")]
    pub(crate) expect: String,
    /// Copies beside the primary, 0 to 3, for a newly founded cluster.
    #[arg(long, value_name = "COPIES", default_value = "1")]
    pub(crate) replicas: String,
    /// Memory for everything this node stores, such as 512MiB or 4GB.
    #[arg(long, value_name = "SIZE", default_value = "256MiB")]
    pub(crate) max_memory: String,
    /// Name of the cluster; nodes of other clusters are refused.
    #[arg(long, default_value = "slotmesh")]
    pub(crate) cluster: String,
    /// Failure zone of this node; replicas are placed in other zones.
    #[arg(long, default_value = "")]
    pub(crate) zone: String,
    /// Vote, but hold no slots: with a witness two nodes survive the loss of either.
    #[arg(long)]
    pub(crate) witness: bool,
    /// Its share of the slots beside the weights of others, such as 2 for twice as many. Without it --max-memory weighs. Set it
    /// on all nodes or on none.
    #[arg(long)]
    pub(crate) weight: Option<String>,
    /// Copies that were lost with a node which may come back are made again on others after this long (such as 30s or 2m);
    /// slots with a single copy left wait for 5s at most. Give it to all nodes.
    #[arg(long, value_name = "TIME", default_value = "30s")]
    pub(crate) recopy_after: String,
    /// Take a node for dead at once when its host refuses connections: failover takes about a tenth of a second, not a whole one. Only
    /// where nothing but the node itself can refuse: no proxy, no rejecting firewall. Give it to all nodes.
    #[arg(long)]
    pub(crate) refused_is_death: bool,
    /// Slow copies of slots down, to a quarter at least, while 1 of 100 calls would wait longer than this beside them (such as 5ms;
    /// without a unit: seconds).
    #[arg(long, value_name = "TIME", default_value = "5ms")]
    pub(crate) copy_latency_max: String,
    /// When a majority of the voters is lost for so long (such as 30s), go on without it. Loses what only the others have.
    #[arg(long, value_name = "TIME")]
    pub(crate) reform_after: Option<String>,
    /// File with the cluster secret, at least 16 bytes; a line end at its end does not count.
    #[arg(long, value_name = "FILE")]
    pub(crate) secret_file: Option<PathBuf>,
    /// Listen for Redis clients here.
    #[arg(long, value_name = "ADDR")]
    pub(crate) resp: Option<String>,
    /// Answer Redis clients with MOVED for keys of other nodes instead of forwarding; for clients in cluster mode.
    #[arg(long)]
    pub(crate) resp_redirect: bool,
    /// Listen for probes, scrapers and `slotmesh status` here.
    #[arg(long, value_name = "ADDR")]
    pub(crate) admin: Option<String>,
    /// Threads for data traffic, 1 to 8.
    #[arg(long, value_name = "THREADS", default_value = "1")]
    pub(crate) io_threads: String,
}

#[derive(Debug, Args)]
pub(crate) struct ReplicasArguments {
    #[command(flatten)]
    pub(crate) node: AdminArguments,
    /// Copies beside the primary, 0 to 3.
    #[arg(value_name = "COPIES")]
    pub(crate) replicas: u8,
}

#[derive(Debug, Args)]
pub(crate) struct RebalanceArguments {
    #[command(flatten)]
    pub(crate) node: AdminArguments,
    /// What becomes of moves for balance.
    #[arg(value_name = "ACTION")]
    pub(crate) action: BalanceAction,
}

#[derive(Debug, Clone, Copy, clap::ValueEnum)]
pub(crate) enum BalanceAction {
    /// Begin nothing new.
    Pause,
    /// Go on.
    Resume,
    /// Begin nothing new, and end what is under way.
    Abort,
}

#[derive(Debug, Args)]
pub(crate) struct DrainArguments {
    #[command(flatten)]
    pub(crate) node: AdminArguments,
    /// The member, by its identity or name; the asked node itself where none is given.
    #[arg(value_name = "NODE")]
    pub(crate) member: Option<String>,
}

#[derive(Debug, Args)]
pub(crate) struct AdminArguments {
    /// The node's admin listener. Its token, if it has one, is taken from SLOTMESH_ADMIN_TOKEN.
    #[arg(long, value_name = "ADDR", default_value = "127.0.0.1:8401")]
    pub(crate) admin: SocketAddr,
}
