//! Uses a directory whose permissions change, as a user to whom permissions apply.

use std::fs;
use std::io;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

use torchcache_store::{Fault, FlushError, Store, StoreError};

use crate::rows::{batch, count_right, expect_all, manual_flush, put_flushed};

const LEN: usize = 1500;

/// The files of a directory: path and bytes.
pub fn content(dir: &Path) -> Vec<(PathBuf, Vec<u8>)> {
    let entries = fs::read_dir(dir).into_iter().flatten().flatten();
    let mut content: Vec<_> = entries
        .map(|entry| (entry.path(), fs::read(entry.path()).unwrap_or_default()))
        .collect();
    content.sort();
    content
}

/// The arguments: `read-only`, `closed`, or `closed-while-open`.
pub fn run(root: &Path, args: &[String]) {
    let dir = root.join("cache");
    let mode = |mode| {
        let permissions = fs::Permissions::from_mode(mode);
        fs::set_permissions(&dir, permissions).unwrap();
    };
    let store = Store::open(&dir, manual_flush()).unwrap();
    put_flushed(&store, 0..10, LEN);
    match args {
        [case] if case == "read-only" => {
            drop(store);
            mode(0o555);
            let before = content(&dir);
            let store = Store::open(&dir, manual_flush()).unwrap();
            assert_eq!(store.stats().faults.get(Fault::Write), 1, "and no more");
            expect_all(&store, 0..10, LEN);
            store.put(batch(0..20, LEN));
            expect_all(&store, 0..20, LEN);
            let lost = store.flush().expect_err("nothing can be written");
            assert!(matches!(lost, FlushError::Lost { rows: 10, .. }), "{lost}");
            expect_all(&store, 0..10, LEN);
            assert_eq!(content(&dir), before);
            // An empty one is of no use.
            let empty = root.join("empty");
            fs::create_dir(&empty).unwrap();
            fs::set_permissions(&empty, fs::Permissions::from_mode(0o555)).unwrap();
            let refused = Store::open(&empty, manual_flush()).expect_err("it can hold nothing");
            assert!(matches!(refused, StoreError::Directory { .. }), "{refused}");
        }
        [case] if case == "closed" => {
            drop(store);
            mode(0o000);
            let refused = Store::open(&dir, manual_flush()).unwrap_err();
            let StoreError::Directory { source, .. } = refused else {
                panic!("{refused}");
            };
            assert_eq!(source.kind(), io::ErrorKind::PermissionDenied, "{source}");
        }
        _ => {
            expect_all(&store, 0..5, LEN);
            mode(0o000);
            // The file is open, so its rows are there; nothing else is.
            expect_all(&store, 0..10, LEN);
            count_right(&store, 0..100, LEN);
            store.put(batch(10..20, LEN));
            store.flush().expect_err("nothing can be written");
            count_right(&store, 0..20, LEN);
            assert!(store.stats().faults.get(Fault::Write) > 0);
        }
    }
    mode(0o755);
    let store = Store::open(&dir, manual_flush()).unwrap();
    expect_all(&store, 0..10, LEN);
    store.put(batch(0..20, LEN));
    let _ = store.flush();
    store.flush().unwrap();
    expect_all(&store, 0..20, LEN);
}
