//! A store with the rows, and plain system calls on its file.

use std::fs::File;
use std::os::unix::fs::FileExt;
use std::time::Duration;

use torchcache_store::{Compression, Config, Key, Located, Store};

use crate::common::{scratch_dir, segments};
use crate::data::{Call, Workload};

/// A store with the rows of all calls on disk.
pub(crate) struct Filled {
    pub(crate) dir: tempfile::TempDir,
    pub(crate) store: Store,
    row_len: usize,
}

impl Filled {
    pub(crate) fn new(
        calls: &[Call],
        workload: &Workload,
        compression: Option<Compression>,
    ) -> Filled {
        let dir = scratch_dir();
        let store = Store::open(dir.path(), on_request(compression)).expect("it opens");
        for call in calls {
            store.put(call.batch(workload.row_len));
        }
        store.flush().expect("it is written");
        Filled {
            dir,
            store,
            row_len: workload.row_len,
        }
    }

    pub(crate) fn locate(&self, keys: &[Key]) -> Vec<Located> {
        let found: Vec<_> = self.store.locate(keys).into_iter().flatten().collect();
        assert_eq!(found.len(), keys.len());
        found
    }

    pub(crate) fn read(&self, found: &[Located], out: &mut [u8]) {
        read(&self.store, found, out);
    }

    pub(crate) fn plain(&self) -> Plain {
        let paths = segments(self.dir.path());
        assert_eq!(paths.len(), 1, "one file, so that a position is a product");
        let file = File::open(&paths[0]).expect("it opens");
        Plain {
            file,
            row_len: self.row_len,
        }
    }
}

pub(crate) fn read(store: &Store, found: &[Located], out: &mut [u8]) {
    let mut rows: Vec<&mut [u8]> = out.chunks_exact_mut(found[0].len).collect();
    assert!(store.read(found, &mut rows).into_iter().all(|read| read));
}

/// Plain system calls on the file that the store reads.
pub(crate) struct Plain {
    file: File,
    row_len: usize,
}

impl Plain {
    pub(crate) fn in_order(&self, call: usize, out: &mut [u8]) {
        let rows = out.len() / self.row_len;
        let at = 16 + call * rows * (self.row_len + 8);
        self.file
            .read_exact_at(out, at as u64)
            .expect("it is there");
    }

    pub(crate) fn scattered(&self, rows: impl Iterator<Item = usize>, out: &mut [u8]) {
        for (row, out) in rows.zip(out.chunks_exact_mut(self.row_len)) {
            let at = 16 + row * (self.row_len + 8);
            self.file
                .read_exact_at(out, at as u64)
                .expect("it is there");
        }
    }
}

/// A configuration that writes only on request, into one segment.
pub(crate) fn on_request(compression: Option<Compression>) -> Config {
    Config::default()
        .with_compression(compression)
        .with_batch_delay(Duration::from_secs(3600))
        .with_segment_bytes(1 << 30)
        .with_max_bytes(1 << 40)
        .with_queue_bytes(1 << 30)
}
