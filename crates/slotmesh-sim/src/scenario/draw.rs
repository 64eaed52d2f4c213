use std::time::Duration;

use rand::rngs::StdRng;
use rand::seq::IndexedRandom;
use rand::{Rng, SeedableRng};
use slotmesh_control::{LoadFloor, Rebalance, Reform};

use super::Scenario;
use super::fault::{Fault, Filler, Moment, Planned, Resize, Target, Want, Wish};

/// Scenarios that are drawn.
impl Scenario {
    /// Any of the scenarios, mostly one with everything drawn from the seed.
    #[must_use]
    pub fn mix(seed: u64) -> Self {
        match seed % 32 {
            5 | 21 => Self::reformed_group(seed),
            13 => Self::reformed(seed),
            29 => Self::rolling_restart(seed),
            _ => Self::general(seed),
        }
    }

    /// Everything drawn from the seed.
    #[must_use]
    pub(super) fn general(seed: u64) -> Self {
        let mut rng = StdRng::seed_from_u64(seed ^ 0x5ca1_ab1e);
        let rng = &mut rng;
        let nodes = pick(rng, &[3, 3, 4, 5]);
        let replicas = if nodes > 3 { rng.random_range(1..=2) } else { 1 };
        let witness = rng.random_ratio(1, 4) && usize::from(replicas) + 2 <= nodes;
        let safety = Duration::from_secs(pick(rng, &[10, 14, 18, 24]));
        let log_bytes = pick(rng, &[1 << 10, 4 << 10, 1 << 20, 32 << 20]);
        let filler = rng.random_bool(0.6).then(|| draw_filler(rng, log_bytes));
        let budgets = match filler {
            Some(filler) if rng.random_bool(0.5) => draw_budgets(rng, nodes, filler),
            _ => Vec::new(),
        };
        let zones = pick(rng, &[1, 1, 2, 3]);
        let mut faults = Vec::new();
        draw_early(rng, &mut faults);
        draw_clocked(rng, safety, zones, &mut faults);
        draw_triggered(rng, safety, zones, &mut faults);
        // Who took its founder for dead promises anew: unless every node is needed, two clusters may come of a cut meanwhile.
        let early = faults.iter().any(|planned| planned.early);
        let expect = rng.random_range(nodes / 2 + 1..=nodes).max(if early { nodes } else { 0 });
        // What came later to be drawn has draws of its own, which change no others.
        let mut apart = StdRng::seed_from_u64(seed ^ 0x4ec0_9f00);
        draw_late(&mut apart, safety, &mut faults);
        let crashes = faults.iter().any(|planned| planned.may_end());
        let mut wishes = draw_wishes(rng, safety, crashes);
        draw_pauses(&mut apart, safety, &mut wishes);
        draw_aborts(&mut apart, safety, &mut faults);
        let mut growth = StdRng::seed_from_u64(seed ^ 0x6709_73e5);
        Self {
            seed,
            nodes,
            resizes: draw_resizes(&mut growth, nodes, safety),
            weights: draw_weights(&mut growth, nodes + NEWCOMERS_MAX),
            witnesses: usize::from(witness),
            replicas,
            expect: expect as u16,
            zones,
            clients_per_node: 2,
            keys: 24,
            filler,
            budgets,
            loss: pick(rng, &[0.0, 0.005, 0.03]),
            twice: draw_twice(seed),
            latency: Duration::from_micros(pick(rng, &[0, 0, 4_000, 15_000])),
            drift_ppm: 25_000,
            log_bytes,
            control_log_keeps: pick(rng, &[4, 16, 64, u64::MAX]),
            safety,
            faults,
            wishes,
            recopy_after: draw_recopy_after(&mut apart),
            load_floor: draw_load_floor(&mut apart),
            refused_is_death: apart.random_ratio(1, 4),
            reform: Reform::Never,
            operator: None,
            near: growth.random_ratio(1, 8),
            parts: false,
            two_sides: false,
            bug: None,
        }
    }
}

/// Most nodes that join a cluster of the mix.
const NEWCOMERS_MAX: usize = 2;

/// In one of five runs one or two nodes join, each at an address of its own, and mostly leave again.
fn draw_resizes(rng: &mut StdRng, nodes: usize, safety: Duration) -> Vec<Resize> {
    if !rng.random_ratio(1, 5) {
        return Vec::new();
    }
    let half = safety.as_millis() as u64 / 2;
    let mut resizes = Vec::new();
    for place in nodes..nodes + rng.random_range(1..=NEWCOMERS_MAX) {
        let at = millis(rng, 200..half);
        resizes.push(Resize { at, place, joins: true });
        if rng.random_bool(0.7) {
            resizes.push(Resize { at: at + millis(rng, 500..half), place, joins: false });
        }
    }
    resizes
}

