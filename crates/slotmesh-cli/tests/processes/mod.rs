//! Real `slotmesh serve` processes on loopback, and a client that speaks the Redis protocol to them.

pub mod load;
pub mod network;

use std::hash::{BuildHasher, RandomState};
use std::io::{self, BufRead, BufReader, Read, Write};
use std::net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::ops::Range;
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, kill_process};

/// How long anything may take before the test gives up on it.
pub const PATIENCE: Duration = Duration::from_secs(60);

const SECRET: &str = "a secret of enough bytes";
const SLOTS: usize = 16_384;

/// One process, killed when dropped.
pub struct Process {
    child: Child,
    pub control: SocketAddr,
    pub resp: SocketAddr,
    pub admin: SocketAddr,
    namespace: Option<String>,
    log: Arc<Mutex<String>>,
}

/// How a process differs from the usual one.
#[derive(Clone)]
pub struct Setup {
    pub seeds: Vec<SocketAddr>,
    pub expect: usize,
    pub secret: &'static str,
    pub cluster: &'static str,
    pub memory: &'static str,
    pub replicas: u8,
    /// The network namespace to run in, when it is not the one of the test.
    pub namespace: Option<String>,
    pub witness: bool,
    pub refused_is_death: bool,
}

impl Setup {
    pub fn new(seeds: &[SocketAddr], expect: usize) -> Self {
        Self {
            seeds: seeds.to_vec(),
            expect,
            secret: SECRET,
            cluster: "test",
            memory: "64MiB",
            replicas: 1,
            namespace: None,
            witness: false,
            refused_is_death: false,
        }
    }
}

impl Process {
    pub fn start(addrs: [SocketAddr; 3], setup: &Setup) -> Self {
        Self::start_logging_to(Stdio::piped(), addrs, setup)
    }

    pub fn start_logging_to(log: Stdio, addrs: [SocketAddr; 3], setup: &Setup) -> Self {
        let [control, resp, admin] = addrs;
        let mut command = network::command(setup.namespace.as_deref(), &binary());
        command.env("SLOTMESH_SECRET", setup.secret).env("SLOTMESH_LOG", "info,openraft=off");
        command.args(["serve", "--cluster", setup.cluster, "--max-memory", setup.memory]);
        command.args(["--bind", &control.to_string(), "--expect", &setup.expect.to_string()]);
        command.args(["--resp", &resp.to_string(), "--admin", &admin.to_string()]);
        command.args(["--replicas", &setup.replicas.to_string()]);
        if setup.witness {
            command.arg("--witness");
        }
        if setup.refused_is_death {
            command.arg("--refused-is-death");
        }
        for seed in &setup.seeds {
            command.args(["--seed", &seed.to_string()]);
        }
        let mut child = command.stderr(log).spawn().unwrap();
        let log = Arc::new(Mutex::new(String::new()));
        let (output, sink) = (child.stderr.take(), Arc::clone(&log));
        std::thread::spawn(move || {
            let lines = output.into_iter().flat_map(|output| BufReader::new(output).lines());
            for line in lines.map_while(Result::ok) {
                sink.lock().unwrap().push_str(&(line + "\n"));
            }
        });
        Self { child, control, resp, admin, namespace: setup.namespace.clone(), log }
    }

    pub fn signal(&self, signal: Signal) {
        kill_process(Pid::from_child(&self.child), signal).unwrap();
    }

    pub fn exit_code(&mut self) -> Option<i32> {
        self.child.wait().unwrap().code()
    }

    pub fn log(&self) -> String {
        self.log.lock().unwrap().clone()
    }

    /// Waits until the log has a line with this text.
    pub fn says(&self, text: &str) {
        until(&format!("{text:?} in the log"), || self.log().contains(text));
    }

    /// The status line of an admin endpoint, or nothing when there is no answer.
    pub fn http(&self, path: &str) -> String {
        self.http_whole(path).lines().next().unwrap_or_default().to_owned()
    }

    /// All that an admin endpoint answers, or nothing when there is no answer.
    pub fn http_whole(&self, path: &str) -> String {
        let mut answer = String::new();
        if let Ok(mut stream) = self.ask_http(path) {
            // A process that is stopped answers nothing.
            let _ = stream.read_to_string(&mut answer);
        }
        answer
    }

    /// Where an admin endpoint answers what was asked.
    pub fn ask_http(&self, path: &str) -> io::Result<TcpStream> {
        let mut stream = self.door_to(self.admin).connect()?;
        stream.set_read_timeout(Some(Duration::from_secs(2)))?;
        let request = format!("GET {path} HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n");
        stream.write_all(request.as_bytes())?;
        Ok(stream)
    }

