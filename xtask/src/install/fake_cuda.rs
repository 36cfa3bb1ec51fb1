//! The fake CUDA device of `tests/fake_cuda`, compiled with the C++ compiler that torch-sys needs as well.

use std::env;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::UNIX_EPOCH;

use anyhow::{Context, Result, ensure};

use crate::install::staged::{Partial, Staged};
use crate::release::Release;

/// The files to compile, of the device and of its driver, and those that they include.
const SOURCES: [&str; 4] = [
    "tests/fake_cuda/fake_cuda.cpp",
    "tests/fake_cuda/fake_driver.cpp",
    "tests/fake_cuda/kernels_on_host.h",
    "torchcache/src/device/kernels.cu",
];

const DEVICE: &str = "libfake_cuda.so";

/// The name by which the driver is found.
const DRIVER: &str = "libcuda.so.1";

/// The libraries to preload, compiled again if their sources, the compiler or libtorch changed: the device, and
/// its driver, without which it is a device that runs no kernels.
pub(crate) fn libraries(root: &Path, release: &Release, libtorch: &Path) -> Result<[PathBuf; 2]> {
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
        compile(&compiler, root, libtorch, partial)
    })?;
    Ok([DEVICE, DRIVER].map(|library| folder.join(library)))
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

fn compile(compiler: &str, root: &Path, libtorch: &Path, partial: &Partial) -> Result<()> {
    eprintln!("compiling the fake CUDA device and its driver below target/");
    let [device, driver, ..] = SOURCES.map(|source| root.join(source));
    let (include, lib) = (libtorch.join("include"), libtorch.join("lib"));
    let mut command = shared_library(compiler, &device, &partial.content.join(DEVICE));
    command
        .arg("-O1")
        .arg("-isystem")
        .arg(&include)
        .arg("-L")
        .arg(&lib)
        .args(["-ltorch_cpu", "-lc10"])
        .arg(format!("-Wl,-rpath,{}", lib.display()));
    run(command, compiler, &device)?;
    let mut command = shared_library(compiler, &driver, &partial.content.join(DRIVER));
    command.arg("-O2").arg(format!("-Wl,-soname,{DRIVER}"));
    run(command, compiler, &driver)
}

fn shared_library(compiler: &str, source: &Path, library: &Path) -> Command {
    // As for torch-sys, `CXX` may hold a wrapper and arguments: `ccache g++`.
    let mut words = compiler.split_whitespace();
    let mut command = Command::new(words.next().unwrap_or("c++"));
    command
        .args(words)
        .args(["-std=c++20", "-fPIC", "-shared", "-Wall", "-Wextra"])
        .arg(source)
        .arg("-o")
        .arg(library);
    command
}

fn run(mut command: Command, compiler: &str, source: &Path) -> Result<()> {
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
