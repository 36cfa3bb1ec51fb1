//! Others could write to the directory: links in its place or in that of a segment, pipes, odd names,
//! directories and files that all users may write to or that belong to another user. Every planted
//! segment holds wrong rows under right checksums.

use std::ffi::OsStr;
use std::fs;
use std::ops::Range;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{PermissionsExt, chown, symlink};
use std::path::{Path, PathBuf};
use std::process::Command;

use rustix::process::geteuid;
use tempfile::TempDir;
use torchcache_faults::cases::{cases, seen};
use torchcache_faults::process::{NOBODY, Running, unprivileged};
use torchcache_faults::roles::other_user::{LEN, PLACES, PLANTED, nothing_planted, refused};
use torchcache_faults::rows::{count_right, expect_no_faults, key, manual_flush, put_flushed};
use torchcache_store::segment::{Encoding, SegmentWriter};
use torchcache_store::{Fault, Store};

use crate::child;

#[test]
fn what_others_may_have_written_is_not_read() {
    let rounds = cases(2, 20);
    for _ in 0..rounds {
        links();
        names();
        writable_by_all_users();
        another_owner();
    }
    let fault = "links, other owners, writable by all users, odd names";
    seen(fault, u64::from(rounds) * 4);
}

fn another_owner() {
    if !geteuid().is_root() {
        println!("left out: another owner, which only root can give files to");
        return;
    }
    let root = tempfile::tempdir().unwrap();
    let [victim, own] = ["of another", "own"].map(|name| root.path().join(name));
    for dir in [&victim, &own] {
        fs::create_dir(dir).unwrap();
        plant(dir, "planted.tcs", PLANTED);
        chown(dir.join("planted.tcs"), Some(OTHER_USER), Some(OTHER_USER)).unwrap();
    }
    chown(&victim, Some(OTHER_USER), Some(OTHER_USER)).unwrap();
    let setuid = child("other_user", root.path(), &["setuid".to_owned()]);
    Running::start(setuid).succeeds();
    shared_with_primary_group(&root.path().join("of another, open"));
    unprivileged(child("other_user", root.path(), &[]), root.path()).succeeds();
}

/// Directories of another user, whose group is the primary one of the user that plays the role.
fn shared_with_primary_group(open: &Path) {
    for (path, _) in PLACES {
        let dir = open.join(path);
        let store = Store::open(&dir, manual_flush()).unwrap();
        put_flushed(&store, PLANTED, LEN);
        for path in dir.ancestors().take_while(|path| *path != open) {
            let (owner, mode) = match path.file_name().and_then(OsStr::to_str) {
                Some("own") => (NOBODY, 0o755),
                Some("theirs, closed") => (OTHER_USER, 0o755),
                Some("own, shared") => (NOBODY, 0o775),
                Some("of root, shared") => (0, 0o775),
                _ => (OTHER_USER, 0o775),
            };
            chown(path, Some(owner), Some(NOBODY)).unwrap();
            set_mode(path, mode);
        }
    }
    set_mode(open, 0o1777);
}

/// A user that does not exist.
const OTHER_USER: u32 = 61_234;

/// Writes a valid segment of some rows with wrong values.
fn plant(dir: &Path, name: impl AsRef<OsStr>, rows: Range<u64>) -> PathBuf {
    let away = tempfile::tempdir().unwrap();
    let mut writer = SegmentWriter::create(away.path()).unwrap();
    for number in rows {
        let schema = b"bytes of a row that its number gives".as_slice().into();
        let pushed = writer.push(&key(number), &schema, LEN as u32, Encoding::Raw, &[7; LEN]);
        pushed.unwrap();
    }
    let path = dir.join(name.as_ref());
    fs::copy(writer.finish().unwrap().publish().unwrap(), &path).unwrap();
    set_mode(&path, 0o644);
    path
}

fn set_mode(path: &Path, mode: u32) {
    fs::set_permissions(path, fs::Permissions::from_mode(mode)).unwrap();
}

fn cache() -> (TempDir, PathBuf) {
    let root = tempfile::tempdir().unwrap();
    let dir = root.path().join("cache");
    fs::create_dir(&dir).unwrap();
    (root, dir)
}

fn links() {
    let (root, dir) = cache();
    let victim = root.path().join("victim");
    fs::create_dir(&victim).unwrap();
    let planted = plant(&victim, "planted.tcs", PLANTED);
    let link = root.path().join("link");
    symlink(&victim, &link).unwrap();
    refused(&link, "symbolic link");
    refused(&link.join(""), "symbolic link"); // with a trailing slash
    symlink("nowhere", root.path().join("dangling")).unwrap();
    refused(&root.path().join("dangling"), "symbolic link");
    symlink(&planted, dir.join("0.tcs")).unwrap();
    symlink("nowhere", dir.join("1.tcs")).unwrap();
    symlink(&victim, dir.join("2.tcs")).unwrap();
    let before = fs::read(&planted).unwrap();
    let store = nothing_planted(&dir);
    store.clear();
    let after = fs::read(&planted).unwrap();
    assert!(before == after, "the file behind the link was changed");
}

fn names() {
    let (_root, dir) = cache();
    // As long as a name may be.
    let long = [b"\n".repeat(251).as_slice(), b".tcs"].concat();
    let mut names: Vec<&[u8]> = vec![
        b"a\nb.tcs",
        b"a\x1b[2Jb.tcs",
        b"..tcs",
        b".tcs",
        b"a b.tcs",
        b"\xff\xfe.tcs",
        "\u{202e}sct.tcs".as_bytes(),
        b"a\\b.tcs",
        b"-;rm.tcs",
        b"a.tcs~",
        &long,
    ];
    if cfg!(target_vendor = "apple") {
        // Its file systems refuse other names.
        names.retain(|name| std::str::from_utf8(name).is_ok());
    }
    for name in &names {
        plant(&dir, OsStr::from_bytes(name), PLANTED);
    }
    fs::create_dir(dir.join("directory.tcs")).unwrap();
    let pipe = dir.join("pipe.tcs");
    assert!(
        Command::new("mkfifo")
            .arg(&pipe)
            .status()
            .unwrap()
            .success()
    );
    let store = nothing_planted(&dir);
    expect_no_faults(&store);
    store.clear();
    for name in &names {
        let is_there = dir.join(OsStr::from_bytes(name)).exists();
        assert!(is_there, "{} was removed", name.escape_ascii());
    }
}

fn writable_by_all_users() {
    let (_root, dir) = cache();
    let planted = plant(&dir, "planted.tcs", PLANTED);
    set_mode(&planted, 0o666);
    let store = nothing_planted(&dir);
    let faults = store.stats().faults;
    assert!(
        faults.get(Fault::PermissionRejected) == 1,
        "faults: {faults:?}"
    );
    store.clear();
    drop(store);
    assert!(!planted.exists(), "clearing empties the directory");
    for open in [0o777, 0o1777, 0o757] {
        set_mode(&dir, open);
        refused(&dir, "`chmod -R o-w`");
    }
    set_mode(&dir, 0o755);
    // The mode changes while a store has it open.
    let store = nothing_planted(&dir);
    set_mode(&dir, 0o777);
    // Rows that the store does not have: it would not look for others.
    plant(&dir, "planted.tcs", 100..110);
    store.refresh();
    // The file may have been closed for those of other tests, and is not opened again.
    count_right(&store, 0..20, LEN);
    let seen = count_right(&store, 100..110, LEN);
    assert!(seen == 0, "{seen} planted rows were read");
    assert!(store.stats().faults.total() > 0, "it was not noticed");
    set_mode(&dir, 0o755);
}
