//! The arguments of `cargo xtask bench`, and the benchmarks, which are the parts of `docs/benchmarks.md`.

use std::path::PathBuf;

use clap::{Args, ValueEnum};

#[derive(Debug, PartialEq, Args)]
pub(crate) struct Plan {
    /// Run each benchmark on little data and write nothing
    #[arg(long)]
    pub(crate) quick: bool,
    /// Run the workloads without the Python package, and only print them
    #[arg(long)]
    pub(crate) no_peer: bool,
    /// Run nothing: write the part about a GPU from the proof.json of the CUDA bundle
    #[arg(long, value_name = "FILE", conflicts_with_all = ["quick", "no_peer", "named"])]
    pub(crate) proof: Option<PathBuf>,
    /// What to run [default: all]
    #[arg(value_name = "PART")]
    named: Vec<Part>,
}

impl Plan {
    /// The parts to run.
    pub(crate) fn parts(&self) -> impl Iterator<Item = Part> {
        let named = |part: &Part| self.named.is_empty() || self.named.contains(part);
        Part::value_variants().iter().copied().filter(named)
    }
}

#[derive(Debug, Clone, Copy, PartialEq, ValueEnum)]
pub(crate) enum Part {
    /// Needs the Python package, and gives the chart.
    Workloads,
    Policy,
    /// Needs images.
    Transfer,
    /// Needs a model.
    Precision,
    /// Needs a model and SeaweedFS.
    Machines,
    /// Needs SeaweedFS.
    Fill,
    ReadAhead,
    Stages,
    Store,
    Scale,
    /// A simulation: its figures are counts.
    RemoteScale,
    CompileTime,
}

impl Part {
    /// On the command line, and in the markers of the page.
    pub(crate) fn name(self) -> String {
        let value = self.to_possible_value().expect("no part is hidden");
        value.get_name().to_owned()
    }

    pub(crate) fn package(self) -> &'static str {
        match self {
            Self::Store | Self::Scale | Self::RemoteScale => "torchcache-store",
            Self::Precision | Self::Machines => "torchcache-examples",
            Self::Fill => "torchcache-remote",
            _ => "torchcache-benches",
        }
    }

    /// The kind of its program, for cargo.
    pub(crate) fn target(self) -> &'static str {
        match self {
            Self::Precision | Self::Machines => "example",
            _ => "bench",
        }
    }

    /// The name of the program in its package.
    pub(crate) fn program(self) -> String {
        match self {
            Self::Store => Self::Stages.name(),
            Self::Precision | Self::Machines => "semantic_search".to_owned(),
            _ => self.name(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs;
    use std::path::Path;

    #[test]
    fn every_part_is_a_benchmark_and_has_its_markers() {
        let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("..");
        let page = fs::read_to_string(root.join("docs/benchmarks.md")).unwrap();
        for part in Part::value_variants() {
            let folder = match part.package() {
                library @ ("torchcache-store" | "torchcache-remote") => library,
                package => package.trim_start_matches("torchcache-"),
            };
            let manifest = fs::read_to_string(root.join(folder).join("Cargo.toml")).unwrap();
            let entry = format!("[[{}]]\nname = \"{}\"", part.target(), part.program());
            assert!(manifest.contains(&entry), "no {entry} for {part:?}");
            let markers = format!("<!-- begin: {} -->", part.name());
            assert!(page.contains(&markers), "no {markers} in the page");
        }
    }
}
