use std::time::Duration;

use bytes::Bytes;
use slotmesh_coherence::Watcher;
use slotmesh_slots::{Class, Slot, Token};
use slotmesh_store::{ByteRange, Condition, ExpireCondition};

use super::load::{LoadEnd, LoadTerms};
use super::reply::{Reply, Value};

/// One operation on a slot, carried out by its primary.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Op {
    /// Reads an entry; linearizable.
    Get {
        /// The key.
        key: Bytes,
    },
    /// Writes an entry if the condition holds.
    Put {
        /// The key.
        key: Bytes,
        /// The value.
        value: Bytes,
        /// How long it lives from now on; `None` is for ever.
        ttl: Option<Duration>,
        /// Keep the lifetime of the entry that is replaced.
        keep_ttl: bool,
        /// What must hold.
        condition: Condition,
        /// Whether the entry may be evicted.
        class: Class,
    },
    /// Removes an entry if the condition holds; an invalidation even when there is none.
    Delete {
        /// The key.
        key: Bytes,
        /// What must hold.
        condition: Condition,
    },
    /// Gives an entry a new lifetime from now on if the condition holds; `None` is for ever, and changes only an entry that
    /// has a lifetime.
    Expire {
        /// The key.
        key: Bytes,
        /// The lifetime.
        ttl: Option<Duration>,
        /// What must hold of the lifetime it has.
        condition: ExpireCondition,
    },
    /// Adds to a decimal integer; a missing entry counts as zero.
    Increment {
        /// The key.
        key: Bytes,
        /// What to add.
        delta: i64,
    },
    /// Reads a part of a value; linearizable.
    GetRange {
        /// The key.
        key: Bytes,
        /// Which part.
        range: ByteRange,
    },
    /// Asks whether there is an entry, without its value, and counts as a use of it as any read does; linearizable.
    Touch {
        /// The key.
        key: Bytes,
    },
    /// Adds bytes at the end of a value, whose lifetime stays; a missing one counts as empty.
    Append {
        /// The key.
        key: Bytes,
        /// What to add.
        value: Bytes,
    },
    /// Writes bytes over a part of a value, whose lifetime stays; zeros fill what is missing before them.
    SetRange {
        /// The key.
        key: Bytes,
        /// Where they begin.
        offset: u64,
        /// The bytes; none change nothing.
        value: Bytes,
    },
    /// Writes an entry as [`Op::Put`] does and answers what was there, also when the condition failed.
    GetAndPut {
        /// The key.
        key: Bytes,
        /// The value.
        value: Bytes,
        /// How long it lives from now on; `None` is for ever.
        ttl: Option<Duration>,
        /// Keep the lifetime of the entry that is replaced.
        keep_ttl: bool,
        /// What must hold.
        condition: Condition,
        /// Whether the entry may be evicted.
        class: Class,
    },
    /// Removes an entry and answers what was there; an invalidation even when there was nothing.
    GetAndDelete {
        /// The key.
        key: Bytes,
    },
    /// Gives an entry a new lifetime as an unconditional [`Op::Expire`] does and answers it as it was.
    GetAndExpire {
        /// The key.
        key: Bytes,
        /// The lifetime.
        ttl: Option<Duration>,
    },
    /// Runs a function that the primary has ([`DataPlane::register`](crate::DataPlane::register)) on an entry.
    Call {
        /// The key.
        key: Bytes,
        /// The function's name.
        function: Bytes,
        /// Its version.
        version: u32,
        /// What it is given.
        input: Bytes,
        /// Whether the entry it writes may be evicted.
        class: Class,
    },
    /// Reads an entry as [`Op::Get`] does, for somebody who keeps it and has to hear when it is overwritten.
    Watch {
        /// The key.
        key: Bytes,
        /// By which stream: answered with [`Reply::Watched`] if the primary tells of the slot's writes there from now on, else
        /// as a get.
        by: Option<Watcher>,
    },
    /// Reads an entry as [`Op::Watch`] does, and asks to load it where there is none: of all who ask at a time one is told to,
    /// with [`Reply::MayLoad`], and the others wait for what it comes to.
    Load {
        /// The key.
        key: Bytes,
        /// By which stream to tell of writes, as for [`Op::Watch`]; where values are not kept, by none.
        by: Option<Watcher>,
        /// Who asks, and how long it may take.
        terms: LoadTerms,
    },
    /// A load that was begun wrote nothing: those who wait are told, or one of them may load.
    EndLoad {
        /// The key.
        key: Bytes,
        /// The lease.
        token: u64,
        /// What it came to.
        end: LoadEnd,
    },
    /// Empties a slot.
    Clear {
        /// The slot.
        slot: Slot,
    },
    /// A write that is carried out once, however often it comes: a repetition is answered as the write was, also by another
    /// primary, for some fifty seconds; if the answer takes more than 64 KiB the repetition is
    /// [`Ambiguous`](super::DataError::Ambiguous), but changes nothing either. Made by [`Op::once`].
    Once {
        /// Names the write.
        token: Token,
        /// When it comes again, how long ago it was first sent.
        age: Option<Duration>,
        /// The write.
        op: Box<Self>,
    },
}

