//! Nested modules in training: random calls, training steps, writes, swaps, options, threads and a second
//! process, in random order. Each call must return what the module computes without a cache on the
//! present weights, and must not compute a row again that it computed under the same weights.
//!
//! `PROPTEST_CASES` sets the number of runs.

mod module;
mod process;
mod steps;
mod threads;
mod world;

use std::cell::RefCell;

use proptest::prelude::*;
use proptest::test_runner::{TestRunner, contextualize_config};

use self::process::Process;
use self::world::{Seen, World};

/// Runs without `PROPTEST_CASES`.
const CASES: u32 = 32;

#[test]
fn random_training_agrees_with_modules_without_a_cache() {
    let config = contextualize_config(ProptestConfig {
        cases: CASES,
        failure_persistence: None,
        ..ProptestConfig::default()
    });
    let runs = config.cases;
    let (seen, process) = (Seen::default(), RefCell::new(Process::start()));
    let run = |steps: Vec<steps::Step>| {
        let mut world = World::new(&process, &seen);
        for step in &steps {
            world.step(step)?;
        }
        world.end()
    };
    if let Err(failure) = TestRunner::new(config).run(&steps::steps(), run) {
        panic!("{failure}");
    }
    println!("seen {runs}");
    // Rare kinds may be missing from few cases.
    if runs > CASES {
        for kind in steps::KINDS {
            let times = seen.borrow().get(kind).copied().unwrap_or_default();
            assert!(times > 0, "no {kind} in {runs} runs: {seen:#?}");
        }
    }
}
