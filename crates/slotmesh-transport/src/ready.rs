use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use parking_lot::Mutex;
use tokio::sync::oneshot;

use crate::pending::Answer;

/// How long answers wait for a caller that was woken to hand them out: above the time in which a busy runtime gets round
/// to a task, below what a caller would notice.
const PATIENCE: Duration = Duration::from_millis(1);

/// Answers that have arrived and whose callers are not woken yet.
///
/// Waking a task of another thread costs a system call, ten times the rest of its answer. So of the answers that arrive
/// together only one wakes its caller, and that caller, on its own thread where waking is cheap, hands out the others.
/// A caller that is dropped does so too; one that was woken and is not polled is not waited for: the next answers, or the
/// sweeper, find what has waited too long.
#[derive(Debug, Default)]
pub(crate) struct Ready {
    /// Whether something waits, for a look without the lock.
    some: AtomicBool,
    waiting: Mutex<Waiting>,
}

#[derive(Debug, Default)]
struct Waiting {
    answers: Vec<Ended>,
    since: Option<Instant>,
}

/// A caller and what it gets.
pub(crate) type Ended = (oneshot::Sender<Answer>, Answer);

impl Ready {
    /// Whether something waits for somebody to hand it out.
    pub(crate) fn has_waiting(&self) -> bool {
        self.some.load(Ordering::Acquire)
    }

    /// Takes answers that have arrived together.
    pub(crate) fn put(&self, mut answers: Vec<Ended>, now: Instant) {
        let mut waiting = self.waiting.lock();
        if waiting.since.is_some_and(|since| now.saturating_duration_since(since) < PATIENCE) {
            // Whoever was woken for the earlier ones finds these too.
            return waiting.answers.append(&mut answers);
        }
        let late = waiting.take();
        let mut next = answers.pop();
        waiting.since = (!answers.is_empty()).then_some(now);
        waiting.answers = answers;
        self.some.store(waiting.since.is_some(), Ordering::Release);
        drop(waiting);
        give(late);
        while let Some((caller, answer)) = next {
            if caller.send(answer).is_ok() {
                return;
            }
            // That caller has gone.
            next = self.pop();
        }
    }

    /// Hands out what waits, on the thread of a caller.
    pub(crate) fn hand_out(&self) {
        if self.some.load(Ordering::Acquire) {
            let answers = {
                let mut waiting = self.waiting.lock();
                self.some.store(false, Ordering::Release);
                waiting.take()
            };
            give(answers);
        }
    }

    /// Hands out what has waited too long for its callers' thread.
    pub(crate) fn sweep(&self, now: Instant) {
        let late = |since| now.saturating_duration_since(since) >= PATIENCE;
        if self.some.load(Ordering::Acquire) && self.waiting.lock().since.is_some_and(late) {
            self.hand_out();
        }
    }

    fn pop(&self) -> Option<Ended> {
        let mut waiting = self.waiting.lock();
        let next = waiting.answers.pop();
        if waiting.answers.is_empty() {
            waiting.since = None;
            self.some.store(false, Ordering::Release);
        }
        next
    }
}

impl Waiting {
    fn take(&mut self) -> Vec<Ended> {
        self.since = None;
        std::mem::take(&mut self.answers)
    }
}

fn give(answers: Vec<Ended>) {
    for (caller, answer) in answers {
        // A caller that has just gone wants no answer.
        let _ = caller.send(answer);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use bytes::Bytes;

    type Caller = oneshot::Receiver<Answer>;

    fn batch(count: usize) -> (Vec<Ended>, Vec<Caller>) {
        (0..count)
            .map(|_| oneshot::channel())
            .map(|(sender, receiver)| ((sender, Ok(Bytes::new())), receiver))
            .unzip()
    }

    fn answered(callers: &mut [Caller]) -> usize {
        callers.iter_mut().filter_map(|caller| caller.try_recv().ok()).count()
    }

    #[test]
    fn one_caller_is_woken_and_hands_out_the_rest() {
        let (ready, now) = (Ready::default(), Instant::now());
        let (first, mut callers) = batch(64);
        ready.put(first, now);
        assert_eq!(answered(&mut callers), 1);
        let (second, mut others) = batch(5);
        ready.put(second, now + PATIENCE / 2);
        assert_eq!(answered(&mut others), 0, "one that is woken is enough");
        ready.hand_out();
        assert_eq!((answered(&mut callers), answered(&mut others)), (63, 5));
        let (third, mut callers) = batch(1);
        ready.put(third, now);
        assert_eq!(answered(&mut callers), 1);
    }

    #[test]
    fn nobody_waits_for_a_caller_that_does_nothing() {
        let (ready, now) = (Ready::default(), Instant::now());
        let (first, mut callers) = batch(3);
        ready.put(first, now);
        ready.sweep(now + PATIENCE / 2);
        assert_eq!(answered(&mut callers), 1);
        ready.sweep(now + PATIENCE);
        assert_eq!(answered(&mut callers), 2);
        let (second, mut callers) = batch(3);
        ready.put(second, now);
        let (third, mut others) = batch(3);
        ready.put(third, now + PATIENCE);
        assert_eq!((answered(&mut callers), answered(&mut others)), (3, 1));
    }

    #[test]
    fn somebody_who_is_there_is_woken() {
        let ready = Ready::default();
        let (answers, mut callers) = batch(4);
        callers.drain(1..);
        ready.put(answers, Instant::now());
        assert_eq!(answered(&mut callers), 1, "the other three are gone");
        let (answers, callers) = batch(2);
        drop(callers);
        ready.put(answers, Instant::now());
        assert!(!ready.some.load(Ordering::Relaxed), "nobody is left");
    }
}
