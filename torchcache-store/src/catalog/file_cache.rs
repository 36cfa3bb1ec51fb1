//! The open segment files of the process. All stores share one bounded cache, since they share the
//! file descriptors: a cache must not use up those that the program needs.

use std::io;
use std::num::NonZero;
use std::sync::{Arc, LazyLock, Mutex, MutexGuard, PoisonError};

use lru::LruCache;

use crate::descriptors;
use crate::fs::Directory;
use crate::segment::SegmentFile;

/// By the number of the segment.
static OPEN_FILES: LazyLock<Mutex<LruCache<u32, Arc<SegmentFile>>>> = LazyLock::new(|| {
    descriptors::on_exhaustion(close_all);
    Mutex::new(LruCache::new(capacity()))
});

/// How many files stay open between reads. The program may change its limit at any time.
fn capacity() -> NonZero<usize> {
    NonZero::new(descriptors::kept_files()).unwrap_or(NonZero::<usize>::MIN)
}

fn open_files() -> MutexGuard<'static, LruCache<u32, Arc<SegmentFile>>> {
    OPEN_FILES.lock().unwrap_or_else(PoisonError::into_inner)
}

/// The file of a segment; if it is not open, it is opened in the directory that `open_dir` returns.
pub(super) fn source(
    id: u32,
    name: &str,
    mmap: bool,
    open_dir: impl Fn() -> io::Result<Arc<dyn Directory>>,
) -> io::Result<Arc<SegmentFile>> {
    let cached = open_files().get(&id).cloned();
    if let Some(source) = cached.filter(|source| source.mmap == mmap) {
        return Ok(source);
    }
    let open = || SegmentFile::open(&*open_dir()?, name.as_ref(), mmap);
    let source = Arc::new(descriptors::retry(open)?);
    let mut files = open_files();
    files.resize(capacity());
    let replaced = files.push(id, source.clone());
    drop(files);
    drop(replaced); // closes a file where the lock is not held
    Ok(source)
}

/// Takes the file of a segment out, if it is open, so that it is closed as soon as no read uses it.
pub(crate) fn close(id: u32) -> Option<Arc<SegmentFile>> {
    open_files().pop(&id)
}

/// Closes the files that no read uses, and the others as soon as none does.
fn close_all() {
    open_files().clear();
}
