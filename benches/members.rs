//! Nodes in processes of their own, for benchmarks of a cluster: the benchmark's program again, told what to be by arguments.

use std::io::{BufRead, BufReader, Write};
use std::net::{Ipv4Addr, SocketAddr, TcpListener};
use std::process::{Child, ChildStdin, Command, Stdio};
use std::time::Duration;

use slotmesh_node::{ClusterSecret, Node, NodeConfig};

/// The first argument of a program that is to be a member.
pub const MEMBER_FLAG: &str = "--member-of-cluster";

const SECRET: &str = "the secret of the benchmark";

/// Enough for a million small entries with their log.
const MEMORY_BYTES: usize = 1 << 30;

/// How long a member may take to give its slots away.
const LEAVE_MAX: Duration = Duration::from_secs(60);

/// What all nodes of a cluster agree on.
#[derive(Clone)]
pub struct Plan {
    /// Control endpoints of the nodes that found it.
    pub seeds: Vec<SocketAddr>,
    /// Copies beside the primary.
    pub replicas: u8,
}

/// Another node in a process of its own, killed when dropped.
pub struct Member {
    process: Child,
    orders: Option<ChildStdin>,
    id: String,
}

impl Member {
    /// Starts it and waits until its node runs, which is before it is in the cluster.
    ///
    /// # Panics
    /// When the process does not start.
    #[must_use]
    pub fn start(bind: SocketAddr, plan: &Plan) -> Self {
        let seeds: Vec<String> = plan.seeds.iter().map(ToString::to_string).collect();
        let mut process = Command::new(std::env::current_exe().expect("own path"))
            .arg(MEMBER_FLAG)
            .args([bind.to_string(), seeds.join(","), plan.replicas.to_string()])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .expect("another process");
        let output = process.stdout.take().expect("its output");
        let mut line = String::new();
        BufReader::new(output).read_line(&mut line).expect("its first line");
        let orders = process.stdin.take();
        Self { process, orders, id: line.trim().to_owned() }
    }

    /// Its node's identity, as text.
    #[must_use]
    pub fn id(&self) -> &str {
        &self.id
    }

    /// Has it give its slots away and end.
    pub fn leave(&mut self) {
        self.orders = None;
    }

    /// Ends its process as a crash does.
    ///
    /// # Panics
    /// When it is not ours to end.
    pub fn kill(&mut self) {
        self.process.kill().expect("a process of ours");
    }

    /// Whether its process has ended.
    pub fn has_ended(&mut self) -> bool {
        matches!(self.process.try_wait(), Ok(Some(_)))
    }
}

impl Drop for Member {
    fn drop(&mut self) {
        // It may have left already.
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

/// Is a member until standard input ends, then leaves. `args` are those behind [`MEMBER_FLAG`].
///
/// # Panics
/// When the arguments are not those of [`Member::start`].
pub fn be_member(args: &[String]) {
    let bind: SocketAddr = args[0].parse().expect("an address");
    let seeds = args[1].split(',').map(|seed| seed.parse().expect("an address")).collect();
    let plan = Plan { seeds, replicas: args[2].parse().expect("a number") };
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    runtime.expect("a runtime").block_on(async {
        let node = start(bind, &plan).await;
        println!("{}", node.id());
        std::io::stdout().flush().expect("an open pipe");
        let (ended, end) = tokio::sync::oneshot::channel();
        std::thread::spawn(move || {
            // Nothing is ever written there: the end of it is the order to leave.
            let _ = std::io::stdin().lock().read_line(&mut String::new());
            let _ = ended.send(());
        });
        let _ = end.await;
        node.leave(LEAVE_MAX).await;
    });
}

/// A node in this process.
///
/// # Panics
/// When it does not start.
pub async fn start(bind: SocketAddr, plan: &Plan) -> Node {
    let secret = ClusterSecret::new(SECRET).expect("a secret");
    let (seeds, expect) = (plan.seeds.clone(), plan.seeds.len() as u16);
    let replicas = plan.replicas;
    let max_memory_bytes = MEMORY_BYTES;
    let config =
        NodeConfig { bind, seeds, expect, replicas, max_memory_bytes, ..NodeConfig::new(secret) };
    Node::start(config).await.expect("a free address")
}

/// As many addresses that are free now.
///
/// # Panics
/// When there are none.
#[must_use]
pub fn free_addrs(count: usize) -> Vec<SocketAddr> {
    let any = (Ipv4Addr::LOCALHOST, 0);
    let listeners: Vec<_> =
        (0..count).map(|_| TcpListener::bind(any).expect("a free port")).collect();
    listeners.iter().map(|listener| listener.local_addr().expect("its address")).collect()
}
