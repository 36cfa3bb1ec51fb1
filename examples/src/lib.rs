//! What the two longer examples share: a second process, progress, and the comparison of rows.

use std::ffi::OsStr;
use std::io::IsTerminal;
use std::process::{Command, Stdio};

use anyhow::{Result, ensure};
use indicatif::{ProgressBar, ProgressStyle};
use serde::de::DeserializeOwned;
use tch::{Kind, Tensor};

/// Starts this program again, as a second process, and returns what it prints. It gets the arguments of
/// this one, further ones, and `--second-process` with the file of the rows that it must find.
///
/// # Errors
///
/// The process cannot be started, or it fails.
pub fn second_process<T: DeserializeOwned>(expected: &Tensor, further: &[&OsStr]) -> Result<T> {
    let exchange = tempfile::tempdir()?;
    let file = exchange.path().join("expected.pt");
    expected.save(&file)?;
    let output = Command::new(std::env::current_exe()?)
        .args(std::env::args_os().skip(1))
        .args(further)
        .arg("--second-process")
        .arg(&file)
        .stderr(Stdio::inherit())
        .output()?;
    let status = output.status;
    ensure!(status.success(), "the second process failed: {status}");
    Ok(serde_json::from_slice(&output.stdout)?)
}

/// The number of rows of two float matrices that differ in any bit. All of them, if the shapes differ.
pub fn rows_that_differ(left: &Tensor, right: &Tensor) -> i64 {
    if left.size() != right.size() || left.kind() != right.kind() {
        return left.size()[0].max(right.size()[0]);
    }
    let bits = |tensor: &Tensor| tensor.contiguous().view_dtype(Kind::Int);
    let differs = bits(left).ne_tensor(&bits(right)).any_dim(1, false);
    differs.sum(Kind::Int64).int64_value(&[])
}

/// Seconds with a unit.
pub fn seconds(seconds: f64) -> String {
    if seconds < 1.0 {
        format!("{:.1} ms", seconds * 1e3)
    } else {
        format!("{seconds:.2} s")
    }
}

/// A progress bar, which draws nothing without a terminal, and at the end a line with the time.
#[derive(Debug)]
pub struct Progress {
    /// The bar.
    pub bar: ProgressBar,
    name: String,
}

impl Progress {
    /// A bar for `count` images or texts, as `what` says.
    pub fn new(name: String, count: usize, what: &str) -> Self {
        let template = format!("{{msg}}  {{bar:30}}  {{pos}}/{{len}} {what}");
        let style = ProgressStyle::with_template(&template).expect("the template is right");
        let bar = ProgressBar::new(count as u64).with_style(style);
        bar.set_message(name.clone());
        Progress { bar, name }
    }

    /// Removes the bar and prints the time.
    pub fn finish(self, time: f64) {
        if std::io::stderr().is_terminal() {
            self.bar.finish_and_clear();
        }
        eprintln!("{}  {}", self.name, seconds(time));
    }
}
