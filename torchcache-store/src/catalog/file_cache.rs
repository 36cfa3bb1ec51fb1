//! The open segment files of the whole process, bounded. One pool for all stores, since the
//! descriptors of a process are one resource too: a cache must not use up what the user's
//! own code needs.

use std::ffi::OsStr;
use std::io;
use std::sync::{Arc, LazyLock, Mutex, MutexGuard, PoisonError};

use hashbrown::HashMap;

use crate::fs::Directory;
use crate::segment::Source;

/// How many files stay open between reads.
const CAPACITY: usize = 256;

static POOL: LazyLock<Mutex<Pool>> = LazyLock::new(Mutex::default);

#[derive(Default)]
struct Pool {
    /// Segment number to file and the time of its last use.
    open: HashMap<u32, (Arc<Source>, u64)>,
    clock: u64,
}

/// The file of a segment, opened if need be, in the directory that `open_dir` opens. If the process
/// has no descriptor left, the pool gives all of its own back and tries once more.
pub(crate) fn source(
    id: u32,
    name: &OsStr,
    mmap: bool,
    open_dir: impl Fn() -> io::Result<Arc<dyn Directory>>,
) -> io::Result<Arc<Source>> {
    if let Some(source) = pool().get(id)
        && source.mmap == mmap
    {
        return Ok(source);
    }
    let open = || Source::open(&*open_dir()?, name, mmap);
    let source = match open() {
        Err(error) if out_of_descriptors(&error) => {
            pool().open.clear();
            open()
        }
        opened => opened,
    };
    let source = Arc::new(source?);
    pool().insert(id, source.clone());
    Ok(source)
}

/// Closes a segment's file as soon as no read uses it.
pub(crate) fn forget(id: u32) {
    let gone = pool().open.remove(&id);
    drop(gone); // after the lock, which is released at the end of the statement above
}

fn pool() -> MutexGuard<'static, Pool> {
    POOL.lock().unwrap_or_else(PoisonError::into_inner)
}

fn out_of_descriptors(error: &io::Error) -> bool {
    matches!(error.raw_os_error(), Some(libc::EMFILE | libc::ENFILE))
}

impl Pool {
    fn get(&mut self, id: u32) -> Option<Arc<Source>> {
        self.clock += 1;
        let (source, used) = self.open.get_mut(&id)?;
        *used = self.clock;
        Some(source.clone())
    }

    fn insert(&mut self, id: u32, source: Arc<Source>) {
        if self.open.len() >= CAPACITY
            && let Some(oldest) = self
                .open
                .iter()
                .min_by_key(|(_, (_, used))| *used)
                .map(|(id, _)| *id)
        {
            self.open.remove(&oldest);
        }
        self.clock += 1;
        self.open.insert(id, (source, self.clock));
    }
}
