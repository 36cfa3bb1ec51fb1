//! `cargo xtask kernels`: compiles the CUDA kernels of the library to PTX, which is checked in. NVRTC needs
//! neither a GPU nor a driver.

use std::fs;
use std::path::Path;
use std::process::{Command, Stdio};

use anyhow::{Context, Result, bail, ensure};

use crate::install::nvrtc::{self, Nvrtc};

const SOURCE: &str = "torchcache/src/device/kernels.cu";

const PTX: &str = "torchcache/src/device/kernels.ptx";

const COMPILE: &str = include_str!("compile.py");

/// The oldest architecture for which the driver may compile the PTX, and the language.
const OPTIONS: [&str; 2] = ["--gpu-architecture=compute_60", "--std=c++17"];

/// Writes the PTX or, with `check`, compares it.
pub(crate) fn run(root: &Path, check: bool) -> Result<()> {
    let nvrtc = nvrtc::ensure(root)?;
    let compiled = compile(root, &nvrtc)?;
    let path = root.join(PTX);
    if !check {
        return fs::write(&path, compiled)
            .with_context(|| format!("cannot write {}", path.display()));
    }
    let present = fs::read_to_string(&path)
        .with_context(|| format!("cannot read {}; run `cargo xtask kernels`", path.display()))?;
    compare(&present, &compiled)
}

fn compile(root: &Path, nvrtc: &Nvrtc) -> Result<String> {
    let output = Command::new(&nvrtc.python)
        .args(["-c", COMPILE])
        .args([&nvrtc.library, &root.join(SOURCE)])
        .args(OPTIONS)
        .stderr(Stdio::inherit())
        .output()
        .with_context(|| format!("cannot start {}", nvrtc.python.display()))?;
    ensure!(
        output.status.success(),
        "NVRTC cannot compile {SOURCE}; its messages are above"
    );
    String::from_utf8(output.stdout).context("the PTX is not text")
}

/// Reports the first line in which the file that is checked in differs.
fn compare(present: &str, compiled: &str) -> Result<()> {
    if present == compiled {
        return Ok(());
    }
    // `split` keeps the end of each line comparable: `lines` would drop a carriage return.
    let lines = present.split('\n').zip(compiled.split('\n'));
    let same = lines.take_while(|(present, compiled)| present == compiled);
    let number = same.count();
    let line = |text: &str| match text.split('\n').nth(number) {
        Some(line) => format!("{line:?}"),
        None => "missing".to_owned(),
    };
    bail!(
        "{PTX} is not what NVRTC {} makes of {SOURCE}: line {} is {}, compiled it is {}; run \
         `cargo xtask kernels` and commit the result",
        nvrtc::VERSION,
        number + 1,
        line(present),
        line(compiled)
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_line_that_differs_is_reported() {
        assert!(compare("a\nb\n", "a\nb\n").is_ok());
        let report = |present, compiled| compare(present, compiled).unwrap_err().to_string();
        let changed = report("a\nb\nc\n", "a\nx\nc\n");
        assert!(
            changed.contains("line 2 is \"b\", compiled it is \"x\""),
            "{changed}"
        );
        let endings = report("a\r\nb\n", "a\nb\n");
        assert!(endings.contains("line 1 is \"a\\r\""), "{endings}");
        let short = report("a", "a\nb");
        assert!(short.contains("line 2 is missing"), "{short}");
    }
}
