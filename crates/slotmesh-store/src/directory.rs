use crate::entry::Stored;
use crate::footprint::allocated;
use crate::home::Home;
use crate::page::Page;

/// A page that would grow beyond this is split. Larger ones make each split longer, smaller ones cost more in headers.
const PAGE_BYTES_MAX: usize = 4 << 10;

/// Pages of a slot at most, as a power of two: 16 GiB of them. Beyond it pages grow longer than they should.
const DEPTH_MAX: u32 = 22;

/// Two neighbours that hold less than this together become one page: well below half, so that the next entry does not split
/// them again.
const MERGE_BYTES_MAX: usize = PAGE_BYTES_MAX / 4;

/// Pages by the upper bits of their entries' positions: extendible hashing (Fagin, Nievergelt, Pippenger and Strong 1979).
///
/// A page that is full is split in two by the next bit, which costs no more than copying that page, so a slot of any size grows
/// without a pause. Only when the page is of full depth the index doubles as well: four bytes a page to copy.
#[derive(Debug)]
pub(crate) struct Directory {
    /// Which page has the positions that begin with these bits.
    index: Vec<u32>,
    /// How many bits the index looks at.
    depth: u32,
    pages: Vec<Page>,
    /// How many leading bits the entries of each page share.
    depths: Vec<u8>,
    /// Of all pages.
    sum: Sum,
}

/// Entries, memory, and units of what is never evicted.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct Sum {
    len: usize,
    bytes: usize,
    state_units: u64,
}

impl Sum {
    fn of(page: &Page) -> Self {
        Self { len: page.len(), bytes: page.footprint(), state_units: page.state_units() }
    }

    fn add(&mut self, page: &Page) {
        let Self { len, bytes, state_units } = Self::of(page);
        self.len += len;
        self.bytes += bytes;
        self.state_units += state_units;
    }

    fn subtract(&mut self, page: &Page) {
        let Self { len, bytes, state_units } = Self::of(page);
        self.len -= len;
        self.bytes -= bytes;
        self.state_units -= state_units;
    }
}

impl Directory {
    pub(crate) fn new(page: Page) -> Self {
        let sum = Sum::of(&page);
        Self { index: vec![0], depth: 0, pages: vec![page], depths: vec![0], sum }
    }

    pub(crate) fn len(&self) -> usize {
        self.sum.len
    }

    pub(crate) fn state_units(&self) -> u64 {
        self.sum.state_units
    }

    pub(crate) fn pages(&self) -> &[Page] {
        &self.pages
    }

    /// All its memory.
    pub(crate) fn footprint(&self) -> usize {
        self.sum.bytes
            + allocated(size_of::<Self>())
            + allocated(self.index.capacity() * size_of::<u32>())
            + allocated(self.pages.capacity() * size_of::<Page>())
            + allocated(self.depths.capacity())
    }

    /// The page with this position, and the first position behind its range, if any is.
    pub(crate) fn page_at(&self, position: u32) -> (&Page, Option<u32>) {
        let number = self.number(position);
        (&self.pages[number], self.end(number, position))
    }

    /// The first position of the page with this one.
    pub(crate) fn page_start(&self, position: u32) -> u32 {
        position & !self.rest(self.number(position))
    }

    /// As [`Directory::page_at`].
    pub(crate) fn page_at_mut(&mut self, position: u32) -> (&mut Page, Option<u32>) {
        let number = self.number(position);
        let end = self.end(number, position);
        (&mut self.pages[number], end)
    }

    /// Changes a page and counts what it holds and takes.
    pub(crate) fn change<R>(&mut self, position: u32, change: impl FnOnce(&mut Page) -> R) -> R {
        let number = self.number(position);
        let page = &mut self.pages[number];
        self.sum.subtract(page);
        let result = change(page);
        self.sum.add(page);
        result
    }

    pub(crate) fn page_bytes_max(&self, position: u32) -> usize {
        let may_split = u32::from(self.depths[self.number(position)]) < DEPTH_MAX;
        if may_split { PAGE_BYTES_MAX } else { usize::MAX }
    }

