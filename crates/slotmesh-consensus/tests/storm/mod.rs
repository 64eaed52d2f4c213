//! One run of the simulation: a founding, a storm, and a calm in which all has to come right.

// What the tests do not call is still part of the model.
#![allow(unreachable_pub, clippy::unwrap_used)]

mod clocks;
mod fault;
mod oracle;
mod tally;
mod voters;
mod wire;
mod world;

use std::future::Future;
use std::sync::Arc;
use std::time::Duration;

pub use tally::Tally;
use tokio::task::AbortHandle;
use tokio::time::{Instant, sleep, timeout};
use wire::Weather;
use world::World;

/// How long the storm lasts, in milliseconds: from, to.
const STORM: (u64, u64) = (6_000, 12_000);

/// Within this time of calm there is a leader, however unlucky the last elections were: two of the longest rounds (a lease, the
/// wait after a longer log was seen, one's own patience), and a few for votes that split.
const LEADER_WITHIN: Duration = Duration::from_secs(5);

/// Within this time a leader in calm has applied a proposal, and all live voters what it has.
const COMMIT_WITHIN: Duration = Duration::from_secs(2);

/// Tries to set the voters in calm: the first may complete a change of the storm's, or hear of an unfinished one.
const CHANGES_MAX: u32 = 5;

/// What a run did.
#[derive(Debug)]
pub struct Summary {
    pub tally: Tally,
    pub commands: usize,
    pub virtual_time: Duration,
    /// Equal for equal runs.
    pub fingerprint: u64,
}

/// Runs this seed to its end in virtual time.
///
/// # Errors
/// Says what was wrong first, and at which virtual time.
pub fn run(seed: u64) -> Result<Summary, String> {
    let mut runtime = tokio::runtime::Builder::new_current_thread();
    let runtime = runtime.enable_time().start_paused(true).build().unwrap();
    runtime.block_on(async {
        let world = Arc::new(World::new(seed));
        let tasks = [watch(&world), clients(&world)];
        let outcome = play(&world).await;
        tasks.iter().for_each(AbortHandle::abort);
        let oracle = &world.air.oracle;
        // What the oracle saw explains what went wrong later.
        oracle.problem().map_or(outcome, Err)?;
        Ok(Summary {
            tally: oracle.tally(),
            commands: oracle.applied(),
            virtual_time: Duration::from_micros(oracle.now()),
            fingerprint: world.air.fingerprint(),
        })
    })
}

/// Looks at all nodes every few milliseconds, besides at every message.
fn watch(world: &Arc<World>) -> AbortHandle {
    let world = Arc::clone(world);
    let watching = async move {
        loop {
            sleep(Duration::from_millis(3)).await;
            world.air.sample();
        }
    };
    tokio::spawn(watching).abort_handle()
}

/// Proposes all the time, with pauses, mostly where it can succeed.
fn clients(world: &Arc<World>) -> AbortHandle {
    let world = Arc::clone(world);
    let proposing = async move {
        loop {
            let pause = if world.draw(0..40) == 0 { 200..900 } else { 1..25 };
            sleep(Duration::from_millis(world.draw(pause))).await;
            let places = if world.draw(0..4) > 0 { world.believers() } else { world.live() };
            let Some(place) = world.pick(&places) else { continue };
            let deadlines = if world.draw(0..3) == 0 { 2..60 } else { 100..2000 };
            let deadline = Duration::from_millis(world.draw(deadlines));
            let world = Arc::clone(&world);
            tokio::spawn(async move { world.propose(place, deadline).await });
        }
    };
    tokio::spawn(proposing).abort_handle()
}

async fn play(world: &Arc<World>) -> Result<(), String> {
    let voters = world.pick(&[1, 3, 3, 5, 5]).unwrap_or(3);
    world.found(voters).await;
    // A founder that dies before another node has heard of the log takes it along.
    within(LEADER_WITHIN, "a first leader", async || world.leader().is_some()).await?;
    let end = Instant::now() + Duration::from_millis(world.draw(STORM.0..STORM.1));
    while Instant::now() < end && world.air.oracle.problem().is_none() {
        fault::strike(world).await;
        sleep(Duration::from_millis(world.draw(10..250))).await;
    }
    if world.air.oracle.problem().is_some() {
        return Ok(());
    }
    fault::heal(world);
    world.air.net.lock().weather = Weather::CALM;
    recovers(world).await
}

/// What has to come true once nothing fails any more.
async fn recovers(world: &Arc<World>) -> Result<(), String> {
    within(LEADER_WITHIN, "a leader", async || world.leader().is_some()).await?;
    within(COMMIT_WITHIN, "a commit", async || commits(world).await).await?;
    voters::settle(world, CHANGES_MAX).await?;
    within(LEADER_WITHIN, "a leader of the settled voters", async || world.leader().is_some())
        .await?;
    within(COMMIT_WITHIN, "a commit by them", async || commits(world).await).await?;
    within(COMMIT_WITHIN, "all to agree", async || agree(world)).await
}

async fn commits(world: &World) -> bool {
    match world.leader() {
        Some(leader) => world.propose(leader, Duration::from_millis(500)).await,
        None => false,
    }
}

/// Whether all live nodes have applied everything, and name the same leader and voters.
fn agree(world: &World) -> bool {
    let applied = world.air.oracle.applied();
    let live = world.live();
    let status = |node| world.at(node).map(|consensus| consensus.status());
    let said = |node| status(node).map(|status| (status.leader, status.term, status.voters));
    let same = live.iter().all(|node| said(*node) == said(live[0]));
    same && live.iter().all(|node| world.air.oracle.reached(*node) == applied)
        && live.iter().filter(|node| status(**node).is_some_and(|status| status.is_leader)).count()
            == 1
}

/// Waits until it is so.
async fn within<F: Future<Output = bool>>(
    patience: Duration,
    what: &str,
    mut so: impl FnMut() -> F,
) -> Result<(), String> {
    let waiting = async {
        while !so().await {
            sleep(Duration::from_millis(5)).await;
        }
    };
    timeout(patience, waiting).await.map_err(|_| format!("waited {patience:?} in vain for {what}"))
}
