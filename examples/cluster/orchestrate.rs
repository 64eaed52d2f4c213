//! The orchestrator: starts the node processes, lets them work, kills one, starts its replacement, and sums up.

use std::io::{BufRead, BufReader, IsTerminal, Write};
use std::net::{Ipv4Addr, SocketAddr, TcpListener, UdpSocket};
use std::ops::Range;
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdin, Command, Stdio};
use std::sync::mpsc::{Receiver, RecvTimeoutError, Sender, channel};
use std::time::{Duration, Instant};

use crate::Failure;
use crate::protocol::{Event, Order, unix_ms};
use crate::report::{Mark, Run};
use crate::source::Source;
use crate::{picture, report, trace};

/// How long the trace is played when nothing else is said.
pub(crate) const SECONDS_DEFAULT: u64 = 24;

const NODES: usize = 3;
const SLOTS: usize = 16_384;

/// How long the cluster may take to form, and later to answer an order.
const PATIENCE: Duration = Duration::from_secs(30);

struct Process {
    child: Child,
    orders: ChildStdin,
    id: String,
    resp: String,
}

/// Everything that the run knows and owns; node processes are ended with it.
struct Stage {
    dir: PathBuf,
    secret: String,
    addrs: Vec<SocketAddr>,
    nodes: Vec<Option<Process>>,
    events: Receiver<(usize, Event)>,
    sender: Sender<(usize, Event)>,
    run: Run,
    safe: Vec<usize>,
    /// A slot that was not safe when last told.
    unsafe_slot: String,
}

pub(crate) fn main(seconds: u64) -> Result<(), Failure> {
    let dir = std::env::temp_dir().join(format!("slotmesh-cluster-{}", std::process::id()));
    std::fs::create_dir_all(&dir)?;
    let result = Stage::new(&dir).and_then(|mut stage| stage.play(seconds.max(8)));
    std::fs::remove_dir_all(&dir)?;
    let run = result?;
    let path = PathBuf::from("target").join("cluster.html");
    let path = if Path::new("target").is_dir() { path } else { PathBuf::from("cluster.html") };
    std::fs::write(&path, picture::html(&run))?;
    report::print(&run, &path);
    let summary = run.summary();
    if summary.lost_acked_writes > 0 || summary.wrong_values > 0 {
        return Err("acknowledged writes were lost or values were wrong".into());
    }
    Ok(())
}

impl Stage {
    fn new(dir: &Path) -> Result<Self, Failure> {
        let keys = trace::load()?.into_iter().max().unwrap_or(0) + 1;
        eprintln!("making the source: {keys} objects in SQLite");
        Source::create(&dir.join("source.sqlite"), keys)?;
        let (sender, events) = channel();
        let mut stage = Self {
            dir: dir.to_owned(),
            secret: secret()?,
            addrs: free_addrs(2 * NODES)?,
            nodes: (0..NODES).map(|_| None).collect(),
            events,
            sender,
            run: Run::default(),
            safe: vec![0; NODES],
            unsafe_slot: String::new(),
        };
        for index in 0..NODES {
            stage.start(index)?;
        }
        Ok(stage)
    }

    fn play(&mut self, seconds: u64) -> Result<Run, Failure> {
        let began = Instant::now();
        self.wait("the cluster to form", |stage| stage.is_safe())?;
        eprintln!(
            "{SLOTS} slots have a primary and an in-sync replica after {:.1} s",
            began.elapsed().as_secs_f64()
        );
        for process in self.nodes.iter().flatten() {
            eprintln!("  node {} answers Redis clients at {}", process.id, process.resp);
        }
        self.run.began_ms = unix_ms();
        self.order_all(&Order::Go)?;
        let third = Duration::from_secs(seconds) / 3;
        self.let_run(third, 0.0)?;
        self.kill(1)?;
        self.let_run(third / 2, 1.0 / 3.0)?;
        self.start(1)?;
        self.order(1, &Order::Go)?;
        self.mark("replacement started");
        self.let_run(third * 3 / 2, 0.5)?;
        eprintln!();
        self.run.ended_ms = unix_ms();
        let expected = self.run.totals.len() + NODES;
        self.order_all(&Order::End)?;
        self.wait("the totals", |stage| stage.run.totals.len() >= expected)?;
        self.wait("all copies to be in sync again", |stage| stage.is_safe())?;
        self.order(0, &Order::Verify)?;
        self.wait("the verification", |stage| stage.run.verified.is_some())?;
        self.order_all(&Order::Exit)?;
        for process in self.nodes.iter_mut().flatten() {
            process.child.wait()?;
        }
        Ok(std::mem::take(&mut self.run))
    }

