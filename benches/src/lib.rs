//! What the benchmarks share: workloads, a clock, lower limits, the Python package to compare with, and
//! tables. The benchmarks are in the parent folder and print Markdown.

pub mod args;
pub mod bert;
pub mod changes;
pub mod clock;
pub mod figures;
pub mod fixed;
pub mod limits;
pub mod ours;
pub mod peer;
pub mod report;
pub mod shared;
pub mod stages;
pub mod table;
pub mod workload;
