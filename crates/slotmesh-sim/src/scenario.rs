use std::time::Duration;

use rand::rngs::StdRng;
use rand::seq::IndexedRandom;
use rand::{Rng, SeedableRng};
use slotmesh_control::Reform;
use slotmesh_slots::Mistake;

/// A mistake that is put into the simulated surroundings on purpose, to see that the checks find such a thing.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[non_exhaustive]
pub enum Bug {
    /// The log goes on telling its leader that a quorum answers when none does: leases are granted on both sides.
    StaleQuorum,
    /// The data plane's clock is one that stands still while the process is stopped.
    CachedClock,
    /// Every lost connection is reported as an orderly departure, which proves a death.
    LossIsDeparture,
    /// The log commits on the leader's word alone.
    CommitAlone,
    /// Clients are told of writes before the replicas have them.
    AckBeforeReplicas,
    /// A restarted process uses its former identity.
    IdentityReused,
    /// Survivors go on without the majority while its leases last.
    ReformAtOnce,
    /// One in the code under test itself.
    Planted(Mistake),
}

impl Bug {
    /// Those of the surroundings.
    const AROUND: [Self; 7] = [
        Self::StaleQuorum,
        Self::CachedClock,
        Self::LossIsDeparture,
        Self::CommitAlone,
        Self::AckBeforeReplicas,
        Self::IdentityReused,
        Self::ReformAtOnce,
    ];

    /// All of them.
    pub fn all() -> impl Iterator<Item = Self> {
        Self::AROUND.into_iter().chain(Mistake::ALL.map(Self::Planted))
    }

    /// The one with this name.
    #[must_use]
    pub fn named(name: &str) -> Option<Self> {
        let mended = Self::Planted(Mistake::CopiesDiffer);
        Self::all().chain([mended]).find(|bug| match bug {
            Self::Planted(mistake) => format!("{mistake:?}") == name,
            bug => format!("{bug:?}") == name,
        })
    }
}

/// What goes wrong.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Fault {
    /// The process ends; another one starts at the same address later.
    Crash,
    /// The same, even where the cluster does not survive it by itself.
    Lose,
    /// It is cut off from all others.
    Isolate,
    /// The nodes fall into two groups.
    Split,
    /// What it sends to some others is lost, but not what they send.
    Mute,
    /// The process is stopped and continued.
    Pause,
    /// Everything it does takes longer.
    Slow,
    /// Its connections break.
    Reset,
    /// Messages get lost everywhere.
    Loss,
}

/// Which node it happens to.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Target {
    Leader,
    Follower,
    Any,
    /// The process at this address.
    At(usize),
}

/// A fault that has to happen.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Planned {
    pub(crate) at: Duration,
    pub(crate) fault: Fault,
    pub(crate) target: Target,
    pub(crate) lasts: Duration,
}

/// Another number of copies that somebody has the cluster decide on.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Wish {
    pub(crate) at: Duration,
    pub(crate) replicas: u8,
}

/// All that distinguishes one run from another.
#[derive(Clone, Debug)]
pub struct Scenario {
    pub(crate) seed: u64,
    pub(crate) nodes: usize,
    /// How many of them, the last ones, only vote.
    pub(crate) witnesses: usize,
    pub(crate) replicas: u8,
    pub(crate) expect: u16,
    pub(crate) clients_per_node: usize,
    pub(crate) keys: usize,
    pub(crate) loss: f64,
    /// Clocks run up to this much fast or slow.
    pub(crate) drift_ppm: u64,
    /// What recent records may take on each node; with little a replica that was away has to be filled.
    pub(crate) log_bytes: usize,
    /// How long faults happen and clients work, from the moment every slot is served.
    pub(crate) safety: Duration,
    pub(crate) faults: Vec<Planned>,
    pub(crate) wishes: Vec<Wish>,
    /// What the nodes do without a majority.
    pub(crate) reform: Reform,
    /// From when on an operator has the survivors go on, asking again and again until they have.
    pub(crate) operator: Option<Duration>,
    /// Whether two sides go on without each other, so that they meet as strangers.
    pub(crate) two_sides: bool,
    pub(crate) bug: Option<Bug>,
}

