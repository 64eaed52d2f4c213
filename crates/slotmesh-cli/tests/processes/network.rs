//! A network between processes that loses, delays, reorders and cuts what the test wants, in either direction alone.
//!
//! Each process has a network namespace whose only way out is a TUN device. `socat` carries its packets over a Unix socket
//! to a hub in this process, which hands them on or not. So every fault is a line of code here, and needs neither firewall
//! nor traffic control, only root.

use std::cmp::Reverse;
use std::collections::BinaryHeap;
use std::fs::{File, create_dir_all, remove_dir_all};
use std::io::Write;
use std::net::{Ipv4Addr, SocketAddr};
use std::os::fd::AsFd;
use std::os::unix::net::UnixDatagram;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Condvar, Mutex};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use rustix::thread::{LinkNameSpaceType, move_into_link_name_space};

use super::{Process, Setup, until};

/// Port of each node's control endpoint, Redis listener and admin listener; namespaces have ports of their own.
const PORTS: [u16; 3] = [7600, 6379, 8401];

/// First three bytes of all addresses; nothing of it is seen outside the namespaces.
const NET: [u8; 3] = [10, 83, 0];

/// Packets under way at once; more are lost, as in a router.
const PACKETS_MAX: usize = 20_000;

/// Larger than the largest packet a TUN device hands out.
const PACKET_BYTES: usize = 1 << 16;

/// How long the hub waits for a receiver before the packet is lost.
const SEND_PATIENCE: Duration = Duration::from_millis(50);

/// What happens to packets from one site to another.
#[derive(Clone, Copy, Debug, Default)]
pub struct Way {
    pub cut: bool,
    pub lost_per_mille: u64,
    pub delay: Duration,
    /// At most so much is added to each packet's delay, so that they overtake each other.
    pub jitter: Duration,
}

/// Namespaces that see each other through the hub; all gone when dropped.
pub struct Network {
    sites: Vec<Site>,
    hub: Arc<Hub>,
    threads: Vec<JoinHandle<()>>,
    dir: PathBuf,
}

struct Site {
    namespace: String,
    cable: Option<Child>,
}

struct Hub {
    socket: UnixDatagram,
    sites: Vec<PathBuf>,
    ways: Mutex<Vec<Vec<Way>>>,
    queue: Mutex<BinaryHeap<Reverse<Packet>>>,
    filled: Condvar,
    over: AtomicBool,
}

#[derive(PartialEq, Eq, PartialOrd, Ord)]
struct Packet {
    due: Instant,
    number: u64,
    to: usize,
    bytes: Vec<u8>,
}

impl Network {
    /// As many sites; `None`, and a word on standard error, where the system does not let us make them.
    pub fn new(count: usize) -> Option<Self> {
        static NETWORKS: AtomicUsize = AtomicUsize::new(0);
        let number = NETWORKS.fetch_add(1, Ordering::Relaxed);
        let name = format!("slotmesh-{}-{number}", std::process::id());
        let dir = std::env::temp_dir().join(&name);
        create_dir_all(&dir).unwrap();
        let socket = UnixDatagram::bind(dir.join("hub")).unwrap();
        socket.set_read_timeout(Some(SEND_PATIENCE)).unwrap();
        socket.set_write_timeout(Some(SEND_PATIENCE)).unwrap();
        let hub = Arc::new(Hub {
            socket,
            sites: (0..count).map(|site| dir.join(site.to_string())).collect(),
            ways: Mutex::new(vec![vec![Way::default(); count]; count]),
            queue: Mutex::default(),
            filled: Condvar::new(),
            over: AtomicBool::new(false),
        });
        let mut network = Self { sites: Vec::new(), hub, threads: Vec::new(), dir };
        for site in 0..count {
            if !network.add_site(&format!("{name}-{site}")) {
                // Past what the test harness holds back: a test that did not happen must not look like one that passed.
                let _ = writeln!(
                    std::io::stderr(),
                    "skipped: needs root, `ip netns`, `socat` and /dev/net/tun"
                );
                return None;
            }
        }
        let (receiver, sender) = (Arc::clone(&network.hub), Arc::clone(&network.hub));
        network.threads = vec![
            std::thread::spawn(move || receiver.receive()),
            std::thread::spawn(move || sender.send()),
        ];
        Some(network)
    }

    fn add_site(&mut self, namespace: &str) -> bool {
        let site = self.sites.len();
        if !ip(&["netns", "add", namespace]) {
            return false;
        }
        self.sites.push(Site { namespace: namespace.to_owned(), cable: None });
        let tun = format!("TUN:{}/24,up,iff-no-pi", self.addr(site));
        let here = self.hub.sites[site].display();
        let link = format!("UNIX-SENDTO:{},bind={here}", self.dir.join("hub").display());
        let mut cable = command(Some(namespace), Path::new("socat"));
        cable.args([tun, link]).stderr(Stdio::null());
        if !ip(&["-n", namespace, "link", "set", "lo", "up"]) {
            return false;
        }
        let Ok(mut cable) = cable.spawn() else { return false };
        let mut ended = false;
        until("a site's cable", || {
            ended = !matches!(cable.try_wait(), Ok(None));
            ended || self.hub.sites[site].exists()
        });
        self.sites[site].cable = Some(cable);
        !ended
    }

    pub fn addr(&self, site: usize) -> Ipv4Addr {
        let [a, b, c] = NET;
        Ipv4Addr::new(a, b, c, site as u8 + 1)
    }

    /// A node at each site. Clients reach it from its own site, so they see what it sees.
    pub fn cluster(&self) -> Vec<Process> {
        let count = self.sites.len();
        let nodes: Vec<_> = (0..count).map(|site| self.start(site)).collect();
        until("a safe cluster", || nodes.iter().all(Process::is_safe));
        nodes
    }

