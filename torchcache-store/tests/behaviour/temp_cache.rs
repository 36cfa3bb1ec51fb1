//! Temporary cache directories: private to their user, and removed after their process.

use std::fs;
use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::Path;
use std::sync::mpsc;
use std::thread;
use std::time::{Duration, SystemTime};

use seccompiler::SeccompAction;

use torchcache_store::fs::{FileSystem, Os};
use torchcache_store::{FlushError, Store, StoreError, TempCache};

use crate::common::{batch, keys, manual_flush};
use crate::syncs::filter;

#[test]
fn a_temp_cache_is_private_and_removed_with_its_owner() {
    let parent = tempfile::tempdir().expect("a temporary directory");
    let cache = TempCache::new_in(parent.path()).expect("it is made");
    let path = cache.path().to_owned();
    let mode = fs::metadata(&path)
        .expect("it is there")
        .permissions()
        .mode();
    assert_eq!(mode & 0o777, 0o700);
    let store = Store::open(path.join("hash"), manual_flush()).expect("it opens");
    store.put(batch(&keys(0..3), "a", 10));
    drop(store);
    assert!(path.join("hash").is_dir());
    drop(cache);
    assert!(!path.exists());
}

#[test]
fn living_foreign_and_linked_directories_are_kept() {
    let parent = tempfile::tempdir().expect("a temporary directory");
    let living = TempCache::new_in(parent.path()).expect("it is made");
    let foreign = parent.path().join("torchcache-checkout");
    fs::create_dir(&foreign).expect("it is made");
    fs::write(foreign.join("README"), "mine").expect("it is written");
    // A dead one, but only reached through a link.
    let elsewhere = tempfile::tempdir().expect("a temporary directory");
    fs::write(elsewhere.path().join(".torchcache-private.lock"), "").expect("it is written");
    symlink(elsewhere.path(), parent.path().join("torchcache-link")).expect("it is linked");
    // And one whose lock is a link.
    let lured = parent.path().join("torchcache-lured");
    fs::create_dir(&lured).expect("it is made");
    let target = elsewhere.path().join(".torchcache-private.lock");
    symlink(&target, lured.join(".torchcache-private.lock")).expect("it is linked");

    let other = TempCache::new_in(parent.path()).expect("it is made");
    assert!(living.path().is_dir() && other.path().is_dir());
    assert!(foreign.join("README").exists() && target.exists() && lured.exists());
}

#[test]
fn a_dead_process_s_directory_is_removed_with_its_content() {
    let parent = tempfile::tempdir().expect("a temporary directory");
    let dead = parent.path().join("torchcache-dead");
    fs::create_dir_all(dead.join("hash")).expect("it is made");
    fs::write(dead.join("hash/1.tcs"), "rows").expect("it is written");
    fs::write(dead.join(".torchcache-private.lock"), "").expect("it is written");
    // A link inside is removed, what it points to is not.
    let kept = parent.path().join("kept");
    fs::create_dir(&kept).expect("it is made");
    fs::write(kept.join("file"), "mine").expect("it is written");
    symlink(&kept, dead.join("link")).expect("it is linked");

    let _cache = TempCache::new_in(parent.path()).expect("it is made");
    assert!(!dead.exists());
    assert!(kept.join("file").exists());
}

/// Its process was killed before it made the lock file, or after it removed it.
#[test]
fn an_empty_directory_of_a_dead_process_is_removed() {
    const MADE: &str = "torchcache-0123456789abcdeF";
    const NEW: &str = ".torchcache-private.lock.new";
    for (name, mode, file, age, stays) in [
        (MADE, 0o700, None, 120, false),
        (MADE, 0o700, Some(NEW), 120, false),
        (MADE, 0o700, None, 20, true),
        (MADE, 0o700, Some(NEW), 20, true),
        (MADE, 0o700, Some("rows.tcs"), 120, true),
        (MADE, 0o755, None, 120, true),
        ("torchcache-models", 0o700, None, 120, true),
    ] {
        let parent = tempfile::tempdir().expect("a temporary directory");
        let dir = parent.path().join(name);
        fs::create_dir(&dir).expect("it is made");
        if let Some(file) = file {
            fs::write(dir.join(file), "").expect("it is made");
        }
        let mode = fs::Permissions::from_mode(mode);
        fs::set_permissions(&dir, mode).expect("it is of this user");
        grow_old(&dir, age);
        let _cache = TempCache::new_in(parent.path()).expect("it is made");
        assert_eq!(dir.exists(), stays, "{name}, {file:?}, {age} s");
    }
}

/// Makes a directory look as if it was changed so many seconds ago.
fn grow_old(dir: &Path, age: u64) {
    let changed = SystemTime::now() - Duration::from_secs(age);
    let dir = fs::File::open(dir).expect("it is there");
    dir.set_modified(changed).expect("it is of this user");
}

/// Runs something on a thread whose calls of this kind fail.
fn without<T: Send + 'static>(
    call: i64,
    errno: i32,
    work: impl FnOnce() -> T + Send + 'static,
) -> T {
    let thread = thread::spawn(move || {
        filter(call, SeccompAction::Errno(errno as u32));
        work()
    });
    thread.join().expect("it does not panic")
}

