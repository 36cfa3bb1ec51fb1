//! `cargo xtask soak`: every fault in its long form, and the table of what was seen into
//! `docs/reliability.md`.

use std::ffi::OsString;
use std::io::{BufRead, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Instant;

use crate::cargo::Cargo;
use crate::error::{Error, Result};
use crate::executable::{self, Kind};
use crate::libtorch;
use crate::machine;
use crate::page::Page;
use crate::release::DEFAULT;
use crate::test;

const PAGE: Page = Page {
    path: "docs/reliability.md",
    heading: "# Reliability\n",
};

const HEADINGS: [&str; 7] = [
    "fault",
    "rounds",
    "caused",
    "survived",
    "rows checked",
    "wrong rows",
    "lost rows",
];

/// What the first column takes on a terminal.
const WIDE: usize = 68;

/// What the others take.
const NARROW: usize = 13;

pub(crate) fn run(root: &Path, args: &[OsString]) -> Result<()> {
    let cargo = libtorch::prepare(root, DEFAULT)?.cargo(root);
    let program = build(&cargo)?;
    let begin = Instant::now();
    let mut rows = soak(&cargo, &program, args)?;
    if !args.is_empty() {
        return Ok(());
    }
    rows.push(sequences(&cargo)?);
    rows.push(interleavings(&cargo)?);
    let minutes = begin.elapsed().as_secs().div_ceil(60);
    let mut text = format!(
        "{}\n\n{minutes} minutes.\n\n{}\n{}\n",
        machine::describe(DEFAULT),
        line(&HEADINGS),
        line(&["---", "---:", "---:", "---:", "---:", "---:", "---:"])
    );
    for row in rows {
        text += &line(&row.split('\t').collect::<Vec<_>>());
        text.push('\n');
    }
    PAGE.put(&cargo.root, "soak", "The last soak", &text)
}

/// The program, with the one beside it that plays the roles of the store.
fn build(cargo: &Cargo) -> Result<PathBuf> {
    let packages = [
        "--package",
        "torchcache-soak",
        "--package",
        "torchcache-faults",
    ];
    let form = ["--message-format", "json-render-diagnostics"];
    let build = ["build", "--release", "--bins"];
    let messages = cargo.output(build.iter().chain(&packages).chain(&form))?;
    let mut programs = executable::parse(&messages).into_iter();
    programs
        .find(|program| program.kind == Kind::Bin && program.target == "soak")
        .map(|program| program.path)
        .ok_or_else(|| Error::Failed("cargo built no program soak".into()))
}

/// Runs it, shows each line of the table when it is there, and returns them.
fn soak(cargo: &Cargo, program: &Path, args: &[OsString]) -> Result<Vec<String>> {
    let mut command = Command::new(program);
    command
        .args(args)
        .envs(cargo.variables.iter().cloned())
        .stdout(Stdio::piped());
    let failed = |what: &str| Error::io(format!("{what} {}", program.display()));
    let mut child = command.spawn().map_err(failed("start"))?;
    show(&HEADINGS);
    let mut rows = Vec::new();
    for row in child
        .stdout
        .take()
        .into_iter()
        .flat_map(|out| BufReader::new(out).lines())
    {
        let row = row.map_err(failed("read from"))?;
        show(&row.split('\t').collect::<Vec<_>>());
        rows.push(row);
    }
    let status = child.wait().map_err(failed("wait for"))?;
    match status.success() {
        true => Ok(rows),
        false => Err(Error::Failed(format!(
            "not everything was as promised ({status}); {} is as it was",
            PAGE.path
        ))),
    }
}

/// The state machine of the whole library, with more cases than a test has.
fn sequences(cargo: &Cargo) -> Result<String> {
    const CASES: u32 = 10_000;

    let cargo = cargo.with("PROPTEST_CASES", CASES.to_string());
    let target = ["--package", "torchcache-tests", "--test", "behaviour"];
    let filter = ["--", "state_machine", "--nocapture"];
    let said = cargo.test_output(["test", "--release"].iter().chain(&target).chain(&filter))?;
    let [rounds, caused, rows] = seen(&said)?;
    Ok(passed(
        "any sequence of calls, edits, options and faults",
        [rounds, caused, rows],
    ))
}

/// The model checker's tests, with more tries.
fn interleavings(cargo: &Cargo) -> Result<String> {
    const TRIES: u32 = 3_000;

    let said = test::interleavings(cargo, Some(TRIES))?;
    let [rounds, rows] = seen(&said)?;
    Ok(passed(
        "any interleaving of threads, in each of the models",
        [rounds, rounds, rows],
    ))
}

/// The sums of what tests say that they have seen.
fn seen<const N: usize>(said: &str) -> Result<[u64; N]> {
    let mut sums = [0; N];
    for line in said.lines() {
        // The test runner writes the name of a test before it.
        let Some((_, numbers)) = line.split_once("seen ") else {
            continue;
        };
        let numbers: Vec<u64> = numbers.split(' ').flat_map(str::parse).collect();
        if numbers.len() != N {
            return Err(Error::Failed(format!("cannot make anything of {line:?}")));
        }
        sums.iter_mut()
            .zip(numbers)
            .for_each(|(sum, number)| *sum += number);
    }
    match sums.contains(&0) {
        true => Err(Error::Failed("the tests did not say what they saw".into())),
        false => Ok(sums),
    }
}

/// A row of the table for tests that would have failed over a wrong row, or a lost one.
fn passed(what: &str, [rounds, caused, rows]: [u64; 3]) -> String {
    format!("{what}\t{rounds}\t{caused}\t{rounds}\t{rows}\t0\t0")
}

fn show(cells: &[&str]) {
    let [first, rest @ ..] = cells else { return };
    let rest: String = rest.iter().map(|cell| format!("{cell:>NARROW$}")).collect();
    println!("{first:<WIDE$}{rest}");
}

fn line(cells: &[&str]) -> String {
    format!("| {} |", cells.join(" | "))
}
