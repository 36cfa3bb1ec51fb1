//! What the workloads write next to their tables: the figures of the chart, and whether the Python
//! package ran to the end.

use serde::Deserialize;

#[derive(Debug, Deserialize)]
pub(crate) struct ChartFigures {
    /// Why the Python package did not run, or not to the end.
    pub(crate) without_peer: Option<String>,
    pub(crate) groups: Vec<BarGroup>,
}

/// The bars of one way of being served, on one workload.
#[derive(Debug, Deserialize)]
pub(crate) struct BarGroup {
    pub(crate) workload: String,
    pub(crate) served: String,
    pub(crate) bars: Vec<ChartBar>,
}

#[derive(Debug, Deserialize)]
pub(crate) struct ChartBar {
    pub(crate) side: String,
    /// `None` if it was not run.
    pub(crate) milliseconds: Option<f64>,
    pub(crate) label: Option<String>,
}
