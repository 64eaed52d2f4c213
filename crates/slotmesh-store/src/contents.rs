use slotmesh_slots::{Class, Epoch, MonoTime, Seq, Version};

use crate::blob::{Blob, INLINE_BYTES_MAX};
use crate::digest;
use crate::entry::{NEVER, NewEntry, NewValue, STATE_UNIT, Stored};
use crate::expiry::Sweep;
use crate::history::Standing;
use crate::home::Home;
use crate::pages::{Pages, Place, position};
use crate::view::Views;

/// All that a slot holds. Its own type so that a whole slot can be swapped out in O(1) under the lock; dropping it frees
/// the entries, which takes about 0.1 us each: do that after unlocking.
//
// In this order the lock and the page's header share a cache line: a read touches no other of the slot's header.
#[derive(Debug, Default)]
#[repr(C)]
pub struct SlotContents {
    pub(crate) pages: Pages,
    /// Of the last mutation applied.
    pub(crate) version: Version,
    /// Of the last delete, eviction, expiry or clear; or `(epoch, 0)` of the first mutation of an empty slot and the version
    /// of an installed snapshot, since what happened before is unknown.
    pub(crate) last_delete: Version,
    pub(crate) sweep: Sweep,
    /// Wrapping sum of the entries' digests.
    pub(crate) digest: digest::Sum,
    /// None is the usual case; a write then costs nothing more.
    pub(crate) views: Option<Box<Views>>,
}

impl SlotContents {
    /// Number of entries, expired ones not yet removed included.
    #[must_use]
    pub fn len(&self) -> usize {
        self.pages.len()
    }

