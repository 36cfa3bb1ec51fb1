//! What can happen to whole modules: threads, panics, the end of a process, rows of another
//! identity. What can happen to their store is in `torchcache-faults`.

#![deny(missing_docs)]

mod ends;
mod foreign;
mod modules;
mod panics;
mod threads;

use torchcache_faults::{Part, Scenario};

/// The scenarios of modules.
pub const MODULES: Part = Part {
    scenarios: &[
        Scenario {
            name: "threads",
            fault: "16 threads on functions and modules, nested and recursive",
            rounds: [1, 1],
            run: threads::run,
        },
        Scenario {
            name: "panics",
            fault: "the forward panics, in an inner module too",
            rounds: [40, 4000],
            run: panics::run,
        },
        Scenario {
            name: "foreign",
            fault: "a segment under another identity's directory",
            rounds: [2, 50],
            run: foreign::run,
        },
        Scenario {
            name: "ends",
            fault: "the end of a process whose caches are in statics",
            rounds: [1, 20],
            run: ends::run,
        },
    ],
    roles: &[("ends", ends::child)],
    program: "soak",
};
