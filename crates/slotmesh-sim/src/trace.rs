use std::collections::VecDeque;
use std::fmt;
use std::hash::{DefaultHasher, Hash, Hasher};

use slotmesh_slots::MonoTime;

/// Lines kept for the report of a failure.
const LINES_MAX: usize = 120;

/// What happened in a run: a running hash of everything, and the last lines in words.
#[derive(Debug, Default)]
pub(crate) struct Trace {
    hasher: DefaultHasher,
    lines: VecDeque<String>,
    print: bool,
}

impl Trace {
    pub(crate) fn new(print: bool) -> Self {
        Self { print, ..Self::default() }
    }

    /// Counts something that happened into the hash.
    pub(crate) fn count(&mut self, now: MonoTime, what: impl Hash) {
        now.as_micros().hash(&mut self.hasher);
        what.hash(&mut self.hasher);
    }

    /// Notes something that a reader of a failure wants to see.
    pub(crate) fn say(&mut self, now: MonoTime, line: fmt::Arguments<'_>) {
        let line = format!("{now:?} {line}");
        line.hash(&mut self.hasher);
        if self.print {
            eprintln!("{line}");
        }
        if self.lines.len() >= LINES_MAX {
            self.lines.pop_front();
        }
        self.lines.push_back(line);
    }

    /// Prints a detail that is too much for the report.
    pub(crate) fn detail(&self, now: MonoTime, line: fmt::Arguments<'_>) {
        if self.print {
            eprintln!("{now:?} {line}");
        }
    }

    pub(crate) fn hash(&self) -> u64 {
        self.hasher.finish()
    }

    pub(crate) fn last_lines(&self) -> String {
        self.lines.iter().map(String::as_str).collect::<Vec<_>>().join("\n")
    }
}
