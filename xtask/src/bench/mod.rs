//! `cargo xtask bench`: runs the benchmarks one after another, beside the Python package, and
//! writes what they print into `docs/benchmarks.md` and the chart beside it.

mod chart;
mod figures;
mod images;
mod parts;
mod peer;
mod plan;

use std::ffi::OsString;
use std::fs;
use std::path::Path;
use std::process::{Command, Stdio};

use crate::cargo::Cargo;
use crate::error::{Error, Result};
use crate::executable::{self, Executable, Kind};
use crate::libtorch;
use crate::machine;
use crate::page::Page;
use crate::release::DEFAULT;

use figures::Figures;
use parts::Part;
pub(crate) use plan::Plan;

const PAGE: Page = Page {
    path: "docs/benchmarks.md",
    heading: "# Benchmarks\n",
};
const CHART: &str = "docs/benchmarks.svg";

/// What a benchmark prints before its part of the page, if it prints anything else.
const PAGE_BEGINS: &str = "<!-- the page begins here -->";

pub(crate) fn run(root: &Path, plan: &Plan) -> Result<()> {
    let mut cargo = libtorch::prepare(root, DEFAULT)?.cargo(root);
    if plan.has(parts::WORKLOADS) {
        // The variable may be set, but not wanted.
        let python = peer_python(root, plan)?.unwrap_or_default();
        cargo.variables.push((peer::VARIABLE, python));
    }
    // All of them before the first is run: nothing is to compile while something is timed.
    let programs: Vec<_> = plan
        .parts
        .iter()
        .map(|part| build(&cargo, part))
        .collect::<Result<_>>()?;
    let mut failed = Vec::new();
    for (part, program) in plan.parts.iter().zip(&programs) {
        match measure(&cargo, part, program, plan) {
            Ok(()) => {}
            // What the others measured is no less true.
            Err(error) => {
                error.print();
                failed.push(part.name);
            }
        }
    }
    match failed.is_empty() {
        true => Ok(()),
        false => Err(Error::Failed(format!(
            "these benchmarks failed, and their parts of {} are as they were: {}",
            PAGE.path,
            failed.join(", ")
        ))),
    }
}

/// The interpreter with the peer. Without one the benchmarks run all the same, and say so; only one
/// that someone named must be there.
fn peer_python(root: &Path, plan: &Plan) -> Result<Option<OsString>> {
    if !plan.peer {
        return Ok(None);
    }
    match peer::python(root, DEFAULT, plan.quick) {
        Ok(python) => Ok(Some(python.into())),
        Err(Error::Failed(reason)) if peer::named().is_none() => {
            eprintln!(
                "the Python package is not run beside ours: {reason}\n(To have it, install pip, or \
                 set {} to a Python that has torch {}, torchcache and numpy.)",
                peer::VARIABLE,
                DEFAULT.torch
            );
            Ok(None)
        }
        Err(error) => Err(error),
    }
}

/// The optimised program of one part.
fn build(cargo: &Cargo, part: &Part) -> Result<Executable> {
    let target = ["--package", part.package, "--bench", part.bench];
    let form = ["--message-format", "json-render-diagnostics"];
    let messages = cargo.output(["bench", "--no-run"].iter().chain(&target).chain(&form))?;
    let mut programs = executable::parse(&messages).into_iter();
    programs
        .find(|program| program.kind == Kind::Bench && program.target == part.bench)
        .ok_or_else(|| Error::Failed(format!("cargo built no benchmark {}", part.bench)))
}

/// Runs one benchmark as cargo would, shows what it prints and, unless it is a smoke run, puts it
/// into the page.
fn measure(cargo: &Cargo, part: &Part, program: &Executable, plan: &Plan) -> Result<()> {
    let figures = cargo.root.join("target/benchmark-figures.json");
    let charted = part.name == parts::WORKLOADS;
    let mut command = Command::new(&program.path);
    command
        .current_dir(&program.package)
        .envs(cargo.variables.iter().cloned())
        .stderr(Stdio::inherit())
        .args(["--bench", "--markdown"]);
    if plan.quick {
        command.arg("--quick");
    }
    if charted {
        command.arg("--figures").arg(&figures);
    }
    if part.name == parts::TRANSFER {
        let Some(folder) = images::folder(&cargo.root, plan.quick)? else {
            eprintln!(
                "skipping {}: its images are not there, and a smoke run fetches nothing",
                part.name
            );
            return Ok(());
        };
        command.env(images::VARIABLE, folder);
    }
    eprintln!("running {}", part.name);
    let output = command
        .output()
        .map_err(Error::io(format!("start {}", program.path.display())))?;
    if !output.status.success() {
        return Err(Error::Failed(format!(
            "{} ended with {}",
            part.name, output.status
        )));
    }
    let printed = String::from_utf8_lossy(&output.stdout);
    println!("{printed}");
    let printed = printed
        .split_once(PAGE_BEGINS)
        .map_or(&*printed, |(_, page)| page);
    if plan.quick {
        return Ok(());
    }

    let mut pieces = vec![machine::describe(DEFAULT)];
    if charted {
        let figures = fs::read_to_string(&figures).map_err(Error::io("read the figures"))?;
        let figures = Figures::parse(&figures)?;
        if !is_publishable(&figures, plan.peer)? {
            eprintln!(
                "--no-peer: {} is only printed, and {} is as it was",
                part.name, PAGE.path
            );
            return Ok(());
        }
        write(&cargo.root.join(CHART), &chart::svg(&figures.groups))?;
        pieces.push("![What a call costs beyond the forward](benchmarks.svg)".to_owned());
    }
    pieces.extend([part.about.to_owned(), printed.to_owned()]);
    pieces.retain(|piece| !piece.is_empty());
    let text = pieces.join("\n\n");
    PAGE.put(&cargo.root, part.name, part.title, &text)
}

/// Whether the workloads go into the page, where the Python package stands beside ours: not without
/// it, and that it is not there is an error unless nobody wanted it.
fn is_publishable(figures: &Figures, peer: bool) -> Result<bool> {
    match &figures.without_peer {
        None => Ok(true),
        Some(_) if !peer => Ok(false),
        Some(reason) => Err(Error::Failed(format!(
            "the figures above are only printed, since the Python package did not run beside ours, \
             or not to the end: {reason}\n(With --no-peer that is no error.)"
        ))),
    }
}

fn write(path: &Path, text: &str) -> Result<()> {
    fs::write(path, text).map_err(Error::io(format!("write {}", path.display())))?;
    eprintln!("wrote {}", path.display());
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_workloads_are_published_only_beside_the_peer_and_its_absence_is_an_error_unless_meant() {
        let figures = |without_peer: Option<&str>| Figures {
            without_peer: without_peer.map(str::to_owned),
            groups: Vec::new(),
        };
        assert!(is_publishable(&figures(None), true).unwrap());
        assert!(!is_publishable(&figures(Some("not wanted")), false).unwrap());
        let Err(Error::Failed(text)) = is_publishable(&figures(Some("it ended")), true) else {
            panic!("it is published")
        };
        assert!(text.contains("it ended"), "{text}");
    }
}
