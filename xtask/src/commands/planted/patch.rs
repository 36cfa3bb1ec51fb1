//! A patch of `tests/planted/`: what it breaks, where, and which tests must notice.
//!
//! A patch names no file and no line: its context and removed lines must occur, in this order, in
//! exactly one place of the crate's sources. Indentation does not count, so a patch survives a move and
//! a reformat.

use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail, ensure};

use crate::mirror;

#[derive(Debug, PartialEq)]
pub(crate) struct Patch {
    pub(crate) name: String,
    /// Folder of the crate that is broken.
    pub(crate) package: String,
    /// Arguments of `cargo test`, one line each; a failure of one is enough.
    pub(crate) tests: Vec<Vec<String>>,
    /// Whether the tests are those of the model checker.
    pub(crate) shuttle: bool,
    /// Whether the tests run on the fake CUDA device.
    pub(crate) fake_device: bool,
    pub(crate) hunks: Vec<Hunk>,
}

/// Lines that are next to each other.
#[derive(Debug, Default, PartialEq)]
pub(crate) struct Hunk {
    before: Vec<String>,
    after: Vec<String>,
}

/// The patches of these names, or all.
pub(crate) fn read_all(folder: &Path, names: &[String]) -> Result<Vec<Patch>> {
    let mut paths: Vec<PathBuf> = match names {
        [] => {
            let entries = fs::read_dir(folder)
                .with_context(|| format!("cannot list {}", folder.display()))?;
            let paths = entries.flatten().map(|entry| entry.path());
            paths
                .filter(|path| path.extension().is_some_and(|end| end == "patch"))
                .collect()
        }
        names => names
            .iter()
            .map(|name| folder.join(name).with_extension("patch"))
            .collect(),
    };
    paths.sort();
    let read = |path: &PathBuf| {
        let name = path.file_stem().unwrap_or_default().to_string_lossy();
        let text = fs::read_to_string(path)?;
        Patch::parse(&name, &text)
    };
    let context = |path: &PathBuf| format!("cannot read {}", path.display());
    paths
        .iter()
        .map(|path| read(path).with_context(|| context(path)))
        .collect()
}

impl Patch {
    fn parse(name: &str, text: &str) -> Result<Patch> {
        let (head, body) = text.split_once("\n---\n").context("no line `---`")?;
        let field = |name: &str| {
            let prefix = format!("{name}: ");
            head.lines()
                .filter_map(move |line| line.strip_prefix(&*prefix).map(str::to_owned))
        };
        let words = |line: String| line.split_whitespace().map(str::to_owned).collect();
        let patch = Patch {
            name: name.to_owned(),
            package: field("package").next().context("no line `package: `")?,
            tests: field("test").map(words).collect(),
            shuttle: field("cfg").any(|cfg| cfg == "shuttle"),
            fake_device: field("device").any(|device| device == "fake"),
            hunks: body
                .split("\n@@\n")
                .map(Hunk::parse)
                .collect::<Result<_>>()?,
        };
        ensure!(!patch.tests.is_empty(), "no line `test: `");
        Ok(patch)
    }
}

impl Hunk {
    fn parse(text: &str) -> Result<Hunk> {
        let mut hunk = Hunk::default();
        for line in text.lines() {
            let (mark, rest) = line.split_at_checked(1).unwrap_or((" ", ""));
            if mark != "+" {
                hunk.before.push(rest.trim().to_owned());
            }
            if mark != "-" {
                hunk.after.push(rest.to_owned());
            }
            if !["+", "-", " "].contains(&mark) {
                bail!("a line begins with {mark:?}: {line}");
            }
        }
        ensure!(!hunk.before.is_empty(), "a hunk without context");
        Ok(hunk)
    }

    /// The file that the hunk belongs to, and its text with the hunk.
    pub(crate) fn apply(&self, sources: &Path) -> Result<(PathBuf, String)> {
        let mut places = Vec::new();
        let files = mirror::files_below(sources)?;
        let is_code = |file: &PathBuf| {
            let end = file.extension();
            end.is_some_and(|end| end == "rs" || end == "ptx")
        };
        for file in files.into_iter().filter(is_code) {
            let path = sources.join(file);
            let text = fs::read_to_string(&path)?;
            places.extend(
                self.patched(&text)
                    .into_iter()
                    .map(|text| (path.clone(), text)),
            );
        }
        match places.len() {
            1 => Ok(places.swap_remove(0)),
            many => bail!("{many} places have {:?}; expected one", self.before),
        }
    }

    /// The text with the hunk, once for each place where it fits.
    fn patched(&self, text: &str) -> Vec<String> {
        let lines: Vec<&str> = text.lines().collect();
        let fits = |window: &[&str]| window.iter().zip(&self.before).all(|(a, b)| a.trim() == b);
        let len = self.before.len();
        let places = lines.windows(len).enumerate();
        places
            .filter(|(_, window)| fits(window))
            .map(|(at, _)| {
                let after = self.after.iter().map(String::as_str);
                let before = lines[..at].iter().copied();
                let rest = lines[at + len..].iter().copied();
                before
                    .chain(after)
                    .chain(rest)
                    .flat_map(|line| [line, "\n"])
                    .collect()
            })
            .collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const PATCH: &str = "What is broken.\n\npackage: store\ntest: --package store --lib\n---\n \
                         fn f() {\n-    good();\n+    bad();\n";

    #[test]
    fn a_patch_applies_whatever_the_indentation() {
        let patch = Patch::parse("x", PATCH).unwrap();
        assert_eq!(patch.tests, [["--package", "store", "--lib"]]);
        let text = "mod m {\n    fn f() {\n        good();\n    }\n}\n";
        let patched = patch.hunks[0].patched(text);
        assert_eq!(patched, ["mod m {\nfn f() {\n    bad();\n    }\n}\n"]);
        let twice = format!("{text}{text}");
        assert_eq!(patch.hunks[0].patched(&twice).len(), 2);
        assert!(patch.hunks[0].patched("good();").is_empty());
    }

    #[test]
    fn an_incomplete_patch_is_rejected() {
        assert!(Patch::parse("x", "text").is_err());
        let part = |from: &str, to: &str| Patch::parse("x", &PATCH.replace(from, to));
        assert!(part("package: ", "").is_err());
        assert!(part("test: ", "").is_err());
        assert!(part("-    good", "*    good").is_err());
    }
}