#[test]
fn a_temp_cache_that_cannot_be_removed_is_removed_by_the_next_process() {
    let parent = tempfile::tempdir().expect("a temporary directory");
    let cache = TempCache::new_in(parent.path()).expect("it is made");
    let path = cache.path().to_owned();
    let store = Store::open(path.join("hash"), manual_flush()).expect("it opens");
    store.put(batch(&keys(0..3), "a", 10));
    store.flush().expect("it is written");
    drop(store);
    without(libc::SYS_openat, libc::EMFILE, move || drop(cache));
    assert!(path.join("hash").is_dir(), "no descriptor was left");
    let _next = TempCache::new_in(parent.path()).expect("it is made");
    assert!(!path.exists());
}

#[test]
fn a_temp_cache_that_cannot_be_made_leaves_nothing() {
    let parent = tempfile::tempdir().expect("a temporary directory");
    let within = parent.path().to_owned();
    without(libc::SYS_openat, libc::EMFILE, move || {
        TempCache::new_in(&within).expect_err("no descriptor is left");
    });
    let left = fs::read_dir(parent.path()).expect("it is there").count();
    assert_eq!(left, 0);
}

#[test]
fn a_temp_cache_whose_lock_was_refused_is_kept() {
    for errno in [libc::ENOLCK, libc::ENOSYS, libc::EAGAIN] {
        let parent = tempfile::tempdir().expect("a temporary directory");
        let within = parent.path().to_owned();
        let make = move || TempCache::new_in(&within).expect("it is made");
        let living = without(libc::SYS_flock, errno, make);
        grow_old(living.path(), 120);
        let _other = TempCache::new_in(parent.path()).expect("it is made");
        assert!(living.path().is_dir(), "{errno}");
    }
}

#[test]
fn a_temp_cache_that_another_program_removed_is_not_made_again() {
    let parent = tempfile::tempdir().expect("a temporary directory");
    let cache = TempCache::new_in(parent.path()).expect("it is made");
    let path = cache.path().to_owned();
    let store = Store::open(path.join("hash"), manual_flush()).expect("it opens");
    store.put(batch(&keys(0..3), "a", 10));
    fs::remove_dir_all(&path).expect("it is there");
    let lost = store.flush().expect_err("they have no directory");
    assert!(matches!(lost, FlushError::Lost { rows: 3, .. }), "{lost:?}");
    assert!(!path.exists());
    match Store::open(path.join("other"), manual_flush()) {
        Err(StoreError::Directory { source, .. }) => {
            assert!(source.to_string().contains("was removed"), "{source}");
        }
        other => panic!("{other:?}"),
    }
    assert!(!path.exists());
}

#[test]
fn a_temp_cache_without_file_locks_comes_to_an_end() {
    // Without locks, and with a lock that others always have.
    let errnos = [libc::ENOSYS, libc::ENOTSUP, libc::ENOLCK, libc::EAGAIN];
    for errno in errnos {
        let (done, made) = mpsc::channel();
        thread::spawn(move || {
            let parent = tempfile::tempdir().expect("a temporary directory");
            filter(libc::SYS_flock, SeccompAction::Errno(errno as u32));
            let cache = TempCache::new_in(parent.path());
            let exists = cache.as_ref().map(|cache| cache.path().is_dir());
            done.send(exists.map_err(|error| error.to_string()))
        });
        let made = made.recv_timeout(Duration::from_secs(20));
        let made = made.expect("it comes to an end");
        assert_eq!(made, Ok(true), "{errno}");
    }
}

#[test]
fn a_store_does_not_make_its_private_directory_again() {
    let parent = tempfile::tempdir().expect("a temporary directory");
    let cache = TempCache::new_in(parent.path()).expect("it is made");
    let store = Store::open(cache.path().join("hash"), manual_flush()).expect("it opens");
    store.put(batch(&keys(0..3), "a", 10));
    let path = cache.path().to_owned();
    drop(cache);
    store.put(batch(&keys(3..6), "a", 10));
    let _ = store.flush();
    drop(store);
    assert!(!path.exists());
}

#[test]
fn a_removed_temp_cache_is_made_again_by_no_call() {
    let parent = tempfile::tempdir().expect("a temporary directory");
    let cache = TempCache::new_in(parent.path()).expect("it is made");
    let path = cache.path().to_owned();
    drop(cache);
    for inside in [path.clone(), path.join("hash"), path.join("a/b")] {
        match Store::open(&inside, manual_flush()) {
            Err(StoreError::Directory { source, .. }) => {
                assert!(source.to_string().contains("was removed"), "{source}");
            }
            other => panic!("{other:?}"),
        }
        Os.open_dir(&inside, true).expect_err("it was removed");
        assert!(!path.exists());
    }
    // One with a name that begins alike is another directory.
    let alike = parent.path().join(format!(
        "{}x",
        path.file_name().expect("it has one").display()
    ));
    Store::open(&alike, manual_flush()).expect("it opens");
}

#[test]
fn stores_opened_while_a_temp_cache_is_removed_leave_nothing() {
    for n in 0..20 {
        let parent = tempfile::tempdir().expect("a temporary directory");
        let cache = TempCache::new_in(parent.path()).expect("it is made");
        let path = cache.path().to_owned();
        thread::scope(|scope| {
            for thread in 0..3 {
                let path = &path;
                scope.spawn(move || {
                    for hash in 0..1000 {
                        let dir = path.join(format!("{thread}-{hash}"));
                        let Ok(store) = Store::open(dir, manual_flush()) else {
                            return;
                        };
                        store.put(batch(&keys(0..3), "a", 10));
                        let _ = store.flush();
                    }
                });
            }
            thread::sleep(Duration::from_millis(n));
            drop(cache);
        });
        assert!(!path.exists(), "round {n}");
    }
}