    /// Whether there is no entry.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.pages.is_empty()
    }

    /// What the entries count against the byte budget: the memory that is allocated for them.
    #[must_use]
    pub fn bytes(&self) -> usize {
        self.pages.footprint()
    }

    /// Bytes of entries that are never evicted.
    pub(crate) fn state_bytes(&self) -> usize {
        self.pages.state_units() as usize * STATE_UNIT
    }

    /// Version of the last mutation applied.
    #[must_use]
    pub fn version(&self) -> Version {
        self.version
    }

    /// See [`SlotGuard::digest`](crate::SlotGuard::digest).
    #[must_use]
    pub fn digest(&self) -> u128 {
        self.digest.get().unwrap_or_else(|| self.counted_digest())
    }

    /// The digest, counted anew.
    pub(crate) fn counted_digest(&self) -> u128 {
        let digests = self.pages.iter().map(|entry| entry.digest(digest::key_hash(entry.key())));
        digests.fold(0, u128::wrapping_add)
    }

    /// Empty contents, whose digest is counted when somebody asks.
    #[inline]
    pub(crate) fn uncounted() -> Self {
        Self { digest: digest::Sum::UNKNOWN, ..Self::default() }
    }

    /// Keeps the digest from now on.
    pub(crate) fn count_digest(&mut self) {
        self.digest = digest::Sum::new(self.digest());
    }

    /// Empty contents with a history.
    pub(crate) fn starting_at(version: Version, last_delete: Version) -> Self {
        Self { version, last_delete, ..Self::default() }
    }

    /// The entry unless it has expired.
    pub(crate) fn find_live(&self, hash: u64, key: &[u8], now: MonoTime) -> Option<Stored<'_>> {
        self.pages.find(hash, key).filter(|stored| !stored.is_expired(now))
    }

    /// Gives the next mutation its version.
    #[inline]
    pub(crate) fn advance(&mut self, epoch: Epoch) -> Version {
        if self.version == Version::default() {
            self.last_delete = Version::new(epoch, Seq(0));
        }
        self.version = self.next_version(epoch);
        self.version
    }

    #[inline]
    fn next_version(&self, epoch: Epoch) -> Version {
        // A history that honestly counted this far would have taken centuries; a forged one must not panic.
        Version::new(epoch, Seq(self.version.seq.0.saturating_add(1)))
    }

    /// Replaces a value by one of the same size in its page: the usual write to a key that is there, after which nothing has to be
    /// counted anew. `None` when it is another case; nothing changed then.
    #[inline]
    pub(crate) fn overwrite(
        &mut self,
        epoch: Epoch,
        place: Place,
        (key, value): (&[u8], &[u8]),
        Standing { deadline, class, .. }: Standing,
    ) -> Option<()> {
        if self.views.is_some() || class != Class::Cache {
            return None;
        }
        let version = self.next_version(epoch);
        let entry = self.pages.entry_bytes_mut(place)?;
        let old = Stored::new(entry, None);
        if old.is_blob()
            || old.class() != Class::Cache
            || key.len() + value.len() > INLINE_BYTES_MAX
        {
            return None;
        }
        // The write counts as a use.
        let usage = old.usage().touched();
        let new = NewEntry { key, value: NewValue::Inline(value), version, deadline, usage, class };
        let size = new.size();
        if old.size() != size {
            return None;
        }
        self.digest.change(|| {
            let key_hash = digest::key_hash(key);
            (old.digest(key_hash), new.digest(key_hash))
        });
        new.write(&mut entry[..size], &mut None);
        self.sweep.note(deadline);
        self.advance(epoch);
        Some(())
    }

    /// Adds the entry or replaces the one with its key, which is at the place; the old one's blob, if it had one.
    #[inline]
    pub(crate) fn insert(
        &mut self,
        (hash, place): (u64, Option<Place>),
        mut new: NewEntry<'_>,
        home: Home<'_>,
    ) -> Option<Blob> {
        self.keep_for_views(hash, home);
        self.sweep.note(new.deadline);
        let old = place.and_then(|place| self.pages.at(place));
        self.digest.change(|| {
            let key_hash = digest::key_hash(new.key);
            (old.map_or(0, |old| old.digest(key_hash)), new.digest(key_hash))
        });
        // The write counts as a use.
        if let Some(old) = old
            && new.class == Class::Cache
        {
            new.usage = old.usage().touched();
        }
        match place {
            Some(place) => self.pages.replace(place, hash, new, home),
            None => {
                self.pages.insert(hash, new, home);
                None
            }
        }
    }

    /// Takes the entry out; its blob, if it had one.
    pub(crate) fn remove(&mut self, hash: u64, key: &[u8], home: Home<'_>) -> Option<Blob> {
        let place = self.pages.place(hash, key)?;
        let old = self.pages.at(place);
        self.digest.change(|| (old.map_or(0, |old| old.digest(digest::key_hash(key))), 0));
        self.keep_for_views(hash, home);
        let blob = self.pages.remove(place, home);
        if self.is_empty() {
            self.sweep = Sweep::default();
            drop(self.take_pages());
        } else if self.views.is_none() {
            // Else pages that a view has yet to read have to keep their bounds.
            self.pages.merge(position(hash), home);
        }
        blob
    }

    /// Changes when the entry expires, and its version, for readers rest on that; nothing happens when there is none.
    pub(crate) fn redate(
        &mut self,
        hash: u64,
        key: &[u8],
        (version, deadline): (Version, MonoTime),
        home: Home<'_>,
    ) {
        let Some(place) = self.pages.place(hash, key) else { return };
        let old = self.pages.at(place);
        self.digest.change(|| {
            let key_hash = digest::key_hash(key);
            old.map_or((0, 0), |old| (old.digest(key_hash), old.digest_at(key_hash, version)))
        });
        self.keep_for_views(hash, home);
        self.pages.redate(place, hash, (version, deadline), home);
        self.sweep.note(deadline);
    }

    /// Empties the slot but keeps its history; returns what was there.
    pub(crate) fn clear(&mut self) -> Self {
        let pages = self.take_pages();
        let views = self.views.take();
        let kept = Self { views, ..Self::starting_at(self.version, self.last_delete) };
        Self { pages, ..std::mem::replace(self, kept) }
    }

    /// Takes all pages, for views that have yet to read them if there are any.
    fn take_pages(&mut self) -> Pages {
        let pages = std::mem::take(&mut self.pages);
        match &mut self.views {
            Some(views) => views.keep_all(pages).unwrap_or_default(),
            None => pages,
        }
    }

    /// Called before what belongs to a key with this hash changes.
    fn keep_for_views(&mut self, hash: u64, home: Home<'_>) {
        if let Some(views) = &mut self.views
            && !views.keep(&self.pages, hash, home)
        {
            self.views = None;
        }
    }

    /// Recounts what is kept incrementally and names the first difference.
    pub(crate) fn check(&self, home: Home<'_>) -> Result<(), &'static str> {
        self.pages.check(home)?;
        let mut earliest = NEVER;
        for stored in self.pages.iter() {
            earliest = earliest.min(stored.expires_at());
            if !stored.is_intact() {
                return Err("value does not match its hash");
            }
            if stored.version() > self.version {
                return Err("entry is newer than its slot");
            }
        }
        if self.digest.get().is_some_and(|digest| digest != self.counted_digest()) {
            return Err("digest is wrong");
        }
        if self.last_delete > self.version {
            return Err("last delete is newer than the slot");
        }
        if earliest < self.sweep.earliest() {
            return Err("an entry expires before the slot's earliest deadline");
        }
        Ok(())
    }
}
