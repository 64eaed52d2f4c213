use slotmesh_control::Command;
use slotmesh_slots::{Epoch, NodeId, NodeList};

use super::cluster::{DECIDER, NODES, node, slot};

/// A small world to be explored in full: where it starts, what clients do, and what may go wrong and how often.
#[derive(Clone, Debug)]
pub struct Scope {
    /// Its name on the command line.
    pub name: &'static str,
    /// How the start is reached from a slot that nobody has; its steps are taken in order and promptly.
    pub(super) prelude: Vec<Prelude>,
    /// How many nodes hold something or may; a third one only votes.
    pub(super) nodes: usize,
    /// Writes that happen any time, each by a client of its own.
    pub(super) writes: usize,
    /// How often time goes on, see [`TICK`](super::cluster::TICK).
    pub(super) ticks: u8,
    /// Nodes of which one may crash.
    pub(super) crashes: Vec<usize>,
    /// Partitions of which one may happen and may heal.
    pub(super) cuts: Vec<Cut>,
    /// How often a connection that can carry nothing, or any if there is no partition, breaks.
    pub(super) breaks: u8,
    /// How many failovers may begin.
    pub(super) takeovers: u8,
    /// How often the planner may be asked for its next step.
    pub(super) plans: u8,
    /// Whether another one of the majority may come to lead it.
    pub(super) elects: bool,
    /// Whether moves may be aborted.
    pub(super) aborts: bool,
    /// What recent records may take on each node.
    pub(super) log_bytes: usize,
}

/// A step on the way to the start.
#[derive(Clone, Debug)]
pub(super) enum Prelude {
    /// The decider commits this, and nobody knows yet.
    Commit(Command),
    /// All learn what was committed, and links carry what there is to carry.
    Settle,
    /// A client writes, and is answered if it can be.
    Write,
    Cut(Cut),
    Heal,
    /// The node's lease ends and it is failed over.
    TakeOver,
}

/// Who does not hear whom. The majority that decides is one of the places.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub(super) enum Cut {
    /// The node neither hears nor is heard.
    Isolate(usize),
    /// Nobody hears the node.
    Mute(usize),
    /// The two nodes are cut off from each other alone.
    Pair(usize, usize),
}

impl Cut {
    /// Whether it blocks the way.
    pub(super) fn blocks(self, from: usize, to: usize) -> bool {
        match self {
            Self::Isolate(node) => from == node || to == node,
            Self::Mute(node) => from == node,
            Self::Pair(a, b) => (from, to) == (a, b) || (from, to) == (b, a),
        }
    }
}

impl Scope {
    /// All of them.
    #[must_use]
    pub fn all() -> Vec<Self> {
        vec![
            Self::ending(),
            Self::parted(),
            Self::isolated(),
            Self::ungoverned(),
            Self::short_log(),
            Self::growing(),
            Self::planned(),
            Self::grown(),
            Self::filled_alone(),
            Self::deposed(),
            Self::moving(),
            Self::moved(),
            Self::struck(),
            Self::crossed(),
        ]
    }

    /// The one with this name.
    #[must_use]
    pub fn named(name: &str) -> Option<Self> {
        Self::all().into_iter().find(|scope| scope.name == name)
    }

    fn new(name: &'static str, prelude: Vec<Prelude>) -> Self {
        Self {
            name,
            prelude,
            nodes: 2,
            writes: 2,
            ticks: 2,
            crashes: Vec::new(),
            cuts: Vec::new(),
            breaks: 0,
            takeovers: 1,
            plans: 0,
            elects: false,
            aborts: false,
            log_bytes: 1 << 20,
        }
    }

    /// A primary and its replica; the primary ends.
    #[must_use]
    pub fn ending() -> Self {
        let prelude = vec![assign(&[1]), Prelude::Settle];
        Self { crashes: vec![0], ..Self::new("ending", prelude) }
    }

    /// A primary and its replica are cut off from each other alone.
    #[must_use]
    pub fn parted() -> Self {
        Self {
            ticks: 1,
            takeovers: 0,
            cuts: vec![Cut::Pair(0, 1)],
            ..Self::new("parted", vec![assign(&[1]), Prelude::Settle])
        }
    }

    /// A primary is cut off from everybody, both ways or one.
    #[must_use]
    pub fn isolated() -> Self {
        Self {
            cuts: vec![Cut::Isolate(0), Cut::Mute(0)],
            ..Self::new("isolated", vec![assign(&[1]), Prelude::Settle])
        }
    }

    /// A primary that reaches its replica and not the majority, which may get another leader meanwhile.
    #[must_use]
    pub fn ungoverned() -> Self {
        Self {
            cuts: vec![Cut::Pair(0, DECIDER)],
            elects: true,
            ..Self::new("ungoverned", vec![assign(&[1]), Prelude::Settle])
        }
    }

