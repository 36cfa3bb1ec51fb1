//! `cargo xtask layout`: fails on import circles between the files of a target, and on imports that
//! point up in the layers of a package (`workspace.metadata.layers` in the root manifest).

mod contents;
mod graph;
mod layers;
mod source;

use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail};
use serde::Deserialize;
use serde_json::Value;
use xshell::{Shell, cmd};

use graph::Graph;
use layers::Layers;
use source::ModuleTree;

pub(crate) fn run(root: &Path) -> Result<()> {
    let sh = Shell::new()?;
    sh.change_dir(root);
    let metadata = cmd!(sh, "cargo metadata --no-deps --format-version 1")
        .quiet()
        .read()?;
    let metadata: Value = serde_json::from_str(&metadata)?;
    let mut problems = Vec::new();
    for package in metadata["packages"].as_array().into_iter().flatten() {
        let name = package["name"].as_str().unwrap_or_default();
        let layers: Option<Layers> =
            Deserialize::deserialize(&metadata["metadata"]["layers"][name])
                .with_context(|| format!("workspace.metadata.layers.{name}"))?;
        let layers = layers.unwrap_or_default();
        for path in targets(package) {
            let target = ModuleTree::read(&path)
                .with_context(|| format!("cannot read the modules of {}", path.display()))?;
            let graph = Graph::new(&target);
            let shown = path.strip_prefix(root).unwrap_or(&path).display();
            let (files, levels) = (graph.files.len(), graph.levels());
            println!("{shown}: {files} files on {levels} levels");
            let mut found = graph.circles();
            if path.parent().is_some_and(|folder| folder.ends_with("src")) {
                found.extend(layers.upward(&graph));
            }
            problems.extend(found.iter().map(|problem| format!("{shown}: {problem}")));
        }
    }
    if !problems.is_empty() {
        bail!("imports do not point down:\n{}", problems.join("\n"));
    }
    Ok(())
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
