//! Joins the rows of small segments into one, in memory.

use std::collections::HashMap;
use std::io;
use std::sync::Arc;

use super::discover::{RemoteCache, RemoteRoot, SegmentObject};
use super::records::{RowsOf, read_footers, read_records};
use crate::key::Key;
use crate::remote::ObjectName;
use crate::segment::{Footer, RowEntry, SegmentBuilder, SegmentError};

/// A segment that joins others, as it is put.
#[derive(Debug)]
pub(super) struct Joined {
    pub(super) name: ObjectName,
    pub(super) bytes: Arc<Vec<u8>>,
    pub(super) rows: u64,
    /// Copies of rows that were left out, since a newer source has them.
    pub(super) superseded: u64,
}

/// Why segments are not joined.
#[derive(Debug)]
pub(super) enum JoinError {
    /// A source cannot be used: it is damaged, gone or of a newer version.
    Source(ObjectName, SegmentError),
    /// The store did not answer.
    Request(io::Error),
}

impl RemoteRoot {
    /// Joins sources, which are few MiB and sorted by name.
    pub(super) fn join(
        &self,
        cache: &RemoteCache,
        sources: &[&SegmentObject],
    ) -> Result<Joined, JoinError> {
        let failed = |source: &SegmentObject, error| match error {
            SegmentError::Io(error) if error.kind() != io::ErrorKind::NotFound => {
                JoinError::Request(error)
            }
            error => JoinError::Source(source.name, error),
        };
        let mut footers: Vec<Footer> = Vec::new();
        let read = read_footers(&self.requests, &cache.layout, sources);
        for (source, footer) in sources.iter().zip(read) {
            footers.push(footer.map_err(|error| failed(source, error))?);
        }
        // The last copy is that of the newest source.
        let mut copies: HashMap<Key, (usize, u64)> = HashMap::new();
        for (n, footer) in footers.iter().enumerate() {
            copies.extend(footer.rows().map(|row| (row.key, (n, row.offset))));
        }
        let all: u64 = footers.iter().map(|it| it.row_count() as u64).sum();
        let parts = footers.iter().enumerate().map(|(n, footer)| RowsOf {
            key: cache.layout.segment(&sources[n].name),
            footer,
            rows: footer
                .rows()
                .filter(|row| copies.get(&row.key) == Some(&(n, row.offset)))
                .collect(),
        });
        let parts: Vec<RowsOf<'_>> = parts.collect();
        let mut stored: Vec<Vec<Vec<u8>>> = parts
            .iter()
            .map(|it| vec![Vec::new(); it.rows.len()])
            .collect();
        let read = read_records(&self.requests, &parts, |n, row, bytes| {
            stored[n][row] = bytes.to_vec();
            Ok(())
        });
        for (source, read) in sources.iter().zip(read) {
            if let Some(error) = read.into_error() {
                return Err(failed(source, error));
            }
        }
        let names: Vec<ObjectName> = sources.iter().map(|source| source.name).collect();
        let (bytes, footer) = build(&parts, stored).map_err(JoinError::Request)?;
        let rows = footer.row_count() as u64;
        Ok(Joined {
            name: ObjectName::joined(&names, footer.bytes().len() as u32),
            bytes: Arc::new(bytes),
            rows,
            superseded: all - rows,
        })
    }
}

fn build(parts: &[RowsOf<'_>], stored: Vec<Vec<Vec<u8>>>) -> io::Result<(Vec<u8>, Footer)> {
    let mut builder = SegmentBuilder::new(Vec::new())?;
    for (RowsOf { footer, rows, .. }, stored) in parts.iter().zip(stored) {
        for (
            RowEntry {
                key,
                group,
                encoding,
                ..
            },
            stored,
        ) in rows.iter().zip(stored)
        {
            let group = &footer.groups()[usize::from(*group)];
            builder.push(key, &group.schema, group.raw_len, *encoding, &stored)?;
        }
    }
    builder.finish()
}
