//! The list of all scenarios, in the order of `docs/reliability.md`.

mod beside;
mod clocks;
mod damaged;
mod directory;
mod ending;
mod failing;
mod forked;
mod full;
mod hostile;
mod killed;
mod lies;
mod power;
mod versions;
mod writer;

use std::time::Duration;

use crate::tally::{Plan, Tally};

/// A kind of fault, and what causes it.
#[derive(Debug)]
pub struct Scenario {
    /// A short name.
    pub name: &'static str,
    /// What is caused, in a few words.
    pub fault: &'static str,
    /// Rounds of the short form and of the long one.
    pub rounds: [u64; 2],
    /// Causes it.
    pub run: fn(&Plan) -> Tally,
}

impl Scenario {
    /// What the tests run.
    pub fn short(&self, seed: u64) -> Plan {
        Plan {
            rounds: self.rounds[0],
            time: Duration::from_secs(3),
            seed,
        }
    }

    /// What `soak` runs.
    pub fn long(&self, seed: u64) -> Plan {
        Plan {
            rounds: self.rounds[1],
            time: Duration::from_secs(60),
            seed,
        }
    }
}

/// The scenarios of the store.
pub const STORE: Part = Part {
    scenarios: SCENARIOS,
    roles: ROLES,
    program: "faults",
};

/// Scenarios, and what the processes that they start do.
#[derive(Clone, Copy, Debug)]
pub struct Part {
    /// The scenarios, in the order of the table.
    pub scenarios: &'static [Scenario],
    /// The roles of their child processes.
    pub roles: &'static [(&'static str, Role)],
    /// The program that plays them, beside the one that runs the scenarios. One that need not load
    /// libtorch starts in a hundredth of the time.
    pub program: &'static str,
}

const SCENARIOS: &[Scenario] = &[
    Scenario {
        name: "killed",
        fault: "killed while writing, merging, evicting or opening",
        rounds: [50, 500],
        run: killed::run,
    },
    Scenario {
        name: "power",
        fault: "power cut at any call, what was not synced lost or reordered",
        rounds: [400, 20_000],
        run: power::run,
    },
    Scenario {
        name: "full",
        fault: "disk full, file size limit, short write",
        rounds: [30, 1000],
        run: full::run,
    },
    Scenario {
        name: "failing",
        fault: "the nth call of each kind fails, once or from then on",
        rounds: [1, 2],
        run: failing::run,
    },
    Scenario {
        name: "directory",
        fault: "directory read-only, without permission, deleted, replaced",
        rounds: [2, 20],
        run: directory::run,
    },
    Scenario {
        name: "damaged",
        fault: "any bit flipped, any cut, junk behind, segments swapped",
        rounds: [1, 1],
        run: damaged::run,
    },
    Scenario {
        name: "lies",
        fault: "lengths, offsets, counts and kinds that lie",
        rounds: [4000, 400_000],
        run: lies::run,
    },
    Scenario {
        name: "versions",
        fault: "segments of older and newer versions",
        rounds: [1, 1],
        run: versions::run,
    },
    Scenario {
        name: "beside",
        fault: "eight processes on one directory",
        rounds: [1, 1],
        run: beside::run,
    },
    Scenario {
        name: "writer",
        fault: "the writer panics, the disk does not answer",
        rounds: [1, 1],
        run: writer::run,
    },
    Scenario {
        name: "ending",
        fault: "exit, panic, fork, SIGTERM, SIGINT, SIGHUP with rows not flushed",
        rounds: [1, 20],
        run: ending::run,
    },
    Scenario {
        name: "hostile",
        fault: "links, other owners, open to everybody, odd names",
        rounds: [2, 20],
        run: hostile::run,
    },
    Scenario {
        name: "clocks",
        fault: "clocks set back, times to come, 100,000 files",
        rounds: [3, 100],
        run: clocks::run,
    },
];

/// What a child process does in its directory, told by further words.
pub type Role = fn(&std::path::Path, &[String]);

const ROLES: &[(&str, Role)] = &[
    ("steady", killed::steady),
    ("fill", full::fill),
    ("beside", beside::beside),
    ("ending", ending::ending),
    ("permission", directory::permission),
    ("stranger", hostile::stranger),
];

/// Runs the short form of a scenario, for a test.
///
/// # Panics
/// If something is not as promised.
pub fn survives(part: &Part, name: &str) {
    let scenario = part.scenarios.iter().find(|scenario| scenario.name == name);
    let scenario = scenario.expect("a scenario of this name");
    let tally = (scenario.run)(&scenario.short(1));
    println!("{name}{}: {}", tally.left_out(), tally.cells().join(", "));
    if let Err(failures) = tally.verdict() {
        panic!("{failures}");
    }
}
