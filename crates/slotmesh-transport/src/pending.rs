use std::time::{Duration, Instant};

use bytes::Bytes;
use tokio::sync::oneshot;

use crate::error::CallError;

/// What a waiting caller gets.
pub(crate) type Answer = Result<Bytes, CallError>;

/// The calls of one connection that wait for an answer.
///
/// An id is a place in a table and the place's turn, so that an answer which comes after its caller has gone cannot
/// reach the next caller in the same place.
///
/// Deadlines are counted from the first look at them after the call began, so that a call reads no clock: calls end late
/// by up to two looks, never early.
#[derive(Debug)]
pub(crate) struct Pending {
    places: Vec<Place>,
    free: Vec<u16>,
    max: usize,
}

#[derive(Debug)]
struct Place {
    turn: u16,
    waiting: Option<Waiting>,
}

#[derive(Debug)]
struct Waiting {
    ends: Ends,
    caller: oneshot::Sender<Answer>,
}

#[derive(Clone, Copy, Debug)]
enum Ends {
    /// This long after the next look.
    After(Duration),
    At(Instant),
}

impl Pending {
    /// A table of at most `max` calls.
    pub(crate) fn new(max: usize) -> Self {
        Self { places: Vec::new(), free: Vec::new(), max: max.min(usize::from(u16::MAX)) }
    }

    pub(crate) fn len(&self) -> usize {
        self.places.len() - self.free.len()
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Enters a call; `None` when the table is full.
    pub(crate) fn insert(&mut self, budget: Duration) -> Option<(u32, oneshot::Receiver<Answer>)> {
        let (caller, answer) = oneshot::channel();
        let waiting = Some(Waiting { ends: Ends::After(budget), caller });
        let (index, turn) = match self.free.pop() {
            Some(index) => {
                let place = self.places.get_mut(usize::from(index))?;
                place.turn = place.turn.wrapping_add(1);
                place.waiting = waiting;
                (index, place.turn)
            }
            None if self.places.len() < self.max => {
                self.places.push(Place { turn: 0, waiting });
                ((self.places.len() - 1) as u16, 0)
            }
            None => return None,
        };
        Some((u32::from(turn) << 16 | u32::from(index), answer))
    }

    /// Takes a call out; `None` when it is not waiting any more.
    pub(crate) fn take(&mut self, id: u32) -> Option<oneshot::Sender<Answer>> {
        let (turn, index) = ((id >> 16) as u16, id as u16);
        let place = self.places.get_mut(usize::from(index)).filter(|place| place.turn == turn)?;
        let waiting = place.waiting.take()?;
        self.free.push(index);
        Some(waiting.caller)
    }

    /// Takes out the calls whose deadline has come.
    pub(crate) fn expire(&mut self, now: Instant) -> Vec<oneshot::Sender<Answer>> {
        self.take_if(|waiting| match waiting.ends {
            Ends::At(deadline) => deadline <= now,
            Ends::After(budget) => {
                waiting.ends = Ends::At(now + budget);
                false
            }
        })
    }

    /// Takes out all calls.
    pub(crate) fn drain(&mut self) -> Vec<oneshot::Sender<Answer>> {
        self.take_if(|_| true)
    }

    fn take_if(
        &mut self,
        condition: impl Fn(&mut Waiting) -> bool,
    ) -> Vec<oneshot::Sender<Answer>> {
        let mut taken = Vec::new();
        for (index, place) in self.places.iter_mut().enumerate() {
            if let Some(waiting) = place.waiting.take_if(|waiting| condition(waiting)) {
                self.free.push(index as u16);
                taken.push(waiting.caller);
            }
        }
        taken
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_late_answer_does_not_reach_the_next_caller_in_the_place() {
        let mut pending = Pending::new(1);
        let (first, _) = pending.insert(Duration::ZERO).unwrap();
        assert!(pending.insert(Duration::ZERO).is_none(), "full");
        assert!(pending.take(first).is_some());
        let (second, mut answer) = pending.insert(Duration::ZERO).unwrap();
        assert!(pending.take(first).is_none(), "the place is another caller's now");
        assert!(answer.try_recv().is_err());
        assert!(pending.take(second).unwrap().send(Ok(Bytes::new())).is_ok());
        assert!(pending.take(second).is_none(), "answered twice");
        assert!(pending.take(4711).is_none(), "no such place");
    }

    #[test]
    fn deadlines_end_calls_and_free_their_places() {
        let mut pending = Pending::new(3);
        let now = Instant::now();
        for seconds in 1..=3 {
            pending.insert(Duration::from_secs(seconds)).unwrap();
        }
        assert!(pending.expire(now).is_empty(), "the first look starts the clock");
        assert!(pending.expire(now + Duration::from_millis(999)).is_empty());
        assert_eq!(pending.expire(now + Duration::from_secs(2)).len(), 2);
        assert_eq!((pending.len(), pending.drain().len(), pending.is_empty()), (1, 1, true));
        assert!((0..3).all(|_| pending.insert(Duration::ZERO).is_some()));
    }
}
