//! Names of keys on the server.

use slotmesh_slots::Slot;

/// Longest name space.
const SPACE_BYTES_MAX: usize = 64;

/// How keys of caches are named: `space{key}`, so that what belongs to a key is in its slot; behind that an `l` for who loads it.
pub(crate) struct Names {
    /// `space{`, with which all names begin, and nobody else's may.
    prefix: Box<[u8]>,
}

/// What a name is of.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Named<'a> {
    Value(&'a [u8]),
    Lease(&'a [u8]),
}

impl Names {
    /// `None` if it is empty, long, or has braces.
    pub(crate) fn new(space: &str) -> Option<Self> {
        let fits = (1..=SPACE_BYTES_MAX).contains(&space.len());
        let plain = fits && !space.contains(['{', '}']);
        plain.then(|| Self { prefix: format!("{space}{{").into_bytes().into() })
    }

    pub(crate) fn prefix(&self) -> &[u8] {
        &self.prefix
    }

    pub(crate) fn value(&self, key: &[u8]) -> Vec<u8> {
        self.name(key, b"}")
    }

    pub(crate) fn lease(&self, key: &[u8]) -> Vec<u8> {
        self.name(key, b"}l")
    }

    fn name(&self, key: &[u8], end: &[u8]) -> Vec<u8> {
        [&self.prefix, key, end].concat()
    }

    /// `None` where it is nobody's of ours.
    pub(crate) fn parse<'a>(&self, name: &'a [u8]) -> Option<Named<'a>> {
        let rest = name.strip_prefix(&*self.prefix)?;
        let value = rest.strip_suffix(b"}").map(Named::Value);
        value.or_else(|| rest.strip_suffix(b"}l").map(Named::Lease))
    }

    /// The slot that servers of a cluster keep it in.
    pub(crate) fn slot(&self, key: &[u8]) -> Slot {
        Slot::of_key(&self.value(key))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_told_apart_whatever_the_key() {
        let names = Names::new("app").expect("plain");
        for key in [&b"users:1:7"[..], b"users:1:}l", b"users:1:a}", b"users:1:{b}c", b"u:1:\xff"] {
            let (value, lease) = (names.value(key), names.lease(key));
            assert_eq!(names.parse(&value), Some(Named::Value(key)));
            assert_eq!(names.parse(&lease), Some(Named::Lease(key)));
            assert_eq!(names.slot(key), Slot::of_key(&lease), "one script needs both");
        }
        assert_eq!(names.slot(b"users:1:7"), Slot::of_key(b"users:1:7"));
        for foreign in [&b"app"[..], b"ap{users:1:7}", b"app{users:1:7", b"app{users:1:7}x"] {
            assert_eq!(names.parse(foreign), None);
        }
    }

    #[test]
    fn a_space_has_no_braces() {
        for space in ["", "a{", "}", &"x".repeat(65)] {
            assert!(Names::new(space).is_none(), "{space}");
        }
    }
}
