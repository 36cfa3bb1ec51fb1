//! `cargo xtask servers`: the tests of the remote tier on servers that not every machine can run.

use std::path::{Path, PathBuf};

use anyhow::{Context, Result};
use xshell::{Shell, cmd};

use crate::install::{self, azurite, ceph};
use crate::shell;

struct Server {
    name: &'static str,
    /// Names it to the tests.
    variable: &'static str,
    /// A part of the names of its tests.
    tests: &'static str,
    find: fn(&Path) -> Result<Option<PathBuf>>,
    /// Where it comes from.
    needs: &'static str,
}

const SERVERS: [Server; 2] = [
    Server {
        name: "Ceph",
        variable: "TORCHCACHE_CEPH",
        tests: "ceph",
        find: ceph::folder,
        needs: "Debian 12 and `apt-get update`, or an installed Ceph",
    },
    Server {
        name: "Azurite",
        variable: "TORCHCACHE_AZURITE",
        tests: "azurite",
        find: azurite::program,
        needs: "npm, or `azurite-blob` in PATH",
    },
];

/// Runs the tests on all servers that there are, and returns a line about each of the others.
pub(crate) fn run(root: &Path) -> Result<Vec<String>> {
    let sh = Shell::new()?;
    sh.change_dir(root);
    // What is particular to Azure and needs no server.
    let mut tests = vec!["azure_"];
    let mut not_run = Vec::new();
    for Server {
        name,
        variable,
        tests: part,
        find,
        needs,
    } in SERVERS
    {
        let found = match install::named(variable) {
            Some(named) => Some(named),
            None => {
                find(root).with_context(|| format!("{name} is not installed; or set {variable}"))?
            }
        };
        match found {
            Some(path) => {
                sh.set_var(variable, path);
                tests.push(part);
            }
            None => not_run.push(format!(
                "NOT RUN: the tests on {name}, which need {needs}, or {variable}"
            )),
        }
    }
    report(&not_run);
    let target = [
        "--package",
        "torchcache-remote",
        "--features",
        "azure",
        "--test",
        "stores",
    ];
    shell::run(match shell::has_nextest(&sh) {
        true => cmd!(
            sh,
            "cargo nextest run {target...} --profile all --run-ignored all {tests...}"
        ),
        false => cmd!(sh, "cargo test {target...} -- --include-ignored {tests...}"),
    })?;
    Ok(not_run)
}

/// Prints which tests were not run.
pub(crate) fn report(not_run: &[String]) {
    not_run.iter().for_each(|line| eprintln!("{line}"));
}
