use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};
use slotmesh_transport::{BusyAt, CallError, Disconnect, RefusedReason};
use tokio::task::JoinSet;
use tokio::time::Instant;

use super::World;
use super::ledger::Verdict;
use super::process::{Handle, Process, Whereabouts};
use super::wire::{Act, Ask, STATUS};

/// How much longer than its budget a call takes at most: what [`slotmesh_transport::Peer::call`] promises, and the
/// millisecond by which each of the runtime's timers it meets may be late.
const LATE_MAX: Duration = Duration::from_millis(10 + 4);

/// A call that has not ended this long after its budget never will.
const HANGS_AFTER: Duration = Duration::from_secs(5);

/// One caller's call, all drawn beforehand.
pub struct Plan {
    pub act: Act,
    pub budget: Duration,
    pub body_bytes: usize,
    pub answer_bytes: u32,
    pub pause_ms: u32,
    /// When the caller loses interest, if it does.
    pub patience: Option<Duration>,
}

impl Plan {
    fn drawn(rng: &mut StdRng, frame_bytes_max: usize) -> Self {
        let act = match rng.random_range(0..20) {
            0 => Act::Status,
            1 => Act::Drop,
            2 => Act::Busy,
            3..=7 => Act::Late,
            _ => Act::Echo,
        };
        let budget_ms = *[0, 5, 50, 300, 1000, 4000].get(rng.random_range(0..6)).unwrap();
        let impatient = rng.random_bool(0.05);
        Self {
            act,
            budget: Duration::from_millis(budget_ms),
            body_bytes: size(rng, frame_bytes_max),
            answer_bytes: size(rng, frame_bytes_max) as u32,
            pause_ms: rng.random_range(0..1500),
            patience: impatient.then(|| Duration::from_millis(rng.random_range(0..200))),
        }
    }

    /// A small call that the receiver keeps for a while.
    pub fn held(pause_ms: u32) -> Self {
        Self {
            act: Act::Late,
            budget: Duration::from_secs(5),
            body_bytes: 10,
            answer_bytes: 10,
            pause_ms,
            patience: None,
        }
    }
}

/// Mostly small; some around the sizes where the transport changes its ways, a few above the limit.
fn size(rng: &mut StdRng, frame_bytes_max: usize) -> usize {
    match rng.random_range(0..100) {
        0 => rng.random_range(frame_bytes_max..frame_bytes_max + 200),
        1 => rng.random_range(60_000..frame_bytes_max),
        2..8 => rng.random_range(15_000..18_000),
        8..20 => rng.random_range(1000..4000),
        _ => rng.random_range(0..200),
    }
}

/// Calls a place over and over, alone or many at a time, until the process stops.
pub async fn keep_calling(world: Arc<World>, process: Arc<Process>, place: u8, seed: u64) {
    let mut rng = StdRng::seed_from_u64(seed);
    while process.is_running() {
        let burst = if rng.random_bool(0.1) { rng.random_range(2..30) } else { 1 };
        let mut calls = JoinSet::new();
        for _ in 0..burst {
            let plan = Plan::drawn(&mut rng, world.config.frame_bytes_max);
            let at = world.whereabouts(place);
            if rng.random_bool(0.03) {
                process.refresh(at);
            }
            let handle = process.handle(at, &mut rng);
            calls.spawn(call(world.clone(), process.clone(), at, handle, plan));
        }
        while let Some(ended) = calls.join_next().await {
            world.ledger.expect(ended.is_ok(), || format!("a caller panicked: {ended:?}"));
        }
        tokio::time::sleep(Duration::from_millis(rng.random_range(5..400))).await;
    }
}

