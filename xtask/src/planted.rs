//! `cargo xtask planted`: applies each patch of `tests/planted/` to a copy of the tree and expects
//! the tests that it names to fail. A patch that does not apply or does not compile is an error.
//!
//! A patch names no file and no line: its context and removed lines must occur, in this order, in
//! exactly one place of the crate's sources. Indentation does not count, so that a patch survives a
//! move and a reformat.

use std::ffi::OsString;
use std::fs::{self, File};
use std::io::ErrorKind;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use crate::cargo::Cargo;
use crate::error::{Error, Result};
use crate::libtorch;
use crate::release::DEFAULT;

const PATCHES: &str = "tests/planted";

/// The copy of the tree and what is built of it. Not in the usual target folder: cargo would take
/// its artifacts for those of the tree itself.
const WORK: &str = "target/planted";

/// A test that takes longer hangs, which finds the fault as well.
const TIMEOUT: Duration = Duration::from_secs(600);

/// Packages whose tests need libtorch.
const WITH_LIBTORCH: [&str; 3] = ["torchcache", "torchcache-tests", "torchcache-soak"];

pub(crate) fn run(root: &Path, names: &[OsString]) -> Result<()> {
    let faults = read_all(&root.join(PATCHES), names)?;
    let tree = root.join(WORK).join("tree");
    copy_tree(root, &tree)?;
    let mut cargo = match faults.iter().any(Planted::needs_libtorch) {
        true => libtorch::prepare(root, DEFAULT)?.cargo(root),
        false => Cargo {
            root: root.to_owned(),
            variables: Vec::new(),
            toolchain: None,
        },
    };
    cargo.root.clone_from(&tree);
    let mut missed = 0;
    for fault in &faults {
        let begin = Instant::now();
        let outcome = fault.plant(root, &tree, &cargo);
        let seconds = begin.elapsed().as_secs();
        let (verdict, detail) = match outcome {
            Ok(Outcome::Found(test)) => ("found", test),
            Ok(Outcome::Missed) => ("MISSED", "the tests passed".to_owned()),
            Err(error) => ("ERROR", error),
        };
        missed += u32::from(verdict != "found");
        println!("{:<36} {verdict:<8} {seconds:>4} s  {detail}", fault.name);
    }
    match missed {
        0 => Ok(()),
        _ => Err(Error::Failed(format!(
            "{missed} of {} planted faults were not found; the logs are in {WORK}",
            faults.len()
        ))),
    }
}

enum Outcome {
    /// The first test that failed.
    Found(String),
    Missed,
}

/// A patch: what it breaks, where, and which tests must notice.
#[derive(Debug, PartialEq)]
struct Planted {
    name: String,
    /// Folder of the crate that is broken.
    package: String,
    /// Arguments of `cargo test`, one line each; a failure of one is enough.
    tests: Vec<Vec<String>>,
    /// Whether the tests are those of the model checker.
    shuttle: bool,
    hunks: Vec<Hunk>,
}

/// Lines that are next to each other.
#[derive(Debug, Default, PartialEq)]
struct Hunk {
    before: Vec<String>,
    after: Vec<String>,
}

fn read_all(folder: &Path, names: &[OsString]) -> Result<Vec<Planted>> {
    let read = |path: &Path| {
        let text = fs::read_to_string(path);
        let text = text.map_err(Error::io(format!("read {}", path.display())))?;
        let name = path.file_stem().unwrap_or_default().to_string_lossy();
        Planted::parse(&name, &text)
            .map_err(|reason| Error::Failed(format!("{}: {reason}", path.display())))
    };
    if !names.is_empty() {
        let paths = names.iter().map(|name| folder.join(name));
        return paths
            .map(|path| read(&path.with_extension("patch")))
            .collect();
    }
    let entries = fs::read_dir(folder).map_err(Error::io(format!("list {}", folder.display())))?;
    let paths = entries.flatten().map(|entry| entry.path());
    let mut paths: Vec<PathBuf> = paths
        .filter(|path| path.extension().is_some_and(|end| end == "patch"))
        .collect();
    paths.sort();
    paths.iter().map(|path| read(path)).collect()
}

