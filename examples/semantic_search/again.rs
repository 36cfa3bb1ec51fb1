//! The second process: this program again, which must find every embedding on disk.

use std::path::Path;
use std::process::{Command, Stdio};

use anyhow::{Result, bail, ensure};
use tch::Tensor;

use crate::corpus::Entry;
use crate::passes::Embedder;
use crate::report::{self, Pass};

/// Starts the second process. Returns its pass, and the number of embeddings that differ from
/// `expected` in any bit.
///
/// # Errors
///
/// The process cannot be started, or it fails.
pub(crate) fn start(expected: &Tensor) -> Result<(Pass, i64)> {
    let exchange = tempfile::tempdir()?;
    let file = exchange.path().join("embeddings.safetensors");
    Tensor::write_safetensors(&[("embeddings", expected)], &file)?;
    let output = Command::new(std::env::current_exe()?)
        .args(std::env::args_os().skip(1))
        .arg("--second-process")
        .arg(&file)
        .stderr(Stdio::inherit())
        .output()?;
    let status = output.status;
    ensure!(status.success(), "the second process failed: {status}");
    Ok(serde_json::from_slice(&output.stdout)?)
}

/// Embeds the same texts as the first process, and prints the results for that process.
///
/// # Errors
///
/// The file of the first process cannot be read, or the tokenizer fails.
pub(crate) fn second_process(
    embedder: &Embedder,
    entries: &[Entry],
    expected: &Path,
) -> Result<()> {
    let expected = Tensor::read_safetensors(expected)?;
    let [(_, expected)] = &expected[..] else {
        bail!("the first process wrote no embeddings");
    };
    let (pass, embeddings) = embedder.pass("a second process", entries)?;
    let differ = report::rows_that_differ(&embeddings, expected);
    println!("{}", serde_json::to_string(&(pass, differ))?);
    Ok(())
}
