//! Which file of a target imports which, and the circles among them.

use std::collections::{BTreeMap, BTreeSet};
use std::path::PathBuf;

use crate::commands::layout::source::ModuleTree;

/// The files of a target and their imports.
#[derive(Debug, Default)]
pub(crate) struct Graph {
    /// Relative to the folder of the root file.
    pub(crate) files: Vec<PathBuf>,
    /// From a file to another, with a path that it mentions.
    pub(crate) imports: BTreeMap<(usize, usize), String>,
}

impl Graph {
    pub(crate) fn new(target: &ModuleTree) -> Self {
        let relative = |file: &PathBuf| {
            let relative = file.strip_prefix(&target.folder);
            relative.unwrap_or(file).to_owned()
        };
        let mut imports = BTreeMap::new();
        for (number, module) in target.modules.iter().enumerate() {
            // A re-export that the file itself does not use is the business of those who do.
            let used = module
                .contents
                .uses
                .iter()
                .filter(|one| !one.public || module.contents.idents.contains(&one.name));
            let used = used.map(|one| &one.path).chain(&module.contents.paths);
            for path in used {
                match target.resolve(number, path) {
                    Some(file) if file != module.file => {
                        imports
                            .entry((module.file, file))
                            .or_insert_with(|| path.join("::"));
                    }
                    _ => {}
                }
            }
        }
        Graph {
            files: target.files.iter().map(relative).collect(),
            imports,
        }
    }

    fn imported_by(&self, file: usize) -> impl Iterator<Item = usize> {
        let range = self.imports.range((file, 0)..=(file, usize::MAX));
        range.map(|((_, to), _)| *to)
    }

    /// How many files stand on each other at most; files of a circle count once each.
    pub(crate) fn levels(&self) -> usize {
        fn level(graph: &Graph, file: usize, known: &mut [Option<usize>]) -> usize {
            if let Some(level) = known[file] {
                return level;
            }
            known[file] = Some(1); // ends the walk around a circle
            let below = graph
                .imported_by(file)
                .map(|to| level(graph, to, known))
                .max();
            let level = below.map_or(1, |below| below + 1);
            known[file] = Some(level);
            level
        }
        let mut known = vec![None; self.files.len()];
        let levels = (0..self.files.len()).map(|file| level(self, file, &mut known));
        levels.max().unwrap_or(0)
    }

    /// A description of each group of files that import one another.
    pub(crate) fn circles(&self) -> Vec<String> {
        let reached: Vec<BTreeSet<usize>> = (0..self.files.len())
            .map(|file| self.reached_from(file))
            .collect();
        let mut described = BTreeSet::new();
        let mut circles = Vec::new();
        for file in 0..self.files.len() {
            if !reached[file].contains(&file) || described.contains(&file) {
                continue;
            }
            let circle: BTreeSet<usize> = reached[file]
                .iter()
                .copied()
                .filter(|other| reached[*other].contains(&file))
                .collect();
            let within = |(from, to): &(usize, usize)| circle.contains(from) && circle.contains(to);
            let imports = self.imports.iter().filter(|(edge, _)| within(edge));
            let lines: Vec<_> = imports
                .map(|(edge, path)| self.describe(*edge, path))
                .collect();
            circles.push(format!(
                "a circle of {} files:\n{}",
                circle.len(),
                lines.join("\n")
            ));
            described.extend(circle);
        }
        circles
    }

    fn reached_from(&self, file: usize) -> BTreeSet<usize> {
        let mut reached = BTreeSet::new();
        let mut next = vec![file];
        while let Some(file) = next.pop() {
            next.extend(self.imported_by(file).filter(|to| reached.insert(*to)));
        }
        reached
    }

    pub(crate) fn describe(&self, (from, to): (usize, usize), path: &str) -> String {
        let [from, to] = [from, to].map(|file| self.files[file].display());
        format!("  {from} imports {to}: {path}")
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs;

    fn graph(files: &[(&str, &str)]) -> Graph {
        let folder = tempfile::tempdir().unwrap();
        for (name, text) in files {
            let path = folder.path().join(name);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(path, text).unwrap();
        }
        Graph::new(&ModuleTree::read(&folder.path().join(files[0].0)).unwrap())
    }

    fn imports(graph: &Graph) -> Vec<String> {
        let edges = graph.imports.keys();
        edges
            .map(|(from, to)| {
                format!(
                    "{} {}",
                    graph.files[*from].display(),
                    graph.files[*to].display()
                )
            })
            .collect()
    }

    #[test]
    fn a_re_export_leads_to_the_file_that_defines_the_item() {
        let graph = graph(&[
            ("lib.rs", "mod a; mod b; pub use b::B; pub use a::*;"),
            ("a.rs", "use crate::B; pub struct A;"),
            ("b/mod.rs", "mod c; pub(crate) use c::C; pub struct B(C);"),
            ("b/c.rs", "pub struct C; fn f() -> usize { crate::d() }"),
        ]);
        assert_eq!(
            imports(&graph),
            ["a.rs b/mod.rs", "b/mod.rs b/c.rs", "b/c.rs lib.rs"]
        );
        assert_eq!(graph.circles(), Vec::<String>::new());
        assert_eq!(graph.levels(), 4);
    }

    #[test]
    fn files_that_import_each_other_are_a_circle() {
        let graph = graph(&[
            ("lib.rs", "mod a; mod b; mod c;"),
            ("a.rs", "use super::b::B; use crate::c; pub struct A;"),
            ("b.rs", "pub struct B(super::a::A);"),
            ("c.rs", "#[cfg(test)] mod tests { use crate::a::A; }"),
        ]);
        let circles = graph.circles();
        assert_eq!(circles.len(), 1);
        let expected = "a circle of 2 files:\n  a.rs imports b.rs: super::b::B\n  b.rs imports a.rs: super::a::A";
        assert_eq!(circles[0], expected);
    }

    #[test]
    fn a_parent_that_uses_its_child_which_uses_it_is_a_circle() {
        let graph = graph(&[
            ("main.rs", "mod a; fn main() {}"),
            ("a/mod.rs", "mod b; pub struct A; fn f() { b::g() }"),
            ("a/b.rs", "use super::A; pub fn g() {}"),
        ]);
        assert_eq!(graph.circles().len(), 1);
    }
}