    fn is_safe(&self) -> bool {
        self.safe.iter().all(|&safe| safe == SLOTS)
    }

    fn start(&mut self, index: usize) -> Result<(), Failure> {
        let seeds: Vec<String> = self.addrs[..NODES].iter().map(ToString::to_string).collect();
        let mut child = Command::new(std::env::current_exe()?)
            .arg("--node")
            .env("SLOTMESH_SECRET", &self.secret)
            .env("SLOTMESH_NAME", format!("n{}", index + 1))
            .env("SLOTMESH_BIND", self.addrs[index].to_string())
            .env("SLOTMESH_RESP", self.addrs[NODES + index].to_string())
            .env("SLOTMESH_SEEDS", seeds.join(","))
            .env("SLOTMESH_INDEX", index.to_string())
            .env("SLOTMESH_DIR", &self.dir)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()?;
        let (Some(orders), Some(output)) = (child.stdin.take(), child.stdout.take()) else {
            return Err("the node's pipes are missing".into());
        };
        let sender = self.sender.clone();
        std::thread::spawn(move || {
            for line in BufReader::new(output).lines().map_while(Result::ok) {
                if let Ok(event) = serde_json::from_str(&line)
                    && sender.send((index, event)).is_err()
                {
                    return;
                }
            }
        });
        self.safe[index] = 0;
        self.nodes[index] = Some(Process { child, orders, id: String::new(), resp: String::new() });
        self.wait("a node to start", |stage| {
            stage.nodes[index].as_ref().is_some_and(|process| !process.id.is_empty())
        })
    }

    /// SIGKILL: no goodbye, no flush.
    fn kill(&mut self, index: usize) -> Result<(), Failure> {
        let Some(mut process) = self.nodes[index].take() else { return Ok(()) };
        self.order(0, &Order::Watch { victim: process.id.clone() })?;
        self.let_run(Duration::from_millis(300), 1.0 / 3.0)?;
        process.child.kill()?;
        self.run.killed_ms = unix_ms();
        process.child.wait()?;
        self.mark("killed");
        Ok(())
    }

    fn mark(&mut self, what: &str) {
        self.run.marks.push(Mark { unix_ms: unix_ms(), what: what.to_owned() });
    }

    fn order(&mut self, index: usize, order: &Order) -> Result<(), Failure> {
        if let Some(process) = &mut self.nodes[index] {
            writeln!(process.orders, "{}", serde_json::to_string(order)?)?;
        }
        Ok(())
    }

    fn order_all(&mut self, order: &Order) -> Result<(), Failure> {
        (0..NODES).try_for_each(|index| self.order(index, order))
    }

    fn wait(&mut self, what: &str, met: impl Fn(&Self) -> bool) -> Result<(), Failure> {
        let deadline = Instant::now() + PATIENCE;
        while !met(self) {
            if Instant::now() >= deadline {
                let state = format!("safe slots by node {:?}, {}", self.safe, self.unsafe_slot);
                return Err(format!("waited {PATIENCE:?} for {what}: {state}").into());
            }
            self.take_event(Duration::from_millis(100))?;
        }
        Ok(())
    }

    fn let_run(&mut self, time: Duration, done: f64) -> Result<(), Failure> {
        let deadline = Instant::now() + time;
        while Instant::now() < deadline {
            self.take_event(Duration::from_millis(50))?;
            let left = deadline.saturating_duration_since(Instant::now());
            let share = 1.0 - left.as_secs_f64() / time.as_secs_f64();
            let whole = if done == 0.0 {
                1.0 / 3.0
            } else if done < 0.5 {
                1.0 / 6.0
            } else {
                0.5
            };
            self.show(done + whole * share);
        }
        Ok(())
    }

