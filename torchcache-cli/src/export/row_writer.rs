//! The interface of the file formats.

use std::io;

use torchcache_store::Key;

/// Writes rows into a file.
pub(super) trait RowWriter {
    fn row(&mut self, key: &Key, value: &[u8]) -> io::Result<()>;

    /// Writes what is buffered.
    fn finish(&mut self) -> io::Result<()>;
}

/// Where rows come from, for the metadata of a file.
#[derive(Debug, Default)]
pub(crate) struct Origin {
    pub(crate) module: String,
    pub(crate) hash: String,
    pub(crate) structure: String,
}
