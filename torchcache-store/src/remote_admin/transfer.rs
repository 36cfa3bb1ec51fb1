//! What copying rows between a directory and an object store have in common.

use std::collections::HashSet;
use std::io;

use super::discover::{RemoteCache, RemoteRoot, SegmentObject};
use super::records::{chunks, read_footers};
use super::summary::{FOOTER_BYTES, tail_bytes};
use crate::key::{Key, fingerprint};
use crate::remote::{ObjectError, ObjectErrorKind};
use crate::segment::SegmentError;

/// Why rows could not be copied.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum TransferError {
    /// The local directory cannot be read or written.
    #[error(transparent)]
    Local(#[from] io::Error),
    /// The object store failed.
    #[error(transparent)]
    Remote(#[from] ObjectError),
}

/// Rows by the beginnings of their keys. Two rows have the same by chance in one of 2^64 cases: then one is not copied.
#[derive(Debug, Default)]
pub(super) struct KnownRows(HashSet<u64>);

impl KnownRows {
    pub(super) fn insert(&mut self, key: &Key) -> bool {
        self.0.insert(fingerprint(key))
    }

    pub(super) fn contains(&self, key: &Key) -> bool {
        self.0.contains(&fingerprint(key))
    }
}

/// The error of a request as it was before it became one of a segment.
pub(super) fn remote_error(error: io::Error) -> ObjectError {
    error
        .downcast()
        .unwrap_or_else(|error| ObjectError::new(ObjectErrorKind::Other, error))
}

impl RemoteRoot {
    /// The rows of a cache, by its footers. Segments that cannot be read as such have no rows.
    pub(super) fn rows_of(&self, cache: &RemoteCache) -> Result<KnownRows, ObjectError> {
        let all: Vec<&SegmentObject> = cache.segments.iter().collect();
        let mut known = KnownRows::default();
        for chunk in chunks(&all, FOOTER_BYTES, tail_bytes) {
            for footer in read_footers(&self.requests, &cache.layout, chunk) {
                match footer {
                    Ok(footer) => footer.rows().for_each(|row| _ = known.insert(&row.key)),
                    Err(SegmentError::Io(error)) if error.kind() != io::ErrorKind::NotFound => {
                        return Err(remote_error(error));
                    }
                    Err(_) => {}
                }
            }
        }
        Ok(known)
    }
}
