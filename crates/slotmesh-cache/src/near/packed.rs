//! Numbers in a few bits: an exponent and the leading bits, like a float without a sign. Codes are ordered as what they stand for.

/// How many leading bits are kept, and how many bits a code has.
#[derive(Clone, Copy)]
pub(super) struct Packing {
    pub(super) mantissa: u32,
    pub(super) bits: u32,
}

impl Packing {
    /// The code of the largest number that is at most `value`.
    pub(super) const fn at_most(self, value: u64) -> u64 {
        let code = if value < 1 << self.mantissa {
            value
        } else {
            let shift = value.ilog2() - self.mantissa;
            // Without its leading one, which every number of this exponent has.
            ((shift as u64 + 1) << self.mantissa) + (value >> shift) - (1 << self.mantissa)
        };
        if code > self.largest() { self.largest() } else { code }
    }

    /// The code of the least number that is at least `value`, if there is one.
    pub(super) const fn at_least(self, value: u64) -> Option<u64> {
        let code = self.at_most(value);
        if self.number(code) >= value {
            Some(code)
        } else if code < self.largest() {
            Some(code + 1)
        } else {
            None
        }
    }

    /// What a code stands for.
    pub(super) const fn number(self, code: u64) -> u64 {
        let (exponent, leading) = (code >> self.mantissa, code & ((1 << self.mantissa) - 1));
        if exponent == 0 { leading } else { (leading + (1 << self.mantissa)) << (exponent - 1) }
    }

    const fn largest(self) -> u64 {
        (1 << self.bits) - 1
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const PACKING: Packing = Packing { mantissa: 4, bits: 8 };

    #[test]
    fn codes_bracket_every_number() {
        for value in (0..2_000).chain([65_535, 100_000, 31 << 14]) {
            let below = PACKING.number(PACKING.at_most(value));
            let above = PACKING.number(PACKING.at_least(value).unwrap());
            assert!(below <= value && value <= above, "{below} {value} {above}");
            assert!(above - below <= value / 16, "{below} {value} {above}");
        }
    }

    #[test]
    fn the_largest_is_the_end() {
        assert_eq!(PACKING.number(255), 31 << 14);
        assert_eq!(PACKING.at_most(u64::MAX), 255);
        assert_eq!(PACKING.at_least((31 << 14) + 1), None);
    }
}
