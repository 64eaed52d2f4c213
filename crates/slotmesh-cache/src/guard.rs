//! Keys that the source does not have, known without asking it: by a Bloom **filter** of those that it has, which all nodes share.
//!
//! A flood of keys that exist nowhere passes every cache, and with one entry for each that is missing it would push out what is of use. The filter
//! of a cache that was built with [`guard`](crate::CacheBuilder::guard) stops it in L1, at two bytes a key.
//!
//! It lies in the cluster, in segments of 1 KiB: entries of a cache of its own, as the marks of tags are, so they are replicated, kept in L1, and
//! seen there within the same bound. A write sets the bits of its key before it is acknowledged, where they are not set already; bits are
//! never unset. A new filter, with what the source has now, is made beside the old one:
//!
//! 1. its segments are written, all empty;
//! 2. the **head**, which names the filters, names it too. Whoever writes from then on, and has seen that, sets bits in both. For as long as others
//!    may not have seen it nothing else happens;
//! 3. only then the source is asked for its keys. What is not among them came later, and was written by who sets bits in both;
//! 4. the bits of the keys are added to the segments, which say from then on that they are filled;
//! 5. the head names it as the one to ask.
//!
//! What is missing, not filled or not readable says "maybe", and nobody makes a segment anew that is gone: a filter that was lost, in part or
//! as a whole, lets loads through until there is a new one, and never hides a key.
//!
//! Bits lie together in blocks of 256, one in each 32 of a block, as in the split block Bloom filters of Apache Parquet
//! (`BloomFilter.md` of its format; after Putze, Sanders and Singler, "Cache-, Hash- and Space-Efficient Bloom Filters", 2007).

use std::collections::BTreeMap;
use std::error::Error;
use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use futures_util::future::join_all;
use serde::{Deserialize, Serialize};
use slotmesh_coherence::KeyHasher;
use slotmesh_slots::Class;
use tokio::task::yield_now;
use tokio::time::sleep;

use crate::backing::Backing;
use crate::builder::{L1, Settings};
use crate::cache::{Cache, Inner};
use crate::codec::Bincode;
use crate::codecs::Raw;
use crate::error::CacheError;
use crate::key::CacheKey;
use crate::near::hash_of;
use crate::stats::Count;

/// Of a key, in a filter of the size that was asked for: some three of a thousand keys that are not there seem to be.
const BITS_OF_KEY: usize = 14;

const BLOCK_BYTES: usize = 32;
const SEGMENT_BYTES: usize = 1024;
const SEGMENT_BLOCKS: u32 = (SEGMENT_BYTES / BLOCK_BYTES) as u32;

/// Behind a segment's bits: whether it was filled.
const FILLED: usize = SEGMENT_BYTES;

/// Keys that a guard is for, at most: a filter of seven gigabytes.
pub(crate) const KEYS_MAX: usize = 1 << 32;

/// The head's key.
const HEAD: u64 = 0;

/// How old a head is at most that anybody goes by; and a little more, for the times of others.
const HEAD_STALENESS: Duration = Duration::from_millis(100);
const HEAD_SEEN: Duration = Duration::from_millis(300);

/// How long an empty segment is there that nobody fills: longer than a source takes to give all its keys.
const UNFILLED_TTL: Duration = Duration::from_secs(24 * 60 * 60);

/// Segments that are written at once, and keys after which others get a turn.
const AT_ONCE: usize = 64;
const TURN: usize = 4_096;

/// For each 32 bits of a block, by what the hash is multiplied; from the same source as the blocks.
const SALTS: [u32; 8] = [
    0x47b6_137b,
    0x4497_4d91,
    0x8824_ad5b,
    0xa2b7_289d,
    0x7054_95c7,
    0x2df1_424b,
    0x9efc_4947,
    0x5c6b_fb31,
];

/// A filter, by what its segments are called and how many they are.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
struct Filter {
    number: u32,
    segments: u32,
}

/// Which filter tells what there is, and which one is being made.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
struct Head {
    asked: Option<Filter>,
    begun: Option<Filter>,
}

/// A key's place in a filter.
struct Place {
    segment: u64,
    bits: [(usize, u8); 8],
}

impl Filter {
    fn for_keys(keys: usize, number: u32) -> Self {
        let segments = (keys.saturating_mul(BITS_OF_KEY)).div_ceil(SEGMENT_BYTES * 8).max(1);
        Self { number, segments: u32::try_from(segments).unwrap_or(u32::MAX / SEGMENT_BLOCKS) }
    }

    fn segment(self, index: u32) -> u64 {
        u64::from(self.number) << 32 | u64::from(index)
    }

    fn segments(self) -> impl Iterator<Item = u64> {
        (0..self.segments).map(move |index| self.segment(index))
    }

