//! `cargo xtask soak`: every fault in its long form, and the table of results in
//! `docs/reliability.md`.

use std::ffi::OsString;
use std::io::{BufRead, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Instant;

use anyhow::{Context, Result, bail, ensure};
use xshell::{Shell, cmd};

use crate::commands::test;
use crate::executable::{self, Kind};
use crate::install::libtorch;
use crate::machine;
use crate::page::Page;
use crate::release::DEFAULT;
use crate::shell;

const PAGE: Page = Page("docs/reliability.md");

const HEADINGS: [&str; 7] = [
    "fault",
    "rounds",
    "caused",
    "survived",
    "rows checked",
    "wrong rows",
    "lost rows",
];

/// The width of the first column on a terminal, and of the others.
const WIDTHS: (usize, usize) = (68, 13);

/// Cases of the state machine of the whole library.
const CASES: u32 = 10_000;

/// Interleavings that each scheduler of the model checker tries.
const INTERLEAVINGS: u32 = 3_000;

pub(crate) fn run(root: &Path, args: &[OsString]) -> Result<()> {
    let sh = libtorch::prepare(root, DEFAULT)?.shell(root)?;
    let program = build(&sh)?;
    let begin = Instant::now();
    let mut rows = soak(&sh, &program, args)?;
    if !args.is_empty() {
        return Ok(());
    }
    rows.push(state_machine(&sh)?);
    rows.push(interleavings(&sh)?);
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
    PAGE.put(root, "soak", &text)
}

/// Builds the program, and the one next to it that plays the roles of the store.
fn build(sh: &Shell) -> Result<PathBuf> {
    let packages = [
        "--package",
        "torchcache-soak",
        "--package",
        "torchcache-faults",
    ];
    let format = ["--message-format", "json-render-diagnostics"];
    let messages = shell::read(cmd!(
        sh,
        "cargo build --release --bins {packages...} {format...}"
    ))?;
    executable::parse(&messages)
        .into_iter()
        .find(|program| program.kind == Kind::Bin && program.target == "soak")
        .map(|program| program.path)
        .context("cargo built no program soak")
}

/// Runs the program, shows each line of the table as it comes, and returns the lines.
fn soak(sh: &Shell, program: &Path, args: &[OsString]) -> Result<Vec<String>> {
    let mut command = Command::from(cmd!(sh, "{program} {args...}"));
    let child = command.stdout(Stdio::piped()).spawn();
    let mut child = child.with_context(|| format!("cannot start {}", program.display()))?;
    show(&HEADINGS);
    let output = child.stdout.take().expect("it is piped");
    let mut rows = Vec::new();
    for row in BufReader::new(output).lines() {
        let row = row.context("cannot read the output of the soak")?;
        show(&row.split('\t').collect::<Vec<_>>());
        rows.push(row);
    }
    let status = child.wait().context("cannot wait for the soak")?;
    ensure!(
        status.success(),
        "a guarantee did not hold ({status}); {} is unchanged",
        PAGE.0
    );
    Ok(rows)
}

/// The state machine of the whole library, with more cases than in a test.
fn state_machine(sh: &Shell) -> Result<String> {
    let test = ["--package", "torchcache-tests", "--test", "behaviour"];
    let filter = ["state_machine", "--nocapture"];
    let test = cmd!(sh, "cargo test --release {test...} -- {filter...}");
    let output = shell::read_tests(test.env("PROPTEST_CASES", CASES.to_string()))?;
    let [rounds, caused, rows] = sums(&output)?;
    Ok(passed(
        "any sequence of calls, edits, options and faults",
        [rounds, caused, rows],
    ))
}

/// The model checker's tests, with more tries.
fn interleavings(sh: &Shell) -> Result<String> {
    let [rounds, rows] = sums(&test::interleavings(sh, Some(INTERLEAVINGS))?)?;
    Ok(passed(
        "any interleaving of threads, in each of the models",
        [rounds, rounds, rows],
    ))
}

/// Sums the counts that tests print in lines of `seen N N …`.
fn sums<const N: usize>(output: &str) -> Result<[u64; N]> {
    let mut sums = [0; N];
    for line in output.lines() {
        // The test runner prints the name of a test before it.
        let Some((_, counts)) = line.split_once("seen ") else {
            continue;
        };
        let counts: Vec<u64> = counts.split(' ').flat_map(str::parse).collect();
        ensure!(counts.len() == N, "expected {N} counts in {line:?}");
        for (sum, count) in sums.iter_mut().zip(counts) {
            *sum += count;
        }
    }
    if sums.contains(&0) {
        bail!("the tests printed no counts, or zero");
    }
    Ok(sums)
}

/// A row of the table for tests, which fail on a wrong or lost row.
fn passed(fault: &str, [rounds, caused, rows]: [u64; 3]) -> String {
    format!("{fault}\t{rounds}\t{caused}\t{rounds}\t{rows}\t0\t0")
}

fn show(cells: &[&str]) {
    let (first_width, width) = WIDTHS;
    let [first, rest @ ..] = cells else { return };
    let rest: String = rest.iter().map(|cell| format!("{cell:>width$}")).collect();
    println!("{first:<first_width$}{rest}");
}

fn line(cells: &[&str]) -> String {
    format!("| {} |", cells.join(" | "))
}
