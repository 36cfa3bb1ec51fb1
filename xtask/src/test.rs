//! `cargo xtask test`: every test of the workspace with one tch release.

use std::ffi::{OsStr, OsString};
use std::path::Path;

use crate::cargo::Cargo;
use crate::error::Result;
use crate::libtorch;
use crate::minilm;
use crate::mirror;
use crate::readback;
use crate::release::Release;

pub(crate) fn run(root: &Path, release: &'static Release, args: &[OsString]) -> Result<()> {
    let libtorch = libtorch::prepare(root, release)?;
    let cargo = match release.is_default() {
        true => libtorch.cargo(root),
        false => mirror::prepare(root, release, &libtorch)?,
    };
    // The tests run every example, one of which needs a model. In the copy of the sources for
    // another tch it would look for it below that copy.
    let cargo = cargo.with(minilm::VARIABLE, minilm::folder(root)?);
    let cargo = readback::prepare(root, cargo)?;

    // The doc tests come first, so that the last line is the count of the main run. nextest does
    // not run doc tests, and `cargo test` alone would end with the few of the last crate.
    if args.is_empty() {
        cargo.run(["test", "--workspace", "--doc"])?;
    }
    if args.is_empty() && release.is_default() {
        print!("{}", interleavings(&cargo, None)?);
    }
    let runner: &[&str] = if cargo.has("nextest") {
        &["nextest", "run", "--workspace"]
    } else {
        // Unlike nextest, cargo does not build the examples, which tests start, for `--tests`.
        cargo.run(["build", "--workspace", "--examples"])?;
        &["test", "--workspace", "--tests", "--no-fail-fast"]
    };
    let runner = runner.iter().map(OsStr::new);
    cargo.run(runner.chain(args.iter().map(OsString::as_os_str)))
}

/// The model checker's tests, for which the store is built with its locks: in a folder of their own,
/// or everything else would be built anew. They know nothing of tch. `tries` is how many interleavings
/// of each model each of its two schedulers tries.
///
/// Returns what they say.
pub(crate) fn interleavings(cargo: &Cargo, tries: Option<u32>) -> Result<String> {
    let mut checker = cargo.with("RUSTFLAGS", "--cfg shuttle");
    let mut profile = None;
    if let Some(tries) = tries {
        checker = checker.with("TORCHCACHE_INTERLEAVINGS", tries.to_string());
        profile = Some("--release"); // many tries are worth it
    }
    let target = ["--package", "torchcache-faults", "--test", "interleavings"];
    let folder = ["--target-dir", "target/interleavings"];
    let show = ["--", "--nocapture"];
    let test = ["test"].iter().chain(&profile);
    checker.test_output(test.chain(&target).chain(&folder).chain(&show))
}
