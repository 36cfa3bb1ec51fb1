//! [`CutHistory`]: how functions take cut batches, which hold some rows of a batch. A module may fail on
//! one: it was traced with a fixed batch size, or drops the dimension of a single row.

use std::sync::OnceLock;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};

use crate::attempts::Attempts;

/// How a function took cut batches so far. Cuts that are left out run as whole batches: a module that fails on all of
/// them rarely runs twice, and one that failed by chance gets cuts again.
#[derive(Debug)]
pub(crate) struct CutHistory {
    one_row: Attempts,
    several_rows: Attempts,
    /// Whether a row alone had the shape of one of several, the last time that it was known. After `squeeze()` it
    /// has another one.
    keeps_one_row: AtomicBool,
    /// Whether the first dimension of all tensors of the output is the batch, once the body showed it.
    has_batch_first: OnceLock<bool>,
}

impl CutHistory {
    pub(crate) const fn new() -> Self {
        CutHistory {
            one_row: Attempts::new(),
            several_rows: Attempts::new(),
            keeps_one_row: AtomicBool::new(false),
            has_batch_first: OnceLock::new(),
        }
    }

    /// Some modules fail on single rows only.
    fn attempts(&self, rows: usize) -> &Attempts {
        match rows {
            1 => &self.one_row,
            _ => &self.several_rows,
        }
    }

    /// Whether to try a cut of `rows`. Where not, it is one of those that are left out.
    pub(crate) fn allows(&self, rows: usize) -> bool {
        self.attempts(rows).allows()
    }

    /// A cut of `rows` did what the whole batch would.
    pub(crate) fn note_success(&self, rows: usize) {
        self.attempts(rows).note_success();
        if rows == 1 {
            self.note_one_row(true);
        }
    }

    /// A cut of `rows` failed, and the whole batch did not.
    pub(crate) fn note_failure(&self, rows: usize) {
        self.attempts(rows).note_failure();
        if rows == 1 {
            self.note_one_row(false);
        }
    }

    /// Whether the function is known to return a row alone as it does among several.
    pub(crate) fn keeps_one_row(&self) -> bool {
        self.keeps_one_row.load(Relaxed)
    }

    /// The function returned a row alone as it does among several, or did not.
    pub(crate) fn note_one_row(&self, keeps: bool) {
        self.keeps_one_row.store(keeps, Relaxed);
    }

    /// Whether the batch is the first dimension of the output, if it is known.
    pub(crate) fn has_batch_first(&self) -> Option<bool> {
        self.has_batch_first.get().copied()
    }

    /// The batch is the first dimension of the output, or is not.
    pub(crate) fn note_batch_first(&self, is_first: bool) {
        // Other threads saw the same.
        let _ = self.has_batch_first.set(is_first);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn failures_leave_out_more_and_more_cuts() {
        let history = CutHistory::new();
        let mut tried = 0;
        for _ in 0..3_000 {
            if history.allows(5) {
                tried += 1;
                history.note_failure(5);
            }
        }
        assert_eq!(tried, 11, "of sizes 2 + 4 + … + 1024, and once more");
        assert!(history.allows(1), "single rows are counted apart");
    }

    #[test]
    fn a_success_forgets_the_failures() {
        let history = CutHistory::new();
        for _ in 0..3 {
            history.note_failure(5);
        }
        while !history.allows(5) {}
        history.note_success(5);
        history.note_failure(5);
        let left_out = (0..100).take_while(|_| !history.allows(5)).count();
        assert_eq!(left_out, 2);
    }
}
