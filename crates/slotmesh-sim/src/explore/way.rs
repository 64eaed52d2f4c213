use std::collections::VecDeque;
use std::hash::{Hash, Hasher};

use bytes::Bytes;

/// What an end of a link hears next. Both ways are ordered.
#[derive(Clone, PartialEq, Eq, Hash, Debug)]
pub(super) enum Item {
    Open(u32),
    Frame(u32, Bytes),
    Close(u32),
}

/// The connection from a primary to a replica: what is on its way there and back, over its successive links.
#[derive(Debug, Default)]
pub(super) struct Way {
    number: u32,
    /// Whether a link is up or coming up.
    pub(super) open: bool,
    pub(super) down: VecDeque<Item>,
    pub(super) up: VecDeque<Item>,
    /// The link the replica has open.
    pub(super) fed_by: Option<u32>,
}

impl Way {
    /// Whether the primary may dial: nothing is open, and it has noticed how the last one ended.
    pub(super) fn may_dial(&self) -> bool {
        !self.open && self.up.is_empty()
    }

    pub(super) fn dial(&mut self) {
        self.number += 1;
        self.open = true;
        self.down.push_back(Item::Open(self.number));
        self.up.push_back(Item::Open(self.number));
    }

    pub(super) fn send_down(&mut self, frame: Bytes) {
        if self.open {
            self.down.push_back(Item::Frame(self.number, frame));
        }
    }

    /// Answers of a link that is over go nowhere.
    pub(super) fn send_up(&mut self, link: u32, frame: Bytes) {
        if self.open && link == self.number {
            self.up.push_back(Item::Frame(link, frame));
        }
    }

    /// The link breaks, and what is on its way on it is lost.
    pub(super) fn break_off(&mut self) {
        if self.open {
            self.down.retain(|item| matches!(item, Item::Close(_)));
            self.up.retain(|item| matches!(item, Item::Close(_)));
            self.end();
        }
    }

    /// One end is gone; what it sent before may arrive still.
    pub(super) fn end(&mut self) {
        if self.open {
            self.open = false;
            self.down.push_back(Item::Close(self.number));
            self.up.push_back(Item::Close(self.number));
        }
    }
}

impl Hash for Way {
    fn hash<H: Hasher>(&self, hasher: &mut H) {
        (self.number, self.open, &self.down, &self.up, self.fed_by).hash(hasher);
    }
}