    fn start(&self, site: usize) -> Process {
        let seeds: Vec<SocketAddr> =
            (0..self.sites.len()).map(|site| (self.addr(site), PORTS[0]).into()).collect();
        let namespace = Some(self.sites[site].namespace.clone());
        let setup = Setup { namespace, ..Setup::new(&seeds, seeds.len()) };
        let local = |port| SocketAddr::from((Ipv4Addr::LOCALHOST, port));
        Process::start([seeds[site], local(PORTS[1]), local(PORTS[2])], &setup)
    }

    /// What happens from now on to packets of one site to another.
    pub fn set(&self, from: usize, to: usize, way: Way) {
        self.hub.ways.lock().unwrap()[from][to] = way;
    }

    pub fn set_all(&self, way: Way) {
        self.hub.ways.lock().unwrap().iter_mut().flatten().for_each(|each| *each = way);
    }

    /// Nothing of this site reaches the others any more.
    pub fn mute(&self, site: usize) {
        let cut = Way { cut: true, ..Way::default() };
        (0..self.sites.len()).for_each(|other| self.set(site, other, cut));
    }

    /// Nothing of the others reaches this site any more.
    pub fn deafen(&self, site: usize) {
        let cut = Way { cut: true, ..Way::default() };
        (0..self.sites.len()).for_each(|other| self.set(other, site, cut));
    }

    pub fn heal(&self) {
        self.set_all(Way::default());
    }
}

impl Drop for Network {
    fn drop(&mut self) {
        self.hub.over.store(true, Ordering::Relaxed);
        self.hub.filled.notify_all();
        for thread in self.threads.drain(..) {
            let _ = thread.join();
        }
        for site in &mut self.sites {
            if let Some(cable) = &mut site.cable {
                let _ = cable.kill();
                let _ = cable.wait();
            }
            ip(&["netns", "delete", &site.namespace]);
        }
        let _ = remove_dir_all(&self.dir);
    }
}

impl Hub {
    fn receive(&self) {
        let mut bytes = vec![0; PACKET_BYTES];
        let (mut random, mut number) = (0x2545_f491_4f6c_dd1d_u64, 0);
        while !self.over.load(Ordering::Relaxed) {
            // Not answered within the patience of the socket: look whether all is over.
            let Ok(length) = self.socket.recv(&mut bytes) else { continue };
            let Some((from, to)) = self.route(&bytes[..length]) else { continue };
            let way = self.ways.lock().unwrap()[from][to];
            random ^= random << 13;
            random ^= random >> 7;
            random ^= random << 17;
            if way.cut || random % 1_000 < way.lost_per_mille {
                continue;
            }
            let jitter = (random >> 32) % (way.jitter.as_micros() as u64 + 1);
            let due = Instant::now() + way.delay + Duration::from_micros(jitter);
            number += 1;
            let packet = Packet { due, number, to, bytes: bytes[..length].to_vec() };
            let mut queue = self.queue.lock().unwrap();
            if queue.len() < PACKETS_MAX {
                queue.push(Reverse(packet));
                self.filled.notify_one();
            }
        }
    }

    /// The sites that an IPv4 packet comes from and goes to.
    fn route(&self, packet: &[u8]) -> Option<(usize, usize)> {
        let site = |addr: &[u8]| {
            let host = addr.strip_prefix(&NET)?.first()?.checked_sub(1)?;
            (usize::from(host) < self.sites.len()).then_some(usize::from(host))
        };
        let is_ipv4 = packet.first()? >> 4 == 4;
        is_ipv4.then_some((site(packet.get(12..16)?)?, site(packet.get(16..20)?)?))
    }

    fn send(&self) {
        while !self.over.load(Ordering::Relaxed) {
            if let Some(packet) = self.next_due() {
                // A packet that does not get through is lost, as packets are.
                let _ = self.socket.send_to(&packet.bytes, &self.sites[packet.to]);
            }
        }
    }

    /// Waits a little for the next packet's time.
    fn next_due(&self) -> Option<Packet> {
        let mut queue = self.queue.lock().unwrap();
        let now = Instant::now();
        let wait = queue.peek().map_or(SEND_PATIENCE, |next| next.0.due.duration_since(now));
        if !wait.is_zero() {
            queue = self.filled.wait_timeout(queue, wait).unwrap().0;
        }
        let is_due = queue.peek().is_some_and(|next| next.0.due <= Instant::now());
        is_due.then(|| queue.pop()).flatten().map(|next| next.0)
    }
}

/// A command that runs in the namespace; it keeps the process that is spawned.
pub fn command(namespace: Option<&str>, program: &Path) -> Command {
    let Some(namespace) = namespace else { return Command::new(program) };
    let mut command = Command::new("ip");
    command.args(["netns", "exec", namespace]).arg(program);
    command
}

/// Does something, such as to open a socket, in the namespace. Its thread goes there and ends.
pub fn inside<T: Send>(namespace: Option<&str>, task: impl FnOnce() -> T + Send) -> T {
    let Some(namespace) = namespace else { return task() };
    std::thread::scope(|scope| {
        let visitor = scope.spawn(|| {
            let place = File::open(Path::new("/run/netns").join(namespace)).unwrap();
            move_into_link_name_space(place.as_fd(), Some(LinkNameSpaceType::Network)).unwrap();
            task()
        });
        visitor.join().unwrap()
    })
}

fn ip(args: &[&str]) -> bool {
    Command::new("ip")
        .args(args)
        .stderr(Stdio::null())
        .status()
        .is_ok_and(|status| status.success())
}
