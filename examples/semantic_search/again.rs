//! The second process: this program once more, which must find every embedding on disk.

use std::error::Error;
use std::path::Path;
use std::process::{Command, Stdio};

use tch::Tensor;

use crate::args::Args;
use crate::corpus::Entry;
use crate::passes::Embedder;
use crate::report::{self, Pass};

const NAME: &str = "a second process";

/// Starts the second process and returns what it saw, and how many embeddings it got that are not
/// bit for bit `expected`.
///
/// # Errors
///
/// It could not be started, or it failed.
pub(crate) fn start(args: &Args, expected: &Tensor) -> Result<(Pass, i64), Box<dyn Error>> {
    let exchange = tempfile::tempdir()?;
    let file = exchange.path().join("embeddings.safetensors");
    Tensor::write_safetensors(&[("embeddings", expected)], &file)?;
    let output = Command::new(std::env::current_exe()?)
        .args(std::env::args_os().skip(1))
        .arg("--second-process")
        .arg(&file)
        .stderr(Stdio::inherit())
        .output()?;
    if !output.status.success() {
        return Err(format!("the second process failed: {}", output.status).into());
    }
    let said = String::from_utf8_lossy(&output.stdout);
    let (pass, differ) = said.trim().split_once(", ").unwrap_or_default();
    match (Pass::from_line(NAME, pass), differ.parse()) {
        (Some(pass), Ok(differ)) if pass.texts() == args.texts as u64 => Ok((pass, differ)),
        _ => Err(format!("the second process reported {said:?}").into()),
    }
}

/// Embeds what the first process did, and prints what it saw for that process to read.
///
/// # Errors
///
/// What the first process wrote cannot be read, or what the tokenizer says.
pub(crate) fn second_process(
    embedder: &Embedder,
    entries: &[Entry],
    expected: &Path,
) -> Result<(), Box<dyn Error>> {
    let expected = Tensor::read_safetensors(expected)?;
    let [(_, expected)] = &expected[..] else {
        return Err("the first process wrote no embeddings".into());
    };
    let (pass, embeddings) = embedder.pass(NAME, entries)?;
    let differ = report::rows_that_differ(&embeddings, expected);
    println!("{}, {differ}", pass.to_line());
    Ok(())
}
