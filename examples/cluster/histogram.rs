//! Latencies in buckets that grow by an eighth of a doubling, from one microsecond up.

use std::collections::BTreeMap;

#[derive(Clone, Default, Debug)]
pub(crate) struct Histogram {
    buckets: BTreeMap<u16, u64>,
}

const PER_DOUBLING: f64 = 8.0;

impl Histogram {
    pub(crate) fn record(&mut self, micros: f64) {
        let bucket = (micros.max(1.0).log2() * PER_DOUBLING).round() as u16;
        *self.buckets.entry(bucket).or_default() += 1;
    }

    pub(crate) fn add(&mut self, buckets: &BTreeMap<u16, u64>) {
        for (bucket, count) in buckets {
            *self.buckets.entry(*bucket).or_default() += count;
        }
    }

    pub(crate) fn buckets(&self) -> &BTreeMap<u16, u64> {
        &self.buckets
    }

    pub(crate) fn take(&mut self) -> BTreeMap<u16, u64> {
        std::mem::take(&mut self.buckets)
    }

    /// The latency in microseconds that this share of all stays below.
    pub(crate) fn quantile(&self, share: f64) -> f64 {
        let total: u64 = self.buckets.values().sum();
        let wanted = (total as f64 * share).ceil() as u64;
        let mut seen = 0;
        for (bucket, count) in &self.buckets {
            seen += count;
            if seen >= wanted {
                return (f64::from(*bucket) / PER_DOUBLING).exp2();
            }
        }
        0.0
    }
}
