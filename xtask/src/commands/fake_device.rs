//! `cargo xtask test --device fake`: the tests of behaviour on the fake CUDA device of `tests/fake_cuda`.

use std::ffi::OsString;
use std::path::Path;

use anyhow::{Context, Result};
use xshell::{Shell, cmd};

use crate::commands::test;
use crate::install::{fake_cuda, libtorch, readback, seaweedfs};
use crate::machine;
use crate::mirror;
use crate::release::Release;
use crate::shell;

const SPARSE: &str = "the fake device has no sparse tensors";

/// Tests that do not hold on the fake device, and why.
const LEFT_OUT: &[(&str, &str)] = &[
    (
        "opaque_fields::private_weights_are_known_to_a_wrapper_in_a_field",
        "the fake device has no kernel for LSTM cells",
    ),
    (
        "shared_arguments::a_sparse_shared_tensor_that_requires_grad_bypasses",
        SPARSE,
    ),
    (
        "shared_arguments::lists_of_shared_tensors_have_any_layout",
        SPARSE,
    ),
    (
        "shared_arguments::sparse_shared_tensors_are_keyed_by_stored_values",
        SPARSE,
    ),
];

/// The variable that has the library hash on the device.
const HASHING: &str = "TORCHCACHE_DEVICE_HASHING";

/// Tests that run once more, without the kernels.
const ON_THE_HOST: [&str; 7] = [
    "device_copies::",
    "device_tier::",
    "nested_modules::",
    "optimizer_steps::",
    "random_inputs::",
    "shared_arguments::",
    "weight_changes::",
];

/// Every test of behaviour, those for the fake device alone too, or those that `args` name. The library hashes on the
/// device, unless a variable says otherwise.
pub(crate) fn run(root: &Path, release: &'static Release, args: &[OsString]) -> Result<()> {
    let libtorch = libtorch::prepare(root, release)?;
    let sh = match release.is_default() {
        true => libtorch.shell(root)?,
        false => mirror::prepare(root, release, &libtorch)?,
    };
    readback::prepare(root, &sh)?;
    seaweedfs::prepare(root, &sh)?;
    test::fix_random_cases(&sh);
    let hashing = sh.var_os(HASHING);
    let runner = prepare(root, release, &libtorch.folder, &sh)?;
    for (test, reason) in LEFT_OUT {
        eprintln!("left out: {test}: {reason}");
    }
    if let Some(hashing) = &hashing {
        sh.set_var(HASHING, hashing);
    }
    run_tests(&sh, &runner, args)?;
    if args.is_empty() && hashing.is_none() {
        sh.set_var(HASHING, "off");
        run_tests(&sh, &runner, &ON_THE_HOST.map(OsString::from))?;
    }
    Ok(())
}

/// Sets the variables of tests on the fake device, and returns the setting that has cargo run them there.
pub(crate) fn prepare(
    root: &Path,
    release: &Release,
    libtorch: &Path,
    sh: &Shell,
) -> Result<String> {
    let [device, driver] = fake_cuda::libraries(root, release, libtorch)?;
    if sh.var_os("TORCHCACHE_LINK_CUDA").is_some() {
        // A GPU would be the device.
        sh.set_var("TORCHCACHE_LINK_CUDA", "0");
    }
    sh.set_var("TORCHCACHE_TEST_DEVICE", "cuda");
    sh.set_var(HASHING, "on");
    // The runner starts the tests, and nothing else: cargo and the compiler go without libtorch.
    let host = machine::host().context("`rustc -vV` prints no host")?;
    Ok(format!(
        "target.{host}.runner = ['env', 'LD_PRELOAD={}:{}']",
        device.display(),
        driver.display()
    ))
}

fn run_tests(sh: &Shell, runner: &str, args: &[OsString]) -> Result<()> {
    let tests = ["--test", "behaviour", "--config", runner];
    let skip = LEFT_OUT.iter().flat_map(|(test, _)| ["--skip", test]);
    if shell::has_nextest(sh) {
        // With the features of the other tests of the workspace, nothing is built again for these.
        let only = ["--workspace", "-E", "package(torchcache-tests)"];
        return shell::run(cmd!(
            sh,
            "cargo nextest run --profile all --run-ignored all {only...} {tests...} -- {skip...} {args...}"
        ));
    }
    // One after another: they count copies of the whole process.
    shell::run(cmd!(
        sh,
        "cargo test --no-fail-fast --package torchcache-tests {tests...} -- --include-ignored --test-threads 1 {skip...} {args...}"
    ))
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs;

    #[test]
    fn tests_that_are_left_out_exist() {
        let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("../tests/behaviour");
        for (test, reason) in LEFT_OUT {
            let (module, name) = test.rsplit_once("::").expect("a path");
            let file = root.join(module.replace("::", "/")).with_extension("rs");
            let text = fs::read_to_string(file).unwrap();
            assert!(text.contains(&format!("fn {name}()")), "{test}: {reason}");
        }
    }
}
