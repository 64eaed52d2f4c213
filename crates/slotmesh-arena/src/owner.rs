/// By what the caller finds whose a block is: any number below 2^63 - 1.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Owner(u64);

/// Tells an owner from what a free block begins with.
const TAKEN: u64 = 1 << 63;

impl Owner {
    /// Of a block that cannot be moved; no [`Evacuation`](crate::Evacuation) names it.
    pub const NOBODY: Self = Self(!0);

    /// An owner.
    #[must_use]
    pub const fn new(number: u64) -> Self {
        Self(number | TAKEN)
    }

    /// The number that it was made of.
    #[must_use]
    pub const fn number(self) -> u64 {
        self.0 & !TAKEN
    }

    pub(crate) const fn word(self) -> u64 {
        self.0
    }

    /// The owner that a block begins with, if it has one that can be asked.
    pub(crate) fn of_word(word: u64) -> Option<Self> {
        (word & TAKEN != 0 && word != Self::NOBODY.0).then_some(Self(word))
    }
}
