//! `cargo xtask demo`: the main job as one optimised program.

use std::ffi::OsString;
use std::path::Path;

use crate::error::Result;
use crate::libtorch;
use crate::release;

pub(crate) fn run(root: &Path, args: &[OsString]) -> Result<()> {
    let cargo = libtorch::prepare(root, release::DEFAULT)?.cargo(root);
    let job = [
        "run",
        "--release",
        "--package",
        "torchcache-examples",
        "--example",
        "transfer_learning",
    ];
    let job = job.map(OsString::from).into_iter();
    match args.is_empty() {
        true => cargo.run(job),
        false => cargo.run(job.chain(["--".into()]).chain(args.iter().cloned())),
    }
}
