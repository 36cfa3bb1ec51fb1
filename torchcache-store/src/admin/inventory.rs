//! What is there to be pruned: all caches and segments as they were listed, and when a listing can be
//! taken for what there is.

use std::ffi::OsString;
use std::io::{self, ErrorKind};
use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime};

use super::discover::{Cache, Root, trusted};
use crate::clock;
use crate::fs::Directory;
use crate::manifest::{self, Manifest};
use crate::segment::{SegmentError, claimed_rows, segment_names};
use crate::size::sum;

/// A directory in which no name changed for so long is not being merged in: a merge syncs the
/// directory between giving its result a name and removing the sources.
const SETTLED: Duration = Duration::from_millis(500);

/// For so long it is waited for all directories to be like that.
const PATIENCE: Duration = Duration::from_secs(2);

/// So long between two looks meanwhile.
const BETWEEN: Duration = Duration::from_millis(20);

/// All caches and segments as they were listed.
pub(super) struct View {
    pub(super) caches: Vec<Seen>,
    pub(super) segments: Vec<Candidate>,
}

/// A cache of them.
pub(super) struct Seen {
    pub(super) cache: Cache,
    pub(super) dir: Arc<dyn Directory>,
    /// When a name in it changed last, asked after it was listed.
    changed: SystemTime,
    /// Its module, or why the manifest does not say so.
    pub(super) module: Result<String, ErrorKind>,
    /// When it was last read; if it has no segments, when its manifest was written.
    pub(super) used: u64,
    /// Whether it has no segments at all.
    pub(super) is_empty: bool,
    /// Whether it has segments that are left alone, or a manifest that may be somebody else's.
    pub(super) has_others: bool,
}

/// A segment of them that may go.
pub(super) struct Candidate {
    /// Whose it is.
    pub(super) cache: usize,
    pub(super) name: OsString,
    pub(super) bytes: u64,
    pub(super) rows: Option<u64>,
    pub(super) modified: SystemTime,
    /// The same in nanoseconds since 1970; now, if that has yet to come.
    pub(super) read: u64,
}

impl View {
    /// What there is, and how many bytes of it are more than these. A merge under way counts twice, as
    /// result and as sources: so before anything is called too much, it is looked again until nothing
    /// changes any more. Where something always does, the least that was ever seen counts.
    pub(super) fn over(
        root: &Root,
        limit: u64,
        left_alone: &mut Vec<(PathBuf, String)>,
    ) -> io::Result<(View, u64)> {
        let since = Instant::now();
        let mut least = u64::MAX;
        loop {
            left_alone.clear();
            let view = View::of(root, left_alone)?;
            least = least.min(view.bytes());
            let over = least.saturating_sub(limit);
            if over == 0 || view.is_settled() || since.elapsed() > PATIENCE {
                return Ok((view, over));
            }
            std::thread::sleep(BETWEEN);
        }
    }

    fn is_settled(&self) -> bool {
        let settled = |time: SystemTime| time.elapsed().is_ok_and(|age| age > SETTLED);
        self.caches.iter().all(|seen| settled(seen.changed))
    }

    pub(super) fn of(root: &Root, left_alone: &mut Vec<(PathBuf, String)>) -> io::Result<View> {
        let listing = root.list()?;
        let unopened = listing.unopened.into_iter();
        left_alone.extend(unopened.map(|(path, error)| (path, error.to_string())));
        let mut view = View {
            caches: Vec::new(),
            segments: Vec::new(),
        };
        for cache in listing.caches {
            let path = cache.path().to_owned();
            match view.add(cache, left_alone) {
                Err(error) if error.kind() != ErrorKind::NotFound => {
                    left_alone.push((path, error.to_string()));
                }
                _ => {}
            }
        }
        Ok(view)
    }

    fn add(&mut self, cache: Cache, left_alone: &mut Vec<(PathBuf, String)>) -> io::Result<()> {
        let dir = cache.open()?;
        // Taken in only once the directory was looked through: their number is that of its cache.
        let (number, mut segments) = (self.caches.len(), Vec::new());
        let (mut used, mut has_others) = (None, false);
        let names = segment_names(&*dir)?;
        for name in names {
            let seen = trusted(&*dir, &name, claimed_rows);
            let file = match dir.stat(&name) {
                Err(error) if error.kind() == ErrorKind::NotFound => continue,
                file => file?,
            };
            let read = clock::past_or_now(file.modified);
            used = used.max(Some(read));
            let rows = match seen {
                Ok(rows) => Some(rows),
                // What cannot be read is of use to nobody, and goes in its turn.
                Err(error) if error.is_corruption() => None,
                Err(SegmentError::Io(error)) if error.kind() == ErrorKind::NotFound => continue,
                Err(error) => {
                    left_alone.push((cache.path().join(&name), error.to_string()));
                    has_others = true;
                    continue;
                }
            };
            segments.push(Candidate {
                cache: number,
                name,
                bytes: file.len,
                rows,
                modified: file.modified,
                read,
            });
        }
        let changed = dir.metadata()?.modified;
        let written = dir.stat(manifest::FILE.as_ref()).ok();
        let made = || written.map_or(0, |file| clock::past_or_now(file.modified));
        let manifest = Manifest::read(&*dir).map_err(|error| error.kind());
        let module = manifest.map(|manifest| manifest.module);
        has_others |= module
            .as_ref()
            .is_err_and(|kind| *kind != ErrorKind::NotFound);
        self.segments.append(&mut segments);
        self.caches.push(Seen {
            cache,
            dir,
            changed,
            module,
            used: used.unwrap_or_else(made),
            is_empty: used.is_none(),
            has_others,
        });
        Ok(())
    }

    pub(super) fn bytes(&self) -> u64 {
        sum(self.segments.iter().map(|segment| segment.bytes))
    }
}
