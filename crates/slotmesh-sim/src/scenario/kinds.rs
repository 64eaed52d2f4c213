use std::time::Duration;

use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};
use slotmesh_control::{LoadFloor, Rebalance, Reform};

use super::Scenario;
use super::draw::{draw_clocked, draw_triggered, draw_weights};
use super::fault::{Fault, Filler, Moment, Planned, Resize, Target, Want, Wish};

/// Scenarios with a plot of their own.
impl Scenario {
    /// Two nodes and a witness; each crashes in turn and is replaced, one stays away for so long that its vote is given up,
    /// then either node is cut off from the other two.
    #[must_use]
    pub fn two_and_a_witness(seed: u64) -> Self {
        let mut rng = StdRng::seed_from_u64(seed ^ 0x0717_ae55);
        let mut planned = |second: u64, fault, place, lasts: u64| {
            let at = Duration::from_millis(second * 1_000 + rng.random_range(0..1_500));
            Planned::at(at, fault, Target::At(place), Duration::from_millis(lasts))
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
            witnesses: 1,
            safety: Duration::from_secs(90),
            faults: faults.to_vec(),
            ..Self::plain(seed)
        }
    }

    /// The majority is lost: one node ends, and the leader ends or is cut off. The survivors go on by themselves or because an
    /// operator says so; who was cut off comes back, gives up and joins them.
    #[must_use]
    pub fn reformed(seed: u64) -> Self {
        let mut rng = StdRng::seed_from_u64(seed ^ 0x7ef0_7e4d);
        let mut planned = |fault, target, lasts: std::ops::Range<u64>| {
            let at = Duration::from_millis(3_000 + rng.random_range(0..20));
            Planned::at(at, fault, target, Duration::from_millis(rng.random_range(lasts)))
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
            loss: 0.0,
            safety: Duration::from_secs(26),
            faults,
            reform: if by_operator { Reform::Never } else { Reform::After(patience) },
            operator: by_operator.then_some(Duration::from_millis(3_000)),
            ..Self::plain(seed)
        }
    }

    /// As the mix, with a local tier in every process.
    #[must_use]
    pub fn near(seed: u64) -> Self {
        Self { near: true, ..Self::general(seed) }
    }

    /// The majority is only stopped, and continues while those that were asked to go on without it prepare that: nothing is
    /// reformed then, and nothing later, when it is stopped once more and nobody asks.
    #[must_use]
    pub fn overtaken_reform(seed: u64) -> Self {
        let mut rng = StdRng::seed_from_u64(seed ^ 0x0e72_7a4e);
        // With two replicas all five vote.
        let (nodes, replicas) = if rng.random_bool(0.5) { (3, 1) } else { (5, 2) };
        let others = if nodes == 3 { 1 } else { 2 };
        let mut faults = Vec::new();
        for (at, lasts) in [(3_000_u64, 9_000..9_001), (15_000, 3_000..5_000)] {
            let lasts = Duration::from_millis(rng.random_range(lasts));
            let planned = |micros: u64, target| {
                let at = Duration::from_micros(at * 1_000 + micros);
                Planned::at(at, Fault::Pause, target, lasts)
            };
            faults.extend((0..others).map(|_| planned(rng.random_range(0..20_000), Target::Voter)));
            // The leader last: another one might be elected in between.
            faults.push(planned(21_000, Target::Leader));
        }
        let at = Duration::from_millis(3_100);
        let wake = Planned::at(at, Fault::Wake, Target::Any, Duration::ZERO);
        let later = Duration::from_millis(rng.random_range(0..900));
        faults.push(Planned { moment: Moment::Reforming, later, ..wake });
        Self {
            nodes,
            replicas,
            expect: nodes as u16,
            loss: 0.0,
            safety: Duration::from_secs(24),
            faults,
            operator: Some(Duration::from_millis(3_000)),
            ..Self::plain(seed)
        }
    }

