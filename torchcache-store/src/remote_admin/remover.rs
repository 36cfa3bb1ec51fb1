//! Removes objects, and stops asking where that is not allowed.

use super::requests::Requests;
use crate::remote::{ObjectError, ObjectErrorKind};

/// Removes objects and notes those that it cannot remove.
#[derive(Debug)]
pub(super) struct Remover<'r> {
    requests: &'r Requests,
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
            has_removed: false,
            denied: None,
            failed: Vec::new(),
        }
    }

    /// Removes an object. Returns whether it is gone. Where the first one may not be removed, no others are tried.
    pub(super) fn remove(&mut self, key: &str) -> bool {
        let removed = match &self.denied {
            Some(denied) => Err(denied.clone()),
            None => self.requests.remove(key),
        };
        match removed {
            Ok(()) => {
                self.has_removed = true;
                true
            }
            Err(error) => {
                if error.kind == ObjectErrorKind::Denied && !self.has_removed {
                    self.denied = Some(error.clone());
                }
                self.failed.push((key.to_owned(), error));
                false
            }
        }
    }
}