/// Makes a call and judges its outcome; gives that back unless the caller gave up.
pub async fn call(
    world: Arc<World>,
    process: Arc<Process>,
    at: Whereabouts,
    handle: Handle,
    plan: Plan,
) -> Option<Result<Bytes, CallError>> {
    let ask = Ask {
        call: world.ledger.call_begins(),
        expect: handle.expect,
        pause_ms: plan.pause_ms,
        answer_bytes: plan.answer_bytes,
        fill_bytes: plan.body_bytes,
    };
    let started = Instant::now();
    let call = handle.peer.call(plan.act as u8, ask.encode(), plan.budget);
    let given_up = async {
        let patience = tokio::time::sleep(plan.patience.unwrap_or(Duration::MAX));
        tokio::select! {
            () = patience => {}
            () = process.upset() => {}
        }
    };
    let outcome = tokio::select! {
        outcome = tokio::time::timeout(plan.budget + HANGS_AFTER, call) => outcome.ok(),
        () = given_up => {
            world.ledger.tally.note("call given up");
            world.ledger.call_ended(ask.call, Verdict::Unknown);
            return None;
        }
    };
    // Without one it stays open in the ledger, which tells at the end.
    let outcome = outcome?;
    let trial = Trial { world: &world, process: &process, at, handle: &handle, plan: &plan };
    let verdict = trial.verdict(&ask, &outcome, started.elapsed());
    world.ledger.call_ended(ask.call, verdict);
    Some(outcome)
}

/// What is known when a call has ended.
struct Trial<'a> {
    world: &'a World,
    process: &'a Process,
    at: Whereabouts,
    handle: &'a Handle,
    plan: &'a Plan,
}

impl Trial<'_> {
    fn verdict(&self, ask: &Ask, outcome: &Result<Bytes, CallError>, elapsed: Duration) -> Verdict {
        let (ledger, budget) = (&self.world.ledger, self.plan.budget);
        ledger.expect(elapsed <= budget + LATE_MAX, || {
            let outcome = outcome.as_ref().map(Bytes::len);
            format!("call {} with {budget:?} took {elapsed:?}: {outcome:?}", ask.call)
        });
        let error = match outcome {
            Ok(answer) => {
                ledger.tally.note("call answered");
                self.check_answer(ask, answer);
                return Verdict::Executed;
            }
            Err(error) => error,
        };
        ledger.tally.note(name(error));
        self.check_error(ask, error, elapsed);
        match error {
            CallError::Status(..) => Verdict::Executed,
            error if error.may_have_executed() => Verdict::Unknown,
            _ => Verdict::NotExecuted,
        }
    }

    fn check_answer(&self, ask: &Ask, answer: &Bytes) {
        let by = ask.check_answer(answer);
        let fair = by.is_some_and(|by| self.handle.expect.is_none_or(|node| node == by));
        self.world.ledger.expect(fair, || format!("call {} was answered by {by:?}", ask.call));
    }

    fn check_error(&self, ask: &Ask, error: &CallError, elapsed: Duration) {
        let ledger = &self.world.ledger;
        let fair = match error {
            CallError::Deadline => elapsed >= self.plan.budget,
            CallError::Status(status, answer) => {
                self.check_answer(ask, answer);
                *status == STATUS && self.plan.act == Act::Status
            }
            CallError::TooLarge { .. } => ask.encode().len() > self.world.config.frame_bytes_max,
            CallError::Refused(reason) => self.refused(reason),
            CallError::NotConnected(why) | CallError::Lost(why) => self.may_say(why),
            _ => true,
        };
        ledger.expect(fair, || format!("call {} after {elapsed:?}: {error}", ask.call));
    }

    /// Whether somebody else is, or has been, where the expected node was.
    fn refused(&self, reason: &RefusedReason) -> bool {
        let now = self.world.whereabouts(self.at.place);
        self.process.refresh(now);
        let replaced = self.handle.expect.is_some_and(|node| node != now.node);
        *reason == RefusedReason::NotThePeer && replaced
    }

    /// Nobody leaves but who said so, and this side closes nothing of a running process.
    fn may_say(&self, why: &Disconnect) -> bool {
        match why {
            Disconnect::Leaving => {
                self.handle.expect.is_none_or(|node| self.world.ledger.has_left(node))
            }
            Disconnect::BadFrame(_) | Disconnect::RejectedFrame(_) => false,
            _ => true,
        }
    }
}

fn name(error: &CallError) -> &'static str {
    match error {
        CallError::Busy(BusyAt::Here) => "call busy here",
        CallError::Busy(BusyAt::Peer) => "call busy at the peer",
        CallError::Deadline => "call without answer in time",
        CallError::NotConnected(_) => "call without a connection",
        CallError::Lost(_) => "call lost with its connection",
        CallError::Refused(_) => "call refused",
        CallError::TooLarge { .. } => "call too large",
        CallError::Dropped => "call dropped",
        CallError::Status(..) => "call answered with a status",
        _ => "call failed otherwise",
    }
}
