//! Sizes of blocks.

/// Blocks of one class lie together in so many bytes.
pub(crate) const SPAN_BYTES: usize = 64 << 10;

/// Each block begins with its owner.
pub(crate) const OWNER_BYTES: usize = 8;

/// Sixteen bytes apart up to 536, thirty-two up to 1,016; beyond it as many as fit a span exactly, from 62 down to three. All leave
/// eight bytes of a multiple of sixteen, so that a shared value of a power of two fits with its head of twenty-four.
const SIZES: [u32; COUNT] = sizes();

/// How many classes there are.
pub(crate) const COUNT: usize = SMALL + MIDDLE + LARGE;
const SMALL: usize = 32;
const MIDDLE: usize = 15;
const LARGE: usize = 60;

/// The largest block.
pub(crate) const BLOCK_BYTES_MAX: usize = SIZES[COUNT - 1] as usize;

/// Which class a size needs, by sixteens.
static CLASSES: [u8; BLOCK_BYTES_MAX / 16 + 1] = classes();

/// The class of blocks for so many bytes with their owner, at most [`BLOCK_BYTES_MAX`].
#[inline]
pub(crate) fn of(bytes: usize) -> usize {
    CLASSES[bytes.saturating_sub(8).div_ceil(16)].into()
}

#[inline]
pub(crate) fn size(class: usize) -> usize {
    SIZES[class] as usize
}

const fn sizes() -> [u32; COUNT] {
    let mut sizes = [0; COUNT];
    let mut class = 0;
    while class < COUNT {
        sizes[class] = if class < SMALL {
            24 + 16 * (class as u32 + 1)
        } else if class < SMALL + MIDDLE {
            536 + 32 * ((class - SMALL) as u32 + 1)
        } else {
            let count = 62 - (class - SMALL - MIDDLE) as u32;
            (SPAN_BYTES as u32 / count - 8) / 16 * 16 + 8
        };
        class += 1;
    }
    sizes
}

const fn classes() -> [u8; BLOCK_BYTES_MAX / 16 + 1] {
    let mut classes = [0; BLOCK_BYTES_MAX / 16 + 1];
    let (mut at, mut class) = (0, 0);
    while at < classes.len() {
        if 16 * at + 8 > SIZES[class] as usize {
            class += 1;
        }
        classes[at] = class as u8;
        at += 1;
    }
    classes
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_size_has_the_smallest_class_that_fits() {
        assert!(SIZES.is_sorted() && SIZES.iter().all(|size| size % 16 == 8));
        assert_eq!((SIZES[0], BLOCK_BYTES_MAX), (40, 21_832));
        for bytes in 1..=BLOCK_BYTES_MAX {
            let class = of(bytes);
            assert!(size(class) >= bytes && (class == 0 || size(class - 1) < bytes), "{bytes}");
            assert!(bytes < 40 || size(class) <= bytes + 16 + bytes / 2);
        }
        for (value, size) in [(512, 536), (1_024, 1_048), (2_048, 2_104), (16_384, 21_832)] {
            assert_eq!(super::size(of(24 + value)), size);
        }
    }
}
