use std::fmt;

use slotmesh_arena::Compact;
use slotmesh_slots::{Epoch, MonoTime, Seq, Version};

use crate::contents::SlotContents;
use crate::entry::Stored;
use crate::expiry::Sweep;
use crate::page::{self, Page, Shape};
use crate::pages::Pages;

/// The largest page of a slot that is packed: counting its digest anew takes some two microseconds.
const PAGE_BYTES_MAX: usize = 4 << 10;

/// A slot while nobody has it locked: in 23 bytes, if it has few entries and nothing unusual. Most of what a slot has is empty then or
/// can be counted; sixteen thousand slots of the full size would take more than what lies in a small store.
#[derive(Debug)]
pub(crate) enum Packed {
    Small(Small),
    /// Any other.
    Boxed(Unaligned),
    /// It is elsewhere.
    Gone,
}

/// A slot of one page with small values, at which nobody looks.
#[derive(Debug, Default)]
pub(crate) struct Small {
    page: Option<Compact>,
    numbers: Numbers,
}

/// Numbers as bytes, so that they need no alignment.
#[derive(Clone, Copy, Debug, Default)]
struct Numbers {
    epoch: [u8; 2],
    seq: [u8; 5],
    /// How many mutations ago the last delete was.
    since_delete: [u8; 3],
    /// How many epochs ago, four times, and two flags of the page.
    epochs_since_delete: u8,
    len: u8,
    used: [u8; 2],
}

impl Numbers {
    #[inline]
    fn shape(&self) -> Shape {
        Shape {
            len: self.len.into(),
            used: number(self.used) as u32,
            has_dead: self.epochs_since_delete & 1 != 0,
            has_state: self.epochs_since_delete & 2 != 0,
        }
    }
}

/// A box without alignment.
#[repr(Rust, packed)]
pub(crate) struct Unaligned(Box<SlotContents>);

impl Unaligned {
    pub(crate) fn new(contents: Box<SlotContents>) -> Self {
        Self(contents)
    }

    #[expect(clippy::explicit_auto_deref, reason = "a reference to the box would not be aligned")]
    pub(crate) fn get(&self) -> &SlotContents {
        &*self.0
    }

    #[expect(clippy::explicit_auto_deref, reason = "as above")]
    pub(crate) fn get_mut(&mut self) -> &mut SlotContents {
        &mut *self.0
    }
}

impl fmt::Debug for Unaligned {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.get().fmt(f)
    }
}

const _: () = assert!(size_of::<Packed>() == 23 && align_of::<Packed>() == 1);

impl Default for Packed {
    fn default() -> Self {
        Self::Small(Small::default())
    }
}

impl Packed {
    /// What it stands for; no entry expires before `earliest`.
    pub(crate) fn unpack(self, earliest: MonoTime) -> SlotContents {
        match self {
            Self::Small(small) => small.unpack(earliest),
            Self::Boxed(Unaligned(contents)) => *contents,
            Self::Gone => SlotContents::default(),
        }
    }
}

impl Small {
    /// The contents in little, which are empty then; `None` if they do not fit.
    #[inline]
    pub(crate) fn pack(contents: &mut SlotContents) -> Option<Self> {
        if contents.is_viewed() || !contents.sweep.is_at_start() {
            return None;
        }
        let SlotContents { version, last_delete, .. } = *contents;
        let Pages::One(page) = &mut contents.pages else { return None };
        if page.memory() > PAGE_BYTES_MAX {
            return None;
        }
        let shape = page.shape()?;
        let epochs = u8::try_from(version.epoch.0.checked_sub(last_delete.epoch.0)?).ok()?;
        let numbers = Numbers {
            epoch: bytes(version.epoch.0.into())?,
            seq: bytes(version.seq.0)?,
            since_delete: bytes(version.seq.0.checked_sub(last_delete.seq.0)?)?,
            epochs_since_delete: epochs.checked_mul(4)?
                | u8::from(shape.has_dead)
                | u8::from(shape.has_state) << 1,
            len: u8::try_from(shape.len).ok()?,
            used: bytes(shape.used.into())?,
        };
        let page = if shape.len == 0 {
            None
        } else {
            match Compact::new(page.take_memory()) {
                Ok(compact) => Some(compact),
                Err(memory) => {
                    *page = Page::new(memory, shape);
                    return None;
                }
            }
        };
        Some(Self { page, numbers })
    }

    #[inline]
    pub(crate) fn unpack(self, earliest: MonoTime) -> SlotContents {
        let Numbers { epoch, seq, since_delete, epochs_since_delete, .. } = self.numbers;
        let shape = self.numbers.shape();
        let page = self.page.map(|page| Page::new(page.into_buffer(), shape));
        let (epoch, seq) = (number(epoch) as u32, number(seq));
        let delete_epoch = epoch - u32::from(epochs_since_delete / 4);
        SlotContents {
            pages: Pages::One(page.unwrap_or_default()),
            version: Version::new(Epoch(epoch), Seq(seq)),
            last_delete: Version::new(Epoch(delete_epoch), Seq(seq - number(since_delete))),
            sweep: Sweep::new(earliest),
            ..SlotContents::uncounted()
        }
    }

    /// The entry with the key, its use noted, without unpacking the rest.
    #[inline]
    pub(crate) fn find_and_touch(&mut self, tag: u16, key: &[u8]) -> Option<Stored<'_>> {
        let len = self.numbers.len.into();
        page::find_and_touch(self.page.as_mut()?, len, tag, key)
    }
}

/// A number in so many bytes, if it fits.
#[inline]
fn bytes<const LEN: usize>(number: u64) -> Option<[u8; LEN]> {
    if number >> (8 * LEN) != 0 {
        return None;
    }
    number.to_le_bytes().first_chunk().copied()
}

#[inline]
fn number<const LEN: usize>(bytes: [u8; LEN]) -> u64 {
    let mut number = [0; 8];
    number[..LEN].copy_from_slice(&bytes);
    u64::from_le_bytes(number)
}
