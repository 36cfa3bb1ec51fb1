//! Uses a directory that a group shares, with files of another user in it.

use std::fs;
use std::io::ErrorKind;
use std::ops::Range;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use torchcache_store::admin::{Keep, Root, check, prune, repair};
use torchcache_store::fs::Os;
use torchcache_store::{Config, Store};

use crate::faulty::{Call, Faulty};
use crate::rows::{count_right, expect_all, manual_flush, put_flushed};

/// The length of the rows.
pub const LEN: usize = 1000;

/// The rows of the other user, each in a segment of its own.
pub const OTHERS: Range<u64> = 0..20;

/// More of them, in one segment. The first is corrupt.
pub const CORRUPT: Range<u64> = 500..503;

/// The bound of the directory in bytes.
const LIMIT: u64 = 64 << 10;

/// How the files of the other user are closed.
#[derive(Clone, Copy, Debug)]
pub enum Shared {
    /// The sticky bit of the directory: only their owner may remove them.
    Sticky,
    /// A umask of 077: only their owner may read them.
    Umask,
}

impl Shared {
    /// Both ways.
    pub const ALL: [Shared; 2] = [Shared::Sticky, Shared::Umask];

    /// The mode of the directory, and that of the files.
    pub fn modes(self) -> (u32, u32) {
        match self {
            Shared::Sticky => (0o1775, 0o644),
            Shared::Umask => (0o775, 0o600),
        }
    }
}

/// The segments of a directory.
pub fn files(dir: &Path) -> Vec<PathBuf> {
    let entries = fs::read_dir(dir).unwrap();
    let paths = entries.map(|entry| entry.unwrap().path());
    let is_segment = |path: &PathBuf| path.extension().is_some_and(|end| end == "tcs");
    paths.filter(is_segment).collect()
}

/// The argument: the way.
pub fn run(root: &Path, args: &[String]) {
    let dir = &root.join("of another");
    let mut ways = Shared::ALL.into_iter();
    let shared = ways.find(|way| args == [format!("{way:?}")]).unwrap();
    let others = OTHERS.end;
    match shared {
        Shared::Sticky => {
            let store = Store::open(dir, manual_flush()).unwrap();
            for n in 1000..1008 {
                put_flushed(&store, n..n + 1, LEN);
            }
            let stats = store.stats();
            assert_eq!(stats.compacted_segments, 8, "its own: {stats:?}");
            assert_eq!(stats.faults.total(), 0, "{stats:?}");
            expect_all(&store, 1000..1008, LEN);
            store.clear();
        }
        Shared::Umask => {}
    }
    let config = bounded();
    let store = Store::open(dir, config).unwrap();
    for n in 100..200 {
        put_flushed(&store, n..n + 1, LEN);
        let lengths = files(dir)
            .into_iter()
            .map(|file| file.metadata().unwrap().len());
        let bytes: u64 = lengths.sum();
        assert!(bytes <= LIMIT, "{bytes} bytes");
    }
    expect_all(&store, 199..200, LEN);
    let (kept, stats) = (count_right(&store, OTHERS, LEN), store.stats());
    match shared {
        Shared::Sticky => assert_eq!(kept, others),
        Shared::Umask => expect_all(&store, 160..200, LEN),
    }
    assert_eq!(stats.refused_rows, 0, "{stats:?}");
    drop(store);
    prune_as_announced(root, dir);
    if let Shared::Sticky = shared {
        repair_without_copies(root, dir);
    }
}

/// A corrupt segment that cannot be removed is not copied, however often it is repaired.
fn repair_without_copies(root: &Path, dir: &Path) {
    let before = files(dir).len();
    for _ in 0..2 {
        let (fs, syncs) = Faulty::counting(Os, Call::Sync);
        let caches = Root::open_on(Arc::new(fs), root).unwrap().list().unwrap();
        let checked = check(&caches.caches, &());
        let repairs: Vec<_> = checked.iter().flat_map(|it| repair(it).segments).collect();
        let [(_, Err(error))] = &repairs[..] else {
            panic!("{repairs:?}")
        };
        assert_eq!(error.kind(), ErrorKind::PermissionDenied, "{error}");
        assert_eq!((files(dir).len(), syncs.get()), (before, 0));
    }
}

/// Prunes to half of the size: a dry run lists before what is removed, and what cannot be.
fn prune_as_announced(root: &Path, dir: &Path) {
    let bytes = || -> u64 {
        let files = files(dir).into_iter();
        files.map(|file| file.metadata().unwrap().len()).sum()
    };
    let keep = Keep::MaxBytes(bytes() / 2);
    let pruned = |is_dry| {
        let report = prune(&Root::open(root).unwrap(), keep, is_dry).unwrap();
        let [cache] = &report.caches[..] else {
            panic!("{report:?}")
        };
        let failed = report.failed.into_iter();
        let failed: Vec<_> = failed.map(|(path, error)| (path, error.kind())).collect();
        (cache.segments.clone(), failed, report.remaining_bytes)
    };
    let announced = pruned(true);
    assert_eq!(pruned(false), announced);
    assert_eq!(announced.2, bytes());
}

/// Segments of a row each are not compacted.
fn bounded() -> Config {
    manual_flush()
        .with_max_bytes(LIMIT)
        .with_segment_bytes(2 << 10)
}