    /// Of five nodes a majority of the voters ends and two are left. Mostly one of the two ends as well, or is stopped for a moment, while
    /// they go on or right after.
    #[must_use]
    pub fn reformed_group(seed: u64) -> Self {
        let mut rng = StdRng::seed_from_u64(seed ^ 0x6709_0005);
        let replicas = rng.random_range(1..=2);
        // With two replicas all five vote.
        let third = if replicas == 2 { Target::Voter } else { Target::Follower };
        let mut faults: Vec<Planned> = [Target::Voter, third, Target::Leader]
            .into_iter()
            .map(|target| {
                let at = Duration::from_micros(3_000_000 + rng.random_range(0..20_000));
                let lasts = Duration::from_millis(rng.random_range(8_000..16_000));
                Planned::at(at, Fault::Lose, target, lasts)
            })
            .collect();
        // The leader last: another one might be elected in between, and not be the one that ends.
        faults.sort_by_key(|planned| (planned.target == Target::Leader, planned.at));
        if let Some(last) = faults.last_mut() {
            last.at = Duration::from_micros(3_021_000);
        }
        if rng.random_bool(0.7) {
            // One that is out of sight for longer has both sides go on, each without the other.
            let (fault, lasts) = match rng.random_bool(0.7) {
                true => (Fault::Lose, rng.random_range(1_000..6_000)),
                false => (Fault::Pause, rng.random_range(100..600)),
            };
            let (at, lasts) = (Duration::from_millis(3_100), Duration::from_millis(lasts));
            let moment = if rng.random_bool(0.5) { Moment::Reforming } else { Moment::Begun };
            let later = Duration::from_millis(rng.random_range(0..1_300));
            let planned = Planned::at(at, fault, Target::Survivor, lasts);
            faults.push(Planned { moment, later, ..planned });
        }
        let patience = Duration::from_millis(rng.random_range(1_500..4_000));
        let by_operator = rng.random_bool(0.5);
        Self {
            nodes: 5,
            replicas,
            expect: 5,
            loss: 0.0,
            safety: Duration::from_secs(28),
            faults,
            reform: if by_operator { Reform::Never } else { Reform::After(patience) },
            operator: by_operator.then_some(Duration::from_millis(3_000)),
            ..Self::plain(seed)
        }
    }

    /// One node ends and the leader is cut off from the third, and both that are left go on by themselves: when they meet,
    /// neither gives way.
    #[must_use]
    pub fn two_sides(seed: u64) -> Self {
        let planned = |fault, target| {
            Planned::at(Duration::from_secs(3), fault, target, Duration::from_secs(15))
        };
        let reform = Reform::After(Duration::from_secs(2));
        let faults =
            vec![planned(Fault::Lose, Target::Follower), planned(Fault::Isolate, Target::Leader)];
        Self { faults, reform, operator: None, two_sides: true, ..Self::reformed(seed) }
    }

    /// Three nodes; one crashes and is replaced, then the leader is cut off.
    #[must_use]
    pub fn three_nodes(seed: u64) -> Self {
        let planned = |at, fault, target, lasts| {
            Planned::at(Duration::from_millis(at), fault, target, Duration::from_millis(lasts))
        };
        Self {
            safety: Duration::from_secs(20),
            faults: vec![
                planned(2_000, Fault::Crash, Target::Any, 1_500),
                planned(12_000, Fault::Isolate, Target::Leader, 4_000),
                planned(17_500, Fault::Pause, Target::Any, 2_500),
            ],
            ..Self::plain(seed)
        }
    }

    /// Three nodes of which nothing goes wrong with.
    #[must_use]
    pub fn quiet(seed: u64) -> Self {
        Self { safety: Duration::from_secs(4), ..Self::plain(seed) }
    }

    /// No faults, but the number of copies changes again and again: no copy that is wanted may go.
    #[must_use]
    pub fn changing_copies(seed: u64) -> Self {
        let wish = |second, replicas| Wish {
            at: Duration::from_secs(second),
            want: Want::Replicas(replicas),
        };
        let wishes = vec![wish(1, 2), wish(7, 0), wish(12, 1), wish(18, 2)];
        let safety = Duration::from_secs(24);
        Self { nodes: 4, loss: 0.0, wishes, safety, ..Self::plain(seed) }
    }

    /// Nodes crash and are replaced, while an operator pauses, aborts and resumes moves for balance again and again.
    #[must_use]
    pub fn paused(seed: u64) -> Self {
        let mut rng = StdRng::seed_from_u64(seed ^ 0x0d1e_7e57);
        let mut wishes = Vec::new();
        for crash in [1_000, 8_000, 15_000] {
            // Mostly while the one that came in its place is being filled.
            let mut at = Duration::from_millis(crash + 1_200 + rng.random_range(0..900));
            for _ in 0..2 {
                for rebalance in
                    [Rebalance::Paused, Rebalance::On, Rebalance::Aborted, Rebalance::On]
                {
                    wishes.push(Wish { at, want: Want::Rebalance(rebalance) });
                    at += Duration::from_millis(rng.random_range(50..500));
                }
            }
        }
        let crash = |second: u64, target| {
            let at = Duration::from_secs(second);
            Planned::at(at, Fault::Crash, target, Duration::from_millis(1_200))
        };
        let mut faults =
            vec![crash(1, Target::Any), crash(8, Target::Leader), crash(15, Target::Any)];
        let began = [(2, Moment::AddCopy), (9, Moment::BeginMove), (16, Moment::BeginMove)];
        for (second, moment) in began {
            let at = Duration::from_secs(second);
            let lasts = Duration::from_millis(rng.random_range(200..900));
            let planned = Planned::at(at, Fault::Abort, Target::Leader, lasts);
            let later = Duration::from_micros(rng.random_range(0..1_500));
            faults.push(Planned { moment, later, ..planned });
        }
        Self { nodes: 4, loss: 0.0, wishes, faults, ..Self::plain(seed) }
    }

