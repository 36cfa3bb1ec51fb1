//! `cargo xtask layout`: fails on import circles between the files of a target, and on imports that
//! point up in the list of layers of a package (`workspace.metadata.layers` in the root manifest).

mod graph;
mod layers;
mod source;
mod tokens;

use std::path::{Path, PathBuf};

use serde_json::Value;

use crate::cargo::Cargo;
use crate::error::{Error, Result};
use graph::Graph;
use layers::Layers;
use source::Target;

pub(crate) fn run(root: &Path) -> Result<()> {
    let cargo = Cargo {
        root: root.to_owned(),
        variables: Vec::new(),
        toolchain: None,
    };
    let metadata = cargo.output(["metadata", "--no-deps", "--format-version", "1"])?;
    let metadata: Value = serde_json::from_str(&metadata)
        .map_err(|error| Error::Failed(format!("`cargo metadata` printed no JSON: {error}")))?;
    let mut problems = Vec::new();
    for package in metadata["packages"].as_array().into_iter().flatten() {
        let name = package["name"].as_str().unwrap_or_default();
        let layers =
            Layers::from_metadata(&metadata["metadata"]["layers"][name]).map_err(|reason| {
                Error::Failed(format!("workspace.metadata.layers.{name}: {reason}"))
            })?;
        for path in targets(package) {
            let target = Target::read(&path)
                .map_err(|error| Error::Failed(format!("{}: {error}", path.display())))?;
            let graph = Graph::new(&target);
            let shown = path.strip_prefix(root).unwrap_or(&path).display();
            println!(
                "{shown}: {} files on {} levels",
                graph.files.len(),
                graph.levels()
            );
            let mut found = graph.circles();
            if path.parent().is_some_and(|folder| folder.ends_with("src")) {
                found.extend(layers.upward(&graph));
            }
            problems.extend(found.iter().map(|problem| format!("{shown}: {problem}")));
        }
    }
    match problems.is_empty() {
        true => Ok(()),
        false => Err(Error::Failed(format!(
            "the imports do not point down:\n{}",
            problems.join("\n")
        ))),
    }
}

/// The root files of a package's targets, each once.
fn targets(package: &Value) -> Vec<PathBuf> {
    let targets = package["targets"].as_array().into_iter().flatten();
    let mut paths: Vec<PathBuf> = targets
        .filter(|target| target["kind"][0] != "custom-build")
        .filter_map(|target| Some(target["src_path"].as_str()?.into()))
        .collect();
    paths.sort();
    paths.dedup();
    paths
}
