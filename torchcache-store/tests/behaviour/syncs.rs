//! That what must be durable is synced, on the system's own file system: a filter of system calls
//! makes a sync fail, or ends the process at it.

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;
use std::process::{Command, Stdio};
use std::sync::Arc;

use rustix::process::Signal;
use seccompiler::{BpfProgram, SeccompAction, SeccompFilter, TargetArch};
use torchcache_store::fs::{FileSystem, Os};
use torchcache_store::manifest::{Manifest, newest, note_newest};
use torchcache_store::{Compression, Fault, FlushError, RowBatch, RowValues, Store};

use crate::common::{batch, count_right, keys, manual_flush, segments, value};

const LEN: usize = 100;

/// From now on, this call of this thread, and of those that it starts, ends so.
pub(crate) fn filter(call: i64, end: SeccompAction) {
    let arch = TargetArch::try_from(std::env::consts::ARCH).expect("a processor with filters");
    let rules = BTreeMap::from([(call, Vec::new())]);
    let filter = SeccompFilter::new(rules, SeccompAction::Allow, end, arch);
    let program: BpfProgram = filter
        .and_then(TryInto::try_into)
        .expect("the filter is sound");
    seccompiler::apply_filter(&program).expect("filters are allowed");
}

#[test]
fn flush_fails_when_a_file_or_its_name_cannot_be_synced() {
    for call in [libc::SYS_fdatasync, libc::SYS_fsync] {
        // The filter holds for this thread and the flusher's.
        let done = std::thread::spawn(move || {
            let dir = tempfile::tempdir().expect("a temporary directory");
            filter(call, SeccompAction::Errno(libc::EIO as u32));
            let store = Store::open(dir.path(), manual_flush()).expect("it opens");
            store.put(batch(&keys(0..10), "a", LEN));
            let flushed = store.flush();
            assert!(
                matches!(flushed, Err(FlushError::Lost { rows: 10, .. })),
                "{call}: {flushed:?}"
            );
            assert_eq!(store.stats().faults.get(Fault::Write), 1, "{call}");
            // A segment whose name cannot be synced stays, for others that came to skip its rows.
            let named = usize::from(call == libc::SYS_fsync);
            assert_eq!(segments(dir.path()).len(), named, "{call}");
        });
        done.join().expect("it does not panic");
    }
}

#[test]
#[ignore = "what the tests below start as another process"]
fn child() {
    let Some(dir) = std::env::var_os("TORCHCACHE_TEST_SYNCED") else {
        return;
    };
    let dir = Path::new(&dir);
    match std::env::var("TORCHCACHE_TEST_ENDS_AT").as_deref() {
        Ok("fsync") => filter(libc::SYS_fsync, SeccompAction::KillProcess),
        Ok("fdatasync") => filter(libc::SYS_fdatasync, SeccompAction::KillProcess),
        _ => {}
    }
    let store = Store::open(dir, manual_flush()).expect("it opens");
    fs::write(dir.join("opened"), "").expect("it can be written");
    store.put(batch(&keys(0..10), "a", LEN));
    store.flush().expect("it is written");
    fs::write(dir.join("flushed"), "").expect("it can be written");
}

/// Runs the child, which ends at this call, if it comes to it.
fn ends_at(call: &str, dir: &Path) -> bool {
    let program = std::env::current_exe().expect("this program has a path");
    let ended = Command::new(program)
        .args(["--exact", "syncs::child", "--ignored"])
        .env("TORCHCACHE_TEST_SYNCED", dir)
        .env("TORCHCACHE_TEST_ENDS_AT", call)
        .stdout(Stdio::null())
        .status()
        .expect("the child starts");
    use std::os::unix::process::ExitStatusExt;
    match ended.signal() {
        Some(signal) => {
            assert_eq!(signal, Signal::SYS.as_raw(), "{ended}");
            true
        }
        None => {
            assert!(ended.success(), "{ended}");
            false
        }
    }
}

