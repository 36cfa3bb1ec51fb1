//! A process forks itself and goes on, without starting another program. The copy has the stores, but
//! not the threads that write: it reads, and waits for nobody.

use std::ops::Range;
use std::path::Path;
use std::thread;
use std::time::Duration;

use rustix::process::{WaitOptions, waitpid};
use torchcache_store::{Config, Store, StoreError, TempCache};

use super::shutdown::put_endless;
use crate::faulty::kill_this_process;
use crate::report::{Report, eventually};
use crate::rows::{batch, patient};
use crate::sys;

/// So long that what is read at a time is shared among threads.
const LEN: usize = 10_000;
const FLUSHED: Range<u64> = 0..300;
const QUEUED: Range<u64> = 300..320;
/// Put by the copy, into its parent's store.
const GIVEN_UP: Range<u64> = 400..410;
/// Put by the copy, into one that it opens.
const ITS_OWN: Range<u64> = 500..510;

/// A copy that is not done by then waits for what it does not have.
const DONE_WITHIN: Duration = Duration::from_secs(10);

pub(super) fn goes_on(dir: &Path) {
    let report = Report::new("fork");
    let mut private = Some(TempCache::new_in(dir).unwrap());
    let config = Config {
        queue_bytes: 1000, // full with whatever is queued
        ..patient()
    };
    let open = |name: &str, config: &Config| {
        let store = Store::open(dir.join(name), patient()).unwrap();
        store.put(batch(FLUSHED, LEN));
        store.flush().unwrap();
        // With threads that the copy will not have.
        report.expect_all(&store, FLUSHED, LEN);
        store.reconfigure(config.clone());
        store
    };
    let store = open("other", &config);
    store.put(batch(QUEUED, LEN));
    // A thread that is at work at the fork looks like one that gets nothing done.
    let config = Config {
        linger: Duration::ZERO,
        patience: Duration::from_millis(100),
        ..patient()
    };
    let busy = open("busy", &config);
    put_endless(&busy);

    let pid = sys::fork(|| {
        thread::spawn(|| {
            thread::sleep(DONE_WITHIN);
            kill_this_process();
        });
        thread::sleep(2 * config.patience);
        for (store, queued) in [(store.clone(), 20), (busy.clone(), 1)] {
            reads_and_gives_up(&store, queued);
        }
        drop((private.take(), busy, store)); // the last of each that the copy has
        // Its end is as good as any other for what it has opened itself.
        let last = Store::open(dir.join("last"), patient()).unwrap();
        last.put(batch(ITS_OWN, LEN));
        std::mem::forget(last);
        0
    });
    let pid = pid.unwrap();
    let ended = waitpid(Some(pid), WaitOptions::empty()).unwrap();
    let status = ended.map(|(_, status)| (status.exit_status(), status.terminating_signal()));
    assert_eq!(status, Some((Some(0), None)));
    let private = private.unwrap();
    assert!(private.path().is_dir(), "it was removed by the copy");
    let other = [FLUSHED, QUEUED, ITS_OWN].map(|rows| ("other", rows));
    for (name, rows) in other.into_iter().chain([("last", ITS_OWN)]) {
        let store = Store::open(dir.join(name), patient()).unwrap();
        report.expect_all(&store, rows, LEN);
    }
}

fn reads_and_gives_up(store: &Store, queued: u64) {
    let report = Report::new("fork");
    report.expect_all(store, FLUSHED, LEN);
    for n in 1..4 {
        store.put(batch(GIVEN_UP, LEN));
        assert_eq!(store.stats().lost_rows, 10 * n);
    }
    assert_eq!(report.count_right(store, GIVEN_UP, LEN), 0);
    let flushed = store.flush();
    assert!(
        matches!(flushed, Err(StoreError::Forked { rows }) if rows == queued),
        "{flushed:?}"
    );

    // The directory can be opened once more, and then it is as with any two processes.
    let own = Store::open(store.dir(), patient()).unwrap();
    own.put(batch(ITS_OWN, LEN));
    own.flush().unwrap();
    drop(own);
    let found = eventually(DONE_WITHIN, || {
        report.count_right(store, ITS_OWN, LEN) == 10
    });
    assert!(found, "{report:?}");
}
