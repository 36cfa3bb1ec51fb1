//! Another checkout: the sources at another path, built with another cargo home, as on another machine. It finds the rows
//! of this one through a remote.

use std::env;
use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, ensure};
use serde::Deserialize;
use xshell::{Shell, cmd};

use crate::install::libtorch::Libtorch;
use crate::mirror;

/// How many texts each embeds.
const TEXTS: u64 = 100;

/// What a machine of the example `semantic_search` prints.
#[derive(Deserialize)]
struct Machine {
    computed: u64,
    from_remote: u64,
    from_disk: u64,
}

/// Embeds texts with the program of this checkout, and again with the one of a clone, which must compute none.
pub(crate) fn check(root: &Path, libtorch: &Libtorch, sh: &Shell) -> Result<()> {
    let base = root.join("target/clone");
    let copy = base.join("at/another/path");
    mirror::sync(root, &copy, &mirror::sources(root)?)?;
    fs::copy(root.join(mirror::LOCK), copy.join(mirror::LOCK))?;
    let clone = sh.clone();
    clone.change_dir(&copy);
    clone.set_var("CARGO_HOME", cargo_home(&base)?);
    clone.set_var("CARGO_TARGET_DIR", base.join("build"));
    clone.set_var("LIBTORCH", &libtorch.folder);

    let machines = sh.create_temp_dir()?;
    let embed = |sh: &Shell, name: &str| embed(sh, machines.path(), name);
    let (first, second) = (embed(sh, "checkout")?, embed(&clone, "clone")?);
    println!(
        "checkout: {} rows computed; clone: {} rows computed, {} found",
        first.computed,
        second.computed,
        second.from_remote + second.from_disk
    );
    ensure!(
        first.computed == TEXTS && second.computed == 0,
        "the clone did not find the rows of the checkout: its hash of the module is another one"
    );
    Ok(())
}

fn embed(sh: &Shell, machines: &Path, name: &str) -> Result<Machine> {
    let program = [
        "--package",
        "torchcache-examples",
        "--example",
        "semantic_search",
    ];
    let (texts, dir) = (TEXTS.to_string(), machines.join(name));
    let bucket = machines.join("bucket");
    let run = cmd!(
        sh,
        "cargo run {program...} -- --machine none --texts {texts} --cache-dir {dir}"
    );
    let bucket = format!("file://{}", bucket.display());
    let output = run.env("TORCHCACHE_REMOTE", bucket).read()?;
    let line = output.lines().last().unwrap_or_default();
    serde_json::from_str(line).with_context(|| format!("cannot read {line:?}"))
}

/// An empty one, with the registries of the user.
fn cargo_home(base: &Path) -> Result<PathBuf> {
    let home = base.join("cargo-home");
    fs::create_dir_all(&home)?;
    let of_user = env::var_os("CARGO_HOME").map(PathBuf::from);
    let of_user = of_user.or_else(|| Some(env::home_dir()?.join(".cargo")));
    let of_user = of_user.context("there is no home directory")?;
    for name in ["config.toml", "credentials.toml"] {
        if of_user.join(name).is_file() {
            fs::copy(of_user.join(name), home.join(name))?;
        }
    }
    Ok(home)
}
