use std::collections::BTreeSet;

use slotmesh_slots::{Generation, NodeId};

/// How a cluster comes into being, once: never on a timer.
///
/// When `expect` candidates see each other and nobody reports a generation, the smallest identity asks the `expect`
/// smallest for their promise. A promise binds to one founder for as long as that founder lives or until it gives the
/// promise back. Only the founder that holds all of them starts the log. As long as `expect` is more than half of the
/// nodes meant to start, two foundings would need one node that promised twice.
#[derive(Debug)]
pub struct Founding {
    me: NodeId,
    expect: usize,
    stage: Stage,
}

#[derive(Debug)]
enum Stage {
    Waiting,
    Asking { generation: Generation, promised: BTreeSet<NodeId> },
    Promised { founder: NodeId, generation: Generation },
    Founder { generation: Generation, members: BTreeSet<NodeId> },
}

/// What the founding wants from its driver.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum FoundingStep {
    /// Ask these nodes to promise this generation to us; asked again until they answer.
    Ask(BTreeSet<NodeId>, Generation),
    /// Give the promises for this generation back: a smaller candidate appeared before all had promised.
    Release(BTreeSet<NodeId>, Generation),
    /// Say again to this live founder that it has our promise: it gives back what it does not want any more.
    Remind(NodeId, Generation),
    /// All promises are in: start the log with these nodes and found this generation.
    Found(BTreeSet<NodeId>, Generation),
}

impl Founding {
    /// A candidate that founds only together with `expect - 1` others; one founds alone.
    #[must_use]
    pub fn new(me: NodeId, expect: u16) -> Self {
        Self { me, expect: usize::from(expect.max(1)), stage: Stage::Waiting }
    }

    /// Looks at who is there: `candidates` are all live nodes without a generation, this one included. `draw` gives the
    /// random number of a new generation.
    pub fn step(
        &mut self,
        candidates: &BTreeSet<NodeId>,
        draw: impl FnOnce() -> u128,
    ) -> Option<FoundingStep> {
        match &mut self.stage {
            Stage::Founder { generation, members } => {
                return Some(FoundingStep::Found(members.clone(), *generation));
            }
            Stage::Promised { founder, generation } if candidates.contains(founder) => {
                return Some(FoundingStep::Remind(*founder, *generation));
            }
            Stage::Promised { .. } => self.stage = Stage::Waiting,
            Stage::Waiting | Stage::Asking { .. } => {}
        }
        let chosen: BTreeSet<NodeId> = candidates.iter().copied().take(self.expect).collect();
        if chosen.len() < self.expect || chosen.first() != Some(&self.me) {
            return self.yield_to_others();
        }
        if matches!(self.stage, Stage::Waiting) {
            let generation = Generation { cluster: draw(), reform: 0 };
            self.stage = Stage::Asking { generation, promised: BTreeSet::from([self.me]) };
        }
        let Stage::Asking { generation, promised } = &self.stage else { return None };
        let generation = *generation;
        if promised.is_superset(&chosen) {
            self.stage = Stage::Founder { generation, members: chosen.clone() };
            return Some(FoundingStep::Found(chosen, generation));
        }
        Some(FoundingStep::Ask(&chosen - promised, generation))
    }

    /// A candidate asks for our promise; true when it has it (now or already).
    pub fn handle_ask(
        &mut self,
        founder: NodeId,
        generation: Generation,
        candidates: &BTreeSet<NodeId>,
    ) -> bool {
        match &self.stage {
            Stage::Promised { founder: bound, generation: known } if *bound == founder => {
                *known == generation || self.promise(founder, generation)
            }
            Stage::Promised { founder: bound, .. } if candidates.contains(bound) => false,
            Stage::Asking { .. } | Stage::Founder { .. } => false,
            Stage::Waiting | Stage::Promised { .. } => self.promise(founder, generation),
        }
    }

    /// A node says that we have its promise; false when we shall never found that generation and it is to be given back: it
    /// crossed with our giving up, or that was lost.
    #[must_use]
    pub fn handle_promise(&mut self, from: NodeId, generation: Generation) -> bool {
        match &mut self.stage {
            Stage::Asking { generation: asked, promised } if *asked == generation => {
                promised.insert(from);
                true
            }
            Stage::Founder { generation: founded, .. } => *founded == generation,
            _ => false,
        }
    }

    /// The founder gave our promise back.
    pub fn handle_release(&mut self, from: NodeId, generation: Generation) {
        if matches!(self.stage, Stage::Promised { founder, generation: g } if (founder, g) == (from, generation))
        {
            self.stage = Stage::Waiting;
        }
    }

    /// The generation this node has promised or founds, if any: its log may take part in that one only.
    #[must_use]
    pub fn bound_to(&self) -> Option<Generation> {
        match &self.stage {
            Stage::Waiting | Stage::Asking { .. } => None,
            Stage::Promised { generation, .. } | Stage::Founder { generation, .. } => {
                Some(*generation)
            }
        }
    }

