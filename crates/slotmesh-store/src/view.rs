use std::collections::BTreeMap;
use std::sync::atomic::Ordering;
use std::sync::{Arc, Weak};

use parking_lot::Mutex;
use slotmesh_slots::{Slot, Version};

use crate::contents::SlotContents;
use crate::error::SnapshotGone;
use crate::guard::SlotGuard;
use crate::home::Home;
use crate::page::Page;
use crate::pages::{Pages, position};
use crate::snapshot::SnapshotEntry;
use crate::store::{Store, Totals};

/// A slot as it is at one version, read page by page while writes go on: copy on write.
///
/// Who changes a page that was not read yet puts a copy of it aside first, once, and pays for copying 16 KiB. So whatever
/// happens meanwhile, what is read is exactly the slot at [`SlotView::version`], with [`SlotView::digest`]. Pages put
/// aside count in [`Store::used_bytes`] until they are read or the view is dropped, which ends it.
#[derive(Debug)]
pub struct SlotView {
    slot: Slot,
    version: Version,
    digest: u128,
    len: usize,
    pages: Arc<Mutex<Unread>>,
}

impl SlotView {
    /// The slot.
    #[must_use]
    pub fn slot(&self) -> Slot {
        self.slot
    }

    /// Version of the last mutation that the view contains.
    #[must_use]
    pub fn version(&self) -> Version {
        self.version
    }

    /// The slot's digest at that version.
    #[must_use]
    pub fn digest(&self) -> u128 {
        self.digest
    }

    /// Number of entries at that version.
    #[must_use]
    pub fn len(&self) -> usize {
        self.len
    }

    /// Whether there was no entry.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }
}

impl SlotGuard<'_> {
    /// Begins to read the slot as it is now; takes O(1). Read on with [`Store::read_view`], without the guard.
    #[must_use]
    pub fn view(&mut self) -> SlotView {
        let totals = Arc::clone(&self.store.totals);
        let pages = Arc::new(Mutex::new(Unread::new(totals)));
        let views = self.contents.views.get_or_insert_default();
        views.each(|_| ());
        views.0.push(Arc::downgrade(&pages));
        SlotView {
            slot: self.slot(),
            version: self.version(),
            digest: self.digest(),
            len: self.len(),
            pages,
        }
    }
}

impl Store {
    /// The next entries of a view: those of a page or a few, in no particular order, expired ones included; `None` at its
    /// end. The slot's lock is held while one page is copied. Never call it while holding a guard of the slot.
    ///
    /// # Errors
    /// When the slot was replaced or reset since the view began: what was read is to be thrown away.
    pub fn read_view(
        &self,
        view: &mut SlotView,
    ) -> Result<Option<Vec<SnapshotEntry>>, SnapshotGone> {
        loop {
            let page = {
                let mut contents = self.slot(view.slot);
                let mut unread = view.pages.lock();
                if unread.has_ended {
                    return Ok(None);
                }
                if !contents.has_view(&view.pages) {
                    return Err(SnapshotGone { slot: view.slot });
                }
                let page = unread.next(&contents.pages, self.home(view.slot));
                if page.is_none() {
                    unread.has_ended = true;
                    contents.end_view(&view.pages);
                }
                page
            };
            match page {
                Some(page) if page.len() == 0 => {}
                page => return Ok(page.map(|page| page.iter().map(SnapshotEntry::of).collect())),
            }
        }
    }
}

/// The views of a slot that are under way.
#[derive(Debug, Default)]
pub(crate) struct Views(Vec<Weak<Mutex<Unread>>>);

impl Views {
    /// Has each put the page of a key with this hash aside that is about to change; false when there is no view any more.
    #[cold]
    pub(crate) fn keep(&mut self, pages: &Pages, hash: u64, home: Home<'_>) -> bool {
        self.each(|unread| unread.keep(pages, position(hash), home))
    }

