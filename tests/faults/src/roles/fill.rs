//! Fills a directory that has little room, and makes room again.

use std::path::Path;

use torchcache_store::{Fault, FlushError, Store};

use crate::process::say;
use crate::report::Report;
use crate::rows::{batch, manual_flush};

const LEN: usize = 3000;

/// No arguments.
pub fn run(dir: &Path, _: &[String]) {
    say("STARTED");
    let report = Report::new("no room");
    let config = manual_flush().with_segment_bytes(100_000);
    let store = Store::open(dir, config.clone()).unwrap();
    for n in 0..10 {
        store.put(batch(20 * n..20 * n + 20, LEN));
        store.flush().expect("small segments fit");
    }
    // More in one segment than fits.
    store.reconfigure(config.with_segment_bytes(10_000_000));
    store.put(batch(1000..1400, LEN));
    let lost = store.flush().expect_err("this one does not");
    assert!(matches!(lost, FlushError::Lost { .. }), "{lost}");
    let stats = store.stats();
    assert!(stats.faults.get(Fault::NoSpace) > 0, "{stats:?}");
    assert_eq!(
        stats.faults.total(),
        stats.faults.get(Fault::NoSpace),
        "{stats:?}"
    );
    report.caused(stats.faults.get(Fault::NoSpace));
    report.expect_all(&store, 0..200, LEN);
    report.count_right(&store, 1000..1400, LEN);
    store.clear();
    store.put(batch(2000..2020, LEN));
    store.flush().expect("there is room again");
    report.expect_all(&store, 2000..2020, LEN);
    say(report.line());
}
