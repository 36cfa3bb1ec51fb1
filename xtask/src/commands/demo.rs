//! `cargo xtask demo`: the example `transfer_learning`, optimised.

use std::ffi::OsString;
use std::path::Path;

use anyhow::Result;
use xshell::cmd;

use crate::install::libtorch;
use crate::release::DEFAULT;
use crate::shell;

pub(crate) fn run(root: &Path, args: &[OsString]) -> Result<()> {
    let sh = libtorch::prepare(root, DEFAULT)?.shell(root)?;
    let example = [
        "--package",
        "torchcache-examples",
        "--example",
        "transfer_learning",
    ];
    shell::run(cmd!(sh, "cargo run --release {example...} -- {args...}"))
}
