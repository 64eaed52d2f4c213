//! What clients ask of a key: the operation, what the checker of histories calls it, and how the replies read.

use std::time::Duration;

use bytes::Bytes;
use slotmesh_core::{Ack, Op, Reply};
use slotmesh_slots::{Class, Token, Version};
use slotmesh_store::{ByteRange, Condition, ExpireCondition};

use super::work::{Key, Kind};
use crate::history::{Action, Answer, Edit, Only, Seen, Span};

/// Longer than any run takes.
const LONG: Duration = Duration::from_secs(24 * 3600);

/// An operation as the checker knows it.
#[derive(Clone, Debug)]
pub(super) enum Asks {
    Plain(Action),
    Edit(Edit),
}

/// The read that ends a key's history.
pub(super) const fn read_back(kind: Kind) -> Asks {
    match kind {
        Kind::Text => Asks::Edit(Edit::Get),
        _ => Asks::Plain(Action::Get),
    }
}

impl Key {
    /// The next operation on the key, by a number below a hundred.
    pub(super) fn draw_op(&self, choice: u32, value: i64) -> (Asks, Op) {
        if self.kind == Kind::Text {
            let edit = draw_edit(choice, value);
            let op = edit.op(&self.name, self.class);
            return (Asks::Edit(edit), op);
        }
        let (action, op) = self.draw_plain(choice, value);
        (Asks::Plain(action), op)
    }

    /// Who has to have a write before it counts as done. With a token that is drawn, by its lowest bits.
    pub(super) fn draw_ack(&self, token: Option<Token>, value: i64, replicas: u8) -> Ack {
        let choice = token.map_or(value.unsigned_abs() as u128, |token| token.0) % 10;
        match self.kind {
            Kind::Weak if choice < 8 => Ack::Primary,
            Kind::Register | Kind::Text if replicas > 0 && choice == 0 => Ack::AtLeast(2),
            Kind::Register if replicas > 1 && choice == 1 => Ack::AtLeast(3),
            _ => Ack::All,
        }
    }

    fn draw_plain(&self, choice: u32, value: i64) -> (Action, Op) {
        let name = self.name.clone();
        if choice < 40 {
            return (Action::Get, Op::Get { key: name });
        }
        match self.kind {
            Kind::Expiring => {
                let ttl = Duration::from_millis(50 + u64::from(choice) * 30);
                (Action::Put(value), self.fill(value, Some(ttl), 8))
            }
            Kind::Counter => (Action::Increment(1), Op::Increment { key: name, delta: 1 }),
            Kind::Filler(bytes) if choice < 92 => {
                (Action::Put(value), self.fill(value, None, 8 + bytes * choice as usize / 92))
            }
            Kind::Filler(_) => {
                (Action::Delete, Op::Delete { key: name, condition: Condition::Always })
            }
            Kind::Register | Kind::Text | Kind::Weak => self.draw_register(choice, value),
        }
    }

    fn draw_register(&self, choice: u32, value: i64) -> (Action, Op) {
        let key = self.name.clone();
        if choice < 44 {
            return (Action::Take, Op::GetAndDelete { key });
        }
        if choice < 48 {
            return (Action::Delete, Op::Delete { key, condition: Condition::Always });
        }
        // What a condition looks at may be lost again where the primary alone acknowledges.
        let conditional = self.kind == Kind::Register;
        let (action, condition) = match (choice, self.seen) {
            (48..56, _) if conditional => (Action::PutAbsent(value), Condition::Absent),
            (56..75, Some((seen, version))) if conditional => {
                (Action::Cas(seen, value), Condition::Version(version))
            }
            _ => (Action::Put(value), Condition::Always),
        };
        let (text, ttl, keep_ttl) = (Bytes::from(format!("{value:08}")), None, false);
        let class = self.class;
        if choice >= 90 {
            let op = Op::GetAndPut { class, key, value: text, ttl, keep_ttl, condition };
            return (Action::Swap(value), op);
        }
        (action, Op::Put { key, value: text, ttl, keep_ttl, condition, class })
    }

    /// A write of so many bytes that nobody checks.
    fn fill(&self, value: i64, ttl: Option<Duration>, width: usize) -> Op {
        let (value, key) = (Bytes::from(format!("{value:0width$}")), self.name.clone());
        let (keep_ttl, condition, class) = (false, Condition::Always, Class::Cache);
        Op::Put { key, value, ttl, keep_ttl, condition, class }
    }

    /// What a client was told; `None` where the reply is none of such an operation.
    pub(super) fn understand(&mut self, action: Action, reply: Reply) -> Option<Answer> {
        let answer = match (action, reply) {
            (Action::Get, Reply::Value(value)) => {
                let number = parse(&value.value)?;
                self.seen = Some((number, value.version));
                Answer::Value(Some(number))
            }
            (Action::Get, Reply::Missing { .. }) => Answer::Value(None),
            (Action::Put(_), Reply::Put { existed, .. })
            | (Action::Delete, Reply::Delete { existed, .. }) => Answer::Done { existed },
            (Action::PutAbsent(_) | Action::Cas(..), Reply::Put { applied, .. }) => {
                Answer::Applied(applied)
            }
            (Action::Increment(_), Reply::Integer { value, .. }) => Answer::Sum(value),
            (Action::Swap(_) | Action::Take, Reply::Previous { previous, .. }) => {
                Answer::Value(previous.and_then(|value| parse(&value.value)))
            }
            _ => return None,
        };
        Some(answer)
    }
}

