//! Calls between two processes, through the transport and through a bare quinn loop with the same framing, in
//! interleaved rounds: `cargo bench -p slotmesh-benches --bench transport [-- --quick]`.
//!
//! Both run on one current-thread runtime per process. CPU time is that of both processes.

use std::io::{BufRead, BufReader, Read};
use std::net::{Ipv4Addr, SocketAddr};
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::Bytes;
use slotmesh_benches::bare_quinn::{self, BareClient};
use slotmesh_slots::NodeId;
use slotmesh_transport::{
    ClusterSecret, Endpoint, Handler, Hello, Identity, Peer, PeerInfo, Reply, Request,
    TransportConfig,
};

const SERVER_FLAG: &str = "--echo-server";
const BODY_BYTES: usize = 64;
const BUDGET: Duration = Duration::from_secs(10);

fn main() {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    let runtime = runtime.expect("a runtime");
    if let Some(secret) = std::env::args().skip_while(|arg| arg != SERVER_FLAG).nth(1) {
        runtime.block_on(serve(&secret));
    } else {
        runtime.block_on(measure(std::env::args().any(|arg| arg == "--quick")));
    }
}

struct Echo;

impl Handler for Echo {
    fn request(&self, _from: &PeerInfo, request: Request, reply: Reply) {
        reply.send(request.body);
    }
}

/// Serves both kinds and prints their ports; ends when the parent does.
async fn serve(secret: &str) {
    let identity = identity(secret, 2);
    let bare = bare_quinn::serve(loopback(0), &identity);
    let mesh = bind(&identity, 2);
    let bare_port = bare.local_addr().expect("an address").port();
    println!("{} {bare_port}", mesh.local_addr().port());
    let (parent_gone, gone) = tokio::sync::oneshot::channel();
    std::thread::spawn(move || {
        let _ = std::io::stdin().read_to_end(&mut Vec::new());
        let _ = parent_gone.send(());
    });
    let _ = gone.await;
}

/// One round of one side.
#[derive(Clone, Copy)]
struct Sample {
    ops_per_s: f64,
    cpu_micros_per_op: f64,
    writes_per_op: f64,
}

async fn measure(quick: bool) {
    let secret: String = (0..4).map(|_| format!("{:016x}", random())).collect();
    let identity = identity(&secret, 1);
    let mut server = Server::start(&secret);
    let mesh_endpoint = bind(&identity, 1);
    let mesh = mesh_endpoint.peer(loopback(server.mesh_port), None);
    let bare = BareClient::connect(loopback(server.bare_port), &identity).await;
    mesh.call(0, Bytes::new(), BUDGET).await.expect("a server");
    let (rounds, window) =
        if quick { (3, Duration::from_millis(300)) } else { (9, Duration::from_secs(1)) };
    println!("{BODY_BYTES} B echo, two processes, median of {rounds} rounds of {window:?} each");
    println!(
        "in flight |  transport op/s  us/op  sendmsg/op | bare quinn op/s  us/op  sendmsg/op | op/s ratio"
    );
    for in_flight in [1, 64, 256] {
        let (mut ours, mut theirs) = (Vec::new(), Vec::new());
        for _ in 0..rounds {
            let writes = || mesh.stats().map_or(0, |stats| stats.send_calls);
            let callers = spawn_mesh(&mesh, in_flight, window);
            ours.push(sample(&server, writes, callers, window).await);
            let callers = spawn_bare(&bare, in_flight, window);
            theirs.push(sample(&server, || bare.send_calls(), callers, window).await);
        }
        let (ours, theirs) = (median(&ours), median(&theirs));
        println!(
            "{in_flight:9} | {:15.0} {:6.2} {:11.4} | {:15.0} {:6.2} {:11.4} | {:10.2}",
            ours.ops_per_s,
            ours.cpu_micros_per_op,
            ours.writes_per_op,
            theirs.ops_per_s,
            theirs.cpu_micros_per_op,
            theirs.writes_per_op,
            ours.ops_per_s / theirs.ops_per_s,
        );
    }
    server.stop();
}

type Callers = Vec<tokio::task::JoinHandle<u64>>;

fn spawn_mesh(peer: &Peer, in_flight: usize, window: Duration) -> Callers {
    let end = Instant::now() + window;
    let caller = |_| {
        let peer = peer.clone();
        tokio::spawn(async move {
            let body = Bytes::from(vec![7; BODY_BYTES]);
            let mut done = 0;
            while Instant::now() < end {
                let echoed = peer.call(0, body.clone(), BUDGET).await.expect("an answer");
                assert_eq!(echoed.len(), body.len());
                done += 1;
            }
            done
        })
    };
    (0..in_flight).map(caller).collect()
}

