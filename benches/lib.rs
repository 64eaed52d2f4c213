//! Workloads and measuring helpers shared by the benchmarks.
