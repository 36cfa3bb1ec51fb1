//! Opens directories of another user, and one of its own with a file of another user.

use std::ops::Range;
use std::path::Path;

use torchcache_store::{Fault, Store, StoreError};

use crate::process::NOBODY;
use crate::rows::{count_right, expect_all, manual_flush, put_flushed};
use crate::sys::become_user;

/// The length of the rows.
pub const LEN: usize = 64;

/// Directories that another user shares with this one's primary group, below one that all users may write to, and
/// whether they are accepted: the user itself made one above them, and the group may write to none from there on.
pub const PLACES: [(&str, bool); 8] = [
    ("cache", false),
    ("theirs/cache", false),
    ("theirs/further/cache", false),
    ("own/cache", true),
    ("own/theirs/cache", false),
    ("own/theirs, closed/cache", true),
    ("own, shared/cache", false),
    ("of root, shared/cache", false),
];

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

/// As a user that is not root; with the argument `setuid`, as root, which becomes another user.
pub fn run(root: &Path, args: &[String]) {
    let victim = root.join("of another");
    if args == ["setuid"] {
        Store::open(&victim, manual_flush()).expect("root may use any");
        become_user(NOBODY, NOBODY).expect("root may");
        return refused(&victim, "belongs to user");
    }
    refused(&victim, "belongs to user");
    for (path, is_accepted) in PLACES {
        let dir = root.join("of another, open").join(path);
        match is_accepted {
            true => expect_all(&Store::open(&dir, manual_flush()).unwrap(), PLANTED, LEN),
            false => refused(&dir, "primary group"),
        }
    }
    let store = nothing_planted(&root.join("own"));
    assert_eq!(store.stats().faults.get(Fault::PermissionRejected), 1);
}
