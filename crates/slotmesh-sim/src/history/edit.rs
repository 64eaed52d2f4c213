use super::Asked;

/// How long a value lives from now on. Only such lifetimes are modelled whose end is certain.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Span {
    /// For ever.
    Ever,
    /// Longer than any run.
    Long,
    /// Not at all: it is gone.
    Over,
}

/// What must hold of the lifetime there is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Only {
    /// Nothing.
    Always,
    /// There is none.
    Unset,
    /// There is one.
    Set,
}

/// What a client asked of a key whose value is a text that is changed in parts, with or without a lifetime.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Edit {
    /// Tells the text.
    Get,
    /// Tells the part from the first to the last byte, both counted from the end where negative.
    Range(i64, i64),
    /// Tells whether there is one.
    Touch,
    /// Puts a text, with the lifetime of the one before or with none.
    Put {
        /// The text.
        text: Vec<u8>,
        /// Whether the lifetime stays.
        keeps: bool,
    },
    /// Adds at the end.
    Append(Vec<u8>),
    /// Writes over a part, after zeros if the text is too short.
    SetRange(usize, Vec<u8>),
    /// Gives a new lifetime.
    Expire(Span, Only),
    /// Gives a new lifetime and tells the text.
    GetAndExpire(Span),
    /// Removes the text.
    Delete,
    /// Removes the text and tells it.
    Take,
}

/// What it was told.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Seen {
    /// The text or a part of it, and whether it has a lifetime.
    Text(Option<(Vec<u8>, bool)>),
    /// Whether there was one.
    Existed(bool),
    /// Whether the lifetime changed.
    Applied(bool),
    /// How long the text is now.
    Length(usize),
}

type Text = Option<(Vec<u8>, bool)>;

impl Asked for Edit {
    type Answer = Seen;
    type Held = Text;

    fn step(&self, told: Option<&Seen>, held: &Text) -> Option<Text> {
        let (answer, after) = self.outcome(held);
        told.is_none_or(|told| *told == answer).then_some(after)
    }

    fn is_read(&self) -> bool {
        matches!(self, Self::Get | Self::Range(..) | Self::Touch)
    }
}

impl Edit {
    fn outcome(&self, held: &Text) -> (Seen, Text) {
        let lasts = held.as_ref().is_some_and(|(_, limited)| *limited);
        let text = || held.as_ref().map(|(text, _)| text.clone()).unwrap_or_default();
        match self {
            Self::Get => (Seen::Text(held.clone()), held.clone()),
            Self::Range(first, last) => {
                let cut = |(text, limited): &(Vec<u8>, bool)| (part(text, *first, *last), *limited);
                (Seen::Text(held.as_ref().map(cut)), held.clone())
            }
            Self::Touch => (Seen::Existed(held.is_some()), held.clone()),
            Self::Put { text, keeps } => {
                (Seen::Existed(held.is_some()), Some((text.clone(), *keeps && lasts)))
            }
            Self::Append(piece) => {
                let text = [text(), piece.clone()].concat();
                (Seen::Length(text.len()), Some((text, lasts)))
            }
            Self::SetRange(at, piece) => {
                let (mut text, end) = (text(), at + piece.len());
                text.resize(end.max(text.len()), 0);
                text[*at..end].copy_from_slice(piece);
                (Seen::Length(text.len()), Some((text, lasts)))
            }
            Self::Expire(span, only) => {
                let fits = match only {
                    Only::Always => true,
                    Only::Unset => !lasts,
                    Only::Set => lasts,
                };
                let (applied, after) =
                    if fits { expired(held, *span) } else { (false, held.clone()) };
                (Seen::Applied(applied), after)
            }
            Self::GetAndExpire(span) => (Seen::Text(held.clone()), expired(held, *span).1),
            Self::Delete => (Seen::Existed(held.is_some()), None),
            Self::Take => (Seen::Text(held.clone()), None),
        }
    }
}

