//! Opens directories of another user, and one of its own with a file of another user.

use std::ops::Range;
use std::path::Path;

use torchcache_store::{Fault, Store, StoreError};

use crate::rows::{count_right, expect_all, manual_flush, put_flushed};

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
pub fn nothing_planted(dir: &Path) -> Store {
    let store = Store::open(dir, manual_flush()).unwrap();
    assert_eq!(count_right(&store, PLANTED, LEN), 0);
    put_flushed(&store, 0..20, LEN);
    expect_all(&store, 0..20, LEN);
    store
}

/// No arguments; as a user that is not root.
pub fn run(root: &Path, _: &[String]) {
    refused(&root.join("of another"), "belongs to user");
    let store = nothing_planted(&root.join("own"));
    assert_eq!(store.stats().faults.get(Fault::PermissionRejected), 1);
}
