//! Opens directories of another user, and one of its own with a file of another user.

use std::ops::Range;
use std::path::Path;

use torchcache_store::{Fault, Store, StoreError};

use crate::process::say;
use crate::report::Report;
use crate::rows::{batch, manual_flush};

/// The length of the rows.
pub const LEN: usize = 64;

/// The rows of planted segments.
pub const PLANTED: Range<u64> = 0..10;

/// Expects a directory to be refused, with this in the message.
#[track_caller]
pub fn refused(dir: &Path, why: &str) {
    match Store::open(dir, manual_flush()) {
        Err(StoreError::Directory { source, .. }) if source.to_string().contains(why) => {}
        other => panic!("opening said {other:?}, not {why:?}"),
    }
}

/// Expects that a store reads nothing of what was planted, and works. Returns it.
pub fn nothing_planted(report: &Report, dir: &Path) -> Store {
    let store = Store::open(dir, manual_flush()).unwrap();
    assert_eq!(report.count_right(&store, PLANTED, LEN), 0);
    store.put(batch(0..20, LEN));
    store.flush().unwrap();
    report.expect_all(&store, 0..20, LEN);
    store
}

/// No arguments; as a user that is not root.
pub fn run(root: &Path, _: &[String]) {
    let report = Report::new("another owner");
    refused(&root.join("of another"), "belongs to user");
    let store = nothing_planted(&report, &root.join("own"));
    assert_eq!(store.stats().faults.get(Fault::PermissionRejected), 1);
    report.caused(2);
    say(report.line());
}