impl Scenario {
    /// Two nodes and a witness; each crashes in turn and is replaced, one stays away for so long that its vote is given up,
    /// then either node is cut off from the other two.
    #[must_use]
    pub fn two_and_a_witness(seed: u64) -> Self {
        let mut rng = StdRng::seed_from_u64(seed ^ 0x0717_ae55);
        let mut planned = |second: u64, fault, place, lasts: u64| Planned {
            at: Duration::from_millis(second * 1_000 + rng.random_range(0..1_500)),
            fault,
            target: Target::At(place),
            lasts: Duration::from_millis(lasts),
        };
        let faults = [
            (1, Fault::Crash, 0, 2_000),
            (12, Fault::Crash, 1, 2_000),
            (23, Fault::Crash, 2, 2_000),
            (34, Fault::Crash, 0, 9_000),
            (56, Fault::Isolate, 1, 4_000),
            (72, Fault::Isolate, 0, 8_000),
        ];
        let faults =
            faults.map(|(second, fault, place, lasts)| planned(second, fault, place, lasts));
        Self {
            nodes: 3,
            witnesses: 1,
            replicas: 1,
            expect: 3,
            safety: Duration::from_secs(90),
            faults: faults.to_vec(),
            wishes: Vec::new(),
            ..Self::mix(seed)
        }
    }

    /// The majority is lost: one node ends, and the leader ends or is cut off. The survivors go on by themselves or because an
    /// operator says so; who was cut off comes back, gives up and joins them.
    #[must_use]
    pub fn reformed(seed: u64) -> Self {
        let mut rng = StdRng::seed_from_u64(seed ^ 0x7ef0_7e4d);
        let mut planned = |fault, target, lasts: std::ops::Range<u64>| Planned {
            at: Duration::from_millis(3_000 + rng.random_range(0..20)),
            fault,
            target,
            lasts: Duration::from_millis(rng.random_range(lasts)),
        };
        let first = planned(Fault::Lose, Target::Follower, 4_000..14_000);
        let (ends, is_cut_off) = (
            planned(Fault::Lose, Target::Leader, 6_000..14_000),
            planned(Fault::Isolate, Target::Leader, 6_000..14_000),
        );
        let by_operator = rng.random_bool(0.5);
        // By itself the one that is cut off would go on too; an operator asks one side only.
        let faults = vec![first, if by_operator { is_cut_off } else { ends }];
        let patience = Duration::from_millis(rng.random_range(1_500..4_000));
        Self {
            nodes: 3,
            witnesses: 0,
            replicas: 1,
            expect: 3,
            loss: 0.0,
            safety: Duration::from_secs(26),
            faults,
            wishes: Vec::new(),
            reform: if by_operator { Reform::Never } else { Reform::After(patience) },
            operator: by_operator.then_some(Duration::from_millis(3_000)),
            ..Self::mix(seed)
        }
    }

    /// One node ends and the leader is cut off from the third, and both that are left go on by themselves: when they meet,
    /// neither gives way.
    #[must_use]
    pub fn two_sides(seed: u64) -> Self {
        let planned = |fault, target| Planned {
            at: Duration::from_secs(3),
            fault,
            target,
            lasts: Duration::from_secs(15),
        };
        let reform = Reform::After(Duration::from_secs(2));
        let faults =
            vec![planned(Fault::Lose, Target::Follower), planned(Fault::Isolate, Target::Leader)];
        Self { faults, reform, operator: None, two_sides: true, ..Self::reformed(seed) }
    }

    /// Three nodes; one crashes and is replaced, then the leader is cut off.
    #[must_use]
    pub fn three_nodes(seed: u64) -> Self {
        let planned = |at, fault, target, lasts| Planned {
            at: Duration::from_millis(at),
            fault,
            target,
            lasts: Duration::from_millis(lasts),
        };
        Self {
            nodes: 3,
            witnesses: 0,
            replicas: 1,
            expect: 3,
            safety: Duration::from_secs(20),
            faults: vec![
                planned(2_000, Fault::Crash, Target::Any, 1_500),
                planned(12_000, Fault::Isolate, Target::Leader, 4_000),
                planned(17_500, Fault::Pause, Target::Any, 2_500),
            ],
            wishes: Vec::new(),
            ..Self::mix(seed)
        }
    }

    /// Three nodes of which nothing goes wrong with.
    #[must_use]
    pub fn quiet(seed: u64) -> Self {
        let safety = Duration::from_secs(4);
        let (nodes, witnesses, replicas, expect) = (3, 0, 1, 3);
        let (faults, wishes) = (vec![], vec![]);
        Self { nodes, witnesses, replicas, expect, safety, faults, wishes, ..Self::mix(seed) }
    }

