//! Checks of the repository itself: layers, sizes, bounds and leftovers.
//!
//! A rule is a function from a [`Tree`] of texts to the problems it found, so that each can be shown a bad sample and seen to
//! fail; `tests/tidy.rs` runs [`RULES`] over the real repository. Nothing here is clever about Rust: rules look at lines.

mod companions;
mod documents;
mod layers;
mod manifest;
mod sources;
mod tree;

pub use tree::{File, Tree};

/// One rule: what it is called and what it finds. Every problem is one line that says where and what to do.
pub type Rule = (&'static str, fn(&Tree) -> Vec<String>);

/// All rules.
pub const RULES: &[Rule] = &[
    ("dependencies point down", layers::arrows),
    ("engines do no IO", layers::engine_dependencies),
    ("libraries have typed errors", layers::untyped_errors),
    ("source files stay short", sources::file_sizes),
    ("channels are bounded", sources::unbounded_channels),
    ("nothing is left for later", sources::leftovers),
    ("nobody sleeps in hope", sources::sleeps),
    ("the façade stays small", documents::facade_names),
    ("the README begins with code", documents::readme),
    ("the repository names no machine", documents::foreign_words),
    ("the lock file knows one registry", documents::registries),
    ("every crate has its benchmark", companions::benches),
    ("every crate has its fuzz target", companions::fuzz_targets),
];

#[cfg(test)]
pub(crate) mod testing {
    use super::Tree;

    /// Runs a rule on a sample of files: it must find exactly as many problems as are named, each containing its text.
    pub(crate) fn check(rule: fn(&Tree) -> Vec<String>, files: &[(&str, &str)], expected: &[&str]) {
        let problems = rule(&Tree::of(files));
        assert_eq!(problems.len(), expected.len(), "{problems:?}");
        for text in expected {
            assert!(problems.iter().any(|problem| problem.contains(text)), "{text}: {problems:?}");
        }
    }
}
