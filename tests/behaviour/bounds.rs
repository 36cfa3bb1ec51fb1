//! Memory has bounds: over many changes of a weight, and for batches whose elements are not contiguous.

use crate::multi_process::{child, succeed};

/// More changes than the claims of one item are recorded for.
#[test]
fn weights_that_keep_changing_take_no_more_memory() {
    for kind in ["annotated", "wrapped"] {
        let grown: u64 = succeed(child(None, &["weight-changes", kind, "12000"]))
            .parse()
            .unwrap();
        assert!(grown < 50_000, "{grown} bytes for 3,000 changes: {kind}");
    }
}

/// They are copied in parts of 16 MB, and rows of stride 0 are hashed once.
#[cfg(target_os = "linux")]
#[test]
fn wide_arguments_are_hashed_in_bounded_pieces() {
    let mut child = child(None, &["wide-arguments"]);
    // Freed memory goes back to the system at once, and does not count for what follows.
    child.env("MALLOC_MMAP_THRESHOLD_", "1000000");
    let printed = succeed(child);
    assert_eq!(printed.lines().count(), 5, "{printed}");
    for line in printed.lines() {
        let megabytes: u64 = line.rsplit(' ').next().unwrap().parse().unwrap();
        assert!(megabytes < 100, "{line} MB more");
    }
}
