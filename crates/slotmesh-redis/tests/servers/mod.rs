//! Servers of a test's own, that keep nothing on disk.

#![allow(dead_code, reason = "each test uses a part")]
#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::io::{BufRead, BufReader};
use std::net::TcpListener;
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use redis::{Connection, Value};

/// How long anything may take that has to happen.
pub const PATIENCE: Duration = Duration::from_secs(20);

/// A server; killed when this is dropped.
pub struct Server {
    process: Child,
    pub port: u16,
    dir: PathBuf,
}

impl Server {
    pub fn start(args: &[&str]) -> Self {
        let free = TcpListener::bind("127.0.0.1:0").unwrap();
        let port = free.local_addr().unwrap().port();
        drop(free);
        Self::start_at(port, args)
    }

    pub fn start_at(port: u16, args: &[&str]) -> Self {
        let dir =
            std::env::temp_dir().join(format!("slotmesh-redis-{}-{port}", std::process::id()));
        std::fs::create_dir_all(&dir).unwrap();
        let mut command = Command::new("redis-server");
        command.args(["--bind", "127.0.0.1", "--port", &port.to_string()]).arg("--dir").arg(&dir);
        command.args(["--save", "", "--appendonly", "no", "--daemonize", "no"]).args(args);
        let mut process = command.stdout(Stdio::piped()).spawn().expect(
            "redis-server cannot be run: this test needs it in the PATH (Debian: apt-get install redis-server)",
        );
        let told = BufReader::new(process.stdout.take().unwrap()).lines();
        let ready = { told }.any(|line| line.unwrap().contains("eady to accept connections"));
        assert!(ready, "redis-server ended at once");
        Self { process, port, dir }
    }

    pub fn address(&self) -> String {
        format!("redis://127.0.0.1:{}", self.port)
    }

    pub fn connection(&self) -> Connection {
        redis::Client::open(self.address()).unwrap().get_connection().unwrap()
    }

    /// What it answers to a command.
    pub fn ask(&self, words: &[&str]) -> Value {
        redis::cmd(words[0]).arg(&words[1..]).query(&mut self.connection()).unwrap()
    }

    pub fn text(&self, words: &[&str]) -> String {
        redis::from_redis_value(self.ask(words)).unwrap()
    }

    pub fn kill(&mut self) {
        self.process.kill().unwrap();
        self.process.wait().unwrap();
    }

    /// Stops it, or lets it go on.
    pub fn signal(&self, name: &str) {
        let pid = self.process.id().to_string();
        assert!(Command::new("kill").args([name, &pid]).status().unwrap().success());
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
        let _ = std::fs::remove_dir_all(&self.dir);
    }
}

/// Three of them that share the slots.
pub fn cluster() -> Vec<Server> {
    let args = ["--cluster-enabled", "yes", "--cluster-node-timeout", "1000"];
    let servers: Vec<_> = (0..3).map(|_| Server::start(&args)).collect();
    let ranges = [(0, 5460), (5461, 10_922), (10_923, 16_383)];
    for (server, (first, last)) in servers.iter().zip(ranges) {
        server.ask(&["CLUSTER", "ADDSLOTSRANGE", &first.to_string(), &last.to_string()]);
        server.ask(&["CLUSTER", "MEET", "127.0.0.1", &servers[0].port.to_string()]);
    }
    let began = Instant::now();
    let is_whole = |server: &Server| {
        let info = server.text(&["CLUSTER", "INFO"]);
        info.contains("cluster_state:ok") && info.contains("cluster_known_nodes:3")
    };
    while !servers.iter().all(is_whole) {
        assert!(began.elapsed() < PATIENCE, "no cluster");
        std::thread::sleep(Duration::from_millis(20));
    }
    servers
}

/// Waits until it holds.
pub async fn until(what: &str, mut holds: impl AsyncFnMut() -> bool) {
    let began = Instant::now();
    while !holds().await {
        assert!(began.elapsed() < PATIENCE, "{what} did not come to be");
        tokio::time::sleep(Duration::from_millis(2)).await;
    }
}
