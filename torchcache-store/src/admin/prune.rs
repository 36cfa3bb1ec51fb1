//! Making room: whole segments go, least recently read first, or whole caches. Nothing goes that was
//! read since it was looked at, and nothing of a newer version or of strangers.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::io::{self, ErrorKind};
use std::path::PathBuf;
use std::time::{Duration, SystemTime};

use super::clear::{is_manifest, remove, remove_empty};
use super::discover::{Cache, Root};
use super::inventory::{Candidate, Seen, View};
use crate::clock;
use crate::fs::temp_file::is_stale;
use crate::fs::temp_file::is_temp;
use crate::fs::{Directory, Entry};
use crate::segment::is_segment;
use crate::size::sum;

/// How often at most it is looked again since segments vanished, merged perhaps.
const LOOKS: usize = 8;

/// What is to stay.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Keep {
    /// So many bytes of all caches together: what was read last.
    Bytes(u64),
    /// What was read within this time.
    Newer(Duration),
    /// Of each module, so many caches: those that were read last. A cache whose manifest cannot be
    /// read is of no module, and stays.
    Latest(usize),
}

/// What was removed, or would be.
#[derive(Debug, Default)]
pub struct Pruning {
    /// The caches that it was taken from, by name.
    pub caches: Vec<PrunedCache>,
    /// Bytes of the segments that stay, without those that are left alone.
    pub left: u64,
    /// Segments that a newer version or strangers wrote, or that could not be looked at; and
    /// directories that could not.
    pub left_alone: Vec<(PathBuf, String)>,
    /// What could not be removed, and why.
    pub failed: Vec<(PathBuf, io::Error)>,
}

/// What was removed from a cache.
#[derive(Debug)]
pub struct PrunedCache {
    /// Which one.
    pub cache: Cache,
    /// Its module, or why the manifest does not say so: [`ErrorKind::NotFound`] where there is none.
    pub module: Result<String, ErrorKind>,
    /// The segments, in the order in which they went.
    pub segments: Vec<PrunedSegment>,
    /// Whether nothing is left, so that the directory is gone as well.
    pub is_gone: bool,
}

/// A segment that was removed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PrunedSegment {
    /// What the file was called.
    pub name: String,
    /// Its size.
    pub bytes: u64,
    /// Its rows; none if that cannot be read.
    pub rows: Option<u64>,
    /// When it was last read.
    pub last_read: SystemTime,
}

impl Pruning {
    /// Bytes of what was removed.
    pub fn bytes(&self) -> u64 {
        let segments = self.caches.iter().flat_map(|cache| &cache.segments);
        sum(segments.map(|segment| segment.bytes))
    }
}

/// Removes what is not to stay. With `dry`, only tells what would go.
///
/// # Errors
/// What the system says of the root itself; all else stands in the result.
pub fn prune(root: &Root, keep: Keep, dry: bool) -> io::Result<Pruning> {
    let mut pruning = Pruning::default();
    let mut all = BTreeMap::new();
    // What vanished since it was listed was merged, perhaps, and is still there under another name.
    for _ in 0..LOOKS {
        pruning.left_alone.clear();
        pruning.failed.clear();
        let (mut view, over) = match keep {
            Keep::Bytes(limit) => View::over(root, limit, &mut pruning.left_alone)?,
            _ => (View::of(root, &mut pruning.left_alone)?, 0),
        };
        let going = view.choose(keep, over);
        let changed = view.carry_out(going, dry, &mut all, &mut pruning);
        pruning.left = view.bytes();
        if !changed {
            break;
        }
    }
    pruning.caches = all.into_values().collect();
    Ok(pruning)
}

impl View {
    /// The segments that go, in their order, and the caches that go with nothing in them. `over` are
    /// the bytes that are too many.
    fn choose(&mut self, keep: Keep, mut over: u64) -> Going {
        let key = |segment: &Candidate| (segment.read, segment.name.clone());
        self.segments.sort_by_cached_key(key);
        let before = before(keep);
        let whole = match keep {
            Keep::Latest(count) => self.beyond(count),
            _ => HashSet::new(),
        };
        let goes = |segment: &mut Candidate| match keep {
            Keep::Bytes(_) => {
                let goes = over > 0;
                over = over.saturating_sub(segment.bytes);
                goes
            }
            Keep::Newer(_) => segment.read < before,
            Keep::Latest(_) => whole.contains(&segment.cache),
        };
        let segments: Vec<_> = self.segments.extract_if(.., goes).collect();
        let empty = self.caches.iter().enumerate().filter(|(number, seen)| {
            seen.is_empty && (whole.contains(number) || seen.used < before)
        });
        let mut emptied: HashSet<usize> = empty.map(|(number, _)| number).collect();
        emptied.extend(segments.iter().map(|segment| segment.cache));
        for segment in &self.segments {
            emptied.remove(&segment.cache);
        }
        emptied.retain(|number| !self.caches[*number].has_others);
        Going { segments, emptied }
    }

