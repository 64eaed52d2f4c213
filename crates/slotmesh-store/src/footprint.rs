/// What an allocation of this many bytes takes from the system's allocator: glibc's malloc keeps eight bytes before each and
/// gives out multiples of sixteen, 32 at least. Others differ by less than their page granularity makes up for.
pub(crate) const fn allocated(bytes: usize) -> usize {
    if bytes == 0 {
        return 0;
    }
    let chunk = (bytes + 8).next_multiple_of(16);
    if chunk < 32 { 32 } else { chunk }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_are_malloc_s() {
        assert_eq!([0, 1, 24, 25, 40, 41].map(allocated), [0, 32, 32, 48, 48, 64]);
    }
}
