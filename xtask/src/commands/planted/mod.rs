//! `cargo xtask planted`: applies each patch of `tests/planted/` to a copy of the tree and expects
//! one of the tests that it names to fail. A patch that does not apply or does not compile is an error.

mod patch;

use std::fs::{self, File};
use std::path::Path;
use std::process::{Command, ExitStatus, Stdio};
use std::time::Instant;

use anyhow::{Context, Result, ensure};
use xshell::{Shell, cmd};

use crate::commands::fake_device;
use crate::install::libtorch;
use crate::mirror;
use crate::release::DEFAULT;

use patch::Patch;

const PATCHES: &str = "tests/planted";

/// The copy of the tree and its build. Not in the usual target folder: cargo would take its artifacts
/// for those of the tree itself.
const WORK: &str = "target/planted";

/// A test that takes longer, in seconds, hangs, and so finds the fault.
const TIMEOUT: &str = "600";

/// Packages whose tests need libtorch.
const WITH_LIBTORCH: [&str; 3] = ["torchcache", "torchcache-tests", "torchcache-soak"];

pub(crate) fn run(root: &Path, names: &[String]) -> Result<()> {
    let patches = patch::read_all(&root.join(PATCHES), names)?;
    let tree = root.join(WORK).join("tree");
    let mut files = mirror::sources(root)?;
    files.insert("Cargo.lock".into());
    mirror::sync(root, &tree, &files)?;
    let libtorch = match patches.iter().any(needs_libtorch) {
        true => Some(libtorch::prepare(root, DEFAULT)?),
        false => None,
    };
    let sh = match &libtorch {
        Some(libtorch) => libtorch.shell(&tree)?,
        None => Shell::new()?,
    };
    sh.change_dir(&tree);
    let mut missed = 0;
    for patch in &patches {
        let begin = Instant::now();
        let libtorch = libtorch.as_ref().map(|libtorch| &*libtorch.folder);
        let outcome = plant(patch, root, libtorch, &sh);
        let seconds = begin.elapsed().as_secs();
        let (verdict, detail) = match outcome {
            Ok(Outcome::Found(test)) => ("found", test),
            Ok(Outcome::Missed) => ("MISSED", "the tests passed".to_owned()),
            Err(error) => ("ERROR", format!("{error:#}")),
        };
        missed += u32::from(verdict != "found");
        println!("{:<36} {verdict:<8} {seconds:>4} s  {detail}", patch.name);
    }
    ensure!(
        missed == 0,
        "{missed} of {} planted faults were not found; the logs are in {WORK}",
        patches.len()
    );
    Ok(())
}

enum Outcome {
    /// The first test that failed.
    Found(String),
    Missed,
}

fn needs_libtorch(patch: &Patch) -> bool {
    let mut words = patch.tests.iter().flatten();
    words.any(|word| WITH_LIBTORCH.contains(&&**word))
}

/// Applies a patch, runs its tests, and restores the files.
fn plant(patch: &Patch, root: &Path, libtorch: Option<&Path>, sh: &Shell) -> Result<Outcome> {
    let mut changed = Vec::new();
    let sources = sh.current_dir().join(&patch.package).join("src");
    let applied = patch.hunks.iter().try_for_each(|hunk| {
        let (path, text) = hunk.apply(&sources)?;
        let before = fs::read(&path)?;
        fs::write(&path, text)?;
        changed.push((path, before));
        Ok(())
    });
    let outcome = applied.and_then(|()| test(patch, root, libtorch, sh));
    // The last change first, since two may be in one file.
    for (path, before) in changed.into_iter().rev() {
        fs::write(&path, before)?;
    }
    outcome
}

fn test(patch: &Patch, root: &Path, libtorch: Option<&Path>, sh: &Shell) -> Result<Outcome> {
    let work = root.join(WORK);
    let log = work.join(&patch.name).with_extension("log");
    let target = work.join(if patch.shuttle { "shuttle" } else { "build" });
    let sh = sh.clone();
    if patch.shuttle {
        sh.set_var("RUSTFLAGS", "--cfg shuttle");
    }
    let mut config = Vec::new();
    if patch.fake_device {
        let libtorch =
            libtorch.context("tests on the fake device are of packages with libtorch")?;
        let runner = fake_device::prepare(root, DEFAULT, libtorch, &sh)?;
        config = vec!["--config".to_owned(), runner];
    }
    for words in &patch.tests {
        let config = &config;
        let test = ["test", "--target-dir"];
        // A failure to build must not pass for a test that fails.
        let build = cmd!(sh, "cargo {test...} {target} --no-run {words...}");
        let built = run_logged(build.into(), &log)?.success();
        ensure!(built, "it does not build: see {}", log.display());
        // Kills what the test has started, too.
        let run = cmd!(
            sh,
            "timeout --signal KILL {TIMEOUT} cargo {test...} {target} {config...} {words...}"
        );
        match run_logged(run.into(), &log)?.code() {
            Some(0) => {
                let words = words.join(" ");
                ensure!(has_run_tests(&log), "`cargo test {words}` runs no test");
            }
            None | Some(137) => return Ok(Outcome::Found("a test that hangs".into())),
            Some(_) => return Ok(Outcome::Found(failed_test(&log))),
        }
    }
    Ok(Outcome::Missed)
}

/// Runs a command with its output in a file.
fn run_logged(mut command: Command, log: &Path) -> Result<ExitStatus> {
    let file = File::create(log)?;
    let output = command.stdout(file.try_clone()?).stderr(file);
    let status = output.stdin(Stdio::null()).status();
    status.with_context(|| format!("cannot start {}", command.get_program().display()))
}

/// Whether a log of the test harness counts any test.
fn has_run_tests(log: &Path) -> bool {
    let text = fs::read(log).unwrap_or_default();
    let text = String::from_utf8_lossy(&text);
    let mut counts = text
        .lines()
        .filter_map(|line| line.strip_prefix("running "));
    counts.any(|count| !count.starts_with("0 "))
}

/// The first failed test in a log of the test harness.
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
