use std::time::Duration;

use slotmesh_control::Rebalance;

/// What goes wrong.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Fault {
    /// The process ends; another one starts at the same address later.
    Crash,
    /// The same, even where the cluster does not survive it by itself.
    Lose,
    /// It is told to leave, and ends when it has or when its time is over; another one starts in its place.
    Leave,
    /// It is cut off from all others.
    Isolate,
    /// Its lanes are cut off, what they carry between others and it: replication and calls. The control plane works.
    CutLanes,
    /// Its control plane is cut off. Replication and calls work.
    CutControl,
    /// The nodes fall into two groups.
    Split,
    /// All nodes of its zone end, or are cut off where the cluster would not survive that.
    Zone,
    /// It and one other, of which neither leads, are cut off from each other alone.
    Part,
    /// What it sends to some others is lost, but not what they send.
    Mute,
    /// The process is stopped and continued.
    Pause,
    /// All that are stopped are continued, and no operator asks for anything any more.
    Wake,
    /// Everything it does takes longer.
    Slow,
    /// What others decide reaches it late, and then it is cut off from them while the last of it is still on its way.
    Late,
    /// Its connections break.
    Reset,
    /// Its lanes are cut for a moment and its replication links break, again and again.
    Flap,
    /// Messages get lost everywhere.
    Loss,
    /// Somebody has moves for balance aborted, and resumed later.
    Abort,
}

impl Fault {
    /// Whether control messages of a node get lost by it for a while.
    pub(crate) fn cuts(self) -> bool {
        matches!(
            self,
            Self::Isolate | Self::CutControl | Self::Split | Self::Zone | Self::Mute | Self::Late
        )
    }
}

/// Which node it happens to.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Target {
    Leader,
    Follower,
    /// One that votes and does not lead.
    Voter,
    /// Any that runs.
    Any,
    /// One that goes on after the majority was lost: its generation is the latest there is.
    Survivor,
    /// The process at this address.
    At(usize),
    /// Whom the moment is about: the slot's primary, the one that began.
    Subject,
    /// The other node of the moment: the copy, the one that the role moves to.
    Other,
}

/// What a fault waits for, from its time on.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub(crate) enum Moment {
    /// Nothing.
    Clock,
    /// A command about slots with keys is committed.
    Shrink,
    AddCopy,
    Grow,
    BeginMove,
    CommitMove,
    Failover,
    /// A node begins to leave.
    Drain,
    /// A replication link is open.
    LinkUp,
    /// A node leads the control plane.
    Elected,
    /// A node asks others to go on without the majority.
    Reforming,
    /// The first command of a cluster, or of one that was reformed.
    Begun,
}

/// A fault that has to happen.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Planned {
    pub(crate) at: Duration,
    pub(crate) moment: Moment,
    /// From the moment to the fault.
    pub(crate) later: Duration,
    pub(crate) fault: Fault,
    pub(crate) target: Target,
    pub(crate) lasts: Duration,
    /// Whether its time counts from the start of the processes, not from the moment every slot is served.
    pub(crate) early: bool,
}

impl Planned {
    /// One at this time.
    pub(crate) fn at(at: Duration, fault: Fault, target: Target, lasts: Duration) -> Self {
        let (moment, later, early) = (Moment::Clock, Duration::ZERO, false);
        Self { at, moment, later, fault, target, lasts, early }
    }

    /// Whether a process may end by it.
    pub(crate) fn may_end(&self) -> bool {
        matches!(self.fault, Fault::Crash | Fault::Lose | Fault::Leave | Fault::Zone)
    }
}

/// A node joins where none was before, or leaves and is not replaced.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Resize {
    pub(crate) at: Duration,
    pub(crate) place: usize,
    pub(crate) joins: bool,
}

/// What somebody has the cluster decide on.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Wish {
    pub(crate) at: Duration,
    pub(crate) want: Want,
}

#[derive(Clone, Copy, Debug)]
pub(crate) enum Want {
    /// Another number of copies.
    Replicas(u8),
    /// Moves for balance, or none.
    Rebalance(Rebalance),
}

/// Values that nobody checks, to fill memory and logs with.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Filler {
    pub(crate) keys: usize,
    pub(crate) bytes_max: usize,
}
