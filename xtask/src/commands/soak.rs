//! `cargo xtask soak`: the fault tests with many more cases, and the table of what they did in
//! `docs/reliability.md`.

use std::path::Path;
use std::time::Instant;

use anyhow::{Context, Result};
use xshell::{Shell, cmd};

use crate::commands::test;
use crate::install::libtorch;
use crate::machine;
use crate::page::Page;
use crate::release::DEFAULT;
use crate::shell;

const PAGE: Page = Page("docs/reliability.md");

/// The tests that have a long form: package and test target.
const TESTS: [(&str, &str); 3] = [
    ("torchcache-faults", "scenarios"),
    ("torchcache-faults", "forged"),
    ("torchcache-soak", "modules"),
];

/// Cases of the state machine of the whole library.
const CASES: u32 = 10_000;

/// Interleavings that each scheduler of the model checker tries.
const INTERLEAVINGS: u32 = 3_000;

/// A line of the table.
#[derive(Debug, PartialEq)]
struct Row {
    fault: String,
    cases: u64,
    caused: u64,
    rows: u64,
}

/// With `names` only the tests whose names contain one of them, and no table.
pub(crate) fn run(root: &Path, names: &[String]) -> Result<()> {
    let sh = libtorch::prepare(root, DEFAULT)?.shell(root)?;
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
            println!("{}", row.line());
            rows.push(row);
        }
    }
    if !names.is_empty() {
        return Ok(());
    }
    rows.push(state_machine(&sh)?);
    let output = test::interleavings(&sh, Some(INTERLEAVINGS))?;
    rows.push(sum(
        "any interleaving of threads, in each of the models",
        &output,
    )?);
    let minutes = begin.elapsed().as_secs().div_ceil(60);
    let mut text = format!(
        "{}\n\n{minutes} minutes. No row was wrong, and no flushed row was lost.\n\n\
         | fault | cases | faults caused | rows compared |\n| --- | ---: | ---: | ---: |\n",
        machine::describe(DEFAULT),
    );
    for row in rows {
        text += &row.line();
        text.push('\n');
    }
    PAGE.put(root, "soak", &text)
}

/// The state machine of the whole library, with more cases than in a test.
fn state_machine(sh: &Shell) -> Result<Row> {
    let test = ["--package", "torchcache-tests", "--test", "behaviour"];
    let filter = ["state_machine", "--nocapture"];
    let test = cmd!(sh, "cargo test --release {test...} -- {filter...}");
    let output = shell::read_tests(test.env("PROPTEST_CASES", CASES.to_string()))?;
    sum("any sequence of calls, edits, options and faults", &output)
}

/// One line for all that some tests did.
fn sum(fault: &str, output: &str) -> Result<Row> {
    let rows = parse(output)?;
    let of = |count: fn(&Row) -> u64| rows.iter().map(count).sum();
    Ok(Row {
        fault: fault.to_owned(),
        cases: of(|row| row.cases),
        caused: of(|row| row.caused),
        rows: of(|row| row.rows),
    })
}

/// What tests print: `seen`, the cases, the faults caused, the rows compared, and what the fault is.
fn parse(output: &str) -> Result<Vec<Row>> {
    let mut rows = Vec::new();
    for line in output.lines() {
        // The test harness prints the name of a test in front of it.
        let Some((_, text)) = line.split_once("seen ") else {
            continue;
        };
        let row = Row::parse(text);
        rows.push(row.with_context(|| format!("cannot read {line:?}"))?);
    }
    Ok(rows)
}

impl Row {
    fn parse(text: &str) -> Option<Row> {
        let mut words = text.splitn(4, ' ');
        let mut number = || words.next()?.parse().ok();
        Some(Row {
            cases: number()?,
            caused: number()?,
            rows: number()?,
            fault: words.next().unwrap_or_default().to_owned(),
        })
    }

    fn line(&self) -> String {
        let Row {
            fault,
            cases,
            caused,
            rows,
        } = self;
        format!("| {fault} | {cases} | {caused} | {rows} |")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_tests_print_becomes_rows() {
        let output = "running 2 tests\ntest a ... seen 2 3 4 a fault, or two\nok\nseen 5 6 7\n";
        let row = |fault: &str, [cases, caused, rows]: [u64; 3]| Row {
            fault: fault.to_owned(),
            cases,
            caused,
            rows,
        };
        let expected = [row("a fault, or two", [2, 3, 4]), row("", [5, 6, 7])];
        assert_eq!(parse(output).unwrap(), expected);
        assert_eq!(sum("all", output).unwrap(), row("all", [7, 9, 11]));
        assert!(parse("seen 1 2\n").is_err());
    }
}
