//! The forward panics: after that, the cache works as before and holds nothing of that call.

use std::collections::HashSet;
use std::panic::{AssertUnwindSafe, catch_unwind};

use fastrand::Rng;
use proptest::prelude::*;
use tch::nn::Module;
use torchcache_faults::cases::{cases, random, seen};
use torchcache_soak::modules::{Outer, Scale, check, rows};

/// Few enough rows for them to meet again.
const NUMBERS: i64 = 60;

/// Calls of a round.
const CALLS: usize = 30;

#[test]
fn a_forward_that_panics_leaves_the_cache_as_it_was() {
    // The panics are expected, and print nothing.
    std::panic::set_hook(Box::new(|panic| {
        if !panic.to_string().contains("as asked") {
            eprintln!("{panic}");
        }
    }));
    let cases = cases(40, 4000);
    proptest!(random(cases), |(seed: u64)| calls(seed));
    seen("the forward panics, in an inner module too", cases.into());
}

fn calls(seed: u64) {
    let mut rng = Rng::with_seed(seed);
    let root = tempfile::tempdir().unwrap();
    let dir = root.path();
    let outer = Outer::over(Scale::by(3.0, dir), dir);
    // The first row, before there is anything, panics as well.
    let first = rows(&[NUMBERS]);
    outer.inner.panics.set(true);
    let given = catch_unwind(AssertUnwindSafe(|| outer.forward(&first)));
    assert!(given.is_err(), "the first row panics");
    outer.inner.panics.set(false);
    // The first single row that is computed runs once more, to show its shape.
    check(&outer.forward(&first), &outer.expected(&first));
    outer.ran.set(0);
    outer.inner.ran.set(0);
    // What each of the two must have by now: rows of calls that returned.
    let (mut of_outer, mut of_inner) = (HashSet::from([NUMBERS]), HashSet::from([NUMBERS]));
    for call in 0..CALLS {
        let panics = rng.u8(..3) == 0;
        let mut numbers: Vec<i64> = (0..rng.usize(1..8)).map(|_| rng.i64(0..NUMBERS)).collect();
        let wanted: HashSet<i64> = numbers.iter().copied().collect();
        if wanted.len() == 1 {
            // New rows that are all equal would be computed as the whole batch.
            numbers.truncate(1);
        }
        let xs = rows(&numbers);
        outer.inner.panics.set(panics);
        let is_outer = rng.bool();
        let given = catch_unwind(AssertUnwindSafe(|| match is_outer {
            true => outer.forward(&xs),
            false => outer.inner.forward(&xs),
        }));
        let asked_of_inner: HashSet<i64> = match is_outer {
            true => wanted.difference(&of_outer).copied().collect(),
            false => wanted.clone(),
        };
        let computed = asked_of_inner.difference(&of_inner).count() as i64;
        let must_panic = panics && computed > 0;
        assert!(
            given.is_err() == must_panic,
            "call {call}: panicked: {}, expected {must_panic}",
            given.is_err()
        );
        let ran = (outer.ran.take(), outer.inner.ran.take());
        let outer_computes = if is_outer {
            asked_of_inner.len() as i64
        } else {
            0
        };
        // A panic on some rows of a batch repeats it as the whole batch, which panics as well.
        let is_right = match must_panic {
            true => ran.0 >= outer_computes && ran.1 >= computed,
            false => ran == (outer_computes, computed),
        };
        assert!(
            is_right,
            "call {call}: {ran:?} rows were computed, not {outer_computes}, {computed}"
        );
        if let Ok(output) = given {
            let expected = match is_outer {
                true => outer.expected(&xs),
                false => outer.inner.expected(&xs),
            };
            check(&output, &expected);
            of_inner.extend(asked_of_inner);
            if is_outer {
                of_outer.extend(wanted);
            }
        }
        if rng.u8(..8) == 0 {
            outer.torchcache.flush().expect("no row is lost");
            outer.inner.torchcache.flush().expect("no row is lost");
        }
    }
    for (cache, rows) in [
        (&outer.torchcache, &of_outer),
        (&outer.inner.torchcache, &of_inner),
    ] {
        cache.flush().expect("no row is lost");
        let stats = cache.stats();
        assert!(
            stats.stored == rows.len() as u64,
            "{} rows stored, {} computed in full",
            stats.stored,
            rows.len()
        );
        assert!(stats.faults.is_empty(), "faults: {:?}", stats.faults);
    }
}
