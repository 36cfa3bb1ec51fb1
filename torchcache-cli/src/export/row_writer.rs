//! What a format has to do: take rows, and say where they are from.

use std::io;

use torchcache_store::Key;

/// A file that is being filled with rows.
pub(super) trait RowWriter {
    fn row(&mut self, key: &Key, value: &[u8]) -> io::Result<()>;

    /// Writes what is still in memory.
    fn finish(&mut self) -> io::Result<()>;
}

/// The cache that rows are from, for the metadata of a file.
#[derive(Debug, Default)]
pub(crate) struct Origin {
    pub(crate) module: String,
    pub(crate) hash: String,
    pub(crate) structure: String,
}