    /// Everything drawn from the seed.
    #[must_use]
    pub fn mix(seed: u64) -> Self {
        let mut rng = StdRng::seed_from_u64(seed ^ 0x5ca1_ab1e);
        let nodes = *[3, 3, 4, 5].choose(&mut rng).unwrap_or(&3);
        let replicas = if nodes > 3 { rng.random_range(1..=2) } else { 1 };
        let safety = Duration::from_secs(24);
        let expect = rng.random_range(nodes / 2 + 1..=nodes) as u16;
        let loss = *[0.0, 0.005, 0.03].choose(&mut rng).unwrap_or(&0.0);
        let faults = draw(&mut rng, safety);
        let witness = StdRng::seed_from_u64(seed ^ 0x0717_ae55).random_ratio(1, 4);
        let crashes = faults.iter().any(|planned| planned.fault == Fault::Crash);
        Self {
            seed,
            nodes,
            // Drawn apart, as the wishes are.
            witnesses: usize::from(witness && usize::from(replicas) + 2 <= nodes),
            replicas,
            expect,
            clients_per_node: 2,
            keys: 24,
            loss,
            drift_ppm: 25_000,
            log_bytes: *[4 << 10, 1 << 20, 32 << 20].choose(&mut rng).unwrap_or(&(1 << 20)),
            safety,
            faults,
            wishes: draw_wishes(seed, safety, crashes),
            reform: Reform::Never,
            operator: None,
            two_sides: false,
            bug: None,
        }
    }

    /// No faults, but the number of copies changes again and again: no copy that is wanted may go.
    #[must_use]
    pub fn changing_copies(seed: u64) -> Self {
        let wish = |second, replicas| Wish { at: Duration::from_secs(second), replicas };
        let wishes = vec![wish(1, 2), wish(7, 0), wish(12, 1), wish(18, 2)];
        Self { nodes: 4, witnesses: 0, loss: 0.0, faults: Vec::new(), wishes, ..Self::mix(seed) }
    }

    /// Whether copies go wrong without anything else being wrong.
    pub(crate) fn copies_differ(&self) -> bool {
        self.bug == Some(Bug::Planted(Mistake::CopiesDiffer))
    }

    /// The same with a mistake in it.
    #[must_use]
    pub fn with_bug(self, bug: Bug) -> Self {
        Self { bug: Some(bug), ..self }
    }
}

/// In one of three runs the number of copies changes, once or twice. Drawn apart, so that the other runs are as they were.
/// Where a process crashes, a copy is left to be wanted.
fn draw_wishes(seed: u64, safety: Duration, crashes: bool) -> Vec<Wish> {
    let mut rng = StdRng::seed_from_u64(seed ^ 0x0c09_1e5d);
    if !rng.random_ratio(1, 3) {
        return Vec::new();
    }
    let count = rng.random_range(1..=2);
    let millis = safety.as_millis() as u64 * 2 / 3;
    let wish = |_| Wish {
        at: Duration::from_millis(rng.random_range(300..millis)),
        replicas: rng.random_range(0..=2u8).max(u8::from(crashes)),
    };
    let mut wishes: Vec<Wish> = (0..count).map(wish).collect();
    wishes.sort_by_key(|wish| wish.at);
    wishes
}

const KINDS: [Fault; 8] = [
    Fault::Crash,
    Fault::Isolate,
    Fault::Split,
    Fault::Mute,
    Fault::Pause,
    Fault::Slow,
    Fault::Reset,
    Fault::Loss,
];

fn draw(rng: &mut StdRng, safety: Duration) -> Vec<Planned> {
    let count = rng.random_range(3..=7);
    let mut faults: Vec<Planned> = (0..count)
        .map(|_| {
            let fault = *KINDS.choose(rng).unwrap_or(&Fault::Pause);
            let target = if rng.random_bool(0.4) { Target::Leader } else { Target::Any };
            let millis = rng.random_range(300..safety.as_millis() as u64 * 2 / 3);
            let lasts = match fault {
                Fault::Pause => rng.random_range(500..8_000),
                Fault::Crash => rng.random_range(100..4_000),
                _ => rng.random_range(200..6_000),
            };
            Planned {
                at: Duration::from_millis(millis),
                fault,
                target,
                lasts: Duration::from_millis(lasts),
            }
        })
        .collect();
    faults.sort_by_key(|planned| planned.at);
    faults
}
