//! The commands that are one optimised program: the demo and the benchmarks.

use std::ffi::OsString;
use std::path::Path;

use crate::error::Result;
use crate::libtorch;
use crate::release;

pub(crate) fn demo(root: &Path, args: &[OsString]) -> Result<()> {
    let job = [
        "run",
        "--release",
        "--package",
        "torchcache-examples",
        "--example",
        "transfer_learning",
    ];
    run(root, &job, args)
}

pub(crate) fn bench(root: &Path, args: &[OsString]) -> Result<()> {
    run(root, &["bench", "--package", "torchcache-benches"], args)
}

fn run(root: &Path, job: &[&str], args: &[OsString]) -> Result<()> {
    let cargo = libtorch::prepare(root, release::DEFAULT)?.cargo(root);
    let job = job.iter().map(OsString::from);
    let passed = args.iter().cloned();
    match args.is_empty() {
        true => cargo.run(job),
        false => cargo.run(job.chain(["--".into()]).chain(passed)),
    }
}