    fn take_event(&mut self, patience: Duration) -> Result<(), Failure> {
        let (index, event) = match self.events.recv_timeout(patience) {
            Ok(event) => event,
            Err(RecvTimeoutError::Timeout) => return self.check_processes(),
            Err(RecvTimeoutError::Disconnected) => return Err("all nodes are gone".into()),
        };
        match event {
            Event::Started { node, resp, .. } => {
                if let Some(process) = &mut self.nodes[index] {
                    (process.id, process.resp) = (node, resp);
                }
            }
            Event::Cluster { safe, members, unsafe_slot, .. } => {
                self.unsafe_slot = unsafe_slot.unwrap_or_default();
                self.safe[index] = if members == NODES { safe } else { 0 };
                self.note_recovery();
            }
            Event::Tick(tick) => self.run.add_tick(&tick),
            Event::Recovered { unix_ms } => {
                self.run.recovered_ms = Some(unix_ms);
                self.run.marks.push(Mark { unix_ms, what: "slots writable again".to_owned() });
            }
            Event::Total(total) => self.run.totals.push(total),
            Event::Verified { acked, lost } => self.run.verified = Some((acked, lost)),
        }
        Ok(())
    }

    fn note_recovery(&mut self) {
        let replaced = self.run.marks.iter().any(|mark| mark.what == "replacement started");
        if replaced
            && self.is_safe()
            && !self.run.marks.iter().any(|mark| mark.what == "all copies in sync")
        {
            self.mark("all copies in sync");
        }
    }

    fn check_processes(&mut self) -> Result<(), Failure> {
        for process in self.nodes.iter_mut().flatten() {
            if let Some(status) = process.child.try_wait()? {
                return Err(format!("node {} ended: {status}", process.id).into());
            }
        }
        Ok(())
    }

    fn show(&self, done: f64) {
        let mut out = std::io::stderr();
        if !out.is_terminal() {
            return;
        }
        let width = 40;
        let full = (done.clamp(0.0, 1.0) * f64::from(width)) as usize;
        let bar = "#".repeat(full) + &"-".repeat(width as usize - full);
        let rate = self.run.recent_rate();
        // A progress bar that cannot be drawn is no reason to stop.
        drop(write!(out, "\r[{bar}] {:3.0} %  {rate:>7.0} requests/s ", done * 100.0));
    }
}

impl Drop for Stage {
    fn drop(&mut self) {
        for process in self.nodes.iter_mut().flatten() {
            // Ended already when all went well.
            drop(process.child.kill());
            drop(process.child.wait());
        }
    }
}

/// Ports that are free on TCP and UDP now, and none that the system gives to sockets without a wish of their own, of which the
/// nodes have many. Nodes bind UDP and TCP on the first half, Redis listeners TCP on the second.
fn free_addrs(count: usize) -> Result<Vec<SocketAddr>, Failure> {
    let free = PORTS.filter_map(|port| {
        let addr = SocketAddr::from((Ipv4Addr::LOCALHOST, port));
        Some((TcpListener::bind(addr).ok()?, UdpSocket::bind(addr).ok()?, addr))
    });
    let held: Vec<_> = free.take(count).collect();
    if held.len() < count {
        return Err(format!("fewer than {count} ports of {PORTS:?} are free").into());
    }
    Ok(held.iter().map(|(_, _, addr)| *addr).collect())
}

/// Below Linux's usual `ip_local_port_range`.
const PORTS: Range<u16> = 17_600..32_000;

/// 192 random bits as text.
fn secret() -> Result<String, Failure> {
    let mut bytes = [0u8; 24];
    std::io::Read::read_exact(&mut std::fs::File::open("/dev/urandom")?, &mut bytes)?;
    Ok(bytes.iter().map(|byte| format!("{byte:02x}")).collect())
}