    fn place(self, hash: u64) -> Place {
        let (index, bits) = self.spot(hash);
        Place { segment: self.segment(index), bits }
    }

    /// The segment, and the byte and bit in each part of its block.
    fn spot(self, hash: u64) -> (u32, [(usize, u8); 8]) {
        // The upper half of the hash tells the block, the lower one the bits.
        let blocks = u64::from(self.segments) * u64::from(SEGMENT_BLOCKS);
        let block = ((hash >> 32) * blocks) >> 32;
        let (segment, block) =
            (block / u64::from(SEGMENT_BLOCKS), block % u64::from(SEGMENT_BLOCKS));
        let bits = std::array::from_fn(|part| {
            let bit = ((hash as u32).wrapping_mul(SALTS[part]) >> 27) as usize;
            (block as usize * BLOCK_BYTES + part * 4 + bit / 8, 1 << (bit % 8))
        });
        (segment as u32, bits)
    }
}

impl Place {
    fn is_set(&self, segment: &[u8]) -> bool {
        self.bits.iter().all(|&(byte, bit)| segment.get(byte).is_some_and(|it| it & bit != 0))
    }

    fn set(&self, segment: &mut [u8]) {
        for &(byte, bit) in &self.bits {
            if let Some(it) = segment.get_mut(byte) {
                *it |= bit;
            }
        }
    }

    /// Whether the segment says that there is no such key.
    fn is_denied(&self, segment: &[u8]) -> bool {
        segment.get(FILLED) == Some(&1) && !self.is_set(segment)
    }
}

/// The filter of a cache's keys, by their hashes.
pub(crate) struct Guard {
    heads: Cache<u64, Head>,
    segments: Cache<u64, Vec<u8>>,
    keys_max: usize,
    hasher: KeyHasher,
}

/// Boxed: a cache's futures have these in them, and these have a cache's.
type Boxed<'a, T> = Pin<Box<dyn Future<Output = T> + Send + 'a>>;

impl Guard {
    pub(crate) fn new(backing: &Backing, of: &Settings, keys_max: usize) -> Self {
        // No other cache's: names have no such sign.
        let settings = |name: &str, l1: Option<L1>| Settings {
            name: format!("{}?{name}", of.name),
            schema: of.schema,
            // What is cold at its primary is hot in all L1.
            class: Class::State,
            l1: of.l1.and(l1),
            ..Settings::new("")
        };
        let head = L1::entries(1).max_staleness(HEAD_STALENESS);
        // The old one, the new one, and what L1 itself needs.
        let bytes = (keys_max / 8).saturating_mul(BITS_OF_KEY * 3).max(1 << 20);
        let bits = of.l1.map(|l1| L1::bytes(bytes).max_staleness(l1.max_staleness));
        let (heads, segments) = (settings("head", Some(head)), settings("", bits));
        Self {
            heads: Cache::within(backing, heads, Bincode),
            segments: Cache::within(backing, segments, Raw),
            keys_max,
            hasher: KeyHasher::new(backing.key_seed(), &of.prefix()),
        }
    }

