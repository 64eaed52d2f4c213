//! What a value looks like in the cluster: a header that says how to read it, then the codec's bytes. Whatever does not
//! carry exactly the expected header, or does not decode, is a miss: never an error and never a wrong value, because
//! two versions of an application share the cluster during every deployment.
//!
//! Layout: magic and format (1 byte), codec id (1; 0 says that there is no value), schema version (4, little endian); in the second format
//! the two [`Times`] (4 each, little endian, in milliseconds), and in the third a [`Stamp`] after them (8, how many tags 1, 8 each); payload.

use std::time::Duration;

use crate::codec::{Codec, CodecError};
use crate::marks::Stamp;

/// First bytes of the formats; another layout would take another. No text begins with one of them: with a codec's id behind it, it
/// is no UTF-8.
const PLAIN: u8 = 0xc5;
const TIMED: u8 = 0xc6;
const STAMPED: u8 = 0xc7;

/// In place of a codec's id.
const NO_VALUE: u8 = 0;

const HEADER_BYTES: usize = 6;

/// Of the lifetimes that an entry was written with, those that cannot be seen by how long it still lives. The cluster keeps it for both.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Times {
    /// How long it was to be fresh. Zero where nobody needs to know.
    pub(crate) fresh: Duration,
    /// How long after that it may be shown in want of better.
    pub(crate) stale: Duration,
}

/// What an entry says.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Opened<V> {
    /// None says that there is no such value.
    pub(crate) value: Option<V>,
    pub(crate) times: Times,
    pub(crate) stamp: Option<Stamp>,
}

/// The value, or that there is none, with its header.
pub(crate) fn seal<V: 'static>(
    codec: &dyn Codec<V>,
    schema: u32,
    value: Option<&V>,
    times: Times,
    stamp: Option<&Stamp>,
) -> Result<Vec<u8>, CodecError> {
    let mut out = Vec::with_capacity(64);
    let format = match stamp {
        Some(_) => STAMPED,
        None if times != Times::default() => TIMED,
        None => PLAIN,
    };
    let id = value.map_or(NO_VALUE, |_| codec.id());
    out.extend_from_slice(&header(format, id, schema));
    if format != PLAIN {
        for time in [times.fresh, times.stale] {
            let millis = u32::try_from(time.as_millis()).unwrap_or(u32::MAX);
            out.extend_from_slice(&millis.to_le_bytes());
        }
    }
    if let Some(stamp) = stamp {
        let tags = u8::try_from(stamp.tags.len());
        let tags = tags.map_err(|_| CodecError::new("a value has at most 255 tags"))?;
        out.extend_from_slice(&stamp.at.to_le_bytes());
        out.push(tags);
        stamp.tags.iter().for_each(|tag| out.extend_from_slice(&tag.to_le_bytes()));
    }
    value.map_or(Ok(()), |value| codec.encode(value, &mut out))?;
    Ok(out)
}

/// What is behind the header, if both are as expected.
pub(crate) fn open<V: 'static>(
    codec: &dyn Codec<V>,
    schema: u32,
    bytes: &[u8],
) -> Option<Opened<V>> {
    let (given, rest) = bytes.split_first_chunk::<HEADER_BYTES>()?;
    let (times, rest) = match given[0] {
        PLAIN => (Times::default(), rest),
        TIMED | STAMPED => times(rest)?,
        _ => return None,
    };
    let (stamp, payload) = match given[0] {
        STAMPED => stamp(rest).map(|(stamp, rest)| (Some(stamp), rest))?,
        _ => (None, rest),
    };
    let is = |id| *given == header(given[0], id, schema);
    let value = if is(codec.id()) {
        Some(codec.decode(payload).ok()?)
    } else if is(NO_VALUE) && payload.is_empty() {
        None
    } else {
        return None;
    };
    Some(Opened { value, times, stamp })
}

fn times(bytes: &[u8]) -> Option<(Times, &[u8])> {
    let (fresh, rest) = bytes.split_first_chunk()?;
    let (stale, rest) = rest.split_first_chunk()?;
    let time = |millis: &[u8; 4]| Duration::from_millis(u32::from_le_bytes(*millis).into());
    Some((Times { fresh: time(fresh), stale: time(stale) }, rest))
}

