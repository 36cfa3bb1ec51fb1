//! Warnings: what keeps the remote from being of use, said once for each tier and kind.

use std::fmt::Display;
use std::sync::atomic::{AtomicU8, Ordering};

use crate::events;

/// What is warned of.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Warning {
    ReadDenied,
    WriteDenied,
    MissingBucket,
    Unreachable,
    Throttled,
    Corrupt,
    BacklogFull,
    IndexFull,
}

impl Warning {
    /// What happened, what follows, and what to do.
    fn text(self) -> &'static str {
        match self {
            Warning::ReadDenied => {
                "the object store denied reading; rows of other machines are computed here; allow listing and reading \
                 objects below this URL, or set the remote mode `write-only`"
            }
            Warning::WriteDenied => {
                "the object store denied writing; what it denied is not shared with other machines; allow putting \
                 objects below this URL, or set the remote mode `read-only`"
            }
            Warning::MissingBucket => {
                "the bucket or container does not exist; no rows are shared; create it, or correct the URL"
            }
            Warning::Unreachable => {
                "requests to the object store keep failing, so none is made for a while; rows of other machines are \
                 computed here, and uploads wait; check the network, the endpoint and the URL"
            }
            Warning::Throttled => {
                "the object store asks for fewer requests; uploads are delayed and some rows are computed here; raise \
                 the request limit, or use another prefix"
            }
            Warning::Corrupt => {
                "an object is not as it was written; its damaged rows are computed here; check the object store, and \
                 who may write to it"
            }
            Warning::BacklogFull => {
                "too many rows wait for their upload; further ones are not shared with other machines; check why \
                 uploads fail, or whether the network is too slow for what is computed"
            }
            Warning::IndexFull => {
                "the remote has more rows than the index holds; the oldest are computed and uploaded again; remove some with \
                 `torchcache prune`, or give each part of the data its own `version`"
            }
        }
    }
}

#[derive(Debug)]
pub(super) struct Warnings {
    url: String,
    /// A bit for each kind.
    said: AtomicU8,
}

impl Warnings {
    pub(super) fn new(url: String) -> Warnings {
        Warnings {
            url,
            said: AtomicU8::new(0),
        }
    }

    /// Says what happened, for the first time of each kind.
    pub(super) fn note(&self, warning: Warning, reason: impl Display) {
        let bit = 1 << warning as u8;
        if self.said.fetch_or(bit, Ordering::Relaxed) & bit != 0 {
            return;
        }
        let (url, reason) = (self.url.clone(), reason.to_string());
        events::emit(move || {
            tracing::warn!(url, reason, "{}", warning.text());
        });
    }
}