    pub(crate) fn hashes<'a, K: CacheKey>(&self, keys: impl Iterator<Item = &'a K>) -> Vec<u64> {
        keys.map(|key| hash_of(&self.hasher, key)).collect()
    }

    /// Whether there certainly is no such key, as far as that can be told without waiting.
    fn denies_at_hand(&self, hash: u64) -> bool {
        let place = || {
            let head = self.heads.inner.get_at_hand(&HEAD).ok()??;
            let place = head.asked?.place(hash);
            let segment = self.segments.inner.get_at_hand(&place.segment).ok()??;
            Some(place.is_denied(&segment))
        };
        place().unwrap_or(false)
    }

    /// Whether there certainly is no such key; not where that cannot be found out.
    fn denies(&self, hash: u64) -> Boxed<'_, bool> {
        Box::pin(async move {
            let Ok(Head { asked: Some(filter), .. }) = self.head().await else { return false };
            let place = filter.place(hash);
            let segment = self.segments.get(&place.segment).await;
            segment.ok().flatten().is_some_and(|segment| place.is_denied(&segment))
        })
    }

    /// From now on there may be these keys.
    pub(crate) fn admit(&self, hashes: Vec<u64>) -> Boxed<'_, Result<(), CacheError>> {
        Box::pin(async move {
            let head = self.head().await?;
            let mut unset: BTreeMap<u64, Vec<Place>> = BTreeMap::new();
            for filter in [head.asked, head.begun].into_iter().flatten() {
                for place in hashes.iter().map(|&hash| filter.place(hash)) {
                    let at_hand = self.segments.inner.get_at_hand(&place.segment);
                    if !at_hand.is_ok_and(|it| it.is_some_and(|segment| place.is_set(&segment))) {
                        unset.entry(place.segment).or_default().push(place);
                    }
                }
            }
            let set = |(segment, places): (u64, Vec<Place>)| async move {
                self.change(segment, |bits| places.iter().for_each(|place| place.set(bits))).await
            };
            each(unset, set).await
        })
    }

    /// Makes a filter of these keys in place of the one that is there; how many they are.
    fn fill<'a, I: Iterator<Item = u64> + Send>(
        &'a self,
        keys: impl Future<Output = Result<I, CacheError>> + Send + 'a,
    ) -> Boxed<'a, Result<usize, CacheError>> {
        Box::pin(async move {
            let filter = Filter::for_keys(self.keys_max, rand::random::<u32>().max(1));
            let empty = |segment| async move {
                let empty = vec![0; SEGMENT_BYTES + 1];
                self.segments.put_with(&segment, empty, UNFILLED_TTL).await.map(drop)
            };
            each(filter.segments(), empty).await?;
            let replaced = self.name(|head| Some(Head { begun: Some(filter), ..head })).await?;
            self.drop_filter(replaced.and_then(|head| head.begun)).await;
            sleep(HEAD_SEEN).await;
            let mut bits = vec![0; filter.segments as usize * SEGMENT_BYTES];
            let mut count = 0;
            for hash in keys.await? {
                let (segment, places) = filter.spot(hash);
                let base = segment as usize * SEGMENT_BYTES;
                places.iter().for_each(|&(byte, bit)| bits[base + byte] |= bit);
                count += 1;
                if count % TURN == 0 {
                    yield_now().await;
                }
            }
            let add = |(segment, bits): (u64, Vec<u8>)| async move {
                let add = |known: &mut [u8]| {
                    known.iter_mut().zip(&bits).for_each(|(known, bits)| *known |= bits);
                    known[FILLED] = 1;
                };
                self.change(segment, add).await
            };
            let bits = bits.chunks(SEGMENT_BYTES).map(<[u8]>::to_vec);
            each(filter.segments().zip(bits), add).await?;
            let is_begun = |head: Head| head.begun == Some(filter);
            let done = |head| is_begun(head).then_some(Head { asked: Some(filter), begun: None });
            let Some(replaced) = self.name(done).await? else {
                return Err(CacheError::GuardReplaced);
            };
            self.drop_filter(replaced.asked).await;
            Ok(count)
        })
    }

    /// Changes the head, unless it must not be; what it was.
    async fn name(
        &self,
        change: impl Fn(Head) -> Option<Head> + Send + Sync,
    ) -> Result<Option<Head>, CacheError> {
        let mut replaced = None;
        let change = |head: Option<&Head>| {
            let head = head.copied().unwrap_or_default();
            let changed = change(head);
            replaced = changed.is_some().then_some(head);
            Some(changed.unwrap_or(head))
        };
        self.heads.update(&HEAD, change).await?;
        Ok(replaced)
    }

    /// The head; an empty one is put where there is none, so that L1 knows it.
    async fn head(&self) -> Result<Head, CacheError> {
        match self.heads.get(&HEAD).await? {
            Some(head) => Ok(*head),
            None => {
                let head = self.heads.update(&HEAD, |head| Some(head.copied().unwrap_or_default()));
                Ok(head.await?.map_or(Head::default(), |head| *head))
            }
        }
    }

    /// Changes the bits of a segment that is there.
    async fn change(
        &self,
        segment: u64,
        change: impl Fn(&mut [u8]) + Send + Sync,
    ) -> Result<(), CacheError> {
        let changed = self.segments.update(&segment, |known| {
            let mut bits = known.filter(|known| known.len() == SEGMENT_BYTES + 1)?.clone();
            change(&mut bits);
            Some(bits)
        });
        changed.await.map(drop)
    }

    /// Frees what nobody asks any more. What is left of it takes up memory, and does no harm.
    async fn drop_filter(&self, filter: Option<Filter>) {
        let Some(filter) = filter else { return };
        let segments: Vec<u64> = filter.segments().collect();
        for segments in segments.chunks(AT_ONCE) {
            for dropped in self.segments.invalidate_many(segments).await {
                if let Err(error) = dropped {
                    tracing::debug!(%error, "part of an old filter of keys stays");
                }
            }
        }
    }
}

/// Does something for each, some at once.
async fn each<T, F: Future<Output = Result<(), CacheError>>>(
    all: impl IntoIterator<Item = T>,
    act: impl Fn(T) -> F,
) -> Result<(), CacheError> {
    let mut all = all.into_iter().peekable();
    while all.peek().is_some() {
        let some = all.by_ref().take(AT_ONCE).map(&act);
        join_all(some).await.into_iter().collect::<Result<(), CacheError>>()?;
    }
    Ok(())
}