    /// Of each module, all caches but those that were read last.
    fn beyond(&self, count: usize) -> HashSet<usize> {
        let mut modules: HashMap<&str, Vec<usize>> = HashMap::new();
        for (number, seen) in self.caches.iter().enumerate() {
            if let Ok(module) = &seen.module {
                modules.entry(module).or_default().push(number);
            }
        }
        let beyond = modules.into_values().flat_map(|mut numbers| {
            let age = |number: &usize| std::cmp::Reverse(self.caches[*number].used);
            numbers.sort_by_key(age);
            numbers.into_iter().skip(count)
        });
        beyond.collect()
    }

    /// Removes what goes. Returns whether something vanished or was read meanwhile, so that it is worth
    /// looking again.
    fn carry_out(
        &mut self,
        going: Going,
        dry: bool,
        all: &mut BTreeMap<PathBuf, PrunedCache>,
        pruning: &mut Pruning,
    ) -> bool {
        let mut changed = false;
        let mut emptied = going.emptied;
        let mut touched: HashSet<usize> = emptied.clone();
        for segment in going.segments {
            let seen = &self.caches[segment.cache];
            let removed = match dry {
                true => Ok(Some(true)),
                false => seen.dir.stat(&segment.name).and_then(|file| {
                    match file.modified == segment.modified {
                        true => remove(&*seen.dir, &segment.name).map(Some),
                        false => Ok(None),
                    }
                }),
            };
            match removed {
                Ok(Some(true)) => {
                    touched.insert(segment.cache);
                    entry(all, seen).segments.push(PrunedSegment {
                        name: segment.name.to_string_lossy().into_owned(),
                        bytes: segment.bytes,
                        rows: segment.rows,
                        last_read: clock::as_system(segment.read),
                    });
                }
                Ok(Some(false)) => changed = true,
                // Read since it was listed.
                Ok(None) => {
                    changed = true;
                    emptied.remove(&segment.cache);
                    self.segments.push(segment);
                }
                Err(error) if error.kind() == ErrorKind::NotFound => changed = true,
                Err(error) => {
                    let path = seen.cache.path().join(&segment.name);
                    pruning.failed.push((path, error));
                    emptied.remove(&segment.cache);
                    self.segments.push(segment);
                }
            }
        }
        for number in touched {
            let seen = &self.caches[number];
            let is_empty = emptied.contains(&number);
            let gone = match (dry, is_empty) {
                (true, _) => Ok(is_empty && holds_nothing_else(&*seen.dir)),
                // A power cut would bring back what somebody wanted gone, but for the sync.
                (false, false) => seen.dir.sync().map(|()| false),
                (false, true) => seen
                    .dir
                    .sync()
                    .and_then(|()| remove_empty(&seen.cache, &seen.dir)),
            };
            match gone {
                Ok(gone) => {
                    if gone || all.contains_key(seen.cache.path()) {
                        entry(all, seen).is_gone |= gone;
                    }
                }
                Err(error) => pruning.failed.push((seen.cache.path().to_owned(), error)),
            }
        }
        changed
    }
}

/// What goes of a view.
struct Going {
    segments: Vec<Candidate>,
    emptied: HashSet<usize>,
}

/// What was read before this time goes.
fn before(keep: Keep) -> u64 {
    match keep {
        Keep::Newer(age) => {
            let age = u64::try_from(age.as_nanos()).unwrap_or(u64::MAX);
            clock::now().saturating_sub(age)
        }
        _ => 0,
    }
}

/// Whether nobody keeps anything in a directory but segments and a manifest, and what a dead writer
/// left.
fn holds_nothing_else(dir: &dyn Directory) -> bool {
    let is_ours = |entry: &Entry| match entry.name.to_str() {
        Some(name) if entry.is_file && is_segment(name) => true,
        Some(name) if entry.is_file && is_temp(name) => is_stale(dir, &entry.name).unwrap_or(false),
        _ => is_manifest(entry),
    };
    dir.list().is_ok_and(|entries| entries.iter().all(is_ours))
}

fn entry<'a>(all: &'a mut BTreeMap<PathBuf, PrunedCache>, seen: &Seen) -> &'a mut PrunedCache {
    all.entry(seen.cache.path().to_owned())
        .or_insert_with(|| PrunedCache {
            cache: seen.cache.clone(),
            module: seen.module.clone(),
            segments: Vec::new(),
            is_gone: false,
        })
}
