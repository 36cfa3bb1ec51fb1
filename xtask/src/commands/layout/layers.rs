//! The layers of a package: lists of the files and folders in its `src/`, from the top down. One may
//! import what is in a layer below its own, and itself.

use std::path::Path;

use serde::Deserialize;

use crate::commands::layout::graph::Graph;

/// `["lib", ["admin", "engine"], "fs"]`; a package without a list has no layers.
#[derive(Debug, Default, Deserialize)]
pub(crate) struct Layers(Vec<LayerNames>);

/// One name, or several that do not import one another.
#[derive(Debug, Deserialize)]
#[serde(untagged)]
enum LayerNames {
    One(String),
    Several(Vec<String>),
}

impl Layers {
    /// A line for each import that does not point down, and for each file without a layer.
    pub(crate) fn upward(&self, graph: &Graph) -> Vec<String> {
        if self.0.is_empty() {
            return Vec::new();
        }
        let names: Vec<_> = graph.files.iter().map(|file| name(file)).collect();
        let layer = |name: &str| {
            self.0.iter().position(|layer| match layer {
                LayerNames::One(one) => one == name,
                LayerNames::Several(names) => names.iter().any(|one| one == name),
            })
        };
        let mut problems = Vec::new();
        for (file, name) in graph.files.iter().zip(&names) {
            if layer(name).is_none() {
                problems.push(format!("{} is in no layer", file.display()));
            }
        }
        for (&(from, to), path) in &graph.imports {
            let [above, below] = [from, to].map(|file| layer(&names[file]));
            if names[from] != names[to] && above >= below && above.is_some() && below.is_some() {
                let line = graph.describe((from, to), path);
                problems.push(format!("an import that points up:\n{line}"));
            }
        }
        problems
    }
}

/// `engine` of `engine/read.rs`, `lib` of `lib.rs`.
fn name(file: &Path) -> String {
    let first = file.components().next().expect("a file has a name");
    let first = Path::new(&first).with_extension("");
    first.to_string_lossy().into_owned()
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn imports_point_to_a_lower_layer_or_stay_in_their_own_folder() {
        let mut graph = Graph {
            files: ["lib.rs", "a/mod.rs", "a/b.rs", "c.rs", "d.rs"]
                .map(Into::into)
                .to_vec(),
            ..Graph::default()
        };
        for edge in [(0, 1), (1, 2), (2, 1), (2, 4), (3, 1), (4, 3)] {
            graph.imports.insert(edge, "path".to_owned());
        }
        let layers = Layers::deserialize(json!(["lib", ["a", "c"]])).unwrap();
        assert_eq!(
            layers.upward(&graph),
            [
                "d.rs is in no layer",
                "an import that points up:\n  c.rs imports a/mod.rs: path"
            ]
        );
        let layers = Layers::deserialize(json!(["lib", "a", "c", "d"])).unwrap();
        assert_eq!(layers.upward(&graph).len(), 2);
        assert!(Layers::default().upward(&graph).is_empty());
    }
}
