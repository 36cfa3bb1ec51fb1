//! `cargo xtask sanitize`: undefined behaviour. AddressSanitizer watches the tests of everything that
//! runs in a user's process; valgrind, which knows uninitialised memory as well and is much slower,
//! those that are next to the unsafe code.

use std::path::Path;
use std::process::{Command, Stdio};

use crate::cargo::Cargo;
use crate::error::{Error, Result};
use crate::libtorch;
use crate::machine;
use crate::release::DEFAULT;

const TOOLCHAIN: &str = "nightly";

pub(crate) fn run(root: &Path) -> Result<()> {
    require("valgrind", &["--version"], "install valgrind")?;
    let compiler = ["run", TOOLCHAIN, "rustc", "--version"];
    require("rustup", &compiler, "rustup toolchain install nightly")?;
    let host = machine::host()
        .ok_or_else(|| Error::Failed("`rustc -vV` does not say what it builds for".into()))?;
    let cargo = libtorch::prepare(root, DEFAULT)?.cargo(root);
    memcheck(&cargo, &host)?;
    addresses(&cargo, &host)
}

fn memcheck(cargo: &Cargo, host: &str) -> Result<()> {
    let suppressions = cargo.root.join("xtask/valgrind.supp");
    let runner = format!(
        "target.{host}.runner = ['valgrind', '--quiet', '--error-exitcode=1', \
         '--suppressions={}']",
        suppressions.display()
    );
    let test = ["test", "--no-fail-fast", "--lib", "--config", &runner];
    let packages = ["--package", "torchcache", "--package", "torchcache-store"];
    // Simulations of millions of rows, in safe code.
    let but = ["--", "--skip", "admission", "--skip", "index"];
    cargo.run(test.iter().chain(&packages).chain(&but))
}

fn addresses(cargo: &Cargo, host: &str) -> Result<()> {
    let cargo = cargo
        .on(TOOLCHAIN)
        .with("RUSTFLAGS", "-Zsanitizer=address")
        .with("ASAN_OPTIONS", "detect_stack_use_after_return=1")
        // Some measure what their whole process takes.
        .with("RUST_TEST_THREADS", "1");
    // With a target named, what runs while compiling goes without the sanitizer.
    let test = ["test", "--no-fail-fast", "--target", host];
    let folder = ["--target-dir", "target/sanitize"];
    let library = "--package torchcache --package torchcache-tests --lib --test behaviour";
    let store = "--package torchcache-store --package torchcache-faults --lib --tests";
    for what in [library, store] {
        cargo.run(test.into_iter().chain(folder).chain(what.split(' ')))?;
    }
    Ok(())
}

fn require(program: &str, args: &[&str], remedy: &str) -> Result<()> {
    let mut command = Command::new(program);
    command
        .args(args)
        .stdout(Stdio::null())
        .stderr(Stdio::null());
    match command.status() {
        Ok(status) if status.success() => Ok(()),
        _ => Err(Error::Failed(format!(
            "`{program} {}` does not work, which is needed here: {remedy}",
            args.join(" ")
        ))),
    }
}
