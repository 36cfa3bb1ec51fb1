//! Copies the rows of a directory that an object store lacks into it, as they are stored.

use std::io;
use std::sync::Arc;

use super::discover::RemoteRoot;
use super::transfer::{KnownRows, TransferError};
use crate::admin::{Cache, CheckProgress, Found, Segments, open_segment, read_segments};
use crate::manifest::{self, Manifest};
use crate::remote::{Layout, OBJECT_BYTES, ObjectError, ObjectErrorKind, ObjectName, has_room};
use crate::segment::{Record, SegmentBuilder, SegmentError, SegmentReader};

/// What [`RemoteRoot::push`] copied, or would copy.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct PushReport {
    /// Rows that were put.
    pub rows: u64,
    /// Their stored bytes.
    pub bytes: u64,
    /// Objects that were put.
    pub objects: u64,
    /// Rows that were there already, or that several segments of the directory have.
    pub present: u64,
    /// Rows that were left out: they are damaged, or too long for an object.
    pub corrupt: u64,
    /// Segments of the directory that were left out: they are corrupt as a whole, of a newer version, or their permissions
    /// are rejected.
    pub skipped: u64,
    /// Of these, those that are corrupt as a whole.
    pub corrupt_segments: u64,
}

/// Rows on their way into an object.
struct ObjectWriter<'r> {
    root: &'r RemoteRoot,
    layout: &'r Layout,
    builder: SegmentBuilder<Vec<u8>>,
    rows: u64,
    bytes: u64,
    report: PushReport,
}

impl RemoteRoot {
    /// Copies those rows of a local cache that the cache `name` lacks, in objects of about 64 MiB, and its manifest. Memory:
    /// two objects, and about 16 bytes for each row of both. With `dry_run`, counts the rows by the row tables.
    ///
    /// # Errors
    /// [`TransferError`]. What was put before stays.
    pub fn push(
        &self,
        local: &Cache,
        name: &str,
        dry_run: bool,
        progress: &dyn CheckProgress,
    ) -> Result<PushReport, TransferError> {
        let cache = self.list_cache(name)?;
        let mut known = self.rows_of(&cache)?;
        let dir = local.open()?;
        let expect = |bytes| progress.expect(bytes);
        let segments = read_segments(&*dir, expect, |name, _| open_segment(&*dir, name))?;
        let mut writer = ObjectWriter {
            root: self,
            layout: &cache.layout,
            builder: SegmentBuilder::new(Vec::new())?,
            rows: 0,
            bytes: 0,
            report: PushReport::default(),
        };
        if !dry_run && cache.manifest.is_none() {
            match Manifest::read(&*dir)
                .and_then(|_| Manifest::bytes(&*dir.open(manifest::FILE.as_ref())?))
            {
                Ok(bytes) => self
                    .requests
                    .put_new(&cache.layout.manifest(), &Arc::new(bytes))?,
                // The cache works without one.
                Err(error)
                    if matches!(
                        error.kind(),
                        io::ErrorKind::NotFound | io::ErrorKind::InvalidData
                    ) => {}
                Err(error) => return Err(error.into()),
            }
        }
        let copied = writer.copy_all(segments, &mut known, dry_run, progress);
        // Objects that were put before an error stay.
        let hinted = match writer.report.objects {
            0 => Ok(()),
            _ => self.set_latest(&cache.layout),
        };
        copied?;
        hinted?;
        Ok(writer.report)
    }
}

/// Why the rows of a segment were not copied.
enum CopyError {
    Segment(SegmentError),
    Remote(ObjectError),
}

impl From<SegmentError> for CopyError {
    fn from(error: SegmentError) -> Self {
        CopyError::Segment(error)
    }
}

impl ObjectWriter<'_> {
    /// Copies the rows of segments, or counts them.
    fn copy_all(
        &mut self,
        segments: Segments<SegmentReader>,
        known: &mut KnownRows,
        dry_run: bool,
        progress: &dyn CheckProgress,
    ) -> Result<(), TransferError> {
        // Of several copies of a row, that of the newest segment is copied.
        for (_, found) in segments.into_iter().rev() {
            let Found { file, contents } = found?;
            let copied = contents
                .map_err(CopyError::Segment)
                .and_then(|reader| match dry_run {
                    true => self.count(&reader, known),
                    false => self.copy(&reader, known),
                });
            progress.advance(file.len);
            match copied {
                Ok(()) => {}
                Err(CopyError::Remote(error)) => return Err(error.into()),
                Err(CopyError::Segment(SegmentError::Io(error))) => return Err(error.into()),
                Err(CopyError::Segment(error)) => {
                    self.report.skipped += 1;
                    self.report.corrupt_segments += u64::from(error.is_corruption());
                }
            }
        }
        self.put()?;
        Ok(())
    }

    /// Counts the rows that would be copied.
    fn count(&mut self, reader: &SegmentReader, known: &mut KnownRows) -> Result<(), CopyError> {
        for row in reader.rows() {
            let row = row?;
            match known.insert(&row.key) {
                true => {
                    self.report.rows += 1;
                    self.report.bytes += u64::from(row.stored_len);
                }
                false => self.report.present += 1,
            }
        }
        Ok(())
    }

    fn copy(&mut self, reader: &SegmentReader, known: &mut KnownRows) -> Result<(), CopyError> {
        let mut window = Vec::new();
        for chunk in reader.chunks() {
            reader.read_records(&chunk?, &mut window, |record| self.push(record, known))?;
        }
        Ok(())
    }

    fn push(&mut self, record: Record<'_>, known: &mut KnownRows) -> Result<(), CopyError> {
        let Record {
            row, group, stored, ..
        } = record;
        if known.contains(&row.key) {
            self.report.present += 1;
            return Ok(());
        }
        let stored = match stored {
            Ok(stored) => stored,
            Err(error @ SegmentError::Io(_)) => return Err(error.into()),
            Err(_) => {
                self.report.corrupt += 1;
                return Ok(());
            }
        };
        let is_full = self.rows > 0 && self.builder.bytes() + stored.len() as u64 > OBJECT_BYTES;
        if is_full || !has_room(&self.builder, &group.schema, stored) {
            self.put().map_err(CopyError::Remote)?;
        }
        if !has_room(&self.builder, &group.schema, stored) {
            self.report.corrupt += 1;
            return Ok(());
        }
        self.builder
            .push(&row.key, &group.schema, group.raw_len, row.encoding, stored)
            .map_err(SegmentError::Io)?;
        self.rows += 1;
        self.bytes += stored.len() as u64;
        known.insert(&row.key);
        Ok(())
    }

    /// Puts the rows as one object, and begins another one.
    fn put(&mut self) -> Result<(), ObjectError> {
        if self.rows == 0 {
            return Ok(());
        }
        let memory = |error: io::Error| ObjectError::new(ObjectErrorKind::Other, error);
        let next = SegmentBuilder::new(Vec::new()).map_err(memory)?;
        let full = std::mem::replace(&mut self.builder, next);
        let (bytes, footer) = full.finish().map_err(memory)?;
        let name = ObjectName::new(self.root.requests.nanos(), footer.bytes().len() as u32);
        let requests = &self.root.requests;
        requests.put_new(&self.layout.segment(&name), &Arc::new(bytes))?;
        self.report.objects += 1;
        self.report.rows += std::mem::take(&mut self.rows);
        self.report.bytes += std::mem::take(&mut self.bytes);
        Ok(())
    }
}
