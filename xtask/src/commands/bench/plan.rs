//! The arguments of `cargo xtask bench`.

use clap::Args;

use crate::commands::bench::parts::{PARTS, Part};

#[derive(Debug, PartialEq, Args)]
pub(crate) struct Plan {
    /// Run each benchmark on little data and write nothing
    #[arg(long)]
    pub(crate) quick: bool,
    /// Run the workloads without the Python package, and only print them
    #[arg(long)]
    pub(crate) no_peer: bool,
    /// workloads, policy, transfer, stages, store, scale [default: all]
    #[arg(value_name = "PART", value_parser = Part::parse)]
    named: Vec<&'static Part>,
}

impl Plan {
    /// The parts to run.
    pub(crate) fn parts(&self) -> impl Iterator<Item = &'static Part> {
        PARTS
            .iter()
            .filter(|part| self.named.is_empty() || self.named.contains(part))
    }
}