#[test]
fn a_file_is_synced_before_its_name_is() {
    let dir = tempfile::tempdir().expect("a temporary directory");
    assert!(ends_at("fdatasync", dir.path()));
    assert!(dir.path().join("opened").exists());
    assert!(segments(dir.path()).is_empty(), "it has no name yet");
    assert!(ends_at("fsync", dir.path()));
    assert_eq!(segments(dir.path()).len(), 1, "it has its name");
    assert!(!dir.path().join("flushed").exists());
    assert!(!ends_at("nothing", dir.path()));
    assert!(dir.path().join("flushed").exists());
    let store = Store::open(dir.path(), manual_flush()).expect("it opens");
    assert_eq!(count_right(&store, &keys(0..10), LEN), 10);
}

#[test]
fn a_new_directory_is_synced_in_its_parent() {
    let root = tempfile::tempdir().expect("a temporary directory");
    let (dir, below) = (root.path().join("new"), root.path().join("new/below"));
    assert!(ends_at("fsync", &dir));
    assert!(dir.exists() && !dir.join("opened").exists());
    assert!(ends_at("fsync", &below));
    assert!(below.exists() && !below.join("opened").exists());
    // One that is there needs none.
    assert!(ends_at("fsync", &below));
    assert!(below.join("opened").exists() && !below.join("flushed").exists());
}

#[test]
fn a_new_directory_that_cannot_be_synced_is_an_error() {
    // The last three say that directories cannot be synced there.
    for errno in [
        libc::EIO,
        libc::ENOSPC,
        libc::EINVAL,
        libc::ENOSYS,
        libc::ENOTSUP,
    ] {
        let done = std::thread::spawn(move || {
            let root = tempfile::tempdir().expect("a temporary directory");
            let dir = root.path().join("new/below");
            filter(libc::SYS_fsync, SeccompAction::Errno(errno as u32));
            let opened = Store::open(&dir, manual_flush()).is_ok();
            (opened, root.path().join("new").exists())
        });
        let is_unsupported = ![libc::EIO, libc::ENOSPC].contains(&errno);
        let done = done.join().expect("it does not panic");
        assert_eq!(done, (is_unsupported, is_unsupported), "{errno}");
    }
}

/// On file systems without one of two kinds of sync, the other one counts.
#[test]
fn a_file_is_synced_by_the_call_that_is_supported() {
    for errno in [libc::ENOTSUP, libc::EINVAL, libc::ENOSYS] {
        let done = std::thread::spawn(move || {
            let dir = tempfile::tempdir().expect("a temporary directory");
            filter(libc::SYS_fdatasync, SeccompAction::Errno(errno as u32));
            let store = Store::open(dir.path(), manual_flush()).expect("it opens");
            store.put(batch(&keys(0..10), "a", LEN));
            let flushed = store.flush();
            assert!(flushed.is_ok(), "{errno}: {flushed:?}");
            // Not even the other one.
            filter(libc::SYS_fsync, SeccompAction::Errno(errno as u32));
            let store = Store::open(dir.path().join("new"), manual_flush()).expect("it opens");
            store.put(batch(&keys(0..10), "a", LEN));
            store.flush().expect_err("it cannot be synced");
        });
        done.join().expect("it does not panic");
    }
}