/// What an operation is for.
pub(super) enum Target<'a> {
    Key(&'a Bytes),
    Slot(Slot),
}

impl Op {
    /// The write under a token; a read, or a write that has one, is as it was.
    #[must_use]
    pub fn once(self, token: Token) -> Self {
        if self.is_read() || self.is_once() {
            return self;
        }
        Self::Once { token, age: None, op: Box::new(self) }
    }

    /// Whether it is carried out once, however often it comes.
    #[must_use]
    pub const fn is_once(&self) -> bool {
        matches!(self, Self::Once { .. })
    }

    /// The same operation for sending it again, so long after it was sent first.
    pub fn note_age(&mut self, since_first: Duration) {
        if let Self::Once { age, .. } = self {
            *age = Some(since_first);
        }
    }

    /// The slot the operation is for.
    #[must_use]
    pub fn slot(&self) -> Slot {
        match self.target() {
            Target::Key(key) => Slot::of_key(key),
            Target::Slot(slot) => slot,
        }
    }

    /// About how many bytes it takes in a request, not less.
    #[must_use]
    pub fn bytes(&self) -> usize {
        const REST: usize = 64;
        let key_len = match self.target() {
            Target::Key(key) => key.len(),
            Target::Slot(_) => 0,
        };
        let value_len = match self {
            Self::Put { value, .. }
            | Self::GetAndPut { value, .. }
            | Self::Append { value, .. }
            | Self::SetRange { value, .. } => value.len(),
            Self::Call { function, input, .. } => function.len() + input.len(),
            Self::Load { .. } => REST,
            Self::EndLoad { end, .. } => end.bytes(),
            Self::Once { op, .. } => return op.bytes() + REST,
            _ => 0,
        };
        key_len + value_len + REST
    }

    /// The key that is read; none if it is a write, or a read that does more than read. What such an operation answers follows from what a get of the key
    /// answers: [`Op::answer`].
    #[must_use]
    pub const fn read_key(&self) -> Option<&Bytes> {
        match self {
            Self::Get { key } | Self::GetRange { key, .. } | Self::Touch { key } => Some(key),
            _ => None,
        }
    }

    /// Whether it may leave more in memory than there was.
    #[must_use]
    pub const fn may_grow(&self) -> bool {
        match self {
            Self::Put { .. }
            | Self::GetAndPut { .. }
            | Self::Increment { .. }
            | Self::Append { .. }
            | Self::SetRange { .. }
            | Self::Call { .. } => true,
            Self::Get { .. }
            | Self::GetRange { .. }
            | Self::Touch { .. }
            | Self::Delete { .. }
            | Self::GetAndDelete { .. }
            | Self::Expire { .. }
            | Self::GetAndExpire { .. }
            | Self::Watch { .. }
            | Self::Load { .. }
            | Self::EndLoad { .. }
            | Self::Clear { .. } => false,
            Self::Once { op, .. } => op.may_grow(),
        }
    }