impl Planted {
    fn parse(name: &str, text: &str) -> std::result::Result<Planted, String> {
        let (head, body) = text.split_once("\n---\n").ok_or("no line `---`")?;
        let field = |name: &str| {
            let prefix = format!("{name}: ");
            head.lines()
                .filter_map(move |line| line.strip_prefix(&*prefix).map(str::to_owned))
        };
        let words = |line: String| line.split_whitespace().map(str::to_owned).collect();
        let planted = Planted {
            name: name.to_owned(),
            package: field("package").next().ok_or("no line `package: `")?,
            tests: field("test").map(words).collect(),
            shuttle: field("cfg").any(|cfg| cfg == "shuttle"),
            hunks: body
                .split("\n@@\n")
                .map(Hunk::parse)
                .collect::<std::result::Result<_, _>>()?,
        };
        if planted.tests.is_empty() {
            return Err("no line `test: `".into());
        }
        Ok(planted)
    }

    fn needs_libtorch(&self) -> bool {
        let mut words = self.tests.iter().flatten();
        words.any(|word| WITH_LIBTORCH.contains(&&**word))
    }

    fn plant(
        &self,
        root: &Path,
        tree: &Path,
        cargo: &Cargo,
    ) -> std::result::Result<Outcome, String> {
        let mut changed = Vec::new();
        let sources = tree.join(&self.package).join("src");
        let applied = self.hunks.iter().try_for_each(|hunk| {
            let (path, text) = hunk.apply(&sources)?;
            let before = fs::read(&path).map_err(|error| error.to_string())?;
            fs::write(&path, text).map_err(|error| error.to_string())?;
            changed.push((path, before));
            Ok(())
        });
        let outcome = applied.and_then(|()| self.test(root, cargo));
        // The last change first, since two may be in one file.
        for (path, before) in changed.into_iter().rev() {
            fs::write(&path, before).map_err(|error| error.to_string())?;
        }
        outcome
    }

    fn test(&self, root: &Path, cargo: &Cargo) -> std::result::Result<Outcome, String> {
        let log = root.join(WORK).join(&self.name).with_extension("log");
        let (cargo, folder) = match self.shuttle {
            true => (cargo.with("RUSTFLAGS", "--cfg shuttle"), "shuttle"),
            false => (cargo.clone(), "build"),
        };
        let target = root.join(WORK).join(folder);
        let run = |what: &[&str], words: &[String]| {
            let mut command = cargo.command();
            command.args(what).args(words);
            command.arg("--target-dir").arg(&target);
            run_logged(command, &log)
        };
        for words in &self.tests {
            // A failure to build must not pass for a test that fails.
            match run(&["test", "--no-run"], words)? {
                Some(status) if status.success() => {}
                _ => return Err(format!("it does not build: see {}", log.display())),
            }
            match run(&["test"], words)? {
                Some(status) if status.success() => {}
                Some(_) => return Ok(Outcome::Found(failed_test(&log))),
                None => return Ok(Outcome::Found("a test that hangs".into())),
            }
        }
        Ok(Outcome::Missed)
    }
}