    /// Gives each all pages that it has not read, which the slot has no more; returns them if none wants them.
    pub(crate) fn keep_all(&mut self, pages: Pages) -> Option<Pages> {
        let pages = Arc::new(pages);
        self.each(|unread| unread.keep_all(&pages));
        Arc::try_unwrap(pages).ok()
    }

    fn each(&mut self, mut visit: impl FnMut(&mut Unread)) -> bool {
        self.0.retain(|view| {
            view.upgrade().is_some_and(|unread| {
                visit(&mut unread.lock());
                true
            })
        });
        !self.0.is_empty()
    }
}

impl SlotContents {
    fn has_view(&self, view: &Arc<Mutex<Unread>>) -> bool {
        let views = self.views.iter().flat_map(|views| &views.0);
        views.into_iter().any(|known| known.as_ptr() == Arc::as_ptr(view))
    }

    /// Whether somebody looks at the slot; who let go of a view without reading it to its end does not.
    #[inline]
    pub(crate) fn is_viewed(&mut self) -> bool {
        if self.views.as_mut().is_some_and(|views| !views.each(|_| ())) {
            self.views = None;
        }
        self.views.is_some()
    }

    /// A view has read all: nothing is put aside for it any more.
    fn end_view(&mut self, view: &Arc<Mutex<Unread>>) {
        if let Some(views) = &mut self.views {
            views.0.retain(|known| known.as_ptr() != Arc::as_ptr(view));
            if views.0.is_empty() {
                self.views = None;
            }
        }
    }
}

/// What a view has yet to read. Its lock is taken under the slot's.
#[derive(Debug)]
struct Unread {
    /// Positions before this were read; `None` when all were. It is where a page of the slot began when the view did: one that
    /// was not put aside is still as it was then, and so are its bounds.
    cursor: Option<u32>,
    /// Pages as they were, by their first position, with the first position behind them.
    kept: BTreeMap<u32, (Option<u32>, Page)>,
    /// All pages, when the slot was cleared; those in `kept` had changed before.
    all: Option<Arc<Pages>>,
    /// The slot knows it no more.
    has_ended: bool,
    /// Memory of what was put aside.
    bytes: usize,
    totals: Arc<Totals>,
}

impl Unread {
    fn new(totals: Arc<Totals>) -> Self {
        let kept = BTreeMap::new();
        Self { cursor: Some(0), kept, all: None, has_ended: false, bytes: 0, totals }
    }

    fn keep(&mut self, pages: &Pages, position: u32, home: Home<'_>) {
        let is_read = self.cursor.is_none_or(|cursor| position < cursor);
        let kept = self.kept.range(..=position).next_back();
        let is_kept = kept.is_some_and(|(_, (end, _))| end.is_none_or(|end| position < end));
        if is_read || is_kept || self.all.is_some() {
            return;
        }
        let (page, end) = pages.page_at(position);
        let copy = page.copy(home.site(position));
        self.count(copy.copy_footprint());
        self.kept.insert(pages.page_start(position), (end, copy));
    }

    fn keep_all(&mut self, pages: &Arc<Pages>) {
        if self.cursor.is_some() && self.all.is_none() {
            self.count(pages.footprint());
            self.all = Some(Arc::clone(pages));
        }
    }

    fn next(&mut self, pages: &Pages, home: Home<'_>) -> Option<Page> {
        let cursor = self.cursor?;
        if let Some((end, page)) = self.kept.remove(&cursor) {
            self.cursor = end;
            self.uncount(page.copy_footprint());
            return Some(page);
        }
        let (page, end) = self.all.as_deref().unwrap_or(pages).page_at(cursor);
        self.cursor = end;
        Some(page.copy(home.site(cursor)))
    }

    fn count(&mut self, bytes: usize) {
        self.bytes += bytes;
        self.totals.view_bytes.fetch_add(bytes, Ordering::Relaxed);
    }

    fn uncount(&mut self, bytes: usize) {
        self.bytes -= bytes;
        self.totals.view_bytes.fetch_sub(bytes, Ordering::Relaxed);
    }
}

impl Drop for Unread {
    fn drop(&mut self) {
        self.uncount(self.bytes);
    }
}
