//! What `cargo xtask bench` is asked to do, from what follows the `--`.

use std::ffi::OsString;

use crate::bench::parts::{PARTS, Part};
use crate::error::{Error, Result};

#[derive(Debug, PartialEq)]
pub(crate) struct Plan {
    /// A smoke run: little data, and nothing is written.
    pub(crate) quick: bool,
    /// Whether the Python package runs beside ours.
    pub(crate) peer: bool,
    pub(crate) parts: Vec<&'static Part>,
}

impl Plan {
    pub(crate) fn parse(args: &[OsString]) -> Result<Self> {
        let mut plan = Plan {
            quick: false,
            peer: true,
            parts: Vec::new(),
        };
        for arg in args {
            match arg.to_string_lossy().as_ref() {
                "--quick" => plan.quick = true,
                "--no-peer" => plan.peer = false,
                name => plan
                    .parts
                    .push(Part::named(name).ok_or_else(|| unknown(name))?),
            }
        }
        if plan.parts.is_empty() {
            plan.parts.extend(&PARTS);
        }
        Ok(plan)
    }

    pub(crate) fn has(&self, name: &str) -> bool {
        self.parts.iter().any(|part| part.name == name)
    }
}

fn unknown(name: &str) -> Error {
    Error::Usage(format!(
        "bench knows --quick, --no-peer and the parts {}, but not {name}",
        Part::names()
    ))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(line: &str) -> Result<Plan> {
        let args: Vec<_> = line.split_whitespace().map(OsString::from).collect();
        Plan::parse(&args)
    }

    #[test]
    fn without_a_name_all_parts_are_run_and_otherwise_those_that_are_named() {
        let all = parse("").unwrap();
        assert!(all.peer && !all.quick);
        assert_eq!(all.parts.len(), PARTS.len());
        let one = parse("--quick stages --no-peer").unwrap();
        assert!(one.quick && !one.peer);
        assert!(one.has("stages") && !one.has("workloads"));
    }

    #[test]
    fn a_part_that_is_not_there_is_named_with_those_that_are() {
        let Err(Error::Usage(text)) = parse("workload") else {
            panic!("it is accepted")
        };
        assert!(
            text.contains("not workload") && text.contains("workloads, "),
            "{text}"
        );
    }
}
