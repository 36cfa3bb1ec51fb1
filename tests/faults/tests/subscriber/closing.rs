//! The log at the end of a store.

use torchcache_store::Store;

use crate::callers::fill_with_bad_segments;
use crate::case::{Calls, config, ends};

/// The totals are logged while the store ends, and the calls open another one.
#[test]
fn a_store_is_opened_while_another_one_ends() {
    for calls in [Calls::Here, Calls::Elsewhere] {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().canonicalize().unwrap();
        fill_with_bad_segments(&path);
        std::fs::copy(
            path.join("0000000000000002-1-2.tcs"),
            path.join("0000000000000003-1-3.tcs"),
        )
        .unwrap();
        ends(path, calls, |case| {
            drop(Store::open(&case.dir, config()).expect("it opens"));
            assert!(case.events.get() > 4, "the totals are logged as well");
        });
    }
}
