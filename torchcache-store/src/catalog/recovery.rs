//! Opening a directory that has segments: their footers are read a few at a time, and several threads
//! fill an index that is not in use yet.

use std::io;
use std::sync::Arc;
use std::sync::atomic::Ordering;

use super::live_segment::LiveSegment;
use super::{Catalog, LiveSet, Scan};
use crate::clock;
use crate::fs::{Directory, permissions};
use crate::segment::{Footer, SegmentError, claimed_rows};

/// So many rows are indexed together: enough to be worth several threads, few enough for their footers
/// to take little memory.
const ROWS_AT_ONCE: usize = 1 << 17;

/// The index reserves room for the rows that files claim to have, so that it need not grow at every
/// doubling, but at most for so many times the rows that were found sound: the claim is not checked.
const MAX_RESERVE_FACTOR: usize = 64;

impl Catalog {
    /// Fills a catalog that has no segments. Of two segments with the same row, the first is read. Returns
    /// whether all of them still exist.
    pub(super) fn load(&self, dir: &dyn Directory, scan: &mut Scan, names: &[&String]) -> bool {
        let mut live = LiveSet::new();
        let claims = names.iter().filter_map(|name| claimed_rows(dir, name).ok());
        let claimed = claims.sum::<u64>() as usize;
        let (mut rows, mut all_exist) = (0, true);
        let mut footers = Vec::new();
        for name in names {
            match self.load_segment(dir, scan, name) {
                Ok((segment, footer)) => {
                    rows += footer.row_count();
                    footers.push((segment.id, footer));
                    scan.skipped.remove(*name);
                    scan.names.insert((*name).clone(), segment.id);
                    live.segments.insert(segment.id, Arc::new(segment));
                }
                Err(error) if error.is_not_found() => all_exist = false,
                Err(error) => self.skip(dir, scan, name, &error),
            }
            if rows >= ROWS_AT_ONCE {
                live.index_footers(&footers, claimed);
                footers.clear();
                rows = 0;
            }
        }
        live.index_footers(&footers, claimed);
        live.index.shrink();
        let before = self.change_live(|present| std::mem::replace(present, live));
        drop(before); // where the lock is not held
        self.dead_entries.store(0, Ordering::Relaxed);
        all_exist
    }

    pub(super) fn load_segment(
        &self,
        dir: &dyn Directory,
        scan: &mut Scan,
        name: &str,
    ) -> Result<(LiveSegment, Footer), SegmentError> {
        let (footer, metadata) = self.read_footer(dir, name)?;
        if !permissions::may_remove(&metadata, &dir.metadata()?) {
            let denied = io::ErrorKind::PermissionDenied;
            scan.unremovable.insert(name.to_owned(), denied);
        }
        let read = clock::past_or_now(metadata.modified);
        let segment = LiveSegment::new(self.dir.join(name), metadata.len, read, &footer);
        Ok((segment, footer))
    }
}

impl LiveSet {
    /// Indexes the rows of sound segments. The index will have about `claimed` rows in the end.
    fn index_footers(&mut self, footers: &[(u32, Footer)], claimed: usize) {
        let rows: usize = footers.iter().map(|(_, footer)| footer.row_count()).sum();
        let sound = self.index.len() + rows;
        self.index.reserve(claimed.min(sound * MAX_RESERVE_FACTOR));
        for ((id, _), inserted) in footers.iter().zip(self.index.fill(footers)) {
            if let Some(segment) = self.segments.get(id) {
                segment.note_inserted(&inserted);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::fs::File;
    use std::os::unix::fs::FileExt;
    use std::path::Path;

    use super::*;
    use crate::fault::Fault;
    use crate::fs::Os;
    use crate::segment::{Encoding, SegmentWriter};

    /// A file of holes that claims 100,000 rows and has a wrong checksum.
    fn claim_many_rows(path: &Path) {
        let footer = 4_000_000u64.to_le_bytes();
        let numbers = [100_000, 0, 2].map(u32::to_le_bytes).concat();
        let trailer = [
            &16u64.to_le_bytes()[..],
            &footer,
            &numbers,
            &[0; 12],
            b"TCSEGEND",
        ];
        let file = File::create(path).expect("it can be made");
        file.write_all_at(b"\x89TCSEG\r\n\x02\0\0\0\0\0\0\0", 0)
            .expect("it is written");
        file.write_all_at(&trailer.concat(), 4_000_016)
            .expect("it is written");
    }

    #[test]
    fn rows_that_a_corrupt_file_claims_cost_no_memory() {
        let dir = tempfile::tempdir().expect("a temporary directory");
        for sound in [0, 1000u64] {
            claim_many_rows(&dir.path().join("lie.tcs"));
            let mut writer = SegmentWriter::create(dir.path()).expect("it can be made");
            for n in 0..sound {
                let key = *blake3::hash(&n.to_le_bytes()).as_bytes();
                let schema = b"".as_slice().into();
                let pushed = writer.push(&key, &schema, 0, Encoding::Raw, b"");
                pushed.expect("it is written");
            }
            let finished = writer.finish().expect("it is written");
            finished.publish().expect("it is written");
            let catalog = Catalog::new(Arc::new(Os), dir.path().to_owned());
            catalog.refresh();
            assert_eq!(catalog.faults.counts().get(Fault::Corrupt), 1);
            let (rows, bytes) = (catalog.live().index.len(), catalog.live().index.memory());
            assert_eq!(rows as u64, sound);
            assert!(bytes <= 128 * rows, "{bytes} bytes for {rows} rows");
        }
    }
}