    /// Splits the page of a position by one more bit of its entries' positions.
    pub(crate) fn split(&mut self, position: u32, home: Home<'_>) {
        let number = self.number(position);
        let depth = u32::from(self.depths[number]);
        if depth == self.depth {
            self.index = self.index.iter().flat_map(|&number| [number, number]).collect();
            self.depth += 1;
        }
        let bit = 1 << (u32::BITS - depth - 1);
        let sites = (home.site(position & !bit), home.site(position | bit));
        let goes = |stored: &Stored<'_>| crate::pages::position(home.hash(stored.key())) & bit != 0;
        let upper = self.change(position, |page| page.split_off(sites, goes));
        let range = self.range(position | bit, depth + 1);
        self.index[range].fill(self.pages.len() as u32);
        self.depths[number] += 1;
        self.depths.push(self.depths[number]);
        self.sum.add(&upper);
        self.pages.push(upper);
    }

    /// Joins the page of a position with its neighbour, again and again while both are small.
    pub(crate) fn merge(&mut self, position: u32, home: Home<'_>) {
        while let Some(sibling) = self.small_sibling(position) {
            let gone = std::mem::take(&mut self.pages[sibling]);
            self.sum.subtract(&gone);
            self.change(position, |page| page.absorb(gone, home.site(position)));
            let number = self.number(position);
            self.depths[number] -= 1;
            let range = self.range(position, u32::from(self.depths[number]));
            self.index[range].fill(number as u32);
            self.forget(sibling);
            self.halve();
        }
    }

    /// The page that this position's may be merged with.
    fn small_sibling(&self, position: u32) -> Option<usize> {
        let number = self.number(position);
        let bit = 1_u32.checked_shl(u32::BITS - u32::from(self.depths[number]))?;
        let sibling = self.number(position ^ bit);
        let bytes = self.pages[number].live_bytes() + self.pages[sibling].live_bytes();
        let fits = self.depths[sibling] == self.depths[number] && bytes <= MERGE_BYTES_MAX;
        fits.then_some(sibling)
    }

    /// The only page, once all others were merged into it.
    pub(crate) fn take_last(&mut self) -> Option<Page> {
        if self.depth == 0 { self.pages.pop() } else { None }
    }

    /// Recounts what is kept incrementally and names the first difference.
    pub(crate) fn check(&self, of: impl Fn(&Stored<'_>) -> u32) -> Result<(), &'static str> {
        let mut position = 0;
        let mut seen = 0;
        loop {
            let (page, next) = self.page_at(position);
            page.check()?;
            seen += 1;
            let ends = |at| next.is_none_or(|next| at < next);
            if page.iter().any(|stored| of(&stored) < position || !ends(of(&stored))) {
                return Err("an entry is in the wrong page");
            }
            match next {
                Some(next) => position = next,
                None if seen == self.pages.len() => break,
                None => return Err("a page is in no range"),
            }
        }
        let mut sum = Sum::default();
        self.pages.iter().for_each(|page| sum.add(page));
        if sum == self.sum { Ok(()) } else { Err("entries or their memory are miscounted") }
    }

    fn number(&self, position: u32) -> usize {
        self.index[self.shorten(position)] as usize
    }

    /// The leading bits that the index looks at.
    fn shorten(&self, position: u32) -> usize {
        position.checked_shr(u32::BITS - self.depth).unwrap_or(0) as usize
    }

    /// Places in the index of the positions that share so many leading bits with this one.
    fn range(&self, position: u32, depth: u32) -> std::ops::Range<usize> {
        let count = 1 << (self.depth - depth);
        let start = self.shorten(position) & !(count - 1);
        start..start + count
    }

    fn end(&self, number: usize, position: u32) -> Option<u32> {
        (position | self.rest(number)).checked_add(1)
    }

    /// The bits of a position that this page's entries do not share.
    fn rest(&self, number: usize) -> u32 {
        u32::MAX.checked_shr(u32::from(self.depths[number])).unwrap_or(0)
    }

    /// Drops a page that no place of the index has any more; the last one takes its number.
    fn forget(&mut self, number: usize) {
        self.pages.swap_remove(number);
        self.depths.swap_remove(number);
        let moved = self.pages.len() as u32;
        let places = self.index.iter_mut().filter(|place| **place == moved);
        places.for_each(|place| *place = number as u32);
    }

    /// Halves the index while no page needs its last bit.
    fn halve(&mut self) {
        while self.depth > 0 && self.depths.iter().all(|&depth| u32::from(depth) < self.depth) {
            self.index = self.index.iter().copied().step_by(2).collect();
            self.depth -= 1;
            self.pages.shrink_to(self.pages.len() * 2);
        }
    }
}
