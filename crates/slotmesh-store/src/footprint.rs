/// What an allocation of this many bytes takes from the system's allocator: glibc's malloc keeps eight bytes before each and
/// gives out multiples of sixteen, 32 at least. Others differ by less than their page granularity makes up for.
pub(crate) const fn allocated(bytes: usize) -> usize {
    if bytes == 0 {
        return 0;
    }
    let chunk = (bytes + 8).next_multiple_of(16);
    if chunk < 32 { 32 } else { chunk }
}

/// Steps in which pages grow are powers of two, an eighth of the page or less and at most this. So every hole that
/// a page leaves is of whole steps, and other pages fill it without a rest; steps of any size left one byte in eight unused.
const STEP_MAX: usize = 256;

/// The size for a page of so many bytes, with some room.
pub(crate) fn roomy(bytes: usize) -> usize {
    if bytes == 0 {
        return 0;
    }
    let chunk = allocated(bytes);
    let step = (1 << (chunk / 8).max(16).ilog2()).min(STEP_MAX);
    chunk.next_multiple_of(step) - 8
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_are_malloc_s() {
        assert_eq!([0, 1, 24, 25, 40, 41].map(allocated), [0, 32, 32, 48, 48, 64]);
    }

    #[test]
    fn pages_fill_whole_steps() {
        assert_eq!([0, 1, 24, 25, 250, 500].map(roomy), [0, 24, 24, 40, 280, 504]);
        for bytes in 1..20_000 {
            let room = roomy(bytes);
            assert!(room >= bytes && allocated(room) == room + 8, "{bytes}");
            assert!(room <= bytes + bytes / 8 + 24 && room < bytes + 16 + STEP_MAX, "{bytes}");
            assert_eq!(roomy(room), room);
        }
    }
}
