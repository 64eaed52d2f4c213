/// Local health score (Lifeguard, "local health multiplier"): how much this node doubts itself. Probes wait
/// `1 + score` times longer.
#[derive(Debug)]
pub(crate) struct Health {
    score: u32,
    max: u32,
}

impl Health {
    pub(crate) const fn new(max: u32) -> Self {
        Self { score: 0, max }
    }

    /// A probe was answered.
    pub(crate) fn better(&mut self) {
        self.score = self.score.saturating_sub(1);
    }

    /// `by` signs that this node itself is slow or cut off.
    pub(crate) fn worse(&mut self, by: u32) {
        self.score = self.score.saturating_add(by).min(self.max);
    }

    pub(crate) const fn factor(&self) -> u32 {
        1 + self.score
    }
}
