use std::collections::VecDeque;
use std::sync::Arc;
use std::time::Duration;

use slotmesh_core::{DataPlane, Share};
use tokio::time::Instant;

/// Keeps copies from holding up calls: while there are any it measures how long what is due waits for its turn on the lane
/// that carries them, which is what a call waits there beside its own work, and has links rest where that takes too long.
///
/// Runs until its task is dropped.
pub(crate) async fn run(data: Arc<DataPlane>, latency_max: Duration) {
    loop {
        tokio::time::sleep(IDLE_INTERVAL).await;
        if !data.is_copying() {
            continue;
        }
        let mut throttle = Throttle::new(latency_max);
        while data.is_copying() {
            for _ in 0..DECIDE_EVERY {
                throttle.note(turn_wait().await);
            }
            data.set_copy_share(throttle.decide());
        }
        data.set_copy_share(Share::FULL);
    }
}

/// How much later than asked for this task had its turn.
async fn turn_wait() -> Duration {
    let began = Instant::now();
    tokio::time::sleep(TIMER_TICK).await;
    began.elapsed().saturating_sub(2 * TIMER_TICK)
}

/// Decides from waits what share of the time copies may have.
#[derive(Debug)]
struct Throttle {
    latency_max: Duration,
    /// Whether each of the last waits was too long.
    late: VecDeque<bool>,
    share: Share,
}

impl Throttle {
    fn new(latency_max: Duration) -> Self {
        Self { latency_max, late: VecDeque::with_capacity(WINDOW), share: Share::FULL }
    }

    fn note(&mut self, wait: Duration) {
        if self.late.len() == WINDOW {
            self.late.pop_front();
        }
        self.late.push_back(wait > self.latency_max);
    }

    /// Half as much while the 99th percentile is too long, else a little more than before.
    fn decide(&mut self) -> Share {
        let late = self.late.iter().filter(|late| **late).count();
        let percent = self.share.as_percent();
        self.share = if late > WINDOW / 100 {
            // What was counted once must not count against the smaller share as well.
            self.late.clear();
            Share::percent((percent / 2).max(SHARE_MIN))
        } else {
            Share::percent((percent + SHARE_STEP).min(100))
        };
        self.share
    }
}

/// How often a lane that carries no copies looks whether it does.
const IDLE_INTERVAL: Duration = Duration::from_millis(50);

/// Tokio's timers are late by up to so much on their own.
const TIMER_TICK: Duration = Duration::from_millis(1);

/// Waits that the percentile is taken of.
const WINDOW: usize = 100;

/// Waits from one decision to the next: some 50 ms.
const DECIDE_EVERY: usize = 25;

/// So much is always left to copies, or a busy cluster would never get its replicas back.
const SHARE_MIN: u8 = 25;

/// From the least share to all of the time in half a second.
const SHARE_STEP: u8 = 8;

#[cfg(test)]
mod tests {
    use super::*;

    const MAX: Duration = Duration::from_millis(5);

    fn decided(throttle: &mut Throttle, late: usize) -> u8 {
        for number in 0..DECIDE_EVERY {
            throttle.note(if number < late { 2 * MAX } else { MAX });
        }
        throttle.decide().as_percent()
    }

    #[test]
    fn one_late_turn_of_a_hundred_is_borne_and_two_are_not() {
        let mut throttle = Throttle::new(MAX);
        assert_eq!([1, 0, 0].map(|late| decided(&mut throttle, late)), [100, 100, 100]);
        assert_eq!(decided(&mut throttle, 1), 50);
    }

    #[test]
    fn the_share_falls_to_a_quarter_and_comes_back_bit_by_bit() {
        let mut throttle = Throttle::new(MAX);
        assert_eq!([2, 2, 2].map(|late| decided(&mut throttle, late)), [50, 25, 25]);
        assert_eq!(decided(&mut throttle, 0), 33);
        for _ in 0..9 {
            decided(&mut throttle, 0);
        }
        assert_eq!(decided(&mut throttle, 0), 100);
    }
}