    /// Whether it leads the control plane, as far as it knows.
    pub fn leads(&self) -> bool {
        self.http_whole("/api/status").replace(' ', "").contains("\"leading\":true")
    }

    /// Whether the other one votes, as far as it knows.
    pub fn counts_as_voter(&self, other: &Self) -> bool {
        let status = self.http_whole("/api/status").replace([' ', '\n', '\r'], "");
        let member = status.split_once(&format!("\"control\":\"{}\"", other.control));
        let votes = member.and_then(|(_, rest)| rest.split_once("\"votes\":"));
        votes.is_some_and(|(_, votes)| votes.starts_with("true"))
    }

    /// Whether a command of the binary, asked of this node, succeeds; and what it printed.
    pub fn command(&self, name: &str) -> (bool, String) {
        let mut command = Command::new(binary());
        let output = command.args([name, "--admin", &self.admin.to_string()]).output().unwrap();
        let text = [output.stdout, output.stderr].concat();
        (output.status.success(), String::from_utf8_lossy(&text).into_owned())
    }

    pub fn is_safe(&self) -> bool {
        self.http("/safez").contains("200")
    }

    pub fn client(&self) -> Client {
        Client::connect(&self.door()).unwrap()
    }

    /// Where its Redis clients come in.
    pub fn door(&self) -> Door {
        self.door_to(self.resp)
    }

    fn door_to(&self, addr: SocketAddr) -> Door {
        Door { namespace: self.namespace.clone(), addr }
    }

    pub fn is_running(&mut self) -> bool {
        matches!(self.child.try_wait(), Ok(None))
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        // It may have ended already; a stopped one dies of SIGKILL too.
        let _ = self.child.kill();
        let _ = self.child.wait();
        if std::thread::panicking() {
            eprintln!("--- log of {}\n{}", self.control, self.log());
        }
    }
}

/// The binary under test: cargo names it to tests; an example finds it in the folder above its own.
fn binary() -> PathBuf {
    option_env!("CARGO_BIN_EXE_slotmesh").map_or_else(
        || std::env::current_exe().unwrap().parent().unwrap().with_file_name("slotmesh"),
        PathBuf::from,
    )
}

/// Whether all copies are in sync, and all nodes know each other and nobody else.
pub fn is_whole(nodes: &[Process]) -> bool {
    let members = |node: &Process| node.http_whole("/api/status").matches("\"control\"").count();
    nodes.iter().all(|node| node.is_safe() && members(node) == nodes.len())
}

/// Where clients of these nodes come in.
pub fn doors(nodes: &[Process]) -> Vec<Door> {
    nodes.iter().map(Process::door).collect()
}

/// Cargo builds an example without the binary that it starts.
pub fn build_binary() -> bool {
    let mut command = Command::new(env!("CARGO"));
    command.args(["build", "--quiet", "-p", "slotmesh-cli", "--bin", "slotmesh"]);
    if !cfg!(debug_assertions) {
        command.arg("--release");
    }
    command.status().is_ok_and(|status| status.success())
}

/// A listener of a node, and the network namespace in which it can be reached.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Door {
    pub namespace: Option<String>,
    pub addr: SocketAddr,
}

impl Door {
    pub fn connect(&self) -> io::Result<TcpStream> {
        let addr = self.addr;
        network::inside(self.namespace.as_deref(), move || {
            TcpStream::connect_timeout(&addr, Duration::from_secs(1))
        })
    }
}

/// Three addresses for each of `count` processes, free on TCP and UDP now. They are none that the system would give to a
/// socket without a wish of its own: there are many of those in a cluster, and one might be there first.
pub fn addresses(count: usize) -> Vec<[SocketAddr; 3]> {
    let random = |number: u32| RandomState::new().hash_one(number);
    let ports = (0..).map(|number| PORTS.start + (random(number) % PORTS.len() as u64) as u16);
    let free = ports.filter_map(|port| {
        let addr = SocketAddr::from((Ipv4Addr::LOCALHOST, port));
        Some((TcpListener::bind(addr).ok()?, UdpSocket::bind(addr).ok()?, addr))
    });
    let held: Vec<_> = free.take(3 * count).collect();
    let addrs: Vec<_> = held.iter().map(|(_, _, addr)| *addr).collect();
    addrs.chunks(3).map(|chunk| [chunk[0], chunk[1], chunk[2]]).collect()
}

/// Below Linux's usual `ip_local_port_range`.
const PORTS: Range<u16> = 10_000..32_000;

/// As many processes, all started at once, and all copies in sync.
pub fn cluster(count: usize) -> Vec<Process> {
    cluster_with(count, &Setup::new(&[], count))
}

