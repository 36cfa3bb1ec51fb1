//! The directory itself goes wrong: read-only, without permission, deleted or replaced while a store
//! has it open.

use std::fs;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};

use torchcache_faults::process::unprivileged;
use torchcache_faults::report::{Report, cases};
use torchcache_faults::roles::directory::content;
use torchcache_faults::rows::{batch, manual_flush};
use torchcache_store::{Fault, FlushError, Store};

use crate::child;

const LEN: usize = 1500;

#[test]
fn a_directory_that_goes_wrong_costs_rows_only() {
    let report = Report::new("directory read-only, without permission, deleted, replaced");
    for round in 0..cases(2, 20) {
        let mmap = round % 2 == 1;
        for case in ["read-only", "closed", "closed-while-open"] {
            report.case(format_args!("{case}"), || {
                let root = tempfile::tempdir().unwrap();
                let child = child("directory", root.path(), &[case.to_owned()]);
                unprivileged(child, root.path()).succeeds(&report);
            });
        }
        for (name, replace) in REPLACE {
            report.case(format_args!("{name}"), || replaced(&report, replace, mmap));
        }
    }
    report.finish();
}

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

fn replaced(report: &Report, replace: fn(&Path), mmap: bool) {
    let root = tempfile::tempdir().unwrap();
    let dir = root.path().join("cache");
    let config = manual_flush().with_mmap(mmap);
    let store = Store::open(&dir, config).unwrap();
    for first in [0, 10] {
        store.put(batch(first..first + 10, LEN));
        store.flush().unwrap();
    }
    report.expect_all(&store, 0..10, LEN);
    replace(&dir);
    report.caused(1);
    let away = root.path().join("away");
    let before = content(&away);
    for n in 2..12 {
        report.count_right(&store, 0..10 * n, LEN);
        store.put(batch(10 * n..10 * n + 10, LEN));
        assert_eq!(store.stats().pending_rows, 10);
        let flushed = store.flush();
        let is_dir = fs::symlink_metadata(&dir).is_ok_and(|dir| dir.is_dir());
        match flushed {
            Ok(()) => assert!(is_dir),
            Err(FlushError::Lost { rows }) => assert!(rows == 10 && !is_dir),
            Err(error) => panic!("{error}"),
        }
        assert_eq!(store.stats().pending_bytes, 0);
        report.count_right(&store, 0..10 * n + 10, LEN);
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
    store.put(batch(1000..1010, LEN));
    store.flush().unwrap();
    report.expect_all(&store, 1000..1010, LEN);
    drop(store);
    let store = Store::open(&dir, manual_flush()).unwrap();
    report.expect_all(&store, 1000..1010, LEN);
}
