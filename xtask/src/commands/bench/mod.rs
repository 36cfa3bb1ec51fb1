//! `cargo xtask bench`: runs the benchmarks one after another, next to the Python package, and writes
//! their tables into `docs/benchmarks.md` and the chart into `docs/benchmarks.svg`. Or takes the figures of a
//! GPU from the proof of the CUDA bundle.

mod chart;
mod figures;
mod plan;
pub(crate) mod proof;

use std::ffi::OsString;
use std::path::Path;

use anyhow::{Result, bail, ensure};
use xshell::{Cmd, Shell, cmd};

use crate::install::{fashion_mnist, libtorch, minilm, python_peer, seaweedfs};
use crate::machine;
use crate::page::Page;
use crate::release::DEFAULT;
use crate::shell;

use figures::ChartFigures;
pub(crate) use plan::{Part, Plan};

const PAGE: Page = Page("docs/benchmarks.md");
const CHART: &str = "docs/benchmarks.svg";

pub(crate) fn run(root: &Path, plan: &Plan) -> Result<()> {
    if let Some(file) = &plan.proof {
        return PAGE.put(root, "cuda", &proof::markdown(file)?);
    }
    let sh = libtorch::prepare(root, DEFAULT)?.shell(root)?;
    if plan.parts().any(|part| part == Part::Workloads) {
        // Set in any case: the variable may be set, and --no-peer given.
        sh.set_var(python_peer::VARIABLE, peer(root, plan)?.unwrap_or_default());
    }
    if plan
        .parts()
        .any(|part| matches!(part, Part::Machines | Part::Fill))
    {
        seaweedfs::prepare(root, &sh)?;
    }
    // All are built before the first one runs: nothing must compile while something is timed.
    for part in plan.parts() {
        shell::run(cargo(&sh, part, false))?;
    }
    let mut failed = Vec::new();
    for part in plan.parts() {
        // The other benchmarks run all the same.
        if let Err(error) = measure(&sh, part, plan) {
            eprintln!("error: {}: {error:#}", part.name());
            failed.push(part.name());
        }
    }
    ensure!(
        failed.is_empty(),
        "these benchmarks failed, and their parts of {} are unchanged: {}",
        PAGE.0,
        failed.join(", ")
    );
    Ok(())
}

/// The interpreter with the Python package. Without one the benchmarks still run; only one that the
/// environment names must work.
fn peer(root: &Path, plan: &Plan) -> Result<Option<OsString>> {
    if plan.no_peer {
        return Ok(None);
    }
    match python_peer::interpreter(root, DEFAULT, plan.quick) {
        Ok(python) => Ok(Some(python.into())),
        Err(reason) if python_peer::named().is_none() => {
            eprintln!(
                "running without the Python package: {reason:#}\n(To run it, install pip, or set {} \
                 to a Python that has torch {}, torchcache and numpy.)",
                python_peer::VARIABLE,
                DEFAULT.torch
            );
            Ok(None)
        }
        Err(error) => Err(error),
    }
}

/// Builds the program of a part, or also runs it.
fn cargo(sh: &Shell, part: Part, is_run: bool) -> Cmd<'_> {
    let command: &[_] = match (part.target(), is_run) {
        ("bench", false) => &["bench", "--no-run"],
        ("bench", true) => &["bench"],
        (_, false) => &["build", "--release"],
        (_, true) => &["run", "--release"],
    };
    let (package, target, program) = (part.package(), part.target(), part.program());
    cmd!(
        sh,
        "cargo {command...} --package {package} --{target} {program}"
    )
}

/// Runs one benchmark, shows its output and, unless `quick`, puts it into the page.
fn measure(sh: &Shell, part: Part, plan: &Plan) -> Result<()> {
    let root = sh.current_dir();
    let figures = root.join("target/benchmark-figures.json");
    let has_chart = part == Part::Workloads;
    let mut command = cargo(sh, part, true).arg("--");
    if matches!(part, Part::Precision | Part::Machines) {
        command = command.arg(format!("--{}", part.name()));
        command = command.env(minilm::VARIABLE, minilm::folder(&root)?);
    }
    if plan.quick {
        command = command.arg("--quick");
    }
    if has_chart {
        command = command.arg("--figures").arg(&figures);
    }
    if part == Part::Transfer {
        let Some(folder) = fashion_mnist::folder(&root, plan.quick)? else {
            eprintln!(
                "skipping {}: no images, and --quick fetches nothing",
                part.name()
            );
            return Ok(());
        };
        command = command.env(fashion_mnist::VARIABLE, folder);
    }
    let printed = shell::read(command)?;
    println!("{printed}");
    if plan.quick {
        return Ok(());
    }

    if has_chart {
        let figures: ChartFigures = serde_json::from_str(&sh.read_file(&figures)?)?;
        if !is_publishable(&figures, plan)? {
            eprintln!("--no-peer: {} is unchanged", PAGE.0);
            return Ok(());
        }
        sh.write_file(CHART, chart::svg(&figures.groups))?;
    }
    let text = format!("{}\n\n{}", machine::describe(DEFAULT), printed.trim());
    PAGE.put(&root, &part.name(), &text)
}

/// Whether the workloads go into the page: only with figures of the Python package. Their absence is
/// an error unless `--no-peer` asked for it.
fn is_publishable(figures: &ChartFigures, plan: &Plan) -> Result<bool> {
    match &figures.without_peer {
        None => Ok(true),
        Some(_) if plan.no_peer => Ok(false),
        Some(reason) => bail!(
            "the figures are only printed, since the Python package did not run to the end: {reason}\n\
             (With --no-peer this is no error.)"
        ),
    }
}
