//! `cargo xtask docs`: writes the help texts and examples in `docs/cli.md`.

use std::path::Path;

use anyhow::Result;
use xshell::{Shell, cmd};

pub(crate) fn run(root: &Path) -> Result<()> {
    let sh = Shell::new()?;
    sh.change_dir(root);
    // The test that compares the page writes it with this variable.
    let test = ["--package", "torchcache-cli", "--test", "cli", "docs::"];
    cmd!(sh, "cargo test {test...}")
        .env("TORCHCACHE_WRITE_DOCS", "1")
        .run()?;
    Ok(())
}
