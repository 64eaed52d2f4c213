use std::collections::BTreeMap;
use std::fmt;

/// What happened how often, so that a run, or many, can tell that they tested something.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Coverage(BTreeMap<String, u64>);

impl Coverage {
    pub(super) fn see(&mut self, what: fmt::Arguments<'_>) {
        self.add(what, 1);
    }

    pub(super) fn add(&mut self, what: fmt::Arguments<'_>, times: u64) {
        if times > 0 {
            *self.0.entry(what.to_string()).or_default() += times;
        }
    }

    pub(super) fn seen(&self, what: &str) -> u64 {
        self.0.get(what).copied().unwrap_or_default()
    }

    pub(super) fn into_counts(self) -> BTreeMap<String, u64> {
        self.0
    }
}
