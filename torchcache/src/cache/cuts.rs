//! [`CutHistory`]: how functions take cut batches, which hold some rows of a batch. A module may fail on
//! one: it was traced with a fixed batch size, or drops the dimension of a single row.

use std::sync::RwLock;

use super::attempts::Attempts;
use crate::function::Function;
use crate::sync::{read, write};

/// How a function took cut batches so far. Cuts that are left out run as whole batches: a module that fails on all of
/// them rarely runs twice, and one that failed by chance gets cuts again.
#[derive(Debug)]
pub(crate) struct CutHistory {
    one_row: Attempts,
    several_rows: Attempts,
    /// Whether the output is a batch where the input is one row, as far as it is known. After
    /// `squeeze()` it is the row itself.
    batch_of_one: RwLock<Option<bool>>,
}

impl CutHistory {
    pub(crate) const fn new() -> Self {
        CutHistory {
            one_row: Attempts::new(),
            several_rows: Attempts::new(),
            batch_of_one: RwLock::new(None),
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
    }

    /// A cut of `rows` failed, and the whole batch did not.
    pub(crate) fn note_failure(&self, rows: usize) {
        self.attempts(rows).note_failure();
    }

    /// Whether `function` is known to return a batch for one row: as it did last, or else by its code.
    pub(crate) fn returns_batch_of_one(&self, function: &Function) -> bool {
        let known = *read(&self.batch_of_one);
        known.unwrap_or_else(|| {
            *write(&self.batch_of_one).get_or_insert_with(|| !function.may_squeeze())
        })
    }

    /// The function returned a batch for one row, or did not.
    pub(crate) fn note_batch_of_one(&self, is_batch: bool) {
        *write(&self.batch_of_one) = Some(is_batch);
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