/// In half of the runs nodes have different weights.
pub(super) fn draw_weights(rng: &mut StdRng, places: usize) -> Vec<u32> {
    if rng.random_bool(0.5) {
        return Vec::new();
    }
    (0..places).map(|_| rng.random_range(1..=3)).collect()
}

/// In every other run some of what may arrive twice does.
fn draw_twice(seed: u64) -> f64 {
    let mut apart = StdRng::seed_from_u64(seed ^ 0x0002_ce02);
    pick(&mut apart, &[0.0, 0.0, 0.01, 0.05])
}

/// Where it is low, what the clients write is enough for exchanges: of 16384 slots a few have all there is.
fn draw_load_floor(rng: &mut StdRng) -> LoadFloor {
    match rng.random_bool(0.5) {
        true => LoadFloor { bytes: 512, writes: 16 },
        false => LoadFloor::default(),
    }
}

/// Mostly so short that the time is over while a node is away.
fn draw_recopy_after(rng: &mut StdRng) -> Duration {
    Duration::from_millis(pick(rng, &[0, 1_000, 2_000, 5_000, 30_000]))
}

fn pick<T: Copy>(rng: &mut StdRng, of: &[T]) -> T {
    of[rng.random_range(0..of.len())]
}

fn millis(rng: &mut StdRng, range: std::ops::Range<u64>) -> Duration {
    Duration::from_millis(rng.random_range(range))
}

/// Values of up to a third of the log of records, so that it soon lacks what a replica missed.
fn draw_filler(rng: &mut StdRng, log_bytes: usize) -> Filler {
    Filler { keys: pick(rng, &[12, 36]), bytes_max: (log_bytes / 3).clamp(256, 4 << 10) }
}

/// Some nodes have less memory than all values take, the others plenty.
fn draw_budgets(rng: &mut StdRng, nodes: usize, filler: Filler) -> Vec<usize> {
    let tight = (filler.keys * filler.bytes_max / 8).max(4 << 10);
    let all = rng.random_bool(0.5);
    let budget = |place| if place == 0 || all || rng.random_bool(0.4) { tight } else { 64 << 20 };
    (0..nodes).map(budget).collect()
}

/// In one of three runs the number of copies changes, once or twice. Where a process ends, a copy is left to be wanted.
fn draw_wishes(rng: &mut StdRng, safety: Duration, ends: bool) -> Vec<Wish> {
    if !rng.random_ratio(1, 3) {
        return Vec::new();
    }
    let count = rng.random_range(1..=2);
    let end = safety.as_millis() as u64 * 2 / 3;
    let mut wishes: Vec<Wish> = (0..count)
        .map(|_| Wish {
            at: millis(rng, 300..end),
            want: Want::Replicas(rng.random_range(0..=2u8).max(u8::from(ends))),
        })
        .collect();
    wishes.sort_by_key(|wish| wish.at);
    wishes
}

/// In one of three runs moves for balance are paused or aborted for a while, once or twice, and resumed in the end.
fn draw_pauses(rng: &mut StdRng, safety: Duration, wishes: &mut Vec<Wish>) {
    if !rng.random_ratio(1, 3) {
        return;
    }
    let end = safety.as_millis() as u64 * 2 / 3;
    let mut at = millis(rng, 300..end);
    for _ in 0..rng.random_range(1..=2) {
        let stops = match rng.random_range(0..3) {
            0 => &[Rebalance::Paused, Rebalance::On][..],
            1 => &[Rebalance::Aborted, Rebalance::On][..],
            _ => &[Rebalance::Paused, Rebalance::Aborted, Rebalance::On][..],
        };
        for rebalance in stops {
            wishes.push(Wish { at, want: Want::Rebalance(*rebalance) });
            at += millis(rng, 100..3_000);
        }
    }
    wishes.sort_by_key(|wish| wish.at);
}

/// In one of three runs moves for balance are aborted right when some began.
fn draw_aborts(rng: &mut StdRng, safety: Duration, faults: &mut Vec<Planned>) {
    if !rng.random_ratio(1, 3) {
        return;
    }
    let end = safety.as_millis() as u64 / 2;
    for moment in [Moment::AddCopy, Moment::BeginMove] {
        let (at, lasts) = (millis(rng, 100..end), millis(rng, 200..3_000));
        let planned = Planned::at(at, Fault::Abort, Target::Leader, lasts);
        faults.push(Planned { moment, later: draw_later(rng), ..planned });
    }
}

