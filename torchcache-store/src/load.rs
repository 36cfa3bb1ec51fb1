//! Opening a directory that holds segments: their footers are read a few at a time, and several
//! threads fill an index that nobody looks at yet.

use std::ffi::OsString;
use std::sync::Arc;

use hashbrown::HashMap;

use crate::catalog::{Catalog, Known, Scan};
use crate::index::Index;
use crate::segment::{self, Footer, SegmentFile, Unreadable};
use crate::tracked::Tracked;

/// So many rows are taken into the index together: enough to be worth a thread, few enough for
/// their footers to cost little memory.
const ROWS_AT_ONCE: usize = 1 << 17;

impl Catalog {
    /// Takes in all segments of a catalog that has none; the first of two with the same row is the
    /// one to be read.
    pub(crate) fn load(&self, scan: &mut Scan, names: &[&OsString]) {
        let mut known = Known {
            segments: HashMap::new(),
            index: Index::new(),
        };
        let rows = names
            .iter()
            .map(|name| segment::rows_claimed(&self.dir.join(name)));
        known.index.reserve(rows.sum());
        let mut rows = 0;
        let mut waiting = Vec::new();
        for name in names {
            match self.load_one(name) {
                Ok((segment, footer)) => {
                    rows += footer.row_count();
                    waiting.push((segment.id, footer));
                    scan.names.insert((*name).clone(), segment.id);
                    known.segments.insert(segment.id, Arc::new(segment));
                }
                Err(error) => self.skip(scan, name, &error),
            }
            if rows >= ROWS_AT_ONCE {
                known.take_in(&waiting);
                waiting.clear();
                rows = 0;
            }
        }
        known.take_in(&waiting);
        self.begin_with(known);
    }

    fn load_one(&self, name: &OsString) -> Result<(Tracked, Footer), Unreadable> {
        let path = self.dir.join(name);
        let file = SegmentFile::open(&path, false)?;
        let segment = Tracked::new(path, file.bytes(), file.modified()?, file.footer());
        Ok((segment, file.into_footer()))
    }
}

impl Known {
    fn take_in(&mut self, segments: &[(u32, Footer)]) {
        for ((id, _), done) in segments.iter().zip(self.index.fill(segments)) {
            if let Some(segment) = self.segments.get(id) {
                segment.count(&done);
            }
        }
    }
}
