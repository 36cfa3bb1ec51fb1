//! `cargo xtask sanitize`: undefined behaviour. AddressSanitizer runs the tests of everything that is
//! part of a user's process; valgrind, which also finds uninitialised memory and is much slower, runs
//! the unit tests next to the unsafe code.

use std::path::Path;

use anyhow::{Context, Result, ensure};
use xshell::{Cmd, Shell, cmd};

use crate::install::libtorch;
use crate::machine;
use crate::release::DEFAULT;
use crate::shell;

pub(crate) fn run(root: &Path) -> Result<()> {
    let sh = libtorch::prepare(root, DEFAULT)?.shell(root)?;
    require(cmd!(sh, "valgrind --version"), "install valgrind")?;
    let compiler = cmd!(sh, "rustup run nightly rustc --version");
    require(compiler, "run `rustup toolchain install nightly`")?;
    let host = machine::host().context("`rustc -vV` prints no host")?;
    valgrind(&sh, &host)?;
    address_sanitizer(&sh, &host)
}

fn valgrind(sh: &Shell, host: &str) -> Result<()> {
    let suppressions = sh.current_dir().join("xtask/valgrind.supp");
    let runner = format!(
        "target.{host}.runner = ['valgrind', '--quiet', '--error-exitcode=1', \
         '--suppressions={}']",
        suppressions.display()
    );
    let packages = ["--package", "torchcache", "--package", "torchcache-store"];
    // Simulations of millions of rows, in safe code.
    let skipped = ["--skip", "admission", "--skip", "index"];
    shell::run(cmd!(
        sh,
        "cargo test --no-fail-fast --lib --config {runner} {packages...} -- {skipped...}"
    ))
}

fn address_sanitizer(sh: &Shell, host: &str) -> Result<()> {
    let sh = sh.clone();
    sh.set_var("RUSTFLAGS", "-Zsanitizer=address");
    sh.set_var("ASAN_OPTIONS", "detect_stack_use_after_return=1");
    // Some tests measure the memory of their whole process.
    sh.set_var("RUST_TEST_THREADS", "1");
    let library = "--package torchcache --package torchcache-tests --lib --test behaviour";
    let store = "--package torchcache-store --package torchcache-faults --lib --tests";
    for tests in [library, store] {
        let tests = tests.split(' ');
        // With a target named, build scripts and macros go without the sanitizer.
        let build = ["--target", host, "--target-dir", "target/sanitize"];
        shell::run(cmd!(
            sh,
            "rustup run nightly cargo test --no-fail-fast {build...} {tests...}"
        ))?;
    }
    Ok(())
}

fn require(command: Cmd<'_>, remedy: &str) -> Result<()> {
    let shown = command.to_string();
    let works = command
        .quiet()
        .ignore_stdout()
        .ignore_stderr()
        .run()
        .is_ok();
    ensure!(works, "`{shown}` does not work: {remedy}");
    Ok(())
}
