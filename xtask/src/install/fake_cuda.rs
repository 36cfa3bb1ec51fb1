//! The fake CUDA device of `tests/fake_cuda`, compiled with the C++ compiler that torch-sys needs as well.

use std::env;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::UNIX_EPOCH;

use anyhow::{Context, Result, ensure};

use crate::install::staged::{Partial, Staged};
use crate::release::Release;

/// The file to compile, and those that it includes.
const SOURCES: [&str; 3] = [
    "tests/fake_cuda/fake_cuda.cpp",
    "tests/fake_cuda/kernels_on_host.h",
    "torchcache/src/device/kernels.cu",
];

const LIBRARY: &str = "libfake_cuda.so";

/// The library to preload, compiled again if its sources, the compiler or libtorch changed.
pub(crate) fn library(root: &Path, release: &Release, libtorch: &Path) -> Result<PathBuf> {
    ensure!(
        cfg!(target_os = "linux"),
        "the fake CUDA device is preloaded with LD_PRELOAD, which needs Linux"
    );
    let compiler = env::var("CXX").unwrap_or_else(|_| "c++".to_owned());
    let mut stamp = format!("{compiler}\n{}\n", identify(libtorch)?);
    for source in SOURCES.map(|source| root.join(source)) {
        stamp += &fs::read_to_string(&source)
            .with_context(|| format!("cannot read {}", source.display()))?;
    }
    let staged = Staged {
        parent: &root.join("target/fake-cuda"),
        name: release.torch,
    };
    let folder = staged.ensure(&[stamp], |partial| {
        compile(&compiler, &root.join(SOURCES[0]), libtorch, partial)
    })?;
    Ok(folder.join(LIBRARY))
}

/// Path, size and time of the library that the fake device is linked to.
fn identify(libtorch: &Path) -> Result<String> {
    let path = libtorch.join("lib/libtorch_cpu.so");
    let identify = || {
        let metadata = fs::metadata(&path)?;
        let modified = metadata.modified()?.duration_since(UNIX_EPOCH);
        let seconds = modified.map_or(0, |time| time.as_secs());
        anyhow::Ok(format!("{} {} {seconds}", path.display(), metadata.len()))
    };
    identify().with_context(|| format!("cannot read {}", path.display()))
}

fn compile(compiler: &str, source: &Path, libtorch: &Path, partial: &Partial) -> Result<()> {
    eprintln!("compiling the fake CUDA device below target/");
    // As for torch-sys, `CXX` may hold a wrapper and arguments: `ccache g++`.
    let mut words = compiler.split_whitespace();
    let mut command = Command::new(words.next().unwrap_or("c++"));
    let include = libtorch.join("include");
    let lib = libtorch.join("lib");
    command
        .args(words)
        .args(["-std=c++20", "-O1", "-fPIC", "-shared", "-Wall", "-Wextra"])
        .arg("-isystem")
        .arg(&include)
        .arg(source)
        .arg("-o")
        .arg(partial.content.join(LIBRARY))
        .arg("-L")
        .arg(&lib)
        .args(["-ltorch_cpu", "-lc10"])
        .arg(format!("-Wl,-rpath,{}", lib.display()));
    let status = command
        .status()
        .with_context(|| format!("cannot start {compiler}; set CXX to a C++ compiler"))?;
    ensure!(
        status.success(),
        "{compiler} cannot compile {}: {status}; it needs C++20",
        source.display()
    );
    Ok(())
}
