//! The power is cut at each call of repair, clear and prune. Other rows are still there, and removed
//! rows do not come back once the call has returned.

use std::path::Path;
use std::sync::{Arc, Mutex};

use fastrand::Rng;
use rustix::io::Errno;
use torchcache_faults::cases::Counter;
use torchcache_faults::faulty::{Fate, Faulty};
use torchcache_faults::rows::{fetch, keys, value};
use torchcache_faults::sim::Sim;
use torchcache_store::admin::{Keep, check, clear, prune, repair};
use torchcache_store::manifest::Manifest;

use crate::common::{HOUR, LEN, age, dir, only, opened, put, root, segments, store};

/// Power cuts at each call: what the medium keeps is random.
const SEEDS: u64 = 12;

/// Runs `deed` on copies of a medium, and cuts the power at each of its calls and after the last. `check` gets the medium, and whether it was done by then.
fn at_every_call(medium: &Sim, deed: impl Fn(Faulty) -> bool, check: impl Fn(&Sim, bool)) {
    for seed in 0..SEEDS {
        for at in 1.. {
            let sim = medium.copy();
            let rng = Arc::new(Mutex::new(Rng::with_seed(seed * 1000 + at)));
            let calls = Arc::new(Counter::default());
            let cut = {
                let (sim, rng) = (sim.clone(), rng.clone());
                move || sim.cut_power(&mut rng.lock().unwrap())
            };
            let decide = {
                let (calls, cut) = (calls.clone(), cut.clone());
                move |_, _: &_| {
                    let call = calls.next();
                    if call == at {
                        cut();
                    }
                    match call < at {
                        true => Fate::Done,
                        false => Fate::Fails(Errno::IO),
                    }
                }
            };
            let done = deed(Faulty::new(sim.clone(), decide));
            let is_over = calls.get() < at;
            if is_over {
                cut();
            }
            check(&sim, done);
            if is_over {
                assert!(at > 5, "it was cut {at} times");
                break;
            }
        }
    }
}

/// Which of these rows are there. Those that are, are right.
fn there(sim: &Sim, cache: &str, numbers: std::ops::Range<u64>) -> Vec<u64> {
    if sim.files(&Path::new("/root").join(cache)).is_empty() {
        return Vec::new();
    }
    let store = store(sim.clone(), cache);
    let rows = numbers.clone().zip(keys(numbers.clone()));
    let rows = rows.zip(fetch(&store, &keys(numbers)));
    rows.filter_map(|((number, key), row)| {
        assert!(row.as_ref()? == &value(&key, LEN), "row {number} is wrong");
        Some(number)
    })
    .collect()
}

#[test]
fn a_power_cut_during_repair_loses_no_sound_row() {
    let medium = root();
    put(&store(medium.clone(), "c"), 0..5);
    medium.damage(&segments(&medium)[0], |bytes| bytes[16 + 2 * 108 + 9] ^= 1);
    put(&store(medium.clone(), "c"), 5..8);
    age(&medium, "c", HOUR);
    let deed = |fs: Faulty| {
        let root = torchcache_store::admin::Root::open_on(Arc::new(fs), Path::new("/root"));
        let Ok(listing) = root.and_then(|root| root.list()) else {
            return false;
        };
        let reports = check(&listing.caches, &());
        let repairs = reports.iter().map(repair);
        repairs.fold(true, |done, repairs| {
            let all = repairs.segments.iter().all(|(_, done)| done.is_ok());
            done && all && repairs.error.is_none()
        })
    };
    at_every_call(&medium, deed, |sim, _| {
        assert_eq!(there(sim, "c", 0..8), [0, 1, 3, 4, 5, 6, 7]);
    });
}

#[test]
fn cleared_rows_stay_away_after_a_power_cut() {
    let medium = root();
    put(&store(medium.clone(), "c"), 0..5);
    put(&store(medium.clone(), "c"), 5..8);
    let manifest = Manifest::new("m::Module", "5eed", Vec::new());
    manifest.write(&dir(&medium)).expect("it can be written");
    let cache = |fs: Faulty| {
        let root = torchcache_store::admin::Root::open_on(Arc::new(fs), Path::new("/root"));
        let listing = root.and_then(|root| root.list()).ok()?;
        listing.caches.into_iter().next()
    };
    let deed = |fs: Faulty| {
        let cleared = cache(fs).map(|cache| clear(&cache, false));
        cleared.is_some_and(|cleared| cleared.is_ok_and(|it| it.failed.is_empty()))
    };
    at_every_call(&medium, deed, |sim, done| {
        let left = there(sim, "c", 0..8);
        assert!(!done || left.is_empty(), "{left:?} came back");
    });
    clear(&only(medium.clone()), false).expect("it can be cleared");
    assert!(medium.files(Path::new("/root/c")).is_empty());
}

#[test]
fn a_power_cut_during_pruning_loses_nothing_else() {
    let medium = root();
    put(&store(medium.clone(), "c"), 0..5);
    age(&medium, "c", HOUR);
    put(&store(medium.clone(), "c"), 5..8);
    put(&store(medium.clone(), "d"), 10..12);
    age(&medium, "d", HOUR);
    let root =
        |fs: Faulty| torchcache_store::admin::Root::open_on(Arc::new(fs), Path::new("/root")).ok();
    let deed = |fs: Faulty| {
        let pruned = root(fs).map(|root| prune(&root, Keep::ReadWithin(HOUR / 2), false));
        pruned.is_some_and(|pruned| {
            pruned.is_ok_and(|it| it.failed.is_empty() && it.skipped.is_empty())
        })
    };
    at_every_call(&medium, deed, |sim, done| {
        assert_eq!(there(sim, "c", 5..8), [5, 6, 7]);
        if done {
            assert_eq!(there(sim, "c", 0..5), Vec::<u64>::new());
            assert_eq!(there(sim, "d", 10..12), Vec::<u64>::new());
        }
    });
    let pruned = prune(&opened(medium.clone()), Keep::ReadWithin(HOUR / 2), false);
    assert_eq!(pruned.expect("it can be listed").caches.len(), 2);
}
