//! What the benchmarks share: the workloads, the clock, the least that any cache must do, the
//! Python package beside ours, and the tables that they print.
//!
//! The benchmarks themselves lie beside this folder, a file each, and print Markdown.

pub mod args;
pub mod bars;
pub mod clock;
pub mod figures;
pub mod fixed;
pub mod floor;
pub mod limits;
pub mod micro;
pub mod ours;
pub mod peer;
pub mod report;
pub mod stages;
pub mod table;
pub mod workload;