impl Hunk {
    fn parse(text: &str) -> std::result::Result<Hunk, String> {
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
                return Err(format!("a line begins with {mark:?}: {line}"));
            }
        }
        match hunk.before.is_empty() {
            true => Err("a hunk without context".into()),
            false => Ok(hunk),
        }
    }

    /// The file in which the hunk belongs, and its text with the hunk.
    fn apply(&self, sources: &Path) -> std::result::Result<(PathBuf, String), String> {
        let mut places = Vec::new();
        for path in rust_files(sources).map_err(|error| error.to_string())? {
            let text = fs::read_to_string(&path).map_err(|error| error.to_string())?;
            places.extend(
                self.patched(&text)
                    .into_iter()
                    .map(|text| (path.clone(), text)),
            );
        }
        match places.len() {
            1 => Ok(places.swap_remove(0)),
            many => Err(format!("{many} places have {:?}", self.before)),
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

fn rust_files(folder: &Path) -> std::io::Result<Vec<PathBuf>> {
    let mut files = Vec::new();
    for entry in fs::read_dir(folder)? {
        let path = entry?.path();
        if path.is_dir() {
            files.extend(rust_files(&path)?);
        } else if path.extension().is_some_and(|end| end == "rs") {
            files.push(path);
        }
    }
    Ok(files)
}

/// Copies every file that git knows or would add, but only those that differ: the others keep their
/// times, and cargo what it built of them.
fn copy_tree(root: &Path, tree: &Path) -> Result<()> {
    let mut git = Command::new("git");
    git.args(["ls-files", "-z", "--cached", "--others"])
        .arg("--exclude-standard")
        .current_dir(root);
    let output = git.output().map_err(Error::io("start git"))?;
    let names = String::from_utf8_lossy(&output.stdout).into_owned();
    if !output.status.success() || names.is_empty() {
        return Err(Error::Failed("git does not list the files".into()));
    }
    // Sources that are gone would be found by a hunk.
    for file in rust_files(tree).unwrap_or_default() {
        if let Ok(name) = file.strip_prefix(tree)
            && !root.join(name).exists()
        {
            fs::remove_file(&file).map_err(Error::io(format!("remove {}", file.display())))?;
        }
    }
    for name in names.split_terminator('\0') {
        let (from, to) = (root.join(name), tree.join(name));
        let bytes = match fs::read(&from) {
            Err(error) if error.kind() == ErrorKind::NotFound => continue, // removed, not committed
            bytes => bytes.map_err(Error::io(format!("read {name}")))?,
        };
        if fs::read(&to).is_ok_and(|there| there == bytes) {
            continue;
        }
        let folder = to.parent().unwrap_or(tree);
        let written = fs::create_dir_all(folder).and_then(|()| fs::write(&to, bytes));
        written.map_err(Error::io(format!("write {}", to.display())))?;
    }
    Ok(())
}

/// Runs a command with its output in a file. `None` if it took too long, and was killed with all
/// that it had started.
fn run_logged(mut command: Command, log: &Path) -> std::result::Result<Option<ExitStatus>, String> {
    let file = File::create(log).map_err(|error| error.to_string())?;
    let again = file.try_clone().map_err(|error| error.to_string())?;
    command
        .stdin(Stdio::null())
        .stdout(file)
        .stderr(again)
        .process_group(0);
    let mut child = command.spawn().map_err(|error| error.to_string())?;
    let begin = Instant::now();
    loop {
        if let Some(status) = child.try_wait().map_err(|error| error.to_string())? {
            return Ok(Some(status));
        }
        if begin.elapsed() > TIMEOUT {
            kill_group(&mut child);
            return Ok(None);
        }
        thread::sleep(Duration::from_millis(100));
    }
}

fn kill_group(child: &mut Child) {
    let group = format!("-{}", child.id());
    let _ = Command::new("kill").args(["-KILL", "--", &group]).status();
    let _ = child.wait();
}

/// The first test that a log of the test harness says failed.
fn failed_test(log: &Path) -> String {
    let text = fs::read(log).unwrap_or_default();
    let text = String::from_utf8_lossy(&text);
    let failed = |line: &str| {
        let test = line.strip_prefix("test ")?.strip_suffix(" ... FAILED")?;
        Some(test.to_owned())
    };
    let first = text.lines().find_map(failed);
    first.unwrap_or_else(|| "the test program ended early".into())
}

#[cfg(test)]
mod tests {
    use super::*;

    const PATCH: &str = "What is broken.\n\npackage: store\ntest: --package store --lib\n---\n \
                         fn f() {\n-    good();\n+    bad();\n";

    #[test]
    fn a_patch_applies_whatever_the_indentation() {
        let planted = Planted::parse("x", PATCH).unwrap();
        assert_eq!(planted.tests, [["--package", "store", "--lib"]]);
        let text = "mod m {\n    fn f() {\n        good();\n    }\n}\n";
        let patched = planted.hunks[0].patched(text);
        assert_eq!(patched, ["mod m {\nfn f() {\n    bad();\n    }\n}\n"]);
        let twice = format!("{text}{text}");
        assert_eq!(planted.hunks[0].patched(&twice).len(), 2);
        assert!(planted.hunks[0].patched("good();").is_empty());
    }

    #[test]
    fn a_patch_that_says_too_little_is_refused() {
        assert!(Planted::parse("x", "text").is_err());
        let part = |from: &str, to: &str| Planted::parse("x", &PATCH.replace(from, to));
        assert!(part("package: ", "").is_err());
        assert!(part("test: ", "").is_err());
        assert!(part("-    good", "*    good").is_err());
    }
}
