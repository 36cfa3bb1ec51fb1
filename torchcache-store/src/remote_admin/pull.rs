//! Copies the rows of an object store that a directory lacks into it, as they are stored.

use std::collections::HashSet;
use std::io::{self, ErrorKind};
use std::path::Path;
use std::sync::Arc;

use super::discover::{RemoteCache, RemoteRoot, SegmentObject};
use super::records::{RowsOf, chunks, read_footers, read_records};
use super::transfer::{KnownRows, TransferError, remote_error};
use crate::admin::{CheckProgress, open_segment, read_segments};
use crate::catalog::directory;
use crate::fs::{Directory, FileSystem};
use crate::manifest::{self, Manifest};
use crate::remote::{OBJECT_BYTES, ObjectName};
use crate::segment::{Footer, RowEntry, SegmentError, SegmentWriter};

/// Segments of so many bytes are read together.
const CHUNK_BYTES: u64 = 64 << 20;

/// How often the cache is listed, at most, while segments vanish.
const MAX_LISTINGS: usize = 4;

/// What [`RemoteRoot::pull`] copied, or would copy.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct PullReport {
    /// Rows that were written.
    pub rows: u64,
    /// Their stored bytes.
    pub bytes: u64,
    /// Segments that were written.
    pub segments: u64,
    /// Rows that were there already, or that several objects have.
    pub present: u64,
    /// Rows that were left out, since they are damaged.
    pub corrupt: u64,
    /// Objects that were left out: they are corrupt as a whole or of a newer version.
    pub skipped: u64,
    /// Of these, those that are corrupt as a whole.
    pub corrupt_segments: u64,
}

/// Rows on their way into segments of a directory.
struct SegmentFiles {
    dir: Arc<dyn Directory>,
    writer: Option<SegmentWriter>,
    known: KnownRows,
    report: PullReport,
}

impl RemoteRoot {
    /// Copies those rows of a cache that a directory lacks, and the manifest. The directory is made if need be. When it
    /// returns, the rows survive a power loss. Memory: about 16 bytes for each row of both, and what is under way. With
    /// `dry_run`, counts the rows by the footers and writes nothing.
    ///
    /// # Errors
    /// [`TransferError`]. Segments that were written before stay.
    pub fn pull(
        &self,
        cache: &RemoteCache,
        fs: &dyn FileSystem,
        path: &Path,
        dry_run: bool,
        progress: &dyn CheckProgress,
    ) -> Result<PullReport, TransferError> {
        if dry_run {
            let known = match directory::open(fs, path, false) {
                Err(error) if error.kind() == ErrorKind::NotFound => KnownRows::default(),
                dir => local_rows(&*dir?)?,
            };
            return self.count(cache, known);
        }
        let unwritable = directory::probe(fs, path).map_err(io::Error::other)?;
        if let Some(error) = unwritable {
            return Err(error.into());
        }
        let dir = directory::open(fs, path, true)?;
        let mut files = SegmentFiles {
            known: local_rows(&*dir)?,
            dir: dir.clone(),
            writer: None,
            report: PullReport::default(),
        };
        let mut copied: HashSet<ObjectName> = HashSet::new();
        let mut listed = cache.clone();
        for _ in 0..MAX_LISTINGS {
            progress.expect(listed.bytes());
            let has_all = self.copy(&listed, &mut copied, &mut files, progress)?;
            if has_all {
                break;
            }
            // A compaction may have put their rows elsewhere.
            listed = self.list_cache(cache.name())?;
            listed.segments.retain(|it| !copied.contains(&it.name));
        }
        files.publish()?;
        if let Some(object) = &listed.manifest {
            let bytes = self.read_small(&[object], |_| true).remove(0);
            if let Ok(bytes) = bytes
                && Manifest::parse(&bytes).is_ok()
            {
                manifest::publish(&dir, &bytes, None)?;
            }
        }
        dir.sync()?;
        fs.sync_parents(path)?;
        Ok(files.report)
    }