const KINDS: [Fault; 14] = [
    Fault::Crash,
    Fault::Leave,
    Fault::Isolate,
    Fault::CutLanes,
    Fault::CutControl,
    Fault::Split,
    Fault::Zone,
    Fault::Mute,
    Fault::Pause,
    Fault::Slow,
    Fault::Reset,
    Fault::Flap,
    Fault::Flap,
    Fault::Loss,
];

fn draw_kind(rng: &mut StdRng, zones: usize) -> Fault {
    match *KINDS.choose(rng).unwrap_or(&Fault::Pause) {
        Fault::Zone if zones == 1 => Fault::Split,
        kind => kind,
    }
}

fn draw_lasting(rng: &mut StdRng, fault: Fault) -> Duration {
    match fault {
        Fault::Pause => millis(rng, 200..8_000),
        Fault::Crash => millis(rng, 100..4_000),
        Fault::Leave => millis(rng, 300..12_000),
        _ => millis(rng, 200..6_000),
    }
}

/// Faults while the processes look for each other and found their cluster.
fn draw_early(rng: &mut StdRng, faults: &mut Vec<Planned>) {
    if !rng.random_ratio(1, 3) {
        return;
    }
    for _ in 0..rng.random_range(1..=3) {
        let fault = pick(
            rng,
            &[
                Fault::Crash,
                Fault::Isolate,
                Fault::Split,
                Fault::Mute,
                Fault::Pause,
                Fault::Slow,
                Fault::Loss,
            ],
        );
        let at = millis(rng, 0..2_500);
        let lasts = millis(rng, 200..4_000);
        let planned = Planned { early: true, ..Planned::at(at, fault, Target::Any, lasts) };
        let at_founding = rng.random_ratio(1, 3);
        let moment =
            if at_founding { pick(rng, &[Moment::Begun, Moment::Elected]) } else { Moment::Clock };
        faults.push(Planned { moment, later: draw_later(rng), ..planned });
    }
}

/// Faults at any time, some of them close to each other.
pub(super) fn draw_clocked(
    rng: &mut StdRng,
    safety: Duration,
    zones: usize,
    faults: &mut Vec<Planned>,
) {
    let end = safety.as_millis() as u64 * 2 / 3;
    let mut at = Duration::ZERO;
    for index in 0..rng.random_range(1..=4) {
        let near = index > 0 && rng.random_bool(0.4);
        at = if near { at + millis(rng, 0..900) } else { millis(rng, 300..end) };
        let fault = draw_kind(rng, zones);
        let target = if rng.random_bool(0.4) { Target::Leader } else { Target::Any };
        let lasts = draw_lasting(rng, fault);
        faults.push(Planned::at(at.min(Duration::from_millis(end)), fault, target, lasts));
    }
}

/// Faults that hit a node at the moment at which something is decided about it.
pub(super) fn draw_triggered(
    rng: &mut StdRng,
    safety: Duration,
    zones: usize,
    faults: &mut Vec<Planned>,
) {
    const MOMENTS: [Moment; 12] = [
        Moment::Shrink,
        Moment::AddCopy,
        Moment::AddCopy,
        Moment::Grow,
        Moment::Grow,
        Moment::BeginMove,
        Moment::CommitMove,
        Moment::Failover,
        Moment::Drain,
        Moment::LinkUp,
        Moment::LinkUp,
        Moment::Elected,
    ];
    let end = safety.as_millis() as u64 / 2;
    for _ in 0..rng.random_range(0..=4) {
        let moment = pick(rng, &MOMENTS);
        let fault = match rng.random_range(0..10) {
            0..4 => Fault::Isolate,
            4..6 => Fault::Crash,
            _ => draw_kind(rng, zones),
        };
        let target = match rng.random_range(0..10) {
            0..6 => Target::Subject,
            6..8 => Target::Other,
            _ => Target::Leader,
        };
        let lasts = draw_lasting(rng, fault);
        let planned = Planned::at(millis(rng, 100..end), fault, target, lasts);
        faults.push(Planned { moment, later: draw_later(rng), ..planned });
    }
}

/// In one of six runs a node hears late what is decided.
fn draw_late(rng: &mut StdRng, safety: Duration, faults: &mut Vec<Planned>) {
    if rng.random_ratio(1, 6) {
        let at = millis(rng, 300..safety.as_millis() as u64 / 2);
        faults.push(Planned::at(at, Fault::Late, Target::Any, millis(rng, 600..2_500)));
    }
}

/// Mostly while what has just begun is still on its way.
fn draw_later(rng: &mut StdRng) -> Duration {
    let micros = match rng.random_range(0..10) {
        0..6 => rng.random_range(0..3_000),
        6..9 => rng.random_range(0..40_000),
        _ => rng.random_range(0..400_000),
    };
    Duration::from_micros(micros)
}
