//! `cargo xtask soak`: the fault tests with many more cases, and the table of what they did in
//! `docs/reliability.md`.

use std::path::Path;
use std::time::Instant;

use anyhow::{Context, Result};
use xshell::{Shell, cmd};

use crate::commands::test;
use crate::install::{libtorch, seaweedfs};
use crate::machine;
use crate::page::Page;
use crate::release::DEFAULT;
use crate::shell;

const PAGE: Page = Page("docs/reliability.md");

/// The tests that have a long form: package and test target.
const TESTS: [(&str, &str); 8] = [
    ("torchcache-faults", "scenarios"),
    ("torchcache-faults", "moments"),
    ("torchcache-faults", "admin"),
    ("torchcache-faults", "forged"),
    ("torchcache-faults", "remote"),
    ("torchcache-faults", "remote_admin"),
    ("torchcache-remote", "stores"),
    ("torchcache-soak", "modules"),
];

/// The random sequences of the whole library: the test, its cases, and what it does.
const SEQUENCES: [(&str, u32, &str); 2] = [
    (
        "state_machine",
        10_000,
        "any sequence of calls, edits, options and faults",
    ),
    (
        "training_machine",
        1_000,
        "any sequence of training, writes, swaps and options, with a second process",
    ),
];

/// Interleavings that each scheduler of the model checker tries.
const INTERLEAVINGS: u32 = 3_000;

/// A line of the table: a fault, and how often it was caused.
#[derive(Debug, PartialEq)]
struct FaultRow {
    fault: String,
    times: u64,
}

/// With `names` only the tests whose names contain one of them, and no table.
pub(crate) fn run(root: &Path, names: &[String]) -> Result<()> {
    let sh = libtorch::prepare(root, DEFAULT)?.shell(root)?;
    seaweedfs::prepare(root, &sh)?;
    let begin = Instant::now();
    let mut rows = Vec::new();
    for (package, target) in TESTS {
        let test = ["--package", package, "--test", target];
        let flags = ["--nocapture", "--test-threads", "1"];
        let test = cmd!(
            sh,
            "cargo test --release {test...} -- {flags...} {names...}"
        );
        for row in parse(&shell::read_tests(test.env("TORCHCACHE_SOAK", "1"))?)? {
            println!("{}: {}", row.fault, row.times);
            add(&mut rows, row);
        }
    }
    if !names.is_empty() {
        return Ok(());
    }
    for (test, cases, fault) in SEQUENCES {
        rows.push(sequences(&sh, test, cases, fault)?);
    }
    let output = test::interleavings(&sh, Some(INTERLEAVINGS))?;
    rows.push(sum(
        "any interleaving of threads, in each of the models",
        &output,
    )?);
    let minutes = begin.elapsed().as_secs().div_ceil(60);
    let mut text = format!(
        "{}\n\n{minutes} minutes. No row was wrong, and no flushed row was lost.\n\n\
         | fault | times |\n| --- | ---: |\n",
        machine::describe(DEFAULT),
    );
    for FaultRow { fault, times } in rows {
        text += &format!("| {fault} | {times} |\n");
    }
    PAGE.put(root, "soak", &text)
}

/// Tests that cause one fault have one line.
fn add(rows: &mut Vec<FaultRow>, row: FaultRow) {
    match rows.iter_mut().find(|it| it.fault == row.fault) {
        Some(it) => it.times += row.times,
        None => rows.push(row),
    }
}

/// Random sequences of the whole library, with more cases than in a test.
fn sequences(sh: &Shell, test: &str, cases: u32, fault: &str) -> Result<FaultRow> {
    let target = ["--package", "torchcache-tests", "--test", "behaviour"];
    let filter = [test, "--nocapture"];
    let run = cmd!(sh, "cargo test --release {target...} -- {filter...}");
    sum(
        fault,
        &shell::read_tests(run.env("PROPTEST_CASES", cases.to_string()))?,
    )
}

/// One line for all that some tests did.
fn sum(fault: &str, output: &str) -> Result<FaultRow> {
    Ok(FaultRow {
        fault: fault.to_owned(),
        times: parse(output)?.iter().map(|row| row.times).sum(),
    })
}

/// What tests print: `seen`, how often the fault was caused, and what it is.
fn parse(output: &str) -> Result<Vec<FaultRow>> {
    // The test harness prints the name of a test in front of it.
    let seen = output.lines().filter_map(|line| line.split_once("seen "));
    seen.map(|(_, text)| {
        let (times, fault) = text.split_once(' ').unwrap_or((text, ""));
        Ok(FaultRow {
            fault: fault.to_owned(),
            times: times
                .parse()
                .with_context(|| format!("cannot read {text:?}"))?,
        })
    })
    .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_tests_print_becomes_rows() {
        let output = "running 2 tests\ntest a ... seen 2 a fault, or two\nok\nseen 5\n";
        let row = |fault: &str, times| FaultRow {
            fault: fault.to_owned(),
            times,
        };
        assert_eq!(
            parse(output).unwrap(),
            [row("a fault, or two", 2), row("", 5)]
        );
        assert_eq!(sum("all", output).unwrap(), row("all", 7));
        assert!(parse("seen often\n").is_err());
    }
}
