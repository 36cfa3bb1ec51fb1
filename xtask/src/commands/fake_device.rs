//! `cargo xtask test --device fake`: the tests of behaviour on the fake CUDA device of `tests/fake_cuda`.

use std::ffi::OsString;
use std::path::Path;

use anyhow::{Context, Result};
use xshell::cmd;

use crate::install::{fake_cuda, libtorch, readback};
use crate::machine;
use crate::mirror;
use crate::release::Release;
use crate::shell;

/// Of a large weight on a GPU each call compares the version, which these steps do not change.
const LARGE_WEIGHTS: &str = "writes to large weights on a GPU need `refresh()`, as the guide says";

const SPARSE: &str = "the fake device has no sparse tensors";

const SLOW: &str =
    "comparing 200 weights takes the fake device longer than calls wait for each other";

/// Tests that do not hold on the fake device, and why.
const LEFT_OUT: &[(&str, &str)] = &[
    (
        "opaque_fields::private_weights_are_known_to_a_wrapper_in_a_field",
        "the fake device has no kernel for LSTM cells",
    ),
    (
        "optimizer_steps::a_step_of_any_optimizer_on_a_pure_embedding_is_noticed",
        LARGE_WEIGHTS,
    ),
    (
        "optimizer_steps::a_step_on_half_of_a_row_is_noticed",
        LARGE_WEIGHTS,
    ),
    (
        "optimizer_steps::a_step_on_one_column_of_a_weight_is_noticed",
        LARGE_WEIGHTS,
    ),
    (
        "optimizer_steps::a_step_on_one_element_of_a_vector_is_noticed",
        LARGE_WEIGHTS,
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
    (
        "shared_handles::a_change_seen_by_16_threads_is_hashed_once",
        SLOW,
    ),
    (
        "shared_handles::a_module_in_16_threads_computes_one_identity",
        SLOW,
    ),
    (
        "shared_handles::calls_that_watch_one_store_do_not_bypass_the_cache",
        SLOW,
    ),
    (
        "weight_changes::a_step_of_sgd_on_few_rows_of_a_large_table_is_noticed",
        LARGE_WEIGHTS,
    ),
    (
        "weight_changes::an_unseen_write_to_a_row_of_any_layout_is_noticed",
        LARGE_WEIGHTS,
    ),
    (
        "weight_changes::weights_that_share_memory_are_watched_each",
        LARGE_WEIGHTS,
    ),
    (
        "weight_changes::running_statistics_moved_by_training_are_noticed",
        "batch_norm writes no running statistics on the fake device",
    ),
];

/// Every test of behaviour, those for the fake device alone too, or those that `args` name.
pub(crate) fn run(root: &Path, release: &'static Release, args: &[OsString]) -> Result<()> {
    let libtorch = libtorch::prepare(root, release)?;
    let sh = match release.is_default() {
        true => libtorch.shell(root)?,
        false => mirror::prepare(root, release, &libtorch)?,
    };
    readback::prepare(root, &sh)?;
    let library = fake_cuda::library(root, release, &libtorch.folder)?;
    if sh.var_os("TORCHCACHE_LINK_CUDA").is_some() {
        // A GPU would be the device.
        sh.set_var("TORCHCACHE_LINK_CUDA", "0");
    }
    sh.set_var("TORCHCACHE_TEST_DEVICE", "cuda");
    // The runner starts the tests, and nothing else: cargo and the compiler go without libtorch.
    let host = machine::host().context("`rustc -vV` prints no host")?;
    let runner = format!(
        "target.{host}.runner = ['env', 'LD_PRELOAD={}']",
        library.display()
    );
    let tests = ["--test", "behaviour", "--config", &runner];
    for (test, reason) in LEFT_OUT {
        eprintln!("left out: {test}: {reason}");
    }
    let skip = LEFT_OUT.iter().flat_map(|(test, _)| ["--skip", test]);
    if shell::has_nextest(&sh) {
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
