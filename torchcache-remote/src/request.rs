//! Extensions of requests, by which their answers are checked.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use torchcache_store::remote::ObjectErrorKind;

/// Whether the answer has begun.
#[derive(Clone, Debug, Default)]
pub(crate) struct Begun(Arc<AtomicBool>);

impl Begun {
    pub(crate) fn set(&self) {
        self.0.store(true, Ordering::Relaxed);
    }

    /// The error of a request that has not ended at its deadline.
    pub(crate) fn late(&self) -> ObjectErrorKind {
        match self.0.load(Ordering::Relaxed) {
            true => ObjectErrorKind::Slow,
            false => ObjectErrorKind::TimedOut,
        }
    }
}

/// The answer has to be a listing.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Listing;