/// As [`cluster`], of nodes that are set up so; they are each other's seeds.
pub fn cluster_with(count: usize, setup: &Setup) -> Vec<Process> {
    let addrs = addresses(count);
    let seeds: Vec<SocketAddr> = addrs.iter().map(|addrs| addrs[0]).collect();
    let setup = Setup { seeds, ..setup.clone() };
    let nodes: Vec<_> = addrs.into_iter().map(|addrs| Process::start(addrs, &setup)).collect();
    until("a safe cluster", || nodes.iter().all(Process::is_safe));
    nodes
}

pub fn until(what: &str, met: impl FnMut() -> bool) {
    until_within(PATIENCE, what, met);
}

pub fn until_within(patience: Duration, what: &str, mut met: impl FnMut() -> bool) {
    let deadline = Instant::now() + patience;
    while !met() {
        assert!(Instant::now() < deadline, "waited {patience:?} for {what}");
        std::thread::sleep(Duration::from_millis(20));
    }
}

/// A blocking client of one node.
pub struct Client {
    stream: BufReader<TcpStream>,
}

/// What a node answered, as far as the tests tell answers apart.
#[derive(Debug, PartialEq, Eq, Clone)]
pub enum Answer {
    Ok,
    Value(String),
    Nothing,
    Error(String),
}

impl Client {
    pub fn connect(door: &Door) -> io::Result<Self> {
        let stream = door.connect()?;
        stream.set_read_timeout(Some(Duration::from_secs(20)))?;
        stream.set_nodelay(true)?;
        Ok(Self { stream: BufReader::new(stream) })
    }

    pub fn set(&mut self, key: &str, value: &str) -> Answer {
        self.ask(&["SET", key, value])
    }

    pub fn get(&mut self, key: &str) -> Answer {
        self.ask(&["GET", key])
    }

    /// Sends a command and reads its answer; a broken connection is an error too.
    pub fn ask(&mut self, words: &[&str]) -> Answer {
        self.try_ask(words).unwrap_or_else(|error| Answer::Error(error.to_string()))
    }

    /// Sends a command and reads its answer; after an error the connection is of no use.
    pub fn try_ask(&mut self, words: &[&str]) -> io::Result<Answer> {
        let mut request = format!("*{}\r\n", words.len());
        for word in words {
            request.push_str(&format!("${}\r\n{word}\r\n", word.len()));
        }
        self.stream.get_mut().write_all(request.as_bytes())?;
        self.answer()
    }

    fn answer(&mut self) -> io::Result<Answer> {
        let mut line = String::new();
        self.stream.read_line(&mut line)?;
        let (kind, rest) =
            line.trim_end().split_at_checked(1).ok_or(io::ErrorKind::UnexpectedEof)?;
        Ok(match kind {
            "+" => Answer::Ok,
            "-" => Answer::Error(rest.to_owned()),
            "$" if rest == "-1" => Answer::Nothing,
            "$" => {
                let mut bytes = vec![0; rest.parse::<usize>().unwrap() + 2];
                self.stream.read_exact(&mut bytes)?;
                bytes.truncate(bytes.len() - 2);
                Answer::Value(String::from_utf8(bytes).unwrap())
            }
            _ => Answer::Value(rest.to_owned()),
        })
    }
}

/// Keys of the slots that `CLUSTER SLOTS` would list for different nodes, told apart by their owners as the node's own
/// `CLUSTER NODES` says: the slots of the process at this Redis address.
pub fn slots_of(client: &mut Client, resp: SocketAddr) -> Vec<u16> {
    let Answer::Value(nodes) = client.ask(&["CLUSTER", "NODES"]) else { return Vec::new() };
    let line = nodes.lines().find(|line| line.contains(&format!("{resp}"))).unwrap_or_default();
    let ranges = line.split_whitespace().skip(8).filter_map(|range| {
        let (first, last) = range.split_once('-').unwrap_or((range, range));
        Some((first.parse::<u16>().ok()?, last.parse::<u16>().ok()?))
    });
    ranges.flat_map(|(first, last)| first..=last).collect()
}

/// A key of each of these slots.
pub fn keys_of(slots: &[u16]) -> Vec<String> {
    let mut wanted: std::collections::BTreeSet<u16> = slots.iter().copied().collect();
    let mut keys = Vec::new();
    for number in 0..40 * SLOTS {
        let key = format!("key-{number}");
        if wanted.remove(&slotmesh_slots::Slot::of_key(key.as_bytes()).number()) {
            keys.push(key);
        }
        if wanted.is_empty() {
            break;
        }
    }
    keys
}