    /// Whether this founder's log can never begin: most of those who promised belong to another generation. They took this
    /// node for dead and promised anew.
    #[must_use]
    pub fn is_hopeless(&self, elsewhere: impl Fn(NodeId) -> bool) -> bool {
        let Stage::Founder { members, .. } = &self.stage else { return false };
        members.iter().filter(|&&node| node != self.me && elsewhere(node)).count() * 2
            >= members.len()
    }

    fn promise(&mut self, founder: NodeId, generation: Generation) -> bool {
        self.stage = Stage::Promised { founder, generation };
        true
    }

    fn yield_to_others(&mut self) -> Option<FoundingStep> {
        let Stage::Asking { generation, promised } = &self.stage else { return None };
        let step = FoundingStep::Release(promised.clone(), *generation);
        self.stage = Stage::Waiting;
        Some(step)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::state::tests::{node, nodes};

    fn generation(cluster: u128) -> Generation {
        Generation { cluster, reform: 0 }
    }

    #[test]
    fn one_expected_node_founds_alone() {
        let step = Founding::new(node(4), 1).step(&nodes(&[4]), || 9);
        assert_eq!(step, Some(FoundingStep::Found(nodes(&[4]), generation(9))));
    }

    #[test]
    fn only_the_smallest_asks_and_only_all_promises_found() {
        let all = nodes(&[1, 2, 3]);
        let mut first = Founding::new(node(1), 3);
        assert_eq!(first.step(&nodes(&[1, 2]), || 9), None, "alone with one other it waits");
        assert_eq!(Founding::new(node(2), 3).step(&all, || 8), None, "not the smallest");
        assert_eq!(first.step(&all, || 9), Some(FoundingStep::Ask(nodes(&[2, 3]), generation(9))));
        assert!(first.handle_promise(node(2), generation(9)));
        assert!(!first.handle_promise(node(3), generation(8)), "not what it asks for");
        assert_eq!(first.step(&all, || 7), Some(FoundingStep::Ask(nodes(&[3]), generation(9))));
        assert!(first.handle_promise(node(3), generation(9)));
        assert_eq!(first.step(&all, || 7), Some(FoundingStep::Found(all.clone(), generation(9))));
        assert!(first.handle_promise(node(3), generation(9)), "said again");
        assert!(!first.handle_ask(node(2), generation(5), &all), "a founder promises nobody");
    }

    #[test]
    fn a_promise_binds_while_its_founder_lives() {
        let all = nodes(&[1, 2, 3]);
        let mut third = Founding::new(node(3), 3);
        assert!(third.handle_ask(node(2), generation(5), &all));
        assert!(!third.handle_ask(node(1), generation(6), &all));
        assert!(
            third.handle_ask(node(1), generation(6), &nodes(&[1, 3])),
            "the first founder died"
        );
        third.handle_release(node(1), generation(6));
        assert!(third.handle_ask(node(2), generation(7), &all));
        assert_eq!(third.bound_to(), Some(generation(7)));
    }

    #[test]
    fn a_promise_that_nobody_wants_any_more_is_given_back() {
        let (few, all) = (nodes(&[2, 3]), nodes(&[1, 2, 3]));
        let (mut second, mut third) = (Founding::new(node(2), 2), Founding::new(node(3), 2));
        assert!(matches!(second.step(&few, || 9), Some(FoundingStep::Ask(..))));
        assert!(third.handle_ask(node(2), generation(9), &few));
        // The second gives up for the first before it hears of the promise, which it therefore does not give back.
        assert_eq!(
            second.step(&all, || 8),
            Some(FoundingStep::Release(nodes(&[2]), generation(9)))
        );
        assert!(!third.handle_ask(node(1), generation(7), &all));
        assert_eq!(third.step(&all, || 6), Some(FoundingStep::Remind(node(2), generation(9))));
        assert!(!second.handle_promise(node(3), generation(9)));
        third.handle_release(node(2), generation(9));
        assert!(third.handle_ask(node(1), generation(7), &all));
    }

    #[test]
    fn a_founder_that_was_taken_for_dead_gives_up() {
        let all = nodes(&[1, 2, 3]);
        let mut first = Founding::new(node(1), 3);
        assert!(matches!(first.step(&all, || 9), Some(FoundingStep::Ask(..))));
        assert!(!first.is_hopeless(|_| true), "nothing has begun");
        let promised = [2, 3].map(|other| first.handle_promise(node(other), generation(9)));
        assert_eq!(promised, [true, true]);
        assert!(matches!(first.step(&all, || 9), Some(FoundingStep::Found(..))));
        assert!(!first.is_hopeless(|other| other == node(2)), "the third still promised");
        assert!(first.is_hopeless(|other| other != node(1)));
    }

    #[test]
    fn an_incomplete_founder_yields_to_a_smaller_candidate() {
        let mut second = Founding::new(node(2), 2);
        assert!(matches!(second.step(&nodes(&[2, 3]), || 9), Some(FoundingStep::Ask(..))));
        let step = second.step(&nodes(&[1, 2, 3]), || 9);
        assert_eq!(step, Some(FoundingStep::Release(nodes(&[2]), generation(9))));
        assert!(second.handle_ask(node(1), generation(4), &nodes(&[1, 2, 3])));
    }
}