/// Whether the lifetime changed, and the text with its new one. From none to none is no change.
fn expired(held: &Text, span: Span) -> (bool, Text) {
    let Some((text, limited)) = held.clone() else { return (false, None) };
    match span {
        Span::Ever => (limited, Some((text, false))),
        Span::Long => (true, Some((text, true))),
        Span::Over => (true, None),
    }
}

/// As Redis' `GETRANGE` has it, written down apart from the store.
fn part(text: &[u8], first: i64, last: i64) -> Vec<u8> {
    let len = text.len() as i64;
    let place = |at: i64| if at < 0 { at + len } else { at };
    if first < 0 && last < 0 && first > last {
        return Vec::new();
    }
    let (first, last) = (place(first).max(0), place(last).max(0).min(len - 1));
    if first > last { Vec::new() } else { text[first as usize..=last as usize].to_vec() }
}

#[cfg(test)]
mod tests {
    use super::super::{Operation, check};
    use super::*;

    /// Operations one after the other with what each was told.
    fn explained(history: &[(Edit, Seen)]) -> bool {
        let operation = |(at, (action, seen)): (usize, &(Edit, Seen))| Operation {
            invoked: at as u64 * 2,
            returned: Some((at as u64 * 2 + 1, seen.clone())),
            action: action.clone(),
        };
        check(&history.iter().enumerate().map(operation).collect::<Vec<_>>()).is_ok()
    }

    fn text(text: &str, limited: bool) -> Seen {
        Seen::Text(Some((text.into(), limited)))
    }

    fn append(piece: &str, length: usize) -> (Edit, Seen) {
        (Edit::Append(piece.into()), Seen::Length(length))
    }

    #[test]
    fn parts_are_written_and_read() {
        let parts = [
            append("ab", 2),
            append("cd", 4),
            (Edit::SetRange(3, b"xy".to_vec()), Seen::Length(5)),
            (Edit::Range(-3, -2), text("cx", false)),
            (Edit::SetRange(6, b"z".to_vec()), Seen::Length(7)),
            (Edit::Get, text("abcxy\0z", false)),
        ];
        assert!(explained(&parts));
        assert!(!explained(&[append("ab", 2), append("cd", 2)]));
        assert!(!explained(&[append("ab", 2), append("ab", 4), (Edit::Get, text("ab", false))]));
        assert!(!explained(&[append("abc", 3), (Edit::Range(0, 1), text("abc", false))]));
    }

    #[test]
    fn lifetimes_are_given_and_taken() {
        let applied = |edit, applied| (edit, Seen::Applied(applied));
        let expire = |span, only| Edit::Expire(span, only);
        let put = |keeps| (Edit::Put { text: b"a".to_vec(), keeps }, Seen::Existed(true));
        let begin = [append("a", 1), applied(expire(Span::Long, Only::Unset), true)];
        let with = |rest: &[(Edit, Seen)]| explained(&[&begin[..], rest].concat());
        assert!(with(&[applied(expire(Span::Long, Only::Unset), false)]));
        assert!(with(&[append("b", 2), (Edit::Get, text("ab", true))]));
        assert!(with(&[put(true), (Edit::Get, text("a", true))]));
        assert!(with(&[put(false), (Edit::GetAndExpire(Span::Ever), text("a", false))]));
        assert!(with(&[
            applied(expire(Span::Ever, Only::Set), true),
            (Edit::Get, text("a", false))
        ]));
        let gone =
            [applied(expire(Span::Over, Only::Set), true), (Edit::Touch, Seen::Existed(false))];
        assert!(with(&gone));
        assert!(!with(&[
            (Edit::GetAndExpire(Span::Over), text("a", true)),
            (Edit::Get, text("a", true))
        ]));
        assert!(!with(&[(Edit::Touch, Seen::Existed(false))]));
        assert!(!with(&[put(true), (Edit::Get, text("a", false))]));
    }
}
