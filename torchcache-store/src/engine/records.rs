//! Reads records as they are stored, for the object store: in the order of the files, each checked, and without
//! decompressing them. Rows that are queued are passed as they are.

use std::collections::HashSet;
use std::io;
use std::sync::Arc;

use super::Engine;
use crate::catalog::live_segment::LiveSegment;
use crate::catalog::located::{RowLocation, row_group};
use crate::key::Key;
use crate::remote::{RecordSource, StoredRecord};
use crate::segment::{Encoding, RowEntry, RowGroup, SegmentError, fetch_stored};

/// How often rows are followed to another segment.
const MAX_ROUNDS: usize = 4;

impl RecordSource for Engine {
    fn read(&self, keys: &[Key], each: &mut dyn FnMut(StoredRecord<'_>)) {
        let mut wanted = keys.to_vec();
        for _ in 0..MAX_ROUNDS {
            let unread = self.read_once(&wanted, each);
            if unread.is_empty() {
                return;
            }
            // Another process may have compacted what is gone.
            self.catalog.refresh();
            wanted = unread;
        }
    }
}

impl Engine {
    /// Passes the rows that are where they were located. Returns those that may be in another segment.
    fn read_once(&self, keys: &[Key], each: &mut dyn FnMut(StoredRecord<'_>)) -> Vec<Key> {
        let mut slots = vec![None; keys.len()];
        // The queue first: a row is in the index before it leaves the queue.
        self.queue.locate(keys, &mut slots);
        self.catalog.locate(keys, &mut slots);
        let mut on_disk: Vec<(Arc<LiveSegment>, RowEntry)> = Vec::new();
        for located in slots.into_iter().flatten() {
            match located.location {
                RowLocation::Queue(batch, row) => each(StoredRecord {
                    key: batch.key(row),
                    schema: batch.schema(),
                    raw_len: batch.row_len() as u32, // checked when the batch was made
                    encoding: Encoding::Raw,
                    stored: batch.value(row),
                }),
                RowLocation::Disk(segment, row) => on_disk.push((segment, row)),
            }
        }
        on_disk.sort_unstable_by_key(|(segment, row)| (segment.id, row.offset));
        let mut unread = Vec::new();
        for rows in on_disk.chunk_by(|a, b| a.0.id == b.0.id) {
            self.read_segment(rows, each, &mut unread);
        }
        unread
    }

    /// Passes rows of one segment, which are in its order.
    fn read_segment(
        &self,
        rows: &[(Arc<LiveSegment>, RowEntry)],
        each: &mut dyn FnMut(StoredRecord<'_>),
        unread: &mut Vec<Key>,
    ) {
        let (catalog, segment) = (&self.catalog, &rows[0].0);
        let source = match catalog.source(segment, self.config().mmap) {
            Ok(source) => source,
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                return unread.extend(rows.iter().map(|(_, row)| row.key));
            }
            Err(error) => {
                let error = SegmentError::from(error);
                return catalog.faults.note(error.fault(), &segment.path, error);
            }
        };
        let requests: Vec<(&RowEntry, &RowGroup)> = rows
            .iter()
            .map(|(segment, row)| (row, row_group(segment, row)))
            .collect();
        let mut corrupt = HashSet::new();
        fetch_stored(&source, &requests, |n, stored| {
            let (row, group) = requests[n];
            match stored {
                Ok(stored) => each(StoredRecord {
                    key: &row.key,
                    schema: &group.schema,
                    raw_len: group.raw_len,
                    encoding: row.encoding,
                    stored,
                }),
                Err(error) => {
                    catalog.faults.note(error.fault(), &segment.path, error);
                    catalog.invalidate(segment, &row.key);
                    corrupt.insert(row.key);
                }
            }
        });
        if !corrupt.is_empty() {
            catalog.unshadow_rows(segment, &corrupt);
            unread.extend(corrupt);
        }
    }
}
