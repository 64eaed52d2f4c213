//! What happened in a run, so that a run in which nothing happened is not taken for a success.

use std::collections::BTreeMap;

/// Everything that has to happen at least once over the seeds of a test.
pub const KINDS: &[&str] = &[
    "request lost in silence",
    "request lost with an error",
    "reply lost",
    "message delivered twice",
    "message overtaken",
    "message held by a pause",
    "message cut off",
    "answer: garbage",
    "answer: another version",
    "answer: of another kind",
    "answer: too long",
    "answer: an error",
    "request: garbage",
    "link cut one way",
    "partition",
    "leader cut off",
    "leader cannot be heard",
    "leader cannot hear",
    "healed",
    "voter paused",
    "voter crashed",
    "leader crashed",
    "elections off",
    "voters replaced",
    "voters grown",
    "voters shrunk",
    "leader left",
    "voters unknown",
    "newcomer refused",
    "snapshot restored",
    "leader changed",
    "claim",
    "proposal applied",
    "proposal refused: not leader",
    "proposal refused: no quorum",
    "proposal refused: busy",
    "proposal unknown: deadline",
    "proposal unknown: taken back",
    "proposal unknown: stopped",
];

/// How often each kind of fault, event and outcome happened.
#[derive(Clone, Debug, Default)]
pub struct Tally(BTreeMap<&'static str, u64>);

impl Tally {
    pub fn count(&mut self, kind: &'static str) {
        *self.0.entry(kind).or_default() += 1;
    }

    pub fn of(&self, kind: &str) -> u64 {
        self.0.get(kind).copied().unwrap_or_default()
    }

    pub fn add(&mut self, other: &Self) {
        for (kind, times) in &other.0 {
            *self.0.entry(kind).or_default() += times;
        }
    }

    pub fn missing(&self) -> Vec<&'static str> {
        KINDS.iter().copied().filter(|kind| self.of(kind) == 0).collect()
    }
}