fn spawn_bare(client: &Arc<BareClient>, in_flight: usize, window: Duration) -> Callers {
    let end = Instant::now() + window;
    let caller = |_| {
        let client = client.clone();
        tokio::spawn(async move {
            let body = Bytes::from(vec![7; BODY_BYTES]);
            let mut done = 0;
            while Instant::now() < end {
                assert_eq!(client.call(&body).await.len(), body.len());
                done += 1;
            }
            done
        })
    };
    (0..in_flight).map(caller).collect()
}

async fn sample(
    server: &Server,
    writes: impl Fn() -> u64,
    callers: Callers,
    window: Duration,
) -> Sample {
    let (cpu, written) = (server.cpu_micros(), writes());
    let mut ops = 0;
    for caller in callers {
        ops += caller.await.expect("a caller that ends");
    }
    let ops = ops as f64;
    Sample {
        ops_per_s: ops / window.as_secs_f64(),
        cpu_micros_per_op: (server.cpu_micros() - cpu) / ops,
        writes_per_op: (writes() - written) as f64 / ops,
    }
}

fn median(samples: &[Sample]) -> Sample {
    let middle = |value: fn(&Sample) -> f64| {
        let mut values: Vec<_> = samples.iter().map(value).collect();
        values.sort_by(f64::total_cmp);
        values[values.len() / 2]
    };
    Sample {
        ops_per_s: middle(|sample| sample.ops_per_s),
        cpu_micros_per_op: middle(|sample| sample.cpu_micros_per_op),
        writes_per_op: middle(|sample| sample.writes_per_op),
    }
}

/// This program again, as the server.
struct Server {
    process: Child,
    mesh_port: u16,
    bare_port: u16,
}

impl Server {
    fn start(secret: &str) -> Self {
        let program = std::env::current_exe().expect("own path");
        let mut process = Command::new(program)
            .args([SERVER_FLAG, secret])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .expect("a second process");
        let mut line = String::new();
        let stdout = process.stdout.as_mut().expect("its output");
        BufReader::new(stdout).read_line(&mut line).expect("its ports");
        let mut ports = line.split_whitespace().map(|port| port.parse().expect("a port"));
        let mut next = || ports.next().expect("two ports");
        let (mesh_port, bare_port) = (next(), next());
        Self { process, mesh_port, bare_port }
    }

    fn stop(&mut self) {
        drop(self.process.stdin.take());
        let _ = self.process.wait();
    }

    /// CPU time of both processes so far.
    fn cpu_micros(&self) -> f64 {
        process_cpu_micros(std::process::id()) + process_cpu_micros(self.process.id())
    }
}

/// The kernel's nanosecond count per thread; the usual counters tick in hundredths of a second.
fn process_cpu_micros(pid: u32) -> f64 {
    let tasks = std::fs::read_dir(format!("/proc/{pid}/task")).expect("Linux's /proc");
    let nanos = |path: std::path::PathBuf| -> Option<f64> {
        let text = std::fs::read_to_string(path.join("schedstat")).ok()?;
        text.split_whitespace().next()?.parse().ok()
    };
    tasks.flatten().filter_map(|task| nanos(task.path())).sum::<f64>() / 1000.0
}

fn bind(identity: &Identity, node: u64) -> Endpoint {
    let hello = Hello {
        cluster: "bench".into(),
        node: NodeId::from_random(node),
        generation: None,
        lane: 0,
        info: Bytes::new(),
    };
    let config = TransportConfig::default();
    Endpoint::bind(loopback(0), identity, hello, config, Arc::new(Echo)).expect("an endpoint")
}

fn identity(secret: &str, node: u64) -> Identity {
    let secret = ClusterSecret::new(secret).expect("a secret");
    Identity::from_secret(&secret, NodeId::from_random(node)).expect("an identity")
}

fn loopback(port: u16) -> SocketAddr {
    SocketAddr::from((Ipv4Addr::LOCALHOST, port))
}

/// Randomness without a dependency: the standard library seeds its hasher with it.
fn random() -> u64 {
    use std::hash::{BuildHasher, Hasher};
    std::hash::RandomState::new().build_hasher().finish()
}
