//! [`Changes`]: reports of changes that a comparison may not see.

use std::sync::atomic::{AtomicU64, Ordering::SeqCst};

/// Counts what may have changed a module without a trace. An attach records the count before it reads
/// the module; while it is the same, the recorded module hash may hold.
#[derive(Debug)]
pub(crate) struct Changes {
    /// `refresh()`, and training steps that went past the cache or were refused.
    reported: AtomicU64,
    /// How often a module around this one was hashed.
    outer_hashed: AtomicU64,
}

impl Changes {
    pub(crate) const fn new() -> Self {
        Changes {
            reported: AtomicU64::new(0),
            outer_hashed: AtomicU64::new(0),
        }
    }

    /// The module may have changed.
    pub(crate) fn report(&self) {
        self.reported.fetch_add(1, SeqCst);
    }

    /// A module that contains this one is hashed.
    pub(crate) fn outer_hashed(&self) {
        self.outer_hashed.fetch_add(1, SeqCst);
    }

    /// How many changes were reported. Modules around this one watch it.
    pub(crate) fn reported(&self) -> u64 {
        self.reported.load(SeqCst)
    }

    /// Differs after each report of either kind.
    pub(crate) fn count(&self) -> (u64, u64) {
        (self.reported(), self.outer_hashed.load(SeqCst))
    }
}