    /// The key, if it may change nothing for what is there or is not.
    pub(crate) fn may_be_refused(&self) -> Option<&Bytes> {
        match self {
            Self::Put { key, condition, .. }
            | Self::GetAndPut { key, condition, .. }
            | Self::Delete { key, condition } => (*condition != Condition::Always).then_some(key),
            Self::Expire { key, .. } | Self::GetAndExpire { key, .. } | Self::Call { key, .. } => {
                Some(key)
            }
            _ => None,
        }
    }

    /// Whether it changes no entry.
    #[must_use]
    pub const fn is_read(&self) -> bool {
        self.read_key().is_some()
            || matches!(self, Self::Watch { .. } | Self::Load { .. } | Self::EndLoad { .. })
    }

    /// What it answers if it is a read, given what a get of its key answers.
    #[must_use]
    pub fn answer(&self, found: Reply) -> Reply {
        match (self, found) {
            (Self::GetRange { range, .. }, Reply::Value(value)) => {
                let part = value.value.slice(range.within(value.value.len()));
                Reply::Value(Value { value: part, ..value })
            }
            (Self::Touch { .. }, found) => {
                Reply::Touched { existed: matches!(found, Reply::Value(_)) }
            }
            (_, found) => found,
        }
    }

    /// Whether carrying it out twice has the same effect as once, as long as nobody else writes in between, and loses no
    /// answer: such an operation may be sent again when its outcome is unknown and the caller allows it.
    #[must_use]
    pub const fn is_idempotent(&self) -> bool {
        match self {
            Self::Get { .. }
            | Self::GetRange { .. }
            | Self::Touch { .. }
            | Self::Watch { .. }
            | Self::Load { .. }
            | Self::EndLoad { .. }
            | Self::SetRange { .. }
            | Self::Clear { .. }
            | Self::Once { .. } => true,
            Self::Put { condition, .. } | Self::Delete { condition, .. } => {
                matches!(condition, Condition::Always)
            }
            Self::Expire { condition, .. } => matches!(condition, ExpireCondition::Always),
            // A lifetime of nothing deletes, and then the value is gone with the answer.
            Self::GetAndExpire { ttl: Some(ttl), .. } => !ttl.is_zero(),
            Self::GetAndExpire { ttl: None, .. } => true,
            Self::Increment { .. }
            | Self::Append { .. }
            | Self::GetAndPut { .. }
            | Self::GetAndDelete { .. }
            | Self::Call { .. } => false,
        }
    }

    pub(super) fn target(&self) -> Target<'_> {
        match self {
            Self::Get { key }
            | Self::GetRange { key, .. }
            | Self::Touch { key }
            | Self::Put { key, .. }
            | Self::Delete { key, .. }
            | Self::Expire { key, .. }
            | Self::Increment { key, .. }
            | Self::Append { key, .. }
            | Self::SetRange { key, .. }
            | Self::GetAndPut { key, .. }
            | Self::GetAndDelete { key }
            | Self::Call { key, .. }
            | Self::Watch { key, .. }
            | Self::Load { key, .. }
            | Self::EndLoad { key, .. }
            | Self::GetAndExpire { key, .. } => Target::Key(key),
            Self::Clear { slot } => Target::Slot(*slot),
            Self::Once { op, .. } => op.target(),
        }
    }

    /// A hash of what it does to which key, the same on every node (FNV-1a, Fowler, Noll and Vo).
    pub(crate) fn purpose(&self) -> u64 {
        let slot;
        let bytes = match self.target() {
            Target::Key(key) => &key[..],
            Target::Slot(target) => {
                slot = target.number().to_be_bytes();
                &slot[..]
            }
        };
        let step = |hash: u64, byte: &u8| (hash ^ u64::from(*byte)).wrapping_mul(0x100_0000_01b3);
        std::iter::once(&self.tag()).chain(bytes).fold(0xcbf2_9ce4_8422_2325, step)
    }
}

