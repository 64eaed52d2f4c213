use std::collections::VecDeque;
use std::time::Duration;

use bytes::Bytes;
use slotmesh_slots::MonoTime;

use crate::network::{Network, Plane};

/// A connection that hears nothing for this long is over.
const IDLE: Duration = Duration::from_secs(3);

/// Bytes that a sender has under way at most without an acknowledgement: ten packets (RFC 9002, 7.2).
const WINDOW_BYTES: usize = 12_000;

/// Both ways of a stream between two nodes, as QUIC carries them: each is ordered, and what cannot get through waits. A way
/// whose acknowledgements do not come back carries a window's worth and then stands still.
#[derive(Debug)]
pub(super) struct Conduit {
    /// When the last frame each way arrives.
    last: [MonoTime; 2],
    waiting: [VecDeque<Bytes>; 2],
    /// What was sent each way while nothing came back.
    unacknowledged: [usize; 2],
    /// Since when something is not acknowledged.
    stalled_since: Option<MonoTime>,
}

/// Where frames go from and to: down a stream, or up again.
#[derive(Clone, Copy, Debug)]
pub(super) struct Course {
    pub(super) from: usize,
    pub(super) to: usize,
    pub(super) down: bool,
}

impl Conduit {
    /// One on which nothing arrives before these times.
    pub(super) fn new(last: [MonoTime; 2]) -> Self {
        let (waiting, unacknowledged) = Default::default();
        Self { last, waiting, unacknowledged, stalled_since: None }
    }

    /// When the last frame arrives each way.
    pub(super) fn last(&self) -> [MonoTime; 2] {
        self.last
    }

    /// When the frame arrives; it waits here if it cannot be sent yet.
    pub(super) fn send(
        &mut self,
        frame: &Bytes,
        course: Course,
        (now, delay): (MonoTime, Duration),
        network: &Network,
    ) -> Option<MonoTime> {
        let Course { from, to, down } = course;
        let way = usize::from(!down);
        let open = network.is_open((Plane::Lanes, from, to));
        if network.is_linked(Plane::Lanes, from, to) {
            self.unacknowledged[way] = 0;
        } else {
            self.stalled_since.get_or_insert(now);
            self.unacknowledged[way] += frame.len();
        }
        let full = self.unacknowledged[way] > WINDOW_BYTES;
        if !open || full || !self.waiting[way].is_empty() {
            self.waiting[way].push_back(frame.clone());
            self.stalled_since.get_or_insert(now);
            return None;
        }
        let at = (now + delay).max(self.last[way] + Duration::from_micros(1));
        self.last[way] = at;
        Some(at)
    }

    /// Whether nothing got through for so long that the connection is over.
    pub(super) fn is_over(&self, now: MonoTime) -> bool {
        self.stalled_since.is_some_and(|at| now.saturating_since(at) > IDLE)
    }

    /// What waited, down and up: both ways are open again.
    pub(super) fn reopen(&mut self) -> [VecDeque<Bytes>; 2] {
        (self.stalled_since, self.unacknowledged) = (None, [0; 2]);
        std::mem::take(&mut self.waiting)
    }
}

#[cfg(test)]
mod tests {
    use rand::SeedableRng;
    use rand::rngs::StdRng;

    use super::*;

    const DOWN: Course = Course { from: 0, to: 1, down: true };
    const UP: Course = Course { from: 1, to: 0, down: false };

    fn network() -> Network {
        Network::new(0.0, Duration::ZERO, StdRng::seed_from_u64(7))
    }

    fn send(conduit: &mut Conduit, network: &Network, course: Course, micros: u64) -> bool {
        let (frame, now) = (Bytes::from(vec![0; 5_000]), MonoTime::from_micros(micros));
        conduit.send(&frame, course, (now, Duration::from_micros(9)), network).is_some()
    }

    #[test]
    fn a_window_goes_without_acknowledgements_and_no_more() {
        let (mut network, mut conduit) = (network(), Conduit::new([MonoTime::ZERO; 2]));
        assert!((0..9).all(|at| send(&mut conduit, &network, DOWN, at)), "all is acknowledged");
        network.block((Plane::Lanes, 1, 0));
        let sent: Vec<bool> = (10..14).map(|at| send(&mut conduit, &network, DOWN, at)).collect();
        assert_eq!(sent, [true, true, false, false]);
        assert!(!send(&mut conduit, &network, UP, 14), "this way is blocked itself");
        network.unblock((Plane::Lanes, 1, 0));
        assert!(!send(&mut conduit, &network, DOWN, 15), "not before what waits");
        assert_eq!(conduit.reopen().map(|waited| waited.len()), [3, 1]);
        assert!(send(&mut conduit, &network, DOWN, 16));
    }

    #[test]
    fn a_connection_that_hears_nothing_ends_though_its_frames_arrive() {
        let (mut network, mut conduit) = (network(), Conduit::new([MonoTime::ZERO; 2]));
        network.block((Plane::Lanes, 1, 0));
        assert!(send(&mut conduit, &network, DOWN, 10));
        assert!(!conduit.is_over(MonoTime::from_micros(10) + IDLE));
        assert!(conduit.is_over(MonoTime::from_micros(11) + IDLE));
    }
}