fn stamp(bytes: &[u8]) -> Option<(Stamp, &[u8])> {
    let (at, rest) = bytes.split_first_chunk()?;
    let (count, rest) = rest.split_first()?;
    let (tags, rest) = rest.split_at_checked(8 * usize::from(*count))?;
    let tags = tags.as_chunks().0.iter().map(|tag| u64::from_le_bytes(*tag)).collect();
    Some((Stamp { at: u64::from_le_bytes(*at), tags }, rest))
}

fn header(format: u8, codec: u8, schema: u32) -> [u8; HEADER_BYTES] {
    let [a, b, c, d] = schema.to_le_bytes();
    [format, codec, a, b, c, d]
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::codec::Bincode;

    const TIMES: Times =
        Times { fresh: Duration::from_millis(258), stale: Duration::from_millis(3) };

    /// Value and times, if it opens.
    fn opened(bytes: &[u8]) -> Option<(Option<String>, Times)> {
        open(&Bincode, 2, bytes).map(|it: Opened<String>| (it.value, it.times))
    }

    fn sealed(value: Option<&str>, times: Times) -> Vec<u8> {
        seal(&Bincode, 2, value.map(str::to_owned).as_ref(), times, None).unwrap()
    }

    #[test]
    fn only_the_expected_header_opens() {
        let none = Times::default();
        let plain = sealed(Some("ann"), none);
        assert_eq!(plain, [0xc5, 1, 2, 0, 0, 0, 3, b'a', b'n', b'n']);
        let timed = sealed(Some("ann"), TIMES);
        assert_eq!(timed[..6], [0xc6, 1, 2, 0, 0, 0]);
        assert_eq!(timed[6..14], [2, 1, 0, 0, 3, 0, 0, 0]);
        for (sealed, times) in [(plain, none), (timed, TIMES)] {
            assert_eq!(opened(&sealed), Some((Some("ann".to_owned()), times)));
            for index in 0..HEADER_BYTES {
                let mut other = sealed.clone();
                other[index] ^= 4;
                assert_eq!(opened(&other), None);
            }
            for length in 0..sealed.len() {
                assert_eq!(opened(&sealed[..length]), None);
            }
        }
        assert_eq!(opened(b"plain text written by a Redis client"), None);
    }

    #[test]
    fn that_there_is_no_value_is_said_without_one() {
        for times in [Times::default(), TIMES] {
            let sealed = sealed(None, times);
            assert_eq!(opened(&sealed), Some((None, times)));
            assert_eq!(opened(&[&*sealed, b"x"].concat()), None);
        }
    }

    #[test]
    fn a_stamp_comes_out_as_it_went_in() {
        for tags in [&[][..], &[7], &[1, u64::MAX]] {
            let stamp = Stamp { at: 1 << 50, tags: tags.into() };
            for value in [None, Some("ann".to_owned())] {
                let sealed = seal(&Bincode, 2, value.as_ref(), TIMES, Some(&stamp)).unwrap();
                let opened: Opened<String> = open(&Bincode, 2, &sealed).unwrap();
                assert_eq!((opened.value, opened.times), (value, TIMES));
                assert_eq!(opened.stamp.as_ref(), Some(&stamp));
                for length in 0..sealed.len() {
                    assert!(open::<String>(&Bincode, 2, &sealed[..length]).is_none());
                }
            }
        }
        let many = Stamp { at: 0, tags: vec![1; 256].into() };
        assert!(seal(&Bincode, 2, Some(&String::new()), TIMES, Some(&many)).is_err());
    }

    #[test]
    fn times_beyond_what_is_written_are_the_longest() {
        let times = Times { fresh: Duration::MAX, stale: Duration::from_nanos(1) };
        let longest = Duration::from_millis(u32::MAX.into());
        let expected = Times { fresh: longest, stale: Duration::ZERO };
        assert_eq!(opened(&sealed(None, times)), Some((None, expected)));
    }
}
