//! The directory itself goes wrong: read-only, without permission, deleted or replaced while a store
//! has it open. For real, and where this process may do anything, in a child that may not.

use std::fs;
use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::{Path, PathBuf};

use torchcache_store::{Config, Fault, Store, StoreError};

use crate::children::{say, sums, unprivileged};
use crate::rows::{batch, patient};
use crate::tally::{Plan, Tally, ensure};

const LEN: usize = 1500;

pub(super) fn run(plan: &Plan) -> Tally {
    let mut tally = Tally::default();
    for round in 0..plan.rounds {
        let mmap = round % 2 == 1;
        for case in ["read-only", "closed", "closed-while-open"] {
            tally.round(case, |tally| {
                let root = tempfile::tempdir().map_err(|error| error.to_string())?;
                sums(
                    tally,
                    unprivileged("permission", root.path(), &[case.to_owned()])?,
                )
            });
        }
        for (name, replace) in [
            ("deleted", delete as fn(&Path) -> Result<(), String>),
            ("another directory in its place", |dir| {
                move_away(dir)?;
                done(fs::create_dir(dir))
            }),
            ("a file in its place", |dir| {
                move_away(dir)?;
                done(fs::write(dir, "in the way"))
            }),
            ("a link in its place", |dir| {
                let away = move_away(dir)?;
                done(symlink(away, dir))
            }),
            ("a link to nothing in its place", |dir| {
                delete(dir)?;
                done(symlink("nowhere", dir))
            }),
        ] {
            tally.round(name, |tally| replaced(tally, replace, mmap));
        }
    }
    tally
}

fn done(result: std::io::Result<()>) -> Result<(), String> {
    result.map_err(|error| error.to_string())
}

fn delete(dir: &Path) -> Result<(), String> {
    done(fs::remove_dir_all(dir))
}

fn move_away(dir: &Path) -> Result<PathBuf, String> {
    let away = dir.with_file_name("away");
    done(fs::rename(dir, &away))?;
    Ok(away)
}

/// What is in a directory, by name and bytes.
fn content(dir: &Path) -> Vec<(PathBuf, Vec<u8>)> {
    let entries = fs::read_dir(dir).into_iter().flatten().flatten();
    let mut content: Vec<_> = entries
        .map(|entry| (entry.path(), fs::read(entry.path()).unwrap_or_default()))
        .collect();
    content.sort();
    content
}

fn replaced(
    tally: &mut Tally,
    replace: fn(&Path) -> Result<(), String>,
    mmap: bool,
) -> Result<(), String> {
    let root = tempfile::tempdir().map_err(|error| error.to_string())?;
    let dir = root.path().join("cache");
    let config = Config { mmap, ..patient() };
    let store = Store::open(&dir, config).map_err(|error| error.to_string())?;
    for first in [0, 10] {
        store.put(batch(first..first + 10, LEN));
        store.flush().map_err(|error| error.to_string())?;
    }
    tally.all_there(&store, 0..10, LEN);
    replace(&dir)?;
    tally.caused += 1;
    let away = root.path().join("away");
    let before = content(&away);
    // Whatever is there now: rows are right or missing, and nothing of it panics or hangs.
    for n in 2..12 {
        tally.right_or_missing(&store, 0..10 * n, LEN);
        store.put(batch(10 * n..10 * n + 10, LEN));
        let _ = store.flush();
        tally.right_or_missing(&store, 0..10 * n + 10, LEN);
        store.refresh();
    }
    let is_dir = fs::symlink_metadata(&dir).is_ok_and(|dir| dir.is_dir());
    let faults = store.stats().faults;
    ensure(is_dir || faults.get(Fault::Write) > 0, || {
        format!("faults: {faults:?}")
    })?;
    ensure(content(&away) == before, || {
        "something was written by way of the link, or into what was moved away".into()
    })?;
    // The trouble is over.
    if !is_dir {
        done(fs::remove_file(&dir))?;
    }
    store.put(batch(1000..1010, LEN));
    let _ = store.flush(); // tells of what was lost before
    store.flush().map_err(|error| error.to_string())?;
    tally.all_there(&store, 1000..1010, LEN);
    drop(store);
    let store = Store::open(&dir, patient()).map_err(|error| error.to_string())?;
    tally.all_there(&store, 1000..1010, LEN);
    Ok(())
}

/// The child: a user to whom permissions apply.
pub(super) fn permission(root: &Path, words: &[String]) {
    let mut tally = Tally::default();
    let dir = root.join("cache");
    let mode = |mode| {
        let permissions = fs::Permissions::from_mode(mode);
        fs::set_permissions(&dir, permissions).expect("it is this user's");
    };
    let store = Store::open(&dir, patient()).expect("it opens");
    store.put(batch(0..10, LEN));
    store.flush().expect("it is written");
    match words {
        [case] if case == "read-only" => {
            drop(store);
            mode(0o555);
            let before = content(&dir);
            let store = Store::open(&dir, patient()).expect("it can be read");
            assert_eq!(store.stats().faults.get(Fault::Write), 1, "and no more");
            tally.all_there(&store, 0..10, LEN);
            store.put(batch(0..20, LEN));
            tally.all_there(&store, 0..20, LEN);
            let lost = store.flush().expect_err("nothing can be written");
            assert!(matches!(lost, StoreError::Lost { rows: 10 }), "{lost}");
            tally.all_there(&store, 0..10, LEN);
            assert_eq!(content(&dir), before);
            // One that is empty is of no use to anybody.
            let empty = root.join("empty");
            fs::create_dir(&empty).expect("it can be made");
            fs::set_permissions(&empty, fs::Permissions::from_mode(0o555)).expect("it is ours");
            let refused = Store::open(&empty, patient()).expect_err("it can hold nothing");
            assert!(matches!(refused, StoreError::Directory { .. }), "{refused}");
        }
        [case] if case == "closed" => {
            drop(store);
            mode(0o000);
            let refused = Store::open(&dir, patient()).expect_err("nobody may look into it");
            assert!(matches!(refused, StoreError::Directory { .. }), "{refused}");
            assert!(
                refused.to_string().contains("Permission denied"),
                "{refused}"
            );
        }
        _ => {
            tally.all_there(&store, 0..5, LEN);
            mode(0o000);
            // The file is open, so its rows are there; nothing else is.
            tally.all_there(&store, 0..10, LEN);
            tally.right_or_missing(&store, 0..100, LEN);
            store.put(batch(10..20, LEN));
            store.flush().expect_err("nothing can be written");
            tally.right_or_missing(&store, 0..20, LEN);
            assert!(store.stats().faults.get(Fault::Write) > 0);
        }
    }
    tally.caused += 1;
    mode(0o755);
    let store = Store::open(&dir, patient()).expect("it opens again");
    tally.all_there(&store, 0..10, LEN);
    store.put(batch(0..20, LEN));
    let _ = store.flush();
    store.flush().expect("it is written again");
    tally.all_there(&store, 0..20, LEN);
    say(tally.line());
}