#[test]
fn the_note_of_the_newest_manifest_outlives_a_full_disk() {
    let root = tempfile::tempdir().expect("a temporary directory");
    let path = root.path().to_owned();
    // Too many directories to search.
    for n in 0..100 {
        fs::create_dir(path.join(format!("other{n}"))).expect("it can be made");
    }
    let write = |hash: &str| {
        let dir = Os.open_dir(&path.join(hash), true).expect("it is made");
        let written = Manifest::new("m", hash, Vec::new()).write(&dir);
        written.expect("it is written");
    };
    ["old", "new"].into_iter().for_each(write);
    note_newest(&path, "m", "old").expect("it is written");
    let done = {
        let path = path.clone();
        std::thread::spawn(move || {
            filter(libc::SYS_write, SeccompAction::Errno(libc::ENOSPC as u32));
            note_newest(&path, "m", "new").is_err()
        })
    };
    assert!(
        done.join().expect("it does not panic"),
        "nothing can be written"
    );
    let newest_hash = || newest(&path, "m").map(|manifest| manifest.hash);
    assert_eq!(newest_hash().as_deref(), Some("old"));
    note_newest(&path, "m", "new").expect("it is written");
    assert_eq!(newest_hash().as_deref(), Some("new"));
    let temps = fs::read_dir(&path).expect("it is there").flatten();
    let is_temp = |entry: &fs::DirEntry| entry.file_name().as_encoded_bytes().starts_with(b".tmp-");
    assert!(!temps.into_iter().any(|entry| is_temp(&entry)));
}

/// Rows whose values are written on a thread that cannot start another one.
struct OnlyThread(Vec<u8>);

impl RowValues for OnlyThread {
    fn row(&self, row: usize) -> &[u8] {
        if row == 0 {
            for call in [libc::SYS_clone3, libc::SYS_clone] {
                filter(call, SeccompAction::Errno(libc::EAGAIN as u32));
            }
            std::thread::Builder::new()
                .spawn(|| ())
                .expect_err("there is no thread");
        }
        &self.0[row * LEN..][..LEN]
    }
}

#[test]
fn rows_are_compressed_where_no_thread_can_be_started() {
    let dir = tempfile::tempdir().expect("a temporary directory");
    let config = manual_flush().with_compression(Some(Compression::new(1, 4)));
    let store = Store::open(dir.path(), config).expect("it opens");
    let rows = keys(0..40);
    let values = rows.iter().flat_map(|key| value(key, LEN)).collect();
    let values = Arc::new(OnlyThread(values));
    let batch = RowBatch::shared(rows.clone(), b"a".as_slice().into(), values, LEN);
    store.put(batch.expect("the parts fit"));
    assert_eq!(store.flush(), Ok(()));
    assert_eq!(store.stats().faults.total(), 0);
    assert_eq!(count_right(&store, &rows, LEN), 40);
}

#[test]
fn names_of_directories_above_are_synced_where_that_is_supported() {
    for (errno, is_ok) in [
        (libc::EIO, false),
        (libc::ENOSPC, false),
        (libc::EINVAL, true),
        (libc::ENOSYS, true),
        (libc::ENOTSUP, true),
    ] {
        let done = std::thread::spawn(move || {
            let root = tempfile::tempdir().expect("a temporary directory");
            let dir = root.path().join("cache");
            fs::create_dir(&dir).expect("it can be made");
            Os.sync_parents(&dir).expect("it is synced");
            filter(libc::SYS_fsync, SeccompAction::Errno(errno as u32));
            Os.sync_parents(&dir).is_ok()
        });
        assert_eq!(done.join().expect("it does not panic"), is_ok, "{errno}");
    }
}

#[test]
fn large_segments_are_written_where_parts_cannot_be_synced() {
    for (errno, is_ok) in [
        (libc::EIO, false),
        (libc::EINVAL, true),
        (libc::ENOSYS, true),
        (libc::ESPIPE, true),
    ] {
        let done = std::thread::spawn(move || {
            let dir = tempfile::tempdir().expect("a temporary directory");
            let part = libc::SYS_sync_file_range;
            filter(part, SeccompAction::Errno(errno as u32));
            let store = Store::open(dir.path(), manual_flush()).expect("it opens");
            store.put(batch(&keys(0..3), "a", 3 << 20));
            (
                store.flush().is_ok(),
                count_right(&store, &keys(0..3), 3 << 20) == 3,
            )
        });
        let done = done.join().expect("it does not panic");
        assert_eq!(done, (is_ok, is_ok), "{errno}");
    }
}
