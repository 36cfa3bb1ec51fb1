//! `cargo xtask cuda-bundle`: the tests and benchmarks as one folder that runs where there is a
//! GPU and the bundled release's torch, but neither Rust nor a compiler.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::Command;

use crate::cargo::Cargo;
use crate::error::{Error, Result};
use crate::executable::{self, Executable};
use crate::libtorch;
use crate::mirror;
use crate::release::BUNDLED;

const RUN: &str = include_str!("run.sh");

/// More than this is no longer handed around.
const MOST_BYTES: u64 = 60_000_000;

/// Tests that run cargo, which is not there.
const NEED_CARGO: [&str; 1] = ["compile_fail"];

/// Files that only a build reads.
const BUILD_ONLY: [&str; 5] = ["rs", "toml", "stderr", "snap", "md"];

pub(crate) fn run(root: &Path) -> Result<()> {
    let libtorch = libtorch::prepare(root, BUNDLED)?;
    let mut cargo = mirror::prepare(root, BUNDLED, &libtorch)?;
    cargo.variables.push(("TORCHCACHE_LINK_CUDA", "1".into()));

    let programs = build(&cargo)?;
    let bundle = root.join("cuda-bundle");
    fill(&bundle, &programs, &cargo.root, root)?;

    let bytes = size(&bundle).map_err(Error::io(format!("read {}", bundle.display())))?;
    if bytes > MOST_BYTES {
        return Err(Error::Failed(format!(
            "{} holds {} MB, and {} MB are the most: leave out programs or data",
            bundle.display(),
            bytes / 1_000_000,
            MOST_BYTES / 1_000_000
        )));
    }
    println!(
        "{}: {} programs, {:.1} MB. On the other machine: bash cuda-bundle/run.sh",
        bundle.display(),
        programs.len(),
        bytes as f64 / 1e6
    );
    Ok(())
}

/// The optimised tests, with the programs they start, and the benchmarks. They are built by one
/// command, since what cargo selects together decides the features of what they all need.
fn build(cargo: &Cargo) -> Result<Vec<Executable>> {
    let targets = ["bench", "--no-run", "--tests", "--benches"];
    let packages = [
        "-p",
        "torchcache",
        "-p",
        "torchcache-tests",
        "-p",
        "torchcache-benches",
    ];
    let form = ["--message-format", "json-render-diagnostics"];
    let messages = cargo.output(targets.iter().chain(&packages).chain(&form))?;
    let mut programs = executable::parse(&messages);
    // Cargo reports them as they are done; they are to run tests first.
    programs.sort_by_key(|program| (program.kind, program.target.clone()));
    programs.retain(|program| !NEED_CARGO.contains(&program.target.as_str()));
    programs
        .iter()
        .try_for_each(|program| check_cuda(&program.path))?;
    Ok(programs)
}

/// Makes the folder anew: the programs, the data beside their sources, a list and the script.
fn fill(bundle: &Path, programs: &[Executable], built_in: &Path, root: &Path) -> Result<()> {
    if bundle.exists() {
        fs::remove_dir_all(bundle).map_err(Error::io(format!("empty {}", bundle.display())))?;
    }
    let mut list = String::new();
    for program in programs {
        list += &pack(program, built_in, bundle)?;
    }
    for file in mirror::sources(root)?
        .iter()
        .filter(|file| is_read_by_tests(file))
    {
        copy(&root.join(file), &bundle.join(file))?;
    }
    write(&bundle.join("programs"), &list)?;
    let script = bundle.join("run.sh");
    write(&script, &RUN.replace("@TORCH@", BUNDLED.torch))?;
    fs::set_permissions(&script, fs::Permissions::from_mode(0o755))
        .map_err(Error::io("make run.sh executable"))
}

/// A program that does not ask for libtorch_cuda would pass every test, on the CPU.
fn check_cuda(program: &Path) -> Result<()> {
    let bytes = fs::read(program).map_err(Error::io(format!("read {}", program.display())))?;
    let name = b"libtorch_cuda.so\0";
    match bytes.windows(name.len()).any(|window| window == name) {
        true => Ok(()),
        false => Err(Error::Failed(format!(
            "{} is not linked to libtorch_cuda: its package needs the build.rs of tests/",
            program.display()
        ))),
    }
}

/// Puts a program, without symbols, into the bundle, and gives its line in the list.
fn pack(program: &Executable, root: &Path, bundle: &Path) -> Result<String> {
    let package = program
        .package
        .strip_prefix(root)
        .unwrap_or(&program.package);
    let name = program
        .path
        .file_name()
        .expect("an executable has a name")
        .to_string_lossy();
    let to = bundle.join("bin").join(&*name);
    copy(&program.path, &to)?;
    fs::create_dir_all(bundle.join(package)).map_err(Error::io("make a package's folder"))?;
    match Command::new("strip").arg(&to).status() {
        Ok(status) if status.success() => {
            let kind = program.kind.name();
            Ok(format!(
                "{kind} {} {} {name}\n",
                package.display(),
                program.target
            ))
        }
        _ => Err(Error::Failed(format!(
            "strip, of the C++ compiler, failed on {}",
            to.display()
        ))),
    }
}

fn is_read_by_tests(file: &Path) -> bool {
    let of_a_packed_package = ["torchcache", "tests", "benches", "examples"]
        .iter()
        .any(|package| file.starts_with(package));
    let extension = file
        .extension()
        .and_then(|extension| extension.to_str())
        .unwrap_or_default();
    of_a_packed_package && !BUILD_ONLY.contains(&extension)
}

fn copy(from: &Path, to: &PathBuf) -> Result<()> {
    fs::create_dir_all(to.parent().expect("a file lies in a folder"))
        .and_then(|()| fs::copy(from, to))
        .map(|_| ())
        .map_err(Error::io(format!(
            "copy {} to {}",
            from.display(),
            to.display()
        )))
}

fn write(to: &Path, text: &str) -> Result<()> {
    fs::write(to, text).map_err(Error::io(format!("write {}", to.display())))
}

fn size(folder: &Path) -> std::io::Result<u64> {
    fs::read_dir(folder)?.try_fold(0, |sum, entry| {
        let entry = entry?;
        let data = entry.metadata()?;
        Ok(sum
            + if data.is_dir() {
                size(&entry.path())?
            } else {
                data.len()
            })
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn data_of_the_packed_packages_is_taken_and_what_only_a_build_reads_is_not() {
        for file in [
            "tests/fixtures/v1.segment",
            "examples/data/digits.csv",
            "torchcache/tests/x",
        ] {
            assert!(is_read_by_tests(Path::new(file)), "{file}");
        }
        for file in [
            "tests/a.rs",
            "tests/ui/a.stderr",
            "docs/format.md",
            "torchcache-store/x",
        ] {
            assert!(!is_read_by_tests(Path::new(file)), "{file}");
        }
    }

    #[test]
    fn the_script_names_the_torch_it_needs_in_one_place() {
        assert_eq!(RUN.matches("@TORCH@").count(), 1);
    }

    #[test]
    fn a_program_without_libtorch_cuda_is_refused() {
        let folder = tempfile::tempdir().unwrap();
        let (with, without) = (folder.path().join("with"), folder.path().join("without"));
        fs::write(&with, b"\x7fELF\0libtorch_cuda.so\0libc10.so\0").unwrap();
        fs::write(&without, b"\x7fELF\0libc10.so\0").unwrap();
        assert!(check_cuda(&with).is_ok());
        assert!(check_cuda(&without).is_err());
    }
}
