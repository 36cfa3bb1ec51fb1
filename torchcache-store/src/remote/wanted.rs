//! Segments of which calls read so much that the rest is worth fetching.

use std::collections::VecDeque;
use std::sync::{Arc, PoisonError};

use super::segment::RemoteSegment;
use crate::sync::{Mutex, MutexGuard};

/// The most segments that are wanted at a time. Others are wanted no more.
const MAX_WANTED: usize = 64;

/// A segment of which calls read much: the rest of it is worth fetching.
#[derive(Clone, Debug)]
pub struct WantedSegment(pub(super) Arc<RemoteSegment>);

impl WantedSegment {
    /// The size of the object.
    pub fn bytes(&self) -> u64 {
        self.0.size
    }
}

#[derive(Debug, Default)]
pub(super) struct WantedSegments(Mutex<VecDeque<Arc<RemoteSegment>>>);

impl WantedSegments {
    fn lock(&self) -> MutexGuard<'_, VecDeque<Arc<RemoteSegment>>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Counts a request of a call that was answered.
    pub(super) fn note_request(&self, segment: &Arc<RemoteSegment>, bytes: u64) {
        if segment.note_request(bytes) {
            let mut wanted = self.lock();
            if wanted.len() < MAX_WANTED {
                wanted.push_back(segment.clone());
            }
        }
    }

    pub(super) fn take(&self) -> Option<WantedSegment> {
        self.lock().pop_front().map(WantedSegment)
    }
}
