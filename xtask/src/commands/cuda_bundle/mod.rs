//! `cargo xtask cuda-bundle`: tests and benchmarks in one folder, to run on a machine that has a GPU
//! and the right torch, but neither Rust nor a compiler. `run.sh --prove` there writes a proof, which
//! `cargo xtask bench --proof` takes into `docs/benchmarks.md`.

use std::fs;
use std::io;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;

use anyhow::{Context, Result, ensure};
use serde_json::json;
use xshell::{Shell, cmd};

use crate::executable::{self, Executable};
use crate::install::libtorch;
use crate::machine;
use crate::mirror;
use crate::release::BUNDLED;
use crate::shell;

const RUN: &str = include_str!("run.sh");
const PROVE: &str = include_str!("prove.py");

/// The largest bundle that is handed around.
const MAX_BYTES: u64 = 60_000_000;

/// Tests that run cargo.
const NEED_CARGO: [&str; 2] = ["compile_fail", "programs"];

/// Files that only a build reads.
const BUILD_ONLY: [&str; 5] = ["rs", "toml", "stderr", "snap", "md"];

pub(crate) fn run(root: &Path) -> Result<()> {
    let libtorch = libtorch::prepare(root, BUNDLED)?;
    let sh = mirror::prepare(root, BUNDLED, &libtorch)?;
    sh.set_var("TORCHCACHE_LINK_CUDA", "1");
    let programs = build(&sh)?;
    let bundle = root.join("cuda-bundle");
    fill(&sh, &bundle, &programs, root)?;

    let bytes = size(&bundle).with_context(|| format!("cannot read {}", bundle.display()))?;
    ensure!(
        bytes <= MAX_BYTES,
        "{} has {} MB; expected at most {}: leave out programs or data",
        bundle.display(),
        bytes / 1_000_000,
        MAX_BYTES / 1_000_000
    );
    println!(
        "{}: {} programs, {:.1} MB. On the other machine: bash cuda-bundle/run.sh --prove",
        bundle.display(),
        programs.len(),
        bytes as f64 / 1e6
    );
    Ok(())
}

/// Builds the optimised tests, the programs that they start, and the benchmarks. By one command, since
/// the selected packages decide the features of their dependencies.
fn build(sh: &Shell) -> Result<Vec<Executable>> {
    let packages = ["torchcache", "torchcache-tests", "torchcache-benches"];
    let packages = packages.map(|package| format!("--package={package}"));
    let format = ["--message-format", "json-render-diagnostics"];
    let build = cmd!(
        sh,
        "cargo bench --no-run --tests --benches {packages...} {format...}"
    );
    let mut programs = executable::parse(&shell::read(build)?);
    // cargo lists them in the order in which they were done; tests are to run first.
    programs.sort_by_key(|program| (program.kind, program.target.clone()));
    programs.retain(|program| !NEED_CARGO.contains(&program.target.as_str()));
    programs
        .iter()
        .try_for_each(|program| check_cuda(&program.path))?;
    Ok(programs)
}

/// Fills the folder: the programs, data files where their sources are, a list and the script.
fn fill(sh: &Shell, bundle: &Path, programs: &[Executable], root: &Path) -> Result<()> {
    sh.remove_path(bundle)?;
    let mut list = String::new();
    for program in programs {
        list += &pack(sh, program, bundle)?;
    }
    for file in mirror::sources(root)?
        .iter()
        .filter(|file| is_test_data(file))
    {
        sh.create_dir(bundle.join(file).parent().expect("a file is in a folder"))?;
        sh.copy_file(root.join(file), bundle.join(file))?;
    }
    sh.write_file(bundle.join("programs"), list)?;
    let commit = cmd!(sh, "git -C {root} describe --always --dirty");
    let facts = json!({
        "versions": machine::versions(BUNDLED),
        "commit": commit.quiet().ignore_stderr().read().unwrap_or_default(),
    });
    sh.write_file(bundle.join("bundle.json"), facts.to_string())?;
    sh.write_file(bundle.join("prove.py"), PROVE)?;
    let script = bundle.join("run.sh");
    sh.write_file(&script, RUN.replace("@TORCH@", BUNDLED.torch))?;
    fs::set_permissions(&script, fs::Permissions::from_mode(0o755))
        .context("cannot make run.sh executable")
}

/// A program that is not linked to libtorch_cuda would pass every test, on the CPU.
fn check_cuda(program: &Path) -> Result<()> {
    let bytes = fs::read(program).with_context(|| format!("cannot read {}", program.display()))?;
    let name = b"libtorch_cuda.so\0";
    ensure!(
        bytes.windows(name.len()).any(|window| window == name),
        "{} is not linked to libtorch_cuda: its package needs the build.rs of tests/",
        program.display()
    );
    Ok(())
}

/// Copies a program without symbols into the bundle, and returns its line of the list.
fn pack(sh: &Shell, program: &Executable, bundle: &Path) -> Result<String> {
    let package = program.package.strip_prefix(sh.current_dir());
    let package = package.unwrap_or(&program.package);
    let file = program.path.file_name().expect("an executable has a name");
    let packed = bundle.join("bin").join(file);
    sh.create_dir(bundle.join("bin"))?;
    sh.create_dir(bundle.join(package))?;
    sh.copy_file(&program.path, &packed)?;
    cmd!(sh, "strip {packed}").quiet().run()?;
    Ok(format!(
        "{} {} {} {}\n",
        program.kind.name(),
        package.display(),
        program.target,
        file.display()
    ))
}

fn is_test_data(file: &Path) -> bool {
    let packages = ["torchcache", "tests", "benches", "examples"];
    let packed = packages.iter().any(|package| file.starts_with(package));
    let extension = file.extension().and_then(|extension| extension.to_str());
    packed && !BUILD_ONLY.contains(&extension.unwrap_or_default())
}

/// Bytes of all files below a folder.
fn size(folder: &Path) -> io::Result<u64> {
    let mut files = mirror::files_below(folder)?.into_iter();
    files.try_fold(0, |sum, file| {
        Ok(sum + fs::metadata(folder.join(file))?.len())
    })
}

#[cfg(test)]
mod prove_tests;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn data_of_tests_is_packed_and_sources_are_not() {
        for file in [
            "tests/fixtures/v1.segment",
            "examples/data/digits.csv",
            "torchcache/tests/x",
        ] {
            assert!(is_test_data(Path::new(file)), "{file}");
        }
        for file in [
            "tests/a.rs",
            "tests/ui/a.stderr",
            "docs/format.md",
            "torchcache-store/x",
        ] {
            assert!(!is_test_data(Path::new(file)), "{file}");
        }
    }

    #[test]
    fn the_script_has_one_place_for_the_torch_version() {
        assert_eq!(RUN.matches("@TORCH@").count(), 1);
    }

    #[test]
    fn a_program_not_linked_to_libtorch_cuda_is_rejected() {
        let folder = tempfile::tempdir().unwrap();
        let (with, without) = (folder.path().join("with"), folder.path().join("without"));
        fs::write(&with, b"\x7fELF\0libtorch_cuda.so\0libc10.so\0").unwrap();
        fs::write(&without, b"\x7fELF\0libc10.so\0").unwrap();
        assert!(check_cuda(&with).is_ok());
        assert!(check_cuda(&without).is_err());
    }
}
