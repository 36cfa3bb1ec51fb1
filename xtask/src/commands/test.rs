//! `cargo xtask test`: the tests of the workspace with one tch release.

use std::ffi::OsString;
use std::path::Path;

use anyhow::Result;
use xshell::{Shell, cmd};

use crate::commands::{clone, servers};
use crate::install::{libtorch, minilm, readback, seaweedfs};
use crate::mirror;
use crate::release::Release;
use crate::shell::{self, Reported};

/// The usual tests, `all` of them, or those that `args` name, wherever they belong.
pub(crate) fn run(
    root: &Path,
    release: &'static Release,
    all: bool,
    args: &[OsString],
) -> Result<()> {
    let libtorch = libtorch::prepare(root, release)?;
    let sh = match release.is_default() {
        true => libtorch.shell(root)?,
        false => mirror::prepare(root, release, &libtorch)?,
    };
    // Set for the copy of the sources as well, which has no `target/minilm`.
    sh.set_var(minilm::VARIABLE, minilm::folder(root)?);
    readback::prepare(root, &sh)?;
    seaweedfs::prepare(root, &sh)?;
    fix_random_cases(&sh);

    // nextest runs no doc tests. They come first, so that the last line is the summary of the tests.
    if args.is_empty() {
        shell::run(cmd!(sh, "cargo test --workspace --doc"))?;
    }
    let mut not_run = Vec::new();
    let mut others = Vec::new();
    if all && release.is_default() {
        let printed = interleavings(&sh, None).map(|output| print!("{output}"));
        others.push(("the interleavings", printed));
        if args.is_empty() {
            let servers = servers::run(root).map(|lines| not_run = lines);
            others.push(("the tests on other servers", servers));
            others.push(("the clone", clone::check(root, &libtorch, &sh)));
        }
    }
    let tested = run_tests(&sh, all, args);
    servers::report(&not_run);
    first_error(tested, others)
}

/// Prints what else failed, after the tests' summary. The error of the tests is the first.
fn first_error(tested: Result<()>, others: Vec<(&str, Result<()>)>) -> Result<()> {
    let failed = others
        .into_iter()
        .filter_map(|(name, it)| Some((name, it.err()?)));
    failed.fold(tested, |first, (name, error)| {
        eprintln!("FAILED: {name}: {error:#}");
        first.and(Err(Reported.into()))
    })
}

fn run_tests(sh: &Shell, all: bool, args: &[OsString]) -> Result<()> {
    if shell::has_nextest(sh) {
        let profile = match all || !args.is_empty() {
            true => "all",
            false => "default",
        };
        let nextest = cmd!(
            sh,
            "cargo nextest run --workspace --profile {profile} {args...}"
        );
        return shell::run(nextest);
    }
    eprintln!("cargo-nextest is not installed: running the long tests as well");
    // Tests start examples, which cargo builds for `--tests` only on request.
    shell::run(cmd!(sh, "cargo build --workspace --examples"))?;
    shell::run(cmd!(
        sh,
        "cargo test --workspace --tests --no-fail-fast {args...}"
    ))
}

/// Gives random tests the same cases in every run, so that a change fails for what it changed. `soak` runs new ones, and
/// so does a run with a number of cases of its own.
pub(crate) fn fix_random_cases(sh: &Shell) {
    const SEED: &str = "PROPTEST_RNG_SEED";
    if [SEED, "PROPTEST_CASES"]
        .iter()
        .all(|name| sh.var_os(name).is_none())
    {
        sh.set_var(SEED, "0");
    }
}

/// Runs the model checker's tests and returns their output. `tries` is the number of interleavings
/// that each of two schedulers tries for each model.
///
/// The store is built with the checker's locks, in a target folder of its own, so that nothing else
/// is built again.
pub(crate) fn interleavings(sh: &Shell, tries: Option<u32>) -> Result<String> {
    let checker = sh.clone();
    checker.set_var("RUSTFLAGS", "--cfg shuttle");
    let mut profile = None;
    if let Some(tries) = tries {
        checker.set_var("TORCHCACHE_INTERLEAVINGS", tries.to_string());
        profile = Some("--release");
    }
    let target = ["--package", "torchcache-faults", "--test", "interleavings"];
    let folder = ["--target-dir", "target/interleavings"];
    let test = cmd!(
        checker,
        "cargo test {profile...} {target...} {folder...} -- --nocapture"
    );
    shell::read_tests(test)
}

#[cfg(test)]
mod tests {
    use anyhow::anyhow;

    use super::*;

    #[test]
    fn a_run_fails_if_anything_failed() {
        let servers = |result| vec![("servers", result), ("clone", Ok(()))];
        assert!(first_error(Ok(()), servers(Ok(()))).is_ok());
        let error = first_error(Ok(()), servers(Err(anyhow!("no network")))).unwrap_err();
        assert!(error.is::<Reported>(), "it is printed");
        let tested = Err(anyhow!("no nextest"));
        let error = first_error(tested, servers(Err(anyhow!("no network")))).unwrap_err();
        assert_eq!(error.to_string(), "no nextest");
    }
}
