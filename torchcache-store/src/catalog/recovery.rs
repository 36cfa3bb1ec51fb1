//! Opening a directory that holds segments: their footers are read a few at a time, and several
//! threads fill an index that nobody looks at yet.

use std::ffi::OsString;
use std::sync::Arc;

use hashbrown::HashMap;

use super::index::Index;
use super::live_segment::Tracked;
use super::{Catalog, Known, Scan};
use crate::clock;
use crate::fs::Directory;
use crate::segment::{Footer, SegmentError, claimed_rows};

/// So many rows are taken into the index together: enough to be worth a thread, few enough for
/// their footers to cost little memory.
const ROWS_AT_ONCE: usize = 1 << 17;

/// The index gets room for the rows that files claim to have, but for at most so many times those
/// that were found sound. So it need not grow at every doubling, and a claim whose checksum nobody
/// looked at costs little.
const TRUST: usize = 64;

impl Catalog {
    /// Takes in all segments of a catalog that has none; the first of two with the same row is the
    /// one to be read.
    pub(crate) fn load(&self, dir: &dyn Directory, scan: &mut Scan, names: &[&OsString]) {
        let mut known = Known {
            segments: HashMap::new(),
            index: Index::new(),
        };
        let claimed = names
            .iter()
            .filter_map(|name| claimed_rows(dir, name).ok())
            .sum::<u64>() as usize;
        let mut rows = 0;
        let mut waiting = Vec::new();
        for name in names {
            match self.load_one(dir, name) {
                Ok((segment, footer)) => {
                    rows += footer.row_count();
                    waiting.push((segment.id, footer));
                    scan.names.insert((*name).clone(), segment.id);
                    known.segments.insert(segment.id, Arc::new(segment));
                }
                Err(error) => self.skip(dir, scan, name, &error),
            }
            if rows >= ROWS_AT_ONCE {
                known.take_in(&waiting, claimed);
                waiting.clear();
                rows = 0;
            }
        }
        known.take_in(&waiting, claimed);
        known.index.give_back();
        self.begin_with(known);
    }

    fn load_one(
        &self,
        dir: &dyn Directory,
        name: &OsString,
    ) -> Result<(Tracked, Footer), SegmentError> {
        let (footer, metadata) = self.read_footer(dir, name)?;
        let read = clock::found(metadata.modified);
        let segment = Tracked::new(self.dir.join(name), metadata.len, read, &footer);
        Ok((segment, footer))
    }
}

impl Known {
    /// Puts the rows of sound segments into the index, which is to hold about `claimed` rows.
    fn take_in(&mut self, segments: &[(u32, Footer)], claimed: usize) {
        let rows: usize = segments.iter().map(|(_, footer)| footer.row_count()).sum();
        let sound = self.index.len() + rows;
        self.index.reserve(claimed.min(sound * TRUST));
        for ((id, _), done) in segments.iter().zip(self.index.fill(segments)) {
            if let Some(segment) = self.segments.get(id) {
                segment.count(&done);
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
            let (rows, bytes) = (catalog.known().index.len(), catalog.known().index.memory());
            assert_eq!(rows as u64, sound);
            assert!(bytes <= 128 * rows, "{bytes} bytes for {rows} rows");
        }
    }
}