impl<K: CacheKey, V: Send + Sync + 'static> Cache<K, V> {
    /// Fills the [`guard`](crate::CacheBuilder::guard) with all keys that the source has, in place of what it knew: loads of other keys are answered, on
    /// all nodes, as if the source had been asked in vain. How many keys they were is returned. One node does it for all, at its start and from time
    /// to time: what the source does not have any more is known to be gone only then. Writes and loads go on meanwhile.
    ///
    /// `keys` is called after all nodes know that there will be a new filter, 0.3 s later, and has to return what the source has then, or later.
    /// What is put into the source after that is known as soon as it is written to, or invalidated in, this cache, which
    /// has to follow: a key that is in the source and was neither among `keys` nor written is taken for missing.
    ///
    /// Takes the filter's size in this process meanwhile. Dropping the future leaves the old filter in use.
    ///
    /// # Errors
    /// [`CacheError::NoGuard`]; [`CacheError::Load`] with what `keys` returned; [`CacheError::GuardReplaced`] when another call began
    /// meanwhile; [`CacheError::Cluster`]. The old filter stays in use then.
    pub async fn fill_guard<F, R, I, E>(&self, keys: F) -> Result<usize, CacheError>
    where
        F: FnOnce() -> R + Send,
        R: Future<Output = Result<I, E>> + Send,
        I: IntoIterator<Item = K, IntoIter: Send>,
        E: Into<Box<dyn Error + Send + Sync>>,
    {
        let inner = &*self.inner;
        let guard = inner.guard.as_ref().ok_or(CacheError::NoGuard)?;
        let hashes = async move {
            match keys().await {
                Ok(keys) => Ok(keys.into_iter().map(|key| inner.hash(&key))),
                Err(error) => Err(CacheError::Load(Arc::from(error.into()))),
            }
        };
        guard.fill(hashes).await
    }
}

impl<K: CacheKey, V: Send + Sync + 'static> Inner<K, V> {
    /// From now on the source may have this key.
    pub(crate) async fn admit(&self, key: &K) -> Result<(), CacheError> {
        self.admit_many(std::iter::once(key)).await
    }

    /// From now on the source may have these keys.
    pub(crate) async fn admit_many(
        &self,
        keys: impl Iterator<Item = &K>,
    ) -> Result<(), CacheError> {
        match &self.guard {
            Some(guard) => guard.admit(guard.hashes(keys)).await,
            None => Ok(()),
        }
    }

    /// Whether the source certainly has no such key, as far as that can be told without waiting.
    pub(crate) fn is_denied_at_hand(&self, key: &K) -> bool {
        let guard = self.guard.as_ref();
        self.counted(guard.is_some_and(|guard| guard.denies_at_hand(self.hash(key))))
    }

    /// Whether the source certainly has no such key.
    pub(crate) async fn is_denied(&self, key: &K) -> bool {
        match &self.guard {
            Some(guard) => self.counted(guard.denies(self.hash(key)).await),
            None => false,
        }
    }

    fn counted(&self, is_denied: bool) -> bool {
        if is_denied {
            self.counters.add(Count::Guarded);
        }
        is_denied
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_filter_tells_what_is_not_there() {
        let keys = 20_000;
        let filter = Filter::for_keys(keys, 7);
        let mut segments = vec![vec![0; SEGMENT_BYTES + 1]; filter.segments as usize];
        let hasher = KeyHasher::new(1, b"keys:1:");
        let hashes = |from: u64| (from..).map(|it| hasher.number(it)).take(keys);
        let at = |place: &Place| (place.segment & u64::from(u32::MAX)) as usize;
        for place in hashes(0).map(|hash| filter.place(hash)) {
            place.set(&mut segments[at(&place)]);
        }
        let denied = |from, segments: &[Vec<u8>]| {
            let places = hashes(from).map(|hash| filter.place(hash));
            places.filter(|place| place.is_denied(&segments[at(place)])).count()
        };
        assert_eq!(denied(1_000_000, &segments), 0, "none is filled");
        segments.iter_mut().for_each(|segment| segment[FILLED] = 1);
        assert_eq!(denied(0, &segments), 0);
        let passed = keys - denied(1_000_000, &segments);
        assert!(passed < keys / 200, "{passed} of {keys} pass");
    }

    #[test]
    fn what_is_no_segment_denies_nothing() {
        let place = Filter::for_keys(1, 1).place(u64::MAX);
        for bytes in [&[][..], &[0; SEGMENT_BYTES], &[1], &[0; SEGMENT_BYTES + 1]] {
            assert!(!place.is_denied(bytes));
        }
    }
}
