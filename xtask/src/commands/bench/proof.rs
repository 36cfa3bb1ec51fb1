//! The proof of the CUDA bundle, `output/proof.json`, as the part of the page about a GPU.

use std::fmt::Write;
use std::fs;
use std::path::Path;

use anyhow::{Context, Result, ensure};
use serde::Deserialize;

/// Of the file; `prove.py` writes it.
const FORMAT: u32 = 1;

/// Steps that measure. They fail where a figure misses its bar, and their figures are published all the same.
const MEASURING: &str = "bench ";

#[derive(Debug, Deserialize)]
struct Proof {
    format: u32,
    date: String,
    bundle: Bundle,
    /// A dry run without a GPU.
    cpu: bool,
    machine: Machine,
    steps: Vec<Step>,
    figures: Vec<Figure>,
}

/// What was run.
#[derive(Debug, Deserialize)]
struct Bundle {
    versions: String,
}

#[derive(Debug, Deserialize)]
struct Machine {
    #[serde(default)]
    devices: Vec<Device>,
}

#[derive(Debug, Deserialize)]
struct Device {
    name: String,
    driver_version: Option<String>,
}

#[derive(Debug, Deserialize)]
struct Step {
    name: String,
    status: Status,
    reason: String,
}

#[derive(Debug, Clone, Copy, PartialEq, Deserialize)]
#[serde(rename_all = "lowercase")]
enum Status {
    Passed,
    Failed,
    #[serde(rename = "not run")]
    NotRun,
}

#[derive(Debug, Deserialize)]
struct Figure {
    part: String,
    what: String,
    text: Option<String>,
    /// Why there is no figure.
    not_run: Option<String>,
    limit: Option<Limit>,
}

#[derive(Debug, Deserialize)]
struct Limit {
    what: String,
    text: String,
    ratio: String,
}

/// The text of the part.
pub(crate) fn markdown(file: &Path) -> Result<String> {
    let read = || {
        let text = fs::read_to_string(file)?;
        let proof: Proof = serde_json::from_str(&text)?;
        proof.check()?;
        anyhow::Ok(proof.markdown())
    };
    read().with_context(|| format!("cannot take figures from {}", file.display()))
}

impl Proof {
    /// Whether it may be published.
    fn check(&self) -> Result<()> {
        ensure!(
            self.format == FORMAT,
            "its format is {}; expected {FORMAT}, as written by a bundle of these sources",
            self.format
        );
        ensure!(
            !self.cpu,
            "it is a dry run on the CPU; expected `run.sh --prove` without --cpu"
        );
        let failed = self
            .steps
            .iter()
            .find(|step| step.status == Status::Failed && !step.name.starts_with(MEASURING));
        if let Some(step) = failed {
            anyhow::bail!(
                "its step `{}` failed ({}); expected figures of a library that works on this GPU",
                step.name,
                step.reason
            );
        }
        ensure!(
            !self.figures.is_empty(),
            "it has no figures; expected those of the steps `{MEASURING}…`"
        );
        Ok(())
    }

    fn markdown(&self) -> String {
        let mut text = format!(
            "*Measured on {}: {}; {}.*\n\nIn the same run passed: {}.",
            self.date,
            self.devices(),
            self.bundle.versions,
            self.names(Status::Passed),
        );
        let not_run = self.names(Status::NotRun);
        if !not_run.is_empty() {
            let _ = write!(text, " Not run: {not_run}.");
        }
        let mut part = "";
        for figure in &self.figures {
            if figure.part != part {
                part = &figure.part;
                let _ = write!(
                    text,
                    "\n\n#### On a GPU: {part}\n\n| measured | figure | next to | its | ratio |\n\
                     | --- | ---: | --- | ---: | ---: |"
                );
            }
            let _ = write!(text, "\n{}", figure.row());
        }
        text
    }

    fn devices(&self) -> String {
        let Some(first) = self.machine.devices.first() else {
            return "an unknown GPU".to_owned();
        };
        let count = self.machine.devices.len();
        let several = match count {
            1 => String::new(),
            count => format!("{count} × "),
        };
        let driver = match &first.driver_version {
            Some(version) => format!(" with driver {version}"),
            None => String::new(),
        };
        format!("{several}{}{driver}", first.name)
    }

