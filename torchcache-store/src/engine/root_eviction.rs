//! Keeps a root within its bound: whole segments are removed, least recently read first, of whichever cache
//! they are.
//!
//! The root is listed when a flusher first writes, and again after a sixteenth of the bound was written or
//! while the caches are known to exceed it, as they may with [`Eviction::Never`]. In between, the caches of
//! this process are counted by what they have, and the others by what the listing found.

use std::collections::{BTreeMap, HashMap};
use std::ffi::{OsStr, OsString};
use std::io;
use std::path::Path;
use std::time::SystemTime;

use super::root::{SLACK_FRACTION, SharedRoot};
use super::{Engine, eviction};
use crate::catalog::directory;
use crate::clock;
use crate::config::Eviction;
use crate::fault::Fault;
use crate::fs::temp_file::{is_locked, is_recent, is_unique};
use crate::fs::{Directory, permissions, remove_if_present};
use crate::progress::{self, Turn};
use crate::segment::{SegmentError, claimed_rows, segment_names};
use crate::size::sum;

/// The name of a store's directory in its root.
fn cache_name(engine: &Engine) -> &OsStr {
    engine.catalog.dir.file_name().unwrap_or_default()
}

/// Counts what the store has now, and brings the root within its bound if need be. Called by flushers.
pub(crate) fn enforce(engine: &Engine) {
    let Some(root) = &engine.root else { return };
    if engine.config().eviction == Eviction::Never {
        record(engine, root); // a listing is for the room of the next batch
    } else if let Some(listed) = list_if_due(engine, root) {
        evict(engine, root, listed);
    }
}

/// Counts what the store has now. Returns the bound, if the root has to be listed.
fn record(engine: &Engine, root: &SharedRoot) -> Option<u64> {
    root.record(cache_name(engine), eviction::live(&engine.catalog))
}

/// How many bytes a batch may write without eviction.
pub(crate) fn room(engine: &Engine) -> u64 {
    match &engine.root {
        Some(root) if engine.config().eviction == Eviction::Never => {
            drop(list_if_due(engine, root));
            root.room()
        }
        _ => u64::MAX,
    }
}

/// The caches of a root. No other flusher of this process lists it meanwhile.
struct ListedRoot {
    bound: u64,
    /// The bytes of all caches.
    total: u64,
    caches: Vec<ListedCache>,
    _enforcing: Turn,
}

/// A cache of a listing.
struct ListedCache {
    name: OsString,
    segments: Vec<ListedSegment>,
    /// The bytes of segments that were to be removed and could not be.
    unremovable: u64,
}

/// A segment of a listing.
struct ListedSegment {
    name: String,
    bytes: u64,
    modified: SystemTime,
    /// In nanoseconds since 1970.
    last_read: u64,
}

impl ListedCache {
    fn bytes(&self) -> u64 {
        let segments = self.segments.iter().map(|segment| segment.bytes);
        sum(segments.chain([self.unremovable]))
    }
}

/// Lists the caches, if that is due.
fn list_if_due(engine: &Engine, root: &SharedRoot) -> Option<ListedRoot> {
    record(engine, root)?;
    let enforcing = root.enforcing.take(&engine.queue.progress, || 1);
    // Another flusher may have been first.
    let bound = record(engine, root)?;
    let may_evict = engine.config().eviction != Eviction::Never;
    match listed_caches(root, bound, may_evict) {
        Ok(caches) => {
            let totals = caches
                .iter()
                .map(|cache| (cache.name.clone(), cache.bytes()));
            Some(ListedRoot {
                bound,
                total: root.set_listed(totals.collect()),
                caches,
                _enforcing: enforcing,
            })
        }
        Err(error) => {
            let reason = format_args!("cannot list it: {error}");
            engine.catalog.faults.note(Fault::Read, &root.path, reason);
            root.set_unlisted();
            None
        }
    }
}

/// Lists the caches. Locks are looked at in directories that changed lately: most are at rest, and one where a
/// compaction stalls for longer than that counts twice what this compacts. So all are looked at before something is
/// evicted. Without eviction, rows are refused at worst that would fit.
fn listed_caches(root: &SharedRoot, bound: u64, may_evict: bool) -> io::Result<Vec<ListedCache>> {
    let caches = list(root, is_recent)?;
    match may_evict && sum(caches.iter().map(ListedCache::bytes)) > bound {
        true => list(root, |_| true),
        false => Ok(caches),
    }
}

