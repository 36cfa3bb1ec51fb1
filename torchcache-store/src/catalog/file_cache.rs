//! The open segment files of the process. All stores share one bounded cache, since they share the
//! file descriptors: a cache must not use up those that the program needs.

use std::io;
use std::num::NonZero;
use std::sync::{Arc, LazyLock, Mutex, MutexGuard, PoisonError};

use lru::LruCache;

use crate::fs::Directory;
use crate::segment::SegmentFile;

/// How many files stay open between reads.
const CAPACITY: NonZero<usize> = NonZero::new(256).expect("it is not zero");

/// By the number of the segment.
static OPEN_FILES: LazyLock<Mutex<LruCache<u32, Arc<SegmentFile>>>> =
    LazyLock::new(|| Mutex::new(LruCache::new(CAPACITY)));

fn open_files() -> MutexGuard<'static, LruCache<u32, Arc<SegmentFile>>> {
    OPEN_FILES.lock().unwrap_or_else(PoisonError::into_inner)
}

/// The file of a segment; if it is not open, it is opened in the directory that `open_dir` returns. If
/// the process has no descriptor left, closes all files that no read uses and tries once more.
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
    let source = match open() {
        Err(error) if is_out_of_descriptors(&error) => {
            open_files().clear();
            open()
        }
        opened => opened,
    };
    let source = Arc::new(source?);
    let replaced = open_files().push(id, source.clone());
    drop(replaced); // closes a file where the lock is not held
    Ok(source)
}

/// Closes the file of a segment as soon as no read uses it.
pub(crate) fn close(id: u32) {
    let closed = open_files().pop(&id);
    drop(closed); // where the lock is not held
}

fn is_out_of_descriptors(error: &io::Error) -> bool {
    matches!(error.raw_os_error(), Some(libc::EMFILE | libc::ENFILE))
}
