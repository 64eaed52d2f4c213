//! What a cache over a Redis server costs beside the bare client. Both sides in one run, one after the other and again, medians.
//!
//! `cargo bench -p slotmesh-benches --bench redis [-- --quick]`
//!
//! A server on loopback, values of some 100 bytes, keys at random from 10,000, one connection each. The bare side does what can be done with as little:
//! a `GET` or `SET` of the same size. Ours carries out a script, which knows versions and leases.

use std::convert::Infallible;
use std::io::{BufRead, BufReader};
use std::net::TcpListener;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use redis::AsyncCommands;
use redis::aio::MultiplexedConnection;
use slotmesh_cache::{Cache, Caches};
use slotmesh_redis::Redis;
use tokio::runtime;

const KEYS: u64 = 10_000;
const ROUNDS: usize = 5;

struct Server(Child, u16);

impl Server {
    fn start() -> Self {
        let free = TcpListener::bind("127.0.0.1:0").expect("a port");
        let port = free.local_addr().expect("an address").port();
        drop(free);
        let mut command = Command::new("redis-server");
        command.args(["--bind", "127.0.0.1", "--port", &port.to_string()]);
        command.args(["--save", "", "--appendonly", "no"]).stdout(Stdio::piped());
        let mut process = command.spawn().expect("redis-server in the PATH");
        let told = BufReader::new(process.stdout.take().expect("a pipe")).lines();
        let ready = |line: Result<String, _>| line.is_ok_and(|it| it.contains("eady to accept"));
        assert!({ told }.any(ready), "redis-server ended at once");
        Self(process, port)
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        let _ended = self.0.kill();
        let _reaped = self.0.wait();
    }
}

#[derive(Clone, Copy)]
enum Work {
    BareGet,
    BareSet,
    Get,
    Load,
    Put,
    Near,
}

#[derive(Clone)]
struct Sides {
    bare: MultiplexedConnection,
    far: Cache<u64, String>,
    near: Cache<u64, String>,
}

impl Sides {
    async fn one(&mut self, work: Work, key: u64, value: &str) {
        let there = match work {
            Work::BareGet => {
                let found: Option<Vec<u8>> = self.bare.get(key).await.expect("an answer");
                found.is_some()
            }
            Work::BareSet => self.bare.set::<_, _, ()>(key, value).await.is_ok(),
            Work::Get => self.far.get(&key).await.expect("an answer").is_some(),
            Work::Near => self.near.get(&key).await.expect("an answer").is_some(),
            Work::Load => {
                let nothing = |_| async { Ok::<_, Infallible>(None) };
                self.far.get_or_load(&key, nothing).await.expect("an answer").is_some()
            }
            Work::Put => self.far.put(&key, value.to_owned()).await.is_ok(),
        };
        assert!(there);
    }

    /// Calls a second by so many callers at once.
    async fn rate(&self, work: Work, callers: u64, window: Duration) -> f64 {
        let run = |caller: u64| {
            let mut sides = self.clone();
            tokio::spawn(async move {
                let value = "v".repeat(100);
                let (mut state, mut done) = (0x9e37_79b9_7f4a_7c15 ^ caller << 7, 0_u64);
                let start = Instant::now();
                while start.elapsed() < window {
                    for _ in 0..8 {
                        state ^= state << 13;
                        state ^= state >> 7;
                        state ^= state << 17;
                        sides.one(work, (state >> 24) % KEYS, &value).await;
                    }
                    done += 8;
                }
                done as f64 / start.elapsed().as_secs_f64()
            })
        };
        let mut sum = 0.0;
        for caller in (0..callers).map(run).collect::<Vec<_>>() {
            sum += caller.await.expect("no panic");
        }
        sum
    }
}

fn median(mut rates: Vec<f64>) -> f64 {
    rates.sort_by(f64::total_cmp);
    rates[rates.len() / 2]
}

async fn run(quick: bool) {
    let server = Server::start();
    let address = format!("redis://127.0.0.1:{}", server.1);
    let client = redis::Client::open(&*address).expect("an address");
    let bare = client.get_multiplexed_async_connection().await.expect("a connection");
    let tier = Redis::open(&address).expect("an address");
    let far = tier.cache("far").no_l1().build().expect("fine settings");
    let near = tier.cache("near").build().expect("fine settings");
    let mut sides = Sides { bare, far, near };
    let value = "v".repeat(100);
    for key in 0..KEYS {
        sides.one(Work::BareSet, key, &value).await;
        sides.one(Work::Put, key, &value).await;
        sides.near.put(&key, value.clone()).await.expect("an answer");
    }
    let window = Duration::from_millis(if quick { 50 } else { 400 });
    let rows = [
        ("get", Work::Get, Work::BareGet),
        ("get_or_load, there", Work::Load, Work::BareGet),
        ("put", Work::Put, Work::BareSet),
        ("get, in L1", Work::Near, Work::BareGet),
    ];
    println!("{:20} {:>8} {:>12} {:>12} {:>8}", "", "callers", "ours", "bare", "ratio");
    for (name, ours, bare) in rows {
        for callers in [1, 50] {
            let (mut our, mut their) = (Vec::new(), Vec::new());
            for _ in 0..ROUNDS {
                our.push(sides.rate(ours, callers, window).await);
                their.push(sides.rate(bare, callers, window).await);
            }
            let (our, their) = (median(our), median(their));
            println!("{name:20} {callers:8} {our:10.0}/s {their:10.0}/s {:8.2}", our / their);
        }
    }
}

fn main() {
    let quick = std::env::args().any(|arg| arg == "--quick");
    let runtime = runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build();
    runtime.expect("a runtime").block_on(run(quick));
}
