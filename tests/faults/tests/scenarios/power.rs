//! The power is cut at any call. Names and bytes that were not synced are lost, kept or reordered.

use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use fastrand::Rng;
use proptest::prelude::*;
use rustix::io::Errno;
use torchcache_faults::faulty::{Fate, Faulty};
use torchcache_faults::report::{Report, cases};
use torchcache_faults::rows::{batch, manual_flush};
use torchcache_faults::sim::Sim;
use torchcache_store::{Compression, Store};

const LEN: usize = 900;

/// Steps of one run, each a put and a flush: enough to compact compacted segments.
const STEPS: u64 = 24;

/// About the number of calls that they make.
const CALLS: u64 = 700;

#[test]
fn flushed_rows_survive_a_power_cut() {
    let report = Report::new("power cut at any call, what was not synced lost or reordered");
    let inputs = (1..CALLS, any::<u64>(), any::<bool>());
    report.random(cases(400, 20_000), inputs, |(at, seed, compressed)| {
        cut_at(&report, at, seed, compressed);
    });
    report.finish();
}

fn cut_at(report: &Report, at: u64, seed: u64, compressed: bool) {
    let (sim, dir) = (Sim::new(), Path::new("/cache"));
    let mut rng = Rng::with_seed(seed);
    let calls = Arc::new(AtomicU64::new(0));
    let decide = {
        let (sim, calls, mut rng) = (sim.clone(), calls.clone(), rng.fork());
        let cut = std::sync::Mutex::new(move || sim.cut_power(&mut rng));
        move |_, _: &_| match calls.fetch_add(1, Ordering::SeqCst) + 1 {
            call if call < at => Fate::Done,
            call => {
                if call == at
                    && let Ok(mut cut) = cut.lock()
                {
                    cut();
                }
                Fate::Fails(Errno::IO)
            }
        }
    };
    let config = manual_flush().with_compression(compressed.then_some(Compression::new(1, 1)));
    let (mut put, mut flushed) = (0, 0);
    let opened = Store::open_on(Arc::new(Faulty::new(sim.clone(), decide)), dir, config);
    if let Ok(store) = opened {
        for _ in 0..STEPS {
            let rows = rng.u64(1..6);
            store.put(batch(put..put + rows, LEN));
            put += rows;
            let is_on = || calls.load(Ordering::SeqCst) < at;
            if store.flush().is_ok() && is_on() {
                flushed = put;
            }
            if !is_on() {
                break;
            }
        }
    }
    if calls.load(Ordering::SeqCst) < at {
        sim.cut_power(&mut rng); // between two calls, with nothing to do
    }
    report.caused(1);

    let store = Store::open_on(Arc::new(sim.clone()), dir, manual_flush());
    let store = store.unwrap();
    report.expect_all(&store, 0..flushed, LEN);
    report.count_right(&store, flushed..put, LEN);
    let faults = store.stats().faults;
    // A file gets its name after its bytes are synced.
    assert!(faults.total() == 0, "faults after it: {faults:?}");
    store.put(batch(put..put + 3, LEN));
    store.flush().unwrap();
    report.expect_all(&store, put..put + 3, LEN);
}