/// Lists the caches, and looks at locks where a directory that changed at a time `may_have_locked`.
fn list(
    root: &SharedRoot,
    may_have_locked: fn(SystemTime) -> bool,
) -> io::Result<Vec<ListedCache>> {
    let entries = root.fs.open_dir(&root.path, false)?.list()?;
    let names = entries.into_iter().filter(|entry| !entry.is_file);
    // What cannot be opened, or belongs to another user, is no cache of this one.
    let caches = names.filter_map(|entry| {
        progress::note();
        list_cache(root, entry.name, may_have_locked).ok()
    });
    Ok(caches.collect())
}

fn list_cache(
    root: &SharedRoot,
    name: OsString,
    may_have_locked: fn(SystemTime) -> bool,
) -> io::Result<ListedCache> {
    let dir = directory::open(&*root.fs, &root.path.join(&name), false)?;
    let metadata = dir.metadata()?;
    let mut reads = HashMap::new();
    if let Some(member) = root.member(&name) {
        let live = member.live_segments();
        reads.extend(live.iter().map(|it| (it.name().to_owned(), it.last_read())));
    }
    let mut names = segment_names(&*dir)?;
    // The sources of a compaction count, and its result does not, which is locked until they are removed. So
    // the locks come first, all of them: the sources of an unlocked one are not found below.
    if may_have_locked(metadata.modified) {
        names.retain(|name| {
            progress::note();
            !is_locked(&*dir, name).unwrap_or(false)
        });
    }
    let mut segments = Vec::new();
    for name in names {
        progress::note();
        let Ok(file) = dir.stat(name.as_ref()) else {
            continue;
        };
        let read_here = reads.get(&name).copied();
        if read_here.is_none() && !is_unique(&name)
            || permissions::check_file(&file, &metadata).is_err()
        {
            continue;
        }
        let last_read = clock::past_or_now(file.modified).max(read_here.unwrap_or(0));
        segments.push(ListedSegment {
            name,
            bytes: file.len,
            modified: file.modified,
            last_read,
        });
    }
    let unremovable = 0;
    Ok(ListedCache {
        name,
        segments,
        unremovable,
    })
}

/// Removes segments that were read least recently, until the caches are clearly within the bound.
fn evict(engine: &Engine, root: &SharedRoot, listed: ListedRoot) {
    let ListedRoot {
        bound,
        total,
        mut caches,
        _enforcing,
    } = listed;
    if total <= bound {
        return;
    }
    let target = bound - bound / SLACK_FRACTION;
    let mut excess = total - target;
    let mut order: Vec<(u64, usize)> = Vec::new();
    for (number, cache) in caches.iter_mut().enumerate() {
        cache
            .segments
            .sort_by_key(|it| std::cmp::Reverse(it.last_read));
        order.extend(cache.segments.iter().map(|it| (it.last_read, number)));
    }
    order.sort_unstable();
    let mut order = order.into_iter();
    // Where some cannot be removed, the next ones are.
    while excess > 0 && order.len() > 0 {
        let mut chosen: BTreeMap<usize, Vec<ListedSegment>> = BTreeMap::new();
        let mut expected = 0;
        for (_, number) in order.by_ref() {
            // The least recently read one of this cache.
            if let Some(segment) = caches[number].segments.pop() {
                expected += segment.bytes;
                chosen.entry(number).or_default().push(segment);
            }
            if expected >= excess {
                break;
            }
        }
        for (number, segments) in chosen {
            progress::note();
            let cache = &mut caches[number];
            let gone = match root.member(&cache.name) {
                Some(member) => {
                    let names = segments.iter().map(|segment| segment.name.as_str());
                    eviction::evict_named(&member, &names.collect())
                }
                None => remove_all(engine, &root.path.join(&cache.name), &segments),
            };
            excess = excess.saturating_sub(gone);
            let chosen = sum(segments.iter().map(|segment| segment.bytes));
            cache.unremovable += chosen.saturating_sub(gone);
            root.record(&cache.name, cache.bytes());
        }
    }
    root.set_evicted(target);
}

