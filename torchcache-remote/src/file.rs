//! Directories.

use std::sync::Arc;

use object_store::local::LocalFileSystem;

use crate::store::{Lister, RemoteStore};

/// The files of this machine. Their keys are absolute paths without the first slash. A file is written under another
/// name, synced and linked or renamed: it is there whole or not at all, and survives a power loss.
pub(crate) fn open() -> RemoteStore {
    let files = LocalFileSystem::new().with_fsync(true);
    RemoteStore::new(Arc::new(files), Lister::Whole)
}
