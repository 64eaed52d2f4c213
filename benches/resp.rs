//! GET and SET over a Redis connection to a local node, 16 commands in flight, in operations per second.
//!
//! `cargo bench -p slotmesh-benches --bench resp [-- --quick]`
//!
//! Client and listener share the process and the host's cores; keys 16 bytes, values 64 bytes. The client here only counts
//! the replies' bytes, so it costs little. If `redis-benchmark` is there, it measures the same from outside.

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::process::Command;
use std::thread;
use std::time::{Duration, Instant};

use slotmesh_node::Node;
use slotmesh_resp::{Resp, RespConfig};

/// Commands sent in one write.
const IN_FLIGHT: usize = 16;
const KEYS: usize = 100_000;
const VALUE: [u8; 64] = [b'x'; 64];

/// What a command is, and the length of each of its replies.
#[derive(Clone, Copy)]
struct Kind {
    name: &'static str,
    reply_bytes: usize,
}

const SET: Kind = Kind { name: "SET", reply_bytes: "+OK\r\n".len() };
const GET: Kind = Kind { name: "GET", reply_bytes: "$64\r\n".len() + VALUE.len() + 2 };

/// How long the run takes.
struct Effort {
    rounds: usize,
    window: Duration,
}

fn batch(kind: Kind, first: usize) -> Vec<u8> {
    let mut bytes = Vec::new();
    for number in first..first + IN_FLIGHT {
        let key = format!("key:{:012}", number % KEYS);
        match kind.name {
            "SET" => {
                bytes.extend(format!("*3\r\n$3\r\nSET\r\n$16\r\n{key}\r\n$64\r\n").into_bytes());
                bytes.extend(VALUE);
                bytes.extend(b"\r\n");
            }
            _ => bytes.extend(format!("*2\r\n$3\r\nGET\r\n$16\r\n{key}\r\n").into_bytes()),
        }
    }
    bytes
}

/// Operations per second of one connection.
fn one_connection(addr: SocketAddr, kind: Kind, window: Duration, all: bool) -> f64 {
    let mut stream = TcpStream::connect(addr).expect("the listener listens");
    stream.set_nodelay(true).expect("a TCP socket");
    let batches: Vec<_> = (0..KEYS).step_by(IN_FLIGHT).map(|first| batch(kind, first)).collect();
    let mut replies = vec![0; kind.reply_bytes * IN_FLIGHT];
    let started = Instant::now();
    let mut done = 0;
    for batch in batches.iter().cycle() {
        stream.write_all(batch).expect("written");
        stream.read_exact(&mut replies).expect("as many replies");
        assert_eq!(replies[0], if kind.name == "SET" { b'+' } else { b'$' });
        done += IN_FLIGHT;
        if if all { done >= KEYS } else { started.elapsed() >= window } {
            break;
        }
    }
    done as f64 / started.elapsed().as_secs_f64()
}

fn measure(addr: SocketAddr, kind: Kind, connections: usize, effort: &Effort) {
    let mut rates: Vec<f64> = (0..effort.rounds)
        .map(|_| {
            let one = || one_connection(addr, kind, effort.window, false);
            thread::scope(|scope| {
                let clients: Vec<_> = (0..connections).map(|_| scope.spawn(one)).collect();
                clients.into_iter().map(|client| client.join().expect("no panic")).sum()
            })
        })
        .collect();
    rates.sort_by(f64::total_cmp);
    let median = rates[rates.len() / 2] / 1e3;
    println!(
        "{} {IN_FLIGHT} in flight, {connections:2} connections: {median:7.0} k op/s",
        kind.name
    );
}

/// The same from outside the process.
fn redis_benchmark(addr: SocketAddr, effort: &Effort) {
    let requests = if effort.rounds > 1 { "1000000" } else { "200000" };
    let port = addr.port().to_string();
    let args = ["-p", &port, "-t", "set,get", "-d", "64", "-c", "50", "-r", "100000", "-q"];
    for pipeline in ["1", "16"] {
        let mut command = Command::new("redis-benchmark");
        command.args(args).args(["-n", requests, "-P", pipeline]);
        match command.output() {
            Ok(output) => {
                let text = String::from_utf8_lossy(&output.stdout).replace('\r', "\n");
                let results = text.lines().filter(|line| line.contains("requests per second"));
                results.for_each(|line| println!("redis-benchmark -c 50 -P {pipeline}: {line}"));
            }
            Err(error) => return println!("redis-benchmark is not there: {error}"),
        }
    }
}

fn main() {
    let quick = std::env::args().any(|arg| arg == "--quick");
    let effort = if quick {
        Effort { rounds: 1, window: Duration::from_millis(300) }
    } else {
        Effort { rounds: 5, window: Duration::from_secs(2) }
    };
    let runtime =
        tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build();
    let runtime = runtime.expect("threads");
    let config =
        RespConfig { bind: SocketAddr::from(([127, 0, 0, 1], 0)), ..RespConfig::default() };
    let serving = runtime.block_on(Resp::serve(Node::local(256 << 20), config));
    let resp = serving.expect("a free port");
    one_connection(resp.addr(), SET, effort.window, true);
    for kind in [GET, SET] {
        for connections in [1, 8] {
            measure(resp.addr(), kind, connections, &effort);
        }
    }
    redis_benchmark(resp.addr(), &effort);
}
