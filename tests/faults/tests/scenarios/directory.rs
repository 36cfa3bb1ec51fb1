//! The directory itself goes wrong: read-only, without permission, deleted or replaced while a store
//! has it open.

use std::fs;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};

use torchcache_faults::cases::{case, cases, seen};
use torchcache_faults::process::unprivileged;
use torchcache_faults::roles::directory::content;
use torchcache_faults::rows::{batch, count_right, expect_all, manual_flush, put_flushed};
use torchcache_store::{Fault, FlushError, Store};

use crate::child;

const LEN: usize = 1500;

#[test]
fn a_directory_that_goes_wrong_costs_rows_only() {
    let rounds = cases(2, 20);
    for round in 0..rounds {
        let mmap = round % 2 == 1;
        for mode in MODES {
            case(format_args!("{mode}"), || {
                let root = tempfile::tempdir().unwrap();
                let child = child("directory", root.path(), &[mode.to_owned()]);
                unprivileged(child, root.path()).succeeds();
            });
        }
        for (name, replace) in REPLACE {
            case(format_args!("{name}"), || replaced(replace, mmap));
        }
    }
    let fault = "directory read-only, without permission, deleted, replaced";
    seen(
        fault,
        u64::from(rounds) * (MODES.len() + REPLACE.len()) as u64,
    );
}

/// How the directory is closed to a child process.
const MODES: [&str; 3] = ["read-only", "closed", "closed-while-open"];

type Replace = (&'static str, fn(&Path));

/// What takes the directory's place.
const REPLACE: [Replace; 5] = [
    ("nothing", delete),
    ("another directory", |dir| {
        move_away(dir);
        fs::create_dir(dir).unwrap();
    }),
    ("a file", |dir| {
        move_away(dir);
        fs::write(dir, "in the way").unwrap();
    }),
    ("a link", |dir| symlink(move_away(dir), dir).unwrap()),
    ("a link to nothing", |dir| {
        delete(dir);
        symlink("nowhere", dir).unwrap();
    }),
];

fn delete(dir: &Path) {
    fs::remove_dir_all(dir).unwrap();
}

fn move_away(dir: &Path) -> PathBuf {
    let away = dir.with_file_name("away");
    fs::rename(dir, &away).unwrap();
    away
}

fn replaced(replace: fn(&Path), mmap: bool) {
    let root = tempfile::tempdir().unwrap();
    let dir = root.path().join("cache");
    let config = manual_flush().with_mmap(mmap);
    let store = Store::open(&dir, config).unwrap();
    for first in [0, 10] {
        put_flushed(&store, first..first + 10, LEN);
    }
    expect_all(&store, 0..10, LEN);
    replace(&dir);
    let away = root.path().join("away");
    let before = content(&away);
    for n in 2..12 {
        count_right(&store, 0..10 * n, LEN);
        store.put(batch(10 * n..10 * n + 10, LEN));
        assert_eq!(store.stats().pending_rows, 10);
        let flushed = store.flush();
        let is_dir = fs::symlink_metadata(&dir).is_ok_and(|dir| dir.is_dir());
        match flushed {
            Ok(()) => assert!(is_dir),
            Err(FlushError::Lost { rows, .. }) => assert!(rows == 10 && !is_dir),
            Err(error) => panic!("{error}"),
        }
        assert_eq!(store.stats().pending_bytes, 0);
        count_right(&store, 0..10 * n + 10, LEN);
        store.refresh();
    }
    let is_dir = fs::symlink_metadata(&dir).is_ok_and(|dir| dir.is_dir());
    let (faults, lost) = (store.stats().faults, store.stats().lost_rows);
    assert!(is_dir || faults.get(Fault::Write) > 0, "faults: {faults:?}");
    assert_eq!(lost, if is_dir { 0 } else { 100 });
    assert!(
        content(&away) == before,
        "something was written where the directory was moved"
    );
    // The directory can be created again.
    if !is_dir {
        fs::remove_file(&dir).unwrap();
    }
    put_flushed(&store, 1000..1010, LEN);
    expect_all(&store, 1000..1010, LEN);
    drop(store);
    let store = Store::open(&dir, manual_flush()).unwrap();
    expect_all(&store, 1000..1010, LEN);
}