    /// The log keeps one record only, as it does when other slots write much, and two writes are on their way: a connection
    /// that breaks now leaves the replica with a gap.
    #[must_use]
    pub fn short_log() -> Self {
        let pair = Prelude::Cut(Cut::Pair(0, 1));
        let prelude = vec![
            assign(&[1]),
            Prelude::Settle,
            pair,
            Prelude::Write,
            Prelude::Write,
            Prelude::Heal,
        ];
        Self { writes: 1, ticks: 0, breaks: 1, log_bytes: 0, ..Self::new("short-log", prelude) }
    }

    /// Three copies of which one crashes while another cannot reach the primary, or the majority: all that one of each can do.
    #[must_use]
    pub fn struck() -> Self {
        Self {
            nodes: 3,
            crashes: vec![0, 1],
            cuts: vec![Cut::Pair(0, 2), Cut::Isolate(0), Cut::Pair(2, DECIDER)],
            ..Self::new("struck", vec![assign(&[1, 2]), Prelude::Settle])
        }
    }

    /// A primary and its replica, of which one crashes, and a partition, between the two or of one from all: the smallest world
    /// in which both happen.
    #[must_use]
    pub fn crossed() -> Self {
        Self {
            crashes: vec![0, 1],
            cuts: vec![Cut::Pair(0, 1), Cut::Isolate(0), Cut::Isolate(1)],
            ..Self::new("crossed", vec![assign(&[1]), Prelude::Settle])
        }
    }

    /// A primary alone that begins to fill a replica, and is written to.
    #[must_use]
    pub fn growing() -> Self {
        let prelude = vec![assign(&[]), Prelude::Settle, add_copy(1)];
        Self { ticks: 0, ..Self::new("growing", prelude) }
    }

    /// A primary alone for which the planner finds a replica.
    #[must_use]
    pub fn planned() -> Self {
        let prelude = vec![assign(&[]), Prelude::Settle];
        Self { nodes: 3, writes: 1, ticks: 0, plans: 2, ..Self::new("planned", prelude) }
    }

    /// As when it grows; the replica counts soon or not yet when the primary ends.
    #[must_use]
    pub fn grown() -> Self {
        let prelude = vec![assign(&[]), Prelude::Settle, add_copy(1), Prelude::Settle];
        Self { writes: 1, crashes: vec![0], ..Self::new("grown", prelude) }
    }

    /// A primary that was written to and fills a replica is cut off: nobody may take over from it.
    #[must_use]
    pub fn filled_alone() -> Self {
        let prelude = vec![assign(&[]), Prelude::Settle, Prelude::Write, add_copy(1)];
        Self {
            writes: 1,
            cuts: vec![Cut::Isolate(0), Cut::Mute(0)],
            ..Self::new("filled-alone", prelude)
        }
    }

    /// A primary was deposed with two writes that nobody else has, and comes back while its successor is written to and ends.
    #[must_use]
    pub fn deposed() -> Self {
        let prelude = vec![
            assign(&[1, 2]),
            Prelude::Settle,
            Prelude::Cut(Cut::Isolate(0)),
            Prelude::Write,
            Prelude::Write,
            Prelude::TakeOver,
            Prelude::Heal,
        ];
        Self { nodes: 3, writes: 1, crashes: vec![1, 2], ..Self::new("deposed", prelude) }
    }

    /// The primary role is about to move to the replica, or not after all.
    #[must_use]
    pub fn moving() -> Self {
        let prelude = vec![assign(&[1]), Prelude::Settle, begin_move()];
        Self { writes: 1, ticks: 1, aborts: true, ..Self::new("moving", prelude) }
    }

    /// The same, and the primary ends before, in the middle or after it.
    #[must_use]
    pub fn moved() -> Self {
        let prelude = vec![assign(&[1]), Prelude::Settle, begin_move()];
        Self { writes: 1, crashes: vec![0], ..Self::new("moved", prelude) }
    }
}

/// The slot's first holders: node 0, and these.
fn assign(replicas: &[usize]) -> Prelude {
    let in_sync: NodeList =
        replicas.iter().map(|&at| node(at)).collect::<Vec<NodeId>>().into_iter().collect();
    debug_assert!(replicas.len() < NODES);
    Prelude::Commit(Command::Assign { claims: vec![(slot(), Epoch(0))], primary: node(0), in_sync })
}

fn add_copy(at: usize) -> Prelude {
    Prelude::Commit(Command::AddCopy { claims: vec![(slot(), Epoch(1))], node: node(at) })
}

fn begin_move() -> Prelude {
    Prelude::Commit(Command::BeginMove { claims: vec![(slot(), Epoch(1))], to: node(1) })
}
