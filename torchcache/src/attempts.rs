//! [`Attempts`]: fewer and fewer attempts at what fails.

use std::sync::atomic::{AtomicU32, Ordering::Relaxed};

/// After an attempt that failed, the next 2, 4, 8, … are left out.
#[derive(Debug, Default)]
pub(crate) struct Attempts {
    /// How many failed since the last one that did not.
    failed: AtomicU32,
    /// How many to leave out.
    left_out: AtomicU32,
}

/// The binary logarithm of the most to leave out after a failure.
const MAX_FAILED: u32 = 10;

impl Attempts {
    pub(crate) const fn new() -> Self {
        Attempts {
            failed: AtomicU32::new(0),
            left_out: AtomicU32::new(0),
        }
    }

    /// Whether to try. Where not, this is one of those that are left out.
    pub(crate) fn allows(&self) -> bool {
        let subtract = |left_out: u32| left_out.checked_sub(1);
        let taken = self.left_out.fetch_update(Relaxed, Relaxed, subtract);
        taken.is_err()
    }

    pub(crate) fn note_success(&self) {
        self.failed.store(0, Relaxed);
    }

    pub(crate) fn note_failure(&self) {
        // Those of several threads at the same time count once.
        if self.left_out.load(Relaxed) == 0 {
            let failed = self.failed.fetch_add(1, Relaxed) + 1;
            self.left_out.store(1 << failed.min(MAX_FAILED), Relaxed);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn failures_at_the_same_time_count_once() {
        let attempts = Attempts::new();
        assert!(attempts.allows() && attempts.allows());
        attempts.note_failure();
        attempts.note_failure();
        assert_eq!((0..100).take_while(|_| !attempts.allows()).count(), 2);
    }
}
