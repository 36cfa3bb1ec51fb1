//! The forward panics: after that, the cache works as before and holds nothing of that call.

use std::collections::HashSet;
use std::panic::{AssertUnwindSafe, catch_unwind};

use fastrand::Rng;
use tch::nn::Module;
use torchcache_faults::Tally;
use torchcache_faults::tally::{Plan, ensure};

use crate::modules::{Outer, Scale, check, rows};

/// Few enough rows for them to meet again.
const NUMBERS: i64 = 60;

/// Calls of a round.
const CALLS: usize = 30;

pub(crate) fn run(plan: &Plan) -> Tally {
    let hook = std::panic::take_hook();
    std::panic::set_hook(Box::new(|_| ()));
    let mut tally = Tally::default();
    let mut rng = Rng::with_seed(plan.seed);
    for _ in 0..plan.rounds {
        let seed = rng.u64(..);
        tally.round(&format!("panics of seed {seed}"), |tally| {
            calls(tally, seed)
        });
    }
    std::panic::set_hook(hook);
    tally
}

fn calls(tally: &mut Tally, seed: u64) -> Result<(), String> {
    let mut rng = Rng::with_seed(seed);
    let root = tempfile::tempdir().map_err(|error| error.to_string())?;
    let dir = root.path();
    let outer = Outer::over(Scale::by(3.0, dir), dir);
    // What each of the two must have by now: rows of calls that returned.
    let (mut of_outer, mut of_inner) = (HashSet::new(), HashSet::new());
    for call in 0..CALLS {
        // The first row, before there is anything, panics as well.
        let panics = call == 0 || rng.u8(..3) == 0;
        let numbers: Vec<i64> = (0..rng.usize(1..8)).map(|_| rng.i64(0..NUMBERS)).collect();
        let xs = rows(&numbers);
        outer.inner.panics.set(panics);
        let is_outer = rng.bool();
        let given = catch_unwind(AssertUnwindSafe(|| match is_outer {
            true => outer.forward(&xs),
            false => outer.inner.forward(&xs),
        }));
        let wanted: HashSet<i64> = numbers.iter().copied().collect();
        let asked_of_inner: HashSet<i64> = match is_outer {
            true => wanted.difference(&of_outer).copied().collect(),
            false => wanted.clone(),
        };
        let computed = asked_of_inner.difference(&of_inner).count() as i64;
        let must_panic = panics && computed > 0;
        ensure(given.is_err() == must_panic, || {
            format!(
                "call {call}: panicked: {}, expected {must_panic}",
                given.is_err()
            )
        })?;
        let ran = (outer.ran.take(), outer.inner.ran.take());
        let outer_computes = if is_outer {
            asked_of_inner.len() as i64
        } else {
            0
        };
        ensure(ran == (outer_computes, computed), || {
            format!("call {call}: {ran:?} rows were computed, not {outer_computes}, {computed}")
        })?;
        match given {
            Err(_) => tally.caused += 1,
            Ok(output) => {
                let expected = match is_outer {
                    true => outer.expected(&xs),
                    false => outer.inner.expected(&xs),
                };
                check(tally, &output, &expected);
                of_inner.extend(asked_of_inner);
                if is_outer {
                    of_outer.extend(wanted);
                }
            }
        }
        if rng.u8(..8) == 0 {
            outer.torchcache.flush();
            outer.inner.torchcache.flush();
        }
    }
    for (cache, rows) in [
        (&outer.torchcache, &of_outer),
        (&outer.inner.torchcache, &of_inner),
    ] {
        ensure(cache.flush(), || "rows were lost".into())?;
        let stats = cache.stats();
        ensure(stats.stored == rows.len() as u64, || {
            format!(
                "{} rows stored, {} computed in full",
                stats.stored,
                rows.len()
            )
        })?;
        ensure(stats.faults.is_empty(), || {
            format!("faults: {:?}", stats.faults)
        })?;
    }
    Ok(())
}
