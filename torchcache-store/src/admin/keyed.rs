//! Yields rows by their keys, in the order of these.

use std::collections::HashMap;
use std::io;

use super::snapshot::{CacheRows, failed};
use crate::key::Key;
use crate::segment::{RowEntry, SegmentError};

/// Rows of a group by their keys: see [`CacheRows::with_keys`].
#[derive(Debug)]
pub struct KeyedRows<'r> {
    rows: &'r CacheRows,
    row_bytes: usize,
    keys: &'r [Key],
    /// The copies of each row, each with the index of its segment.
    copies: HashMap<Key, Vec<(usize, RowEntry)>>,
}

impl CacheRows {
    /// Finds the rows of a group that have these keys, of which some may be equal. Memory: about 200 bytes for each key.
    ///
    /// # Errors
    /// If a row table cannot be read.
    ///
    /// # Panics
    /// If there is no group of this index.
    ///
    /// ```
    /// use torchcache_store::{Config, RowBatch, Store};
    /// use torchcache_store::admin::{CacheRows, Root};
    ///
    /// let dir = tempfile::tempdir()?;
    /// let store = Store::open(dir.path(), Config::default())?;
    /// let keys = vec![[1; 32], [2; 32]];
    /// store.put(RowBatch::new(keys, b"u8".as_slice().into(), vec![10, 20], 1)?);
    /// store.flush()?;
    ///
    /// let cache = Root::open(dir.path())?.list()?.caches.remove(0);
    /// let rows = CacheRows::open(&cache)?;
    /// let mut values = Vec::new();
    /// let keyed = rows.with_keys(0, &[[2; 32], [1; 32], [2; 32]])?;
    /// keyed.for_each(|_key, value| Ok(values.push(value[0])))?;
    /// assert_eq!(values, [20, 10, 20]);
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    pub fn with_keys<'r>(&'r self, group: usize, keys: &'r [Key]) -> io::Result<KeyedRows<'r>> {
        let row_bytes = self.groups()[group].row_bytes as usize;
        let mut copies: HashMap<Key, Vec<_>> = keys.iter().map(|key| (*key, Vec::new())).collect();
        for (at, segment) in self.open.iter().enumerate() {
            for row in segment.reader.rows() {
                let row = row.map_err(|error| failed(segment, error))?;
                if segment.groups[usize::from(row.group)] == Some(group)
                    && let Some(copies) = copies.get_mut(&row.key)
                {
                    copies.push((at, row));
                }
            }
        }
        Ok(KeyedRows {
            rows: self,
            row_bytes,
            keys,
            copies,
        })
    }
}

impl KeyedRows<'_> {
    /// The number of keys.
    pub fn count(&self) -> u64 {
        self.keys.len() as u64
    }

    /// The positions of the keys that no row has.
    pub fn missing(&self) -> Vec<usize> {
        let is_missing = |at: &usize| self.copies[&self.keys[*at]].is_empty();
        (0..self.keys.len()).filter(is_missing).collect()
    }

    /// Reads the rows, and passes key and value of each to `take`, in the order of the keys.
    ///
    /// # Errors
    /// If `take` returns an error, a segment cannot be read, or a row is [missing](Self::missing) or has no intact copy.
    pub fn for_each(&self, mut take: impl FnMut(&Key, &[u8]) -> io::Result<()>) -> io::Result<()> {
        let mut value = vec![0; self.row_bytes];
        for key in self.keys {
            self.read(key, &mut value)?;
            take(key, &value)?;
        }
        Ok(())
    }

    /// Reads the first intact copy of a row.
    fn read(&self, key: &Key, value: &mut [u8]) -> io::Result<()> {
        let mut failure = io::Error::new(io::ErrorKind::NotFound, "no row has this key");
        for (at, row) in &self.copies[key] {
            let segment = &self.rows.open[*at];
            let Err(error) = segment.reader.read(row, value) else {
                return Ok(());
            };
            let is_corruption = !matches!(error, SegmentError::Io(_));
            failure = failed(segment, error);
            if !is_corruption {
                break;
            }
        }
        let what = format!("row {}: {failure}", hex::encode(key));
        Err(io::Error::new(failure.kind(), what))
    }
}