/// Removes segments of a cache that no store of this process has open. Returns the bytes of those that are gone.
fn remove_all(engine: &Engine, cache: &Path, segments: &[ListedSegment]) -> u64 {
    let all = || segments.iter().map(|segment| segment.bytes);
    match directory::open(&*engine.catalog.fs, cache, false) {
        Ok(dir) => {
            let is_gone = |segment: &&ListedSegment| {
                progress::note();
                remove(engine, &*dir, segment)
            };
            sum(segments.iter().filter(is_gone).map(|segment| segment.bytes))
        }
        Err(error) if error.kind() == io::ErrorKind::NotFound => sum(all()),
        Err(error) => {
            let reason = format_args!("cannot remove its segments: {error}");
            engine.catalog.faults.note(Fault::Write, cache, reason);
            0
        }
    }
}

/// Removes a segment, unless it was read since it was listed or a newer version uses it. Returns whether it counts
/// no longer: one of a newer version never does.
fn remove(engine: &Engine, dir: &dyn Directory, segment: &ListedSegment) -> bool {
    match dir.stat(segment.name.as_ref()) {
        Ok(file) if file.modified == segment.modified => {}
        Err(error) if error.kind() == io::ErrorKind::NotFound => return true,
        _ => return false,
    }
    let rows = claimed_rows(dir, &segment.name);
    if matches!(rows, Err(SegmentError::FutureVersion(_))) {
        return true;
    }
    let removed = remove_if_present(dir, &segment.name);
    if let Err(error) = &removed {
        let path = dir.path().join(&segment.name);
        let reason = format_args!("cannot remove it: {error}");
        engine.catalog.faults.note(Fault::Write, &path, reason);
    }
    removed.is_ok()
}

#[cfg(all(test, not(shuttle)))]
mod tests {
    use std::sync::mpsc::{Receiver, Sender, channel};
    use std::sync::{Arc, Mutex};
    use std::thread;
    use std::time::{Duration, Instant};

    use super::*;
    use crate::batch::RowBatch;
    use crate::config::Config;
    use crate::engine::handle::Handle;
    use crate::engine::root::RootClaim;
    use crate::fs::{FileSystem, Os};

    /// A file system on which opening the directories of others takes a step of the test.
    #[derive(Debug)]
    struct SteppedFs {
        begun: Sender<()>,
        steps: Mutex<Receiver<()>>,
    }

    impl FileSystem for SteppedFs {
        fn open_dir(&self, path: &Path, create: bool) -> io::Result<Arc<dyn Directory>> {
            if path.to_string_lossy().contains("other") {
                self.begun.send(()).expect("the test receives");
                let steps = self.steps.lock().expect("it is not poisoned");
                let _ = steps.recv();
            }
            Os.open_dir(path, create)
        }
    }

    #[test]
    fn a_flusher_makes_progress_while_another_lists_the_root() {
        let dir = tempfile::tempdir().expect("a temporary directory");
        for name in ["a", "b", "other-1", "other-2", "other-3"] {
            std::fs::create_dir(dir.path().join(name)).expect("it can be made");
        }
        let ((begun, begins), (step, steps)) = (channel(), channel());
        let steps = Mutex::new(steps);
        let fs: Arc<dyn FileSystem> = Arc::new(SteppedFs { begun, steps });
        let root = SharedRoot::above(fs.clone(), &dir.path().join("a")).expect("it has one");
        let _claim = RootClaim::new(&root, 1 << 30);
        let stores = ["a", "b"].map(|name| {
            let dir = dir.path().join(name);
            Handle::open(fs.clone(), dir, Some(root.clone()), &Config::default())
        });
        let write = |store: &Handle| {
            assert!(store.ensure_flusher(), "the thread starts");
            let engine = &store.engine;
            let batch = RowBatch::new(vec![[1; 32]], b"".as_slice().into(), vec![1], 1);
            let look = |keys: &[_]| engine.catalog.known_rows(keys);
            let locate = |keys: &[_]| engine.catalog.present(keys);
            let batch = batch.expect("it fits");
            let put = engine.queue.put(batch, look, locate, engine.queue_limits());
            put.expect("there is room");
            engine.queue.request_flush();
        };
        let [lists, waits] = &stores;
        write(lists);
        begins.recv().expect("it lists the root");
        write(waits);
        while !waits.engine.queue.progress.is_waiting() {
            thread::yield_now();
        }
        for _ in 0..2 {
            let before = Instant::now();
            thread::sleep(Duration::from_millis(2));
            step.send(()).expect("it lists the root");
            begins.recv().expect("there is another directory");
            assert!(waits.engine.queue.progress.last() > before);
        }
        drop(step); // no step is waited for
    }
}
