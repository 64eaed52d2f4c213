use super::{Action, Answer, Asked};

/// What happens to a key whose writes are acknowledged by the primary alone: they may be lost while it is not known that the
/// replicas have them, but only where another primary takes over.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Lossy {
    /// A client's, acknowledged by the primary alone if it is a write.
    Weak(Action),
    /// A client's, acknowledged by all replicas.
    Firm(Action),
    /// Another primary took over.
    Loss,
}

/// What the key may hold: the latest of these, or any of them after a loss. Nothing before the first can come back.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Uncertain {
    written: Vec<Option<i64>>,
    lost: bool,
}

impl Default for Uncertain {
    fn default() -> Self {
        Self { written: vec![None], lost: false }
    }
}

impl Asked for Lossy {
    type Answer = Answer;
    type Held = Uncertain;

    fn step(&self, told: Option<&Answer>, held: &Uncertain) -> Option<Uncertain> {
        let (action, is_weak) = match self {
            Self::Loss => return Some(Uncertain { lost: held.written.len() > 1, ..held.clone() }),
            Self::Weak(action) => (action, true),
            Self::Firm(action) => (action, false),
        };
        let possible = if held.lost { 0 } else { held.written.len() - 1 };
        // Reads wait until the replicas have what they tell, so it stays; so do writes that wait for the replicas.
        let stays = action.is_read() || (!is_weak && told.is_some());
        // Of equal ones the last says most: what comes before it may be held as well later.
        let after = held.written[possible..].iter().rev().find_map(|it| action.step(told, it))?;
        if stays {
            return Some(Uncertain { written: vec![after], lost: false });
        }
        let written = held.written.iter().copied().chain([after]).collect();
        Some(Uncertain { written, lost: false })
    }

    fn is_read(&self) -> bool {
        matches!(self, Self::Weak(action) | Self::Firm(action) if action.is_read())
    }
}

#[cfg(test)]
mod tests {
    use super::super::{Operation, check};
    use super::*;

    fn explained(history: &[(Lossy, Answer)]) -> bool {
        let operation = |(at, &(action, answer)): (usize, &(Lossy, Answer))| Operation {
            invoked: at as u64 * 2,
            returned: Some((at as u64 * 2 + 1, answer)),
            action,
        };
        check(&history.iter().enumerate().map(operation).collect::<Vec<_>>()).is_ok()
    }

    const LOSS: (Lossy, Answer) = (Lossy::Loss, Answer::Happened);

    fn put(value: i64) -> (Lossy, Answer) {
        (Lossy::Weak(Action::Put(value)), Answer::Happened)
    }

    fn read(value: i64) -> (Lossy, Answer) {
        (Lossy::Weak(Action::Get), Answer::Value((value != 0).then_some(value)))
    }

    #[test]
    fn what_the_primary_alone_has_is_lost_with_it_only() {
        assert!(explained(&[put(1), put(2), read(2)]));
        assert!(!explained(&[put(1), put(2), read(1)]), "no primary changed");
        for left in 0..=2 {
            assert!(explained(&[put(1), put(2), LOSS, read(left), read(left)]));
        }
        assert!(!explained(&[put(1), LOSS, read(3)]), "never written");
        assert!(!explained(&[put(1), LOSS, read(1), read(0)]), "lost twice");
        assert!(!explained(&[put(1), LOSS, put(2), read(1)]), "written since");
        assert!(explained(&[put(1), LOSS, put(2), LOSS, read(1)]));
    }

    #[test]
    fn what_the_replicas_have_is_not_lost() {
        assert!(!explained(&[put(1), read(1), LOSS, read(0)]), "it was read");
        let firm = (Lossy::Firm(Action::Put(2)), Answer::Happened);
        assert!(!explained(&[put(1), firm, LOSS, read(1)]));
        assert!(explained(&[put(1), firm, put(3), LOSS, read(2)]));
        let swap = |value, before| (Lossy::Weak(Action::Swap(value)), Answer::Value(before));
        assert!(explained(&[put(1), swap(2, Some(1)), LOSS, read(0)]), "told, and lost");
        assert!(!explained(&[put(1), LOSS, swap(2, Some(4))]));
    }
}
