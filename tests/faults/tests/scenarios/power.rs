//! The power is cut at any call. Names and bytes that were not synced are lost, kept or reordered.

use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use fastrand::Rng;
use proptest::prelude::*;
use rustix::io::Errno;
use torchcache_faults::cases::{cases, random, seen};
use torchcache_faults::faulty::{Fate, Faulty};
use torchcache_faults::rows::{
    batch, count_right, expect_all, expect_no_faults, manual_flush, opened, put_flushed,
};
use torchcache_faults::sim::Sim;
use torchcache_store::{Compression, Store};

const LEN: usize = 900;

/// Steps of one run, each a put and a flush: enough to compact compacted segments.
const STEPS: u64 = 24;

/// About the number of calls that they make.
const CALLS: u64 = 700;

#[test]
fn flushed_rows_survive_a_power_cut() {
    let cases = cases(400, 20_000);
    proptest!(random(cases), |(at in 1..CALLS, seed: u64, compressed: bool)| {
        cut_at(at, seed, compressed);
    });
    let fault = "power cut at any call, what was not synced lost or reordered";
    seen(fault, cases.into());
}

fn cut_at(at: u64, seed: u64, compressed: bool) {
    let (sim, dir) = (Sim::new(), Path::new("/cache"));
    let mut rng = Rng::with_seed(seed);
    if rng.bool() {
        sim.add_unsynced_dir(dir);
    }
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
    let fs = Arc::new(Faulty::new(sim.clone(), decide));
    if let Ok(store) = Store::open_on(fs, dir, config) {
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

    let store = opened(sim.clone(), dir);
    expect_all(&store, 0..flushed, LEN);
    count_right(&store, flushed..put, LEN);
    // A file gets its name after its bytes are synced.
    expect_no_faults(&store);
    put_flushed(&store, put..put + 3, LEN);
    expect_all(&store, put..put + 3, LEN);
}