    /// Copies the rows of segments, the newest first. Returns whether none had vanished.
    fn copy(
        &self,
        cache: &RemoteCache,
        copied: &mut HashSet<ObjectName>,
        files: &mut SegmentFiles,
        progress: &dyn CheckProgress,
    ) -> Result<bool, TransferError> {
        let all: Vec<&SegmentObject> = cache.segments.iter().rev().collect();
        let mut has_all = true;
        for chunk in chunks(&all, CHUNK_BYTES, |segment| segment.size) {
            let footers = self.footers(cache, chunk, &mut files.report)?;
            has_all &= footers.iter().all(|(_, footer)| footer.is_some());
            let wanted = footers.iter().filter_map(|(segment, footer)| {
                let footer = footer.as_ref()?;
                let rows: Vec<RowEntry> = footer.rows().collect();
                let all = rows.len();
                let rows: Vec<RowEntry> = rows
                    .into_iter()
                    .filter(|row| !files.known.contains(&row.key))
                    .collect();
                files.report.present += (all - rows.len()) as u64;
                let key = cache.layout.segment(&segment.name);
                Some((segment.name, RowsOf { key, footer, rows }))
            });
            let (names, wanted): (Vec<ObjectName>, Vec<RowsOf<'_>>) = wanted.unzip();
            let mut written = Ok(());
            let read = read_records(&self.requests, &wanted, |segment, at, stored| {
                let RowsOf { footer, rows, .. } = &wanted[segment];
                if written.is_ok() {
                    written = files.push(&rows[at], footer, stored);
                }
                Ok(())
            });
            written?;
            for (name, read) in names.into_iter().zip(read) {
                files.report.corrupt += read.corrupt;
                match read.error {
                    None => _ = copied.insert(name),
                    Some(error) if error.is_not_found() => has_all = false,
                    Some(SegmentError::Io(error)) => return Err(remote_error(error).into()),
                    Some(error) => return Err(io::Error::other(error).into()),
                }
            }
            chunk.iter().for_each(|it| progress.advance(it.size));
        }
        Ok(has_all)
    }

    /// The footers of segments that can be read: `None` where the segment vanished.
    fn footers<'s>(
        &self,
        cache: &RemoteCache,
        segments: &[&'s SegmentObject],
        report: &mut PullReport,
    ) -> Result<Vec<(&'s SegmentObject, Option<Footer>)>, TransferError> {
        let read = read_footers(&self.requests, &cache.layout, segments);
        let mut footers = Vec::new();
        for (segment, footer) in segments.iter().zip(read) {
            match footer {
                Ok(footer) => footers.push((*segment, Some(footer))),
                Err(error) if error.is_not_found() => footers.push((*segment, None)),
                Err(SegmentError::Io(error)) => return Err(remote_error(error).into()),
                Err(error) => {
                    report.skipped += 1;
                    report.corrupt_segments += u64::from(error.is_corruption());
                }
            }
        }
        Ok(footers)
    }

    /// Counts the rows that would be copied.
    fn count(
        &self,
        cache: &RemoteCache,
        mut known: KnownRows,
    ) -> Result<PullReport, TransferError> {
        let mut report = PullReport::default();
        let all: Vec<&SegmentObject> = cache.segments.iter().rev().collect();
        for chunk in chunks(&all, CHUNK_BYTES, |segment| segment.name.tail_bytes()) {
            for (_, footer) in self.footers(cache, chunk, &mut report)? {
                for row in footer.iter().flat_map(Footer::rows) {
                    match known.insert(&row.key) {
                        true => {
                            report.rows += 1;
                            report.bytes += u64::from(row.stored_len);
                        }
                        false => report.present += 1,
                    }
                }
            }
        }
        Ok(report)
    }
}

/// The rows of a directory. Segments that are corrupt have none.
fn local_rows(dir: &dyn Directory) -> io::Result<KnownRows> {
    let mut known = KnownRows::default();
    let segments = read_segments(
        dir,
        |_| {},
        |name, _| {
            let reader = open_segment(dir, name)?;
            reader
                .rows()
                .map(|row| row.map(|row| row.key))
                .collect::<Result<Vec<_>, _>>()
        },
    )?;
    for found in segments.into_values() {
        match found?.contents {
            Ok(keys) => keys.iter().for_each(|key| _ = known.insert(key)),
            Err(SegmentError::Io(error)) => return Err(error),
            Err(_) => {}
        }
    }
    Ok(known)
}

impl SegmentFiles {
    /// Writes a row, unless another copy of it was written.
    fn push(&mut self, row: &RowEntry, footer: &Footer, stored: &[u8]) -> io::Result<()> {
        if !self.known.insert(&row.key) {
            self.report.present += 1;
            return Ok(());
        }
        let is_full = |writer: &SegmentWriter| {
            writer.bytes() > OBJECT_BYTES || !writer.has_room(stored.len())
        };
        if self.writer.as_ref().is_some_and(is_full) {
            self.publish()?;
        }
        let writer = match &mut self.writer {
            Some(writer) => writer,
            none => none.insert(SegmentWriter::create_in(self.dir.clone())?),
        };
        let group = &footer.groups()[usize::from(row.group)];
        writer.push(&row.key, &group.schema, group.raw_len, row.encoding, stored)?;
        self.report.rows += 1;
        self.report.bytes += u64::from(row.stored_len);
        Ok(())
    }

    fn publish(&mut self) -> io::Result<()> {
        if let Some(writer) = self.writer.take() {
            writer.finish()?.publish()?;
            self.report.segments += 1;
        }
        Ok(())
    }
}
