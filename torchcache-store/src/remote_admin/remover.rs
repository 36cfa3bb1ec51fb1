//! Removes objects, and stops asking where that is not allowed.

use super::requests::Requests;
use crate::admin::CheckProgress;
use crate::remote::{Layout, ListedObject, ObjectError, ObjectErrorKind};

/// So many objects are removed together.
const REMOVED_AT_ONCE: usize = 64;

/// Removes objects and notes those that it cannot remove.
#[derive(Debug)]
pub(super) struct Remover<'r> {
    requests: &'r Requests,
    /// Whether one was tried.
    has_tried: bool,
    /// Whether one was removed.
    has_removed: bool,
    denied: Option<ObjectError>,
    /// The keys of objects that could not be removed.
    pub(super) failed: Vec<(String, ObjectError)>,
}

impl<'r> Remover<'r> {
    pub(super) fn new(requests: &'r Requests) -> Remover<'r> {
        Remover {
            requests,
            has_tried: false,
            has_removed: false,
            denied: None,
            failed: Vec::new(),
        }
    }

    /// Removes objects. Returns for each whether it is gone. The first one is removed alone; where it may not be removed, no
    /// others are tried.
    pub(super) fn remove(&mut self, keys: &[String], progress: &dyn CheckProgress) -> Vec<bool> {
        let mut are_gone = Vec::with_capacity(keys.len());
        while are_gone.len() < keys.len() {
            let most = match std::mem::replace(&mut self.has_tried, true) {
                true => REMOVED_AT_ONCE,
                false => 1,
            };
            let left = &keys[are_gone.len()..];
            let some = &left[..most.min(left.len())];
            let results = match &self.denied {
                Some(denied) => vec![Err(denied.clone()); some.len()],
                None => self.requests.remove(some),
            };
            for (key, removed) in some.iter().zip(results) {
                are_gone.push(self.note(key, removed));
            }
            progress.advance(some.len() as u64);
        }
        are_gone
    }

    fn note(&mut self, key: &str, removed: Result<(), ObjectError>) -> bool {
        let Err(error) = removed else {
            self.has_removed = true;
            return true;
        };
        if error.kind == ObjectErrorKind::Denied && !self.has_removed {
            self.denied = Some(error.clone());
        }
        self.failed.push((key.to_owned(), error));
        false
    }

    /// Removes objects next to the segments of a cache, the manifest last: a cache without one has no module. Returns
    /// whether they are gone.
    pub(super) fn remove_others<'o>(
        &mut self,
        layout: &Layout,
        objects: impl IntoIterator<Item = &'o ListedObject>,
        progress: &dyn CheckProgress,
    ) -> bool {
        let keys = objects.into_iter().map(|object| object.key.clone());
        let (manifest, others): (Vec<String>, Vec<String>) =
            keys.partition(|key| *key == layout.manifest());
        [others, manifest]
            .iter()
            .all(|keys| !self.remove(keys, progress).contains(&false))
    }
}