    /// A few slots have nearly all bytes and writes, some nodes more of them than others, and nothing else happens.
    #[must_use]
    pub fn skewed(seed: u64) -> Self {
        Self {
            nodes: 4,
            loss: 0.0,
            filler: Some(Filler { keys: 36, bytes_max: 4 << 10 }),
            log_bytes: 1 << 20,
            load_floor: LoadFloor { bytes: 512, writes: 16 },
            safety: Duration::from_secs(60),
            ..Self::plain(seed)
        }
    }

    /// Three nodes become seven of different weights, and then any three of those, under faults.
    #[must_use]
    pub fn growing(seed: u64) -> Self {
        let mut rng = StdRng::seed_from_u64(seed ^ 0x0003_0703);
        let (nodes, most, safety) = (3, 7, Duration::from_secs(36));
        let mut resize = |place, joins, seconds: std::ops::Range<u64>| {
            let millis = rng.random_range(seconds.start * 1_000..seconds.end * 1_000);
            Resize { at: Duration::from_millis(millis), place, joins }
        };
        let mut resizes: Vec<Resize> = (nodes..most).map(|it| resize(it, true, 0..8)).collect();
        // One founder goes at most: the others stay the addresses by which newcomers find the cluster.
        let mut goes: Vec<usize> = (nodes..most).collect();
        let founder = rng.random_range(0..nodes);
        if rng.random_bool(0.5) {
            goes[rng.random_range(0..most - nodes)] = founder;
        }
        for place in goes {
            let at = Duration::from_millis(rng.random_range(16_000..28_000));
            resizes.push(Resize { at, place, joins: false });
        }
        let mut faults = Vec::new();
        draw_clocked(&mut rng, safety, 1, &mut faults);
        draw_triggered(&mut rng, safety, 1, &mut faults);
        let weights = draw_weights(&mut rng, most);
        let replicas = rng.random_range(1..=2);
        Self { replicas, resizes, weights, faults, safety, ..Self::plain(seed) }
    }

    /// Of four nodes two are cut off from each other alone, one of those that follow leaves meanwhile, and another one crashes later.
    #[must_use]
    pub fn parted(seed: u64) -> Self {
        let mut rng = StdRng::seed_from_u64(seed ^ 0x0002_0bad);
        let mut planned = |millis: std::ops::Range<u64>, fault, seconds| {
            let at = Duration::from_millis(rng.random_range(millis));
            Planned::at(at, fault, Target::Follower, Duration::from_secs(seconds))
        };
        let faults = vec![
            planned(500..2_500, Fault::Part, 16),
            planned(3_000..8_000, Fault::Leave, 10),
            planned(12_000..16_000, Fault::Crash, 3),
        ];
        Self { nodes: 4, parts: true, faults, ..Self::plain(seed) }
    }

    /// Of four or five nodes two are cut off from each other alone for longer than slots wait for a holder, and the leader crashes
    /// meanwhile: one of the two may come to lead.
    #[must_use]
    pub fn estranged(seed: u64) -> Self {
        let mut rng = StdRng::seed_from_u64(seed ^ 0x000e_5724);
        let at = |millis| Duration::from_millis(millis);
        let cut = at(rng.random_range(500..2_500));
        let crash = at(rng.random_range(3_000..14_000));
        let faults = vec![
            Planned::at(cut, Fault::Part, Target::Follower, Duration::from_secs(48)),
            Planned::at(crash, Fault::Crash, Target::Leader, Duration::from_secs(3)),
        ];
        let nodes = rng.random_range(4..=5);
        Self { nodes, parts: true, faults, safety: Duration::from_secs(52), ..Self::plain(seed) }
    }

    /// Every node is told to leave and is replaced, one after the other, and nothing else happens.
    #[must_use]
    pub fn rolling_restart(seed: u64) -> Self {
        let mut rng = StdRng::seed_from_u64(seed ^ 0x2011_1116);
        let nodes = rng.random_range(3..=4);
        let leave = |place| {
            let at = Duration::from_millis(500 + 8_000 * place as u64);
            Planned::at(at, Fault::Leave, Target::At(place), Duration::from_secs(20))
        };
        Self {
            nodes,
            loss: 0.0,
            safety: Duration::from_secs(8 * nodes as u64),
            faults: (0..nodes).map(leave).collect(),
            ..Self::plain(seed)
        }
    }

    /// Three nodes with one replica and nothing that happens; what else distinguishes runs is drawn.
    fn plain(seed: u64) -> Self {
        Self {
            nodes: 3,
            resizes: Vec::new(),
            weights: Vec::new(),
            witnesses: 0,
            replicas: 1,
            expect: 3,
            zones: 1,
            filler: None,
            budgets: Vec::new(),
            safety: Duration::from_secs(24),
            faults: Vec::new(),
            wishes: Vec::new(),
            near: false,
            ..Self::general(seed)
        }
    }
}
