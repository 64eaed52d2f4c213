//! What the run came to: a readable report and one line for machines.

use std::path::Path;

use serde::Serialize;

use crate::histogram::Histogram;
use crate::protocol::{Tick, Total};

/// Width of a point of the timeline.
pub(crate) const POINT_MS: u64 = 100;

#[derive(Default)]
pub(crate) struct Run {
    pub(crate) began_ms: u64,
    pub(crate) ended_ms: u64,
    pub(crate) killed_ms: u64,
    pub(crate) recovered_ms: Option<u64>,
    pub(crate) points: Vec<Point>,
    pub(crate) marks: Vec<Mark>,
    pub(crate) totals: Vec<Total>,
    pub(crate) verified: Option<(u64, u64)>,
}

/// A tenth of a second of the whole cluster.
#[derive(Default, Clone)]
pub(crate) struct Point {
    pub(crate) requests: u64,
    pub(crate) errors: u64,
    pub(crate) loads: u64,
    pub(crate) latencies: Histogram,
}

pub(crate) struct Mark {
    pub(crate) unix_ms: u64,
    pub(crate) what: String,
}

#[derive(Serialize)]
pub(crate) struct Summary {
    pub(crate) nodes: usize,
    pub(crate) requests: u64,
    pub(crate) hit_ratio_l1: f64,
    pub(crate) hit_ratio_total: f64,
    pub(crate) loads: u64,
    pub(crate) ops_per_s: f64,
    pub(crate) p50_us: f64,
    pub(crate) p99_us: f64,
    pub(crate) failover_ms: Option<u64>,
    pub(crate) acked_writes: u64,
    pub(crate) lost_acked_writes: u64,
    pub(crate) wrong_values: u64,
    pub(crate) errors: u64,
}

impl Run {
    pub(crate) fn add_tick(&mut self, tick: &Tick) {
        let index = (tick.unix_ms.saturating_sub(self.began_ms) / POINT_MS) as usize;
        if self.points.len() <= index {
            self.points.resize_with(index + 1, Point::default);
        }
        let point = &mut self.points[index];
        point.requests += tick.requests;
        point.errors += tick.errors;
        point.loads += tick.loads;
        point.latencies.add(&tick.buckets);
    }

    /// Requests per second over the last half second.
    pub(crate) fn recent_rate(&self) -> f64 {
        let recent: Vec<_> = self.points.iter().rev().skip(1).take(5).collect();
        let sum: u64 = recent.iter().map(|point| point.requests).sum();
        sum as f64 * 1000.0 / (recent.len().max(1) as u64 * POINT_MS) as f64
    }

    pub(crate) fn summary(&self) -> Summary {
        let mut total = Total::default();
        self.totals.iter().for_each(|one| total.add(one));
        let requests: u64 = self.points.iter().map(|point| point.requests).sum();
        let errors: u64 = self.points.iter().map(|point| point.errors).sum();
        let mut latencies = Histogram::default();
        self.points.iter().for_each(|point| latencies.add(point.latencies.buckets()));
        let reads = (total.l1_hits + total.cluster_hits + total.loads).max(1) as f64;
        let seconds = self.ended_ms.saturating_sub(self.began_ms).max(1) as f64 / 1000.0;
        let (acked_writes, lost_acked_writes) = self.verified.unwrap_or_default();
        Summary {
            nodes: 3,
            requests,
            hit_ratio_l1: rounded(total.l1_hits as f64 / reads),
            hit_ratio_total: rounded((total.l1_hits + total.cluster_hits) as f64 / reads),
            loads: self.points.iter().map(|point| point.loads).sum(),
            ops_per_s: (requests as f64 / seconds).round(),
            p50_us: latencies.quantile(0.5).round(),
            p99_us: latencies.quantile(0.99).round(),
            failover_ms: self.recovered_ms.map(|at| at.saturating_sub(self.killed_ms)),
            acked_writes,
            lost_acked_writes,
            wrong_values: total.wrong_values,
            errors,
        }
    }
}

pub(crate) fn print(run: &Run, picture: &Path) {
    let summary = run.summary();
    let seconds = run.ended_ms.saturating_sub(run.began_ms) as f64 / 1000.0;
    println!("Three nodes played the trace for {seconds:.1} s; one was killed and replaced.");
    println!("  requests           {} ({:.0} a second)", summary.requests, summary.ops_per_s);
    println!("  latency            p50 {} us, p99 {} us", summary.p50_us, summary.p99_us);
    println!(
        "  hits (survivors)   {:.1} % in the local tier, {:.1} % with the cluster",
        summary.hit_ratio_l1 * 100.0,
        summary.hit_ratio_total * 100.0
    );
    println!("  loads from SQLite  {}", summary.loads);
    match summary.failover_ms {
        Some(ms) => {
            println!("  failover           {ms} ms from SIGKILL to a write on all watched slots")
        }
        None => println!("  failover           not finished within the run"),
    }
    println!(
        "  acknowledged       {} writes, {} lost",
        summary.acked_writes, summary.lost_acked_writes
    );
    println!("  wrong values       {}", summary.wrong_values);
    println!("  failed requests    {}", summary.errors);
    println!("  picture            {}", picture.display());
    match serde_json::to_string(&summary) {
        Ok(line) => println!("RESULT {line}"),
        Err(error) => eprintln!("no result line: {error}"),
    }
}

fn rounded(ratio: f64) -> f64 {
    (ratio * 10_000.0).round() / 10_000.0
}
