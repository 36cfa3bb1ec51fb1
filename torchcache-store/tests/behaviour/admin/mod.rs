//! Administration of caches, also while stores use them.

mod concurrent;
mod prune;
mod repair;
mod snapshot;

use std::fs::File;
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

use torchcache_store::admin::{Cache, Root};
use torchcache_store::fs::{FileSystem, Os};
use torchcache_store::manifest::Manifest;
use torchcache_store::segment::{Encoding, SegmentWriter};
use torchcache_store::{Key, Store};

use crate::common::{batch, manual_flush, value};

/// The one cache of a directory.
fn only(root: &Path) -> Cache {
    let mut caches = caches(root);
    assert_eq!(caches.len(), 1, "{caches:?}");
    caches.remove(0)
}

fn caches(root: &Path) -> Vec<Cache> {
    let listing = Root::open(root).and_then(|root| root.list());
    listing.expect("it can be listed").caches
}

/// Writes a segment into a cache, last read this many hours ago.
fn segment(dir: &Path, keys: &[Key], hours: u64) -> PathBuf {
    std::fs::create_dir_all(dir).expect("it can be made");
    let mut writer = SegmentWriter::create(dir).expect("it can be made");
    for key in keys {
        let value = value(key, LEN);
        let schema = b"s".as_slice().into();
        let pushed = writer.push(key, &schema, LEN as u32, Encoding::Raw, &value);
        pushed.expect("it is written");
    }
    let path = writer.finish().and_then(|finished| finished.publish());
    let path = path.expect("it is written");
    set_read(&path, hours);
    path
}

const LEN: usize = 500;

fn set_read(path: &Path, hours: u64) {
    let read = SystemTime::now() - Duration::from_secs(3600 * hours);
    let file = File::open(path).and_then(|file| file.set_modified(read));
    file.expect("its time can be set");
}

/// Writes a manifest into a cache, this many hours ago.
fn manifest(dir: &Path, module: &str, hours: u64) {
    let opened = Os.open_dir(dir, true).expect("it can be made");
    let written = Manifest::new(module, "5eed", Vec::new()).write(&opened);
    written.expect("it can be written");
    set_read(&dir.join("manifest.json"), hours);
}

/// A store with these rows on disk.
fn filled(dir: &Path, keys: &[Key]) -> Store {
    let store = Store::open(dir, manual_flush()).expect("it opens");
    store.put(batch(keys, "s", LEN));
    store.flush().expect("it is written");
    store
}