    /// The steps with this outcome, with the reasons of those that were not run.
    fn names(&self, status: Status) -> String {
        let steps = self.steps.iter().filter(|step| step.status == status);
        let name = |step: &Step| match status {
            Status::NotRun => format!("{} ({})", step.name, step.reason),
            _ => step.name.clone(),
        };
        steps.map(name).collect::<Vec<_>>().join(", ")
    }
}

impl Figure {
    fn row(&self) -> String {
        let text = self.text.as_ref().or(self.not_run.as_ref());
        let figure = text.map_or("", |text| text);
        let [what, its, ratio] = match &self.limit {
            Some(limit) => [&limit.what, &limit.text, &limit.ratio].map(String::as_str),
            None => [""; 3],
        };
        format!("| {} | {figure} | {what} | {its} | {ratio} |", self.what)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::{Value, json};

    fn sample() -> Value {
        json!({
            "format": 1,
            "date": "2026-12-24",
            "bundle": { "versions": "rustc 1.95.0, torchcache 0.1.0", "commit": "abc" },
            "cpu": false,
            "machine": { "devices": [{ "name": "GPU 9", "driver_version": "580.1", "memory": 1 }] },
            "seconds": 9.5,
            "steps": [
                { "name": "kernels", "status": "passed", "reason": "9 tests", "seconds": 1, "limit": 2 },
                { "name": "memcheck", "status": "not run", "reason": "not found" },
                { "name": "bench hits", "status": "failed", "reason": "missed 1 of 1 bars" }
            ],
            "figures": [
                { "part": "limits", "what": "copy", "value": 1.0, "text": "1 TB/s", "limit": null, "bar": null },
                {
                    "part": "hits", "what": "hit", "value": 0.3, "text": "300 µs",
                    "limit": { "what": "its forward", "value": 3.0, "text": "3 ms", "ratio": "1/10" },
                    "bar": { "text": "at most 200 µs", "reached": false }
                },
                { "part": "hits", "what": "peer", "not_run": "not run: no pip" }
            ]
        })
    }

    fn text(proof: &Value) -> Result<String> {
        let folder = tempfile::tempdir()?;
        let file = folder.path().join("proof.json");
        fs::write(&file, proof.to_string())?;
        markdown(&file)
    }

    #[test]
    fn the_figures_of_a_proof_are_tables_with_the_device_above_them() {
        let expected = "\
*Measured on 2026-12-24: GPU 9 with driver 580.1; rustc 1.95.0, torchcache 0.1.0.*

In the same run passed: kernels. Not run: memcheck (not found).

#### On a GPU: limits

| measured | figure | next to | its | ratio |
| --- | ---: | --- | ---: | ---: |
| copy | 1 TB/s |  |  |  |

#### On a GPU: hits

| measured | figure | next to | its | ratio |
| --- | ---: | --- | ---: | ---: |
| hit | 300 µs | its forward | 3 ms | 1/10 |
| peer | not run: no pip |  |  |  |";
        assert_eq!(text(&sample()).unwrap(), expected);
    }

    #[test]
    fn a_proof_that_shows_nothing_about_a_gpu_is_rejected() {
        for (pointer, value, reason) in [
            ("/format", json!(2), "expected 1"),
            ("/cpu", json!(true), "dry run"),
            ("/steps/0/status", json!("failed"), "`kernels` failed"),
            ("/figures", json!([]), "no figures"),
            ("/steps/0/status", json!("skipped"), "unknown variant"),
        ] {
            let mut proof = sample();
            *proof.pointer_mut(pointer).unwrap() = value;
            let error = format!("{:#}", text(&proof).unwrap_err());
            assert!(error.contains(reason), "{pointer}: {error}");
        }
    }

    #[test]
    fn the_page_has_a_part_for_a_gpu() {
        let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("..");
        let page = fs::read_to_string(root.join("docs/benchmarks.md")).unwrap();
        assert_eq!(page.matches("<!-- begin: cuda -->").count(), 1);
    }
}