#[cfg(test)]
mod tests {
    use slotmesh_slots::Version;

    use super::*;

    fn key() -> Bytes {
        Bytes::from_static(b"key")
    }

    /// Whether it is a read, and whether it may be repeated.
    fn check(op: &Op, expected: (bool, bool)) {
        assert_eq!((op.is_read(), op.is_idempotent()), expected, "{op:?}");
        assert_eq!(op.slot(), Slot::of_key(b"key"));
    }

    fn put(condition: Condition) -> Op {
        let (ttl, keep_ttl) = (None, false);
        Op::Put { class: Class::Cache, key: key(), value: Bytes::new(), ttl, keep_ttl, condition }
    }

    fn expire(condition: ExpireCondition) -> Op {
        Op::Expire { key: key(), ttl: Some(Duration::ZERO), condition }
    }

    #[test]
    fn what_is_repeated_loses_neither_writes_nor_answers() {
        let (key, value) = (key(), Bytes::from_static(b"value"));
        let range = ByteRange { start: 0, end: -1 };
        check(&Op::Get { key: key.clone() }, (true, true));
        check(&Op::GetRange { key: key.clone(), range }, (true, true));
        check(&Op::Touch { key: key.clone() }, (true, true));
        check(&Op::Clear { slot: Slot::of_key(b"key") }, (false, true));
        check(&Op::SetRange { key: key.clone(), offset: 3, value: value.clone() }, (false, true));
        check(&put(Condition::Always), (false, true));
        check(&put(Condition::Absent), (false, false));
        check(&expire(ExpireCondition::Always), (false, true));
        check(&expire(ExpireCondition::Unset), (false, false));
        for (ttl, repeats) in
            [(None, true), (Some(Duration::from_secs(1)), true), (Some(Duration::ZERO), false)]
        {
            check(&Op::GetAndExpire { key: key.clone(), ttl }, (false, repeats));
        }
        check(&Op::Increment { key: key.clone(), delta: 1 }, (false, false));
        check(&Op::Append { key: key.clone(), value: value.clone() }, (false, false));
        check(&Op::GetAndDelete { key: key.clone() }, (false, false));
        let increment = Op::Increment { key: key.clone(), delta: 1 };
        check(&increment.clone().once(Token(7)), (false, true));
        assert_eq!(Op::Get { key: key.clone() }.once(Token(7)), Op::Get { key: key.clone() });
        let once = increment.once(Token(7));
        assert_eq!(once.clone().once(Token(8)), once);
        let (ttl, keep_ttl, condition) = (None, false, Condition::Always);
        check(
            &Op::GetAndPut { class: Class::Cache, key, value, ttl, keep_ttl, condition },
            (false, false),
        );
    }

    #[test]
    fn other_reads_answer_with_what_a_get_found() {
        let version = Version::default();
        let value =
            |text| Reply::Value(Value { value: Bytes::from_static(text), version, ttl: None });
        let missing = || Reply::Missing { slot: version };
        let get = Op::Get { key: key() };
        assert_eq!(get.answer(value(b"value")), value(b"value"));
        let range = Op::GetRange { key: key(), range: ByteRange { start: -3, end: -2 } };
        assert_eq!(range.answer(value(b"value")), value(b"lu"));
        assert_eq!(range.answer(missing()), missing());
        let touch = Op::Touch { key: key() };
        assert_eq!(touch.answer(value(b"value")), Reply::Touched { existed: true });
        assert_eq!(touch.answer(missing()), Reply::Touched { existed: false });
    }
}