/// What a text is changed by; pieces are short, and each another one.
fn draw_edit(choice: u32, value: i64) -> Edit {
    let piece = || format!("{:04x}", value % 0x1_0000).into_bytes();
    let some = value.unsigned_abs();
    let span = [Span::Ever, Span::Long, Span::Over][(some % 3) as usize];
    match choice {
        0..20 => Edit::Get,
        20..32 => Edit::Range((some % 15) as i64 - 7, (some / 15 % 15) as i64 - 7),
        32..40 => Edit::Touch,
        40..56 => Edit::Append(piece()),
        56..68 => Edit::SetRange((some % 11) as usize, piece()),
        68..82 => Edit::Put { text: piece(), keeps: some.is_multiple_of(2) },
        82..90 => {
            Edit::Expire(span, [Only::Always, Only::Unset, Only::Set][(some / 3 % 3) as usize])
        }
        90..95 => Edit::GetAndExpire(span),
        95..97 => Edit::Delete,
        _ => Edit::Take,
    }
}

impl Span {
    const fn ttl(self) -> Option<Duration> {
        match self {
            Self::Ever => None,
            Self::Long => Some(LONG),
            Self::Over => Some(Duration::ZERO),
        }
    }
}

impl Edit {
    fn op(&self, key: &Bytes, class: Class) -> Op {
        let (key, condition) = (key.clone(), Condition::Always);
        match self {
            Self::Get => Op::Get { key },
            Self::Range(start, end) => {
                Op::GetRange { key, range: ByteRange { start: *start, end: *end } }
            }
            Self::Touch => Op::Touch { key },
            Self::Put { text, keeps } => {
                let (value, ttl, keep_ttl) = (Bytes::from(text.clone()), None, *keeps);
                Op::Put { key, value, ttl, keep_ttl, condition, class }
            }
            Self::Append(piece) => Op::Append { key, value: Bytes::from(piece.clone()) },
            Self::SetRange(at, piece) => {
                Op::SetRange { key, offset: *at as u64, value: Bytes::from(piece.clone()) }
            }
            Self::Expire(span, only) => {
                let condition = match only {
                    Only::Always => ExpireCondition::Always,
                    Only::Unset => ExpireCondition::Unset,
                    Only::Set => ExpireCondition::Set,
                };
                Op::Expire { key, ttl: span.ttl(), condition }
            }
            Self::GetAndExpire(span) => Op::GetAndExpire { key, ttl: span.ttl() },
            Self::Delete => Op::Delete { key, condition },
            Self::Take => Op::GetAndDelete { key },
        }
    }

    /// What a client was told; `None` where the reply is none of such an operation.
    pub(super) fn understand(&self, reply: Reply) -> Option<Seen> {
        let text = |value: slotmesh_core::Value| (value.value.to_vec(), value.ttl.is_some());
        let seen = match (self, reply) {
            (Self::Get | Self::Range(..), Reply::Value(value)) => Seen::Text(Some(text(value))),
            (Self::Get | Self::Range(..), Reply::Missing { .. }) => Seen::Text(None),
            (Self::Touch, Reply::Touched { existed })
            | (Self::Put { .. }, Reply::Put { existed, .. })
            | (Self::Delete, Reply::Delete { existed, .. }) => Seen::Existed(existed),
            (Self::Append(_) | Self::SetRange(..), Reply::Length { bytes, .. }) => {
                Seen::Length(bytes as usize)
            }
            (Self::Expire(..), Reply::Expire { applied }) => Seen::Applied(applied),
            (Self::GetAndExpire(_) | Self::Take, Reply::Previous { previous, .. }) => {
                Seen::Text(previous.map(text))
            }
            _ => return None,
        };
        Some(seen)
    }
}

fn parse(value: &Bytes) -> Option<i64> {
    std::str::from_utf8(value).ok()?.parse().ok()
}

/// On how many nodes a write is said to be.
pub(super) const fn told_copies(reply: &Reply) -> u8 {
    match reply {
        Reply::Put { applied: true, copies, .. }
        | Reply::Previous { applied: true, copies, .. }
        | Reply::Length { copies, .. }
        | Reply::Integer { copies, .. } => *copies,
        _ => 0,
    }
}

/// The version that a write gave its entry, if it was carried out and says so.
pub(super) const fn written_version(reply: &Reply) -> Option<Version> {
    match reply {
        Reply::Put { applied: true, version, .. }
        | Reply::Previous { applied: true, version, .. }
        | Reply::Length { version, .. } => *version,
        Reply::Integer { version, .. } => Some(*version),
        _ => None,
    }
}
