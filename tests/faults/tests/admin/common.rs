//! Caches on a medium, and something that happens before a call of the file system.

use std::ffi::OsStr;
use std::ops::Range;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use torchcache_faults::cases::Counter;
use torchcache_faults::faulty::{Call, Fate, Faulty};
use torchcache_faults::rows::{self, count_right, put_flushed};
use torchcache_faults::sim::Sim;
use torchcache_store::Store;
use torchcache_store::admin::{Cache, Root};
use torchcache_store::fs::{Directory, FileSystem};

pub(crate) const LEN: usize = 100;

pub(crate) const HOUR: Duration = Duration::from_secs(3600);

/// A root on a medium.
pub(crate) fn root() -> Sim {
    let sim = Sim::new();
    sim.open_dir(Path::new("/root"), true)
        .expect("it can be made");
    sim
}

/// A store on a cache of the root.
pub(crate) fn store(fs: impl FileSystem + 'static, cache: &str) -> Store {
    rows::opened(fs, Path::new("/root").join(cache))
}

/// Puts rows on disk, as one segment.
pub(crate) fn put(store: &Store, numbers: Range<u64>) {
    put_flushed(store, numbers, LEN);
}

pub(crate) fn is_there(sim: &Sim, cache: &str, numbers: Range<u64>) -> bool {
    let wanted = numbers.end - numbers.start;
    count_right(&store(sim.clone(), cache), numbers, LEN) == wanted
}

/// Makes all segments of a cache look as if they were last read so long ago.
pub(crate) fn age(sim: &Sim, cache: &str, age: Duration) {
    let path = Path::new("/root").join(cache);
    let dir = sim.open_dir(&path, false).expect("it is there");
    for file in sim.files(&path) {
        let file = dir.open(file.file_name().expect("it has one"));
        let set = file.and_then(|file| file.set_modified(SystemTime::now() - age));
        set.expect("its time can be set");
    }
}

pub(crate) fn opened(fs: impl FileSystem + 'static) -> Root {
    Root::open_on(Arc::new(fs), Path::new("/root")).expect("it is there")
}

/// The one cache of a root.
pub(crate) fn only(fs: impl FileSystem + 'static) -> Cache {
    let listing = opened(fs).list().expect("it can be listed");
    let [cache] = &listing.caches[..] else {
        panic!("{listing:?}")
    };
    cache.clone()
}

pub(crate) fn bytes(sim: &Sim, cache: &str) -> u64 {
    let files = sim.files(&Path::new("/root").join(cache));
    files.iter().map(|path| sim.bytes(path).len() as u64).sum()
}

/// The directory of the cache `c`.
pub(crate) fn dir(sim: &Sim) -> Arc<dyn Directory> {
    let dir = sim.open_dir(Path::new("/root/c"), false);
    dir.expect("it is there")
}

/// The segments of the cache `c`, oldest first.
pub(crate) fn segments(sim: &Sim) -> Vec<PathBuf> {
    let mut files = sim.files(Path::new("/root/c"));
    files.retain(|path| is_segment(path.file_name().unwrap_or_default()));
    files
}

pub(crate) fn is_segment(name: &OsStr) -> bool {
    let name = name.to_string_lossy();
    name.ends_with(".tcs") && !name.starts_with('.')
}

/// The last part of a path.
pub(crate) fn name(path: &Path) -> &OsStr {
    path.file_name().expect("it has one")
}

/// A file system on which something happens once: before the first call that is `when`.
pub(crate) fn before(
    sim: &Sim,
    when: impl Fn(Call, &OsStr) -> bool + Send + Sync + 'static,
    happens: impl Fn(&Sim) + Send + Sync + 'static,
) -> (Faulty, Arc<Counter>) {
    let happened = Arc::new(Counter::default());
    let decide = {
        let (sim, happened) = (sim.clone(), happened.clone());
        move |call: Call, name: &OsStr| {
            if when(call, name) && happened.get() == 0 {
                happened.next();
                happens(&sim);
            }
            Fate::Done
        }
    };
    (Faulty::new(sim.clone(), decide), happened)
}
