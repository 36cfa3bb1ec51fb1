//! A process forks without starting another program, which is not supported. What holds all the same:
//! the child reads no wrong rows, writes none, leaves its parent's private directory alone, and
//! ends without waiting for threads that it does not have.

use std::ops::Range;
use std::path::Path;
use std::thread;
use std::time::Duration;

use rustix::process::{WaitOptions, waitpid};
use torchcache_store::{Store, TempCache};

use super::endless::put_endless;
use crate::faulty::kill_this_process;
use crate::rows::{batch, count_right, expect_all, manual_flush, put_flushed};
use crate::sys;

/// So long that rows are read by several threads.
const LEN: usize = 10_000;
const FLUSHED: Range<u64> = 0..300;
const QUEUED: Range<u64> = 300..320;
/// Put by the child.
const REJECTED: Range<u64> = 400..410;

/// A child that has not ended by then waits for a thread that it does not have.
const ENDS_WITHIN: Duration = Duration::from_secs(10);

pub(super) fn goes_on(dir: &Path) {
    let mut private = Some(TempCache::new_in(dir).unwrap());
    let open = |name: &str| {
        let store = Store::open(dir.join(name), manual_flush()).unwrap();
        put_flushed(&store, FLUSHED, LEN);
        // With threads that the child will not have.
        expect_all(&store, FLUSHED, LEN);
        store
    };
    let store = open("other");
    store.put(batch(QUEUED, LEN));
    let busy = open("busy");
    busy.reconfigure(
        manual_flush()
            .with_batch_delay(Duration::ZERO)
            .with_stall_timeout(Duration::from_millis(100)),
    );
    put_endless(&busy);

    let pid = sys::fork(|| {
        thread::spawn(|| {
            thread::sleep(ENDS_WITHIN);
            kill_this_process();
        });
        for store in [&store, &busy] {
            expect_all(store, FLUSHED, LEN);
            store.put(batch(REJECTED, LEN));
            assert_eq!(store.stats().lost_rows, 10);
            assert_eq!(count_right(store, REJECTED, LEN), 0);
        }
        drop((private.take(), busy, store)); // the last of each in the child
        0
    });
    let pid = pid.unwrap();
    let ended = waitpid(Some(pid), WaitOptions::empty()).unwrap();
    let status = ended.map(|(_, status)| (status.exit_status(), status.terminating_signal()));
    assert_eq!(status, Some((Some(0), None)));
    let private = private.unwrap();
    assert!(private.path().is_dir(), "the child removed it");
    let store = Store::open(dir.join("other"), manual_flush()).unwrap();
    for rows in [FLUSHED, QUEUED] {
        expect_all(&store, rows, LEN);
    }
    assert_eq!(count_right(&store, REJECTED, LEN), 0);
}
