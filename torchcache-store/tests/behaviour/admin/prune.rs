//! `prune` and `clear` remove what they should, and nothing else.

use std::fs;
use std::io;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use torchcache_store::admin::{Keep, PrunePlan, PruneReport, Root, clear, prune};
use torchcache_store::fs::{Directory, FileSystem, Os};

use super::{LEN, caches, filled, manifest, only, segment};
use crate::common::{batch, count_right, keys, segments};

const HOUR: Duration = Duration::from_secs(3600);

/// Two caches of one module and one of another. Returns the ages in hours and the paths of the segments.
fn three(root: &Path) -> Vec<(u64, PathBuf)> {
    let mut all = Vec::new();
    for (name, module, ages) in [
        ("a", "m::One", &[1, 9, 50][..]),
        ("b", "m::One", &[3, 40]),
        ("c", "m::Two", &[20]),
    ] {
        let dir = root.join(name);
        manifest(&dir, module, 100);
        for &age in ages {
            all.push((age, segment(&dir, &keys(age..age + 10), age)));
        }
    }
    all.sort();
    all
}

fn pruned(root: &Path, keep: Keep, dry: bool) -> PruneReport {
    let root = Root::open(root).expect("it is there");
    let pruning = prune(&root, keep, dry).expect("it can be listed");
    assert!(pruning.failed.is_empty(), "{pruning:?}");
    pruning
}

fn ages(all: &[(u64, PathBuf)]) -> Vec<u64> {
    let there = all.iter().filter(|(_, path)| path.exists());
    there.map(|(age, _)| *age).collect()
}

#[test]
fn prune_removes_the_least_recently_read_segments() {
    let temp = tempfile::tempdir().expect("a temporary directory");
    let all = three(temp.path());
    let each = fs::metadata(&all[0].1).expect("it is there").len();
    for (limit, left) in [
        (6 * each, &[1, 3, 9, 20, 40, 50][..]),
        (6 * each - 1, &[1, 3, 9, 20, 40]),
        (4 * each, &[1, 3, 9, 20]),
        (3 * each, &[1, 3, 9]),
        (each / 2, &[]),
    ] {
        let before = ages(&all);
        let dry = pruned(temp.path(), Keep::MaxBytes(limit), true);
        assert_eq!(ages(&all), before, "a dry run removes nothing");
        let wet = pruned(temp.path(), Keep::MaxBytes(limit), false);
        assert_eq!(ages(&all), left, "limit {limit}");
        assert_eq!(wet.remaining_bytes, each * left.len() as u64);
        assert!(wet.remaining_bytes <= limit);
        let removed = |pruning: &PruneReport| {
            let caches = pruning.caches.iter();
            let removed = caches.map(|it| (it.segments.clone(), it.directory_removed));
            (removed.collect::<Vec<_>>(), pruning.remaining_bytes)
        };
        assert_eq!(
            removed(&dry),
            removed(&wet),
            "a dry run reports what would be removed"
        );
        let emptied = !left.contains(&20);
        assert_eq!(temp.path().join("c").exists(), !emptied, "limit {limit}");
    }
    assert!(caches(temp.path()).is_empty());
}

/// Some containers refuse the call that asks whether a directory may be written to, and allow the removal.
#[cfg(all(
    target_os = "linux",
    any(target_arch = "x86_64", target_arch = "aarch64")
))]
#[test]
fn prune_removes_segments_where_permissions_cannot_be_looked_up() {
    for (errno, is_denied) in [
        (libc::EPERM, false),
        (libc::EIO, false),
        (libc::EACCES, true),
        (libc::EROFS, true),
    ] {
        let done = std::thread::spawn(move || {
            let temp = tempfile::tempdir().expect("a temporary directory");
            let all = three(temp.path());
            let action = seccompiler::SeccompAction::Errno(errno as u32);
            crate::syncs::filter(libc::SYS_faccessat2, action);
            let root = Root::open(temp.path()).expect("it is there");
            let pruning = prune(&root, Keep::MaxBytes(0), false).expect("it can be listed");
            (pruning.failed.len(), ages(&all).len())
        });
        let left = if is_denied { 6 } else { 0 };
        let done = done.join().expect("it does not panic");
        assert_eq!(done, (left, left), "{errno}");
    }
}

#[test]
fn prune_removes_segments_not_read_for_long() {
    let temp = tempfile::tempdir().expect("a temporary directory");
    let all = three(temp.path());
    manifest(&temp.path().join("empty-old"), "m::Three", 30);
    manifest(&temp.path().join("empty-new"), "m::Three", 3);
    let pruning = pruned(temp.path(), Keep::ReadWithin(10 * HOUR), false);
    assert_eq!(ages(&all), [1, 3, 9]);
    let gone = pruning
        .caches
        .iter()
        .filter(|cache| cache.directory_removed);
    let gone: Vec<_> = gone.map(|cache| cache.cache.name()).collect();
    assert_eq!(gone, ["c", "empty-old"]);
    let left: Vec<_> = caches(temp.path())
        .iter()
        .map(|it| it.name().to_owned())
        .collect();
    assert_eq!(left, ["a", "b", "empty-new"]);
}

#[test]
fn prune_keeps_the_latest_caches_of_each_module() {
    let temp = tempfile::tempdir().expect("a temporary directory");
    let all = three(temp.path());
    let unknown = segment(&temp.path().join("unknown"), &keys(0..3), 5000);
    pruned(temp.path(), Keep::LatestPerModule(2), false);
    assert_eq!(ages(&all).len(), 6);
    let pruning = pruned(temp.path(), Keep::LatestPerModule(1), false);
    assert_eq!(ages(&all), [1, 9, 20, 50], "a and c");
    assert!(pruning.caches[0].directory_removed && !temp.path().join("b").exists());
    pruned(temp.path(), Keep::LatestPerModule(0), false);
    assert_eq!(ages(&all), Vec::<u64>::new());
    assert!(unknown.exists());
}

#[test]
fn prune_leaves_foreign_files_alone() {
    let temp = tempfile::tempdir().expect("a temporary directory");
    let (a, b) = (temp.path().join("a"), temp.path().join("b"));
    manifest(&a, "m", 100);
    manifest(&b, "m", 100);
    let future = segment(&a, &keys(0..10), 100);
    let file = fs::OpenOptions::new().write(true).open(&future);
    let file = file.expect("it can be opened");
    file.write_all_at(&[9], 8).expect("it can be written");
    segment(&b, &keys(0..10), 100);
    fs::write(b.join("notes.txt"), b"mine").expect("it can be written");
    for dry in [true, false] {
        let pruning = pruned(temp.path(), Keep::MaxBytes(0), dry);
        assert_eq!((pruning.remaining_bytes, pruning.skipped.len()), (0, 1));
        assert!(
            pruning.caches.iter().all(|cache| !cache.directory_removed),
            "{pruning:?}"
        );
    }
    assert!(future.exists() && a.join("manifest.json").exists());
    assert!(b.join("notes.txt").exists() && b.join("manifest.json").exists());
    // Clearing removes segments of every version, and leaves foreign files.
    let cleared: Vec<_> = caches(temp.path())
        .iter()
        .map(|cache| clear(cache, false))
        .collect();
    let gone = |n: usize| {
        cleared[n]
            .as_ref()
            .expect("it is cleared")
            .directory_removed
    };
    assert!(gone(0) && !gone(1), "{cleared:?}");
    assert!(!a.exists() && b.join("notes.txt").exists());
}

#[test]
fn a_store_goes_on_in_a_directory_that_was_pruned() {
    let temp = tempfile::tempdir().expect("a temporary directory");
    let dir = temp.path().join("cache");
    let store = filled(&dir, &keys(0..50));
    manifest(&dir, "m", 0);
    let cleared = clear(&only(temp.path()), false).expect("it is cleared");
    assert!(cleared.directory_removed && !dir.exists());
    assert_eq!(cleared.segments, 1);
    store.refresh();
    assert_eq!(count_right(&store, &keys(0..50), LEN), 0);
    store.put(batch(&keys(0..70), "s", LEN));
    store.flush().expect("it creates the directory");
    assert_eq!(count_right(&store, &keys(0..70), LEN), 70);
    assert_eq!(segments(&dir).len(), 1);
}

#[test]
fn prune_leaves_a_directory_named_like_the_manifest() {
    let temp = tempfile::tempdir().expect("a temporary directory");
    let dir = temp.path().join("cache");
    segment(&dir, &keys(0..3), 1);
    fs::create_dir(dir.join("manifest.json")).expect("it can be made");
    let cleared = clear(&only(temp.path()), false).expect("it is cleared");
    assert_eq!((cleared.segments, cleared.directory_removed), (1, false));
    assert!(cleared.failed.is_empty(), "{cleared:?}");
}

#[test]
fn a_dry_run_counts_stale_temporary_files() {
    let temp = tempfile::tempdir().expect("a temporary directory");
    let dir = temp.path().join("cache");
    segment(&dir, &keys(0..3), 9);
    let left = dir.join(".tmp-0000000000000001-1-0000000000000001.tcs");
    fs::write(&left, b"half").expect("it can be written");
    super::set_read(&left, 2);
    for dry in [true, false] {
        let pruning = pruned(temp.path(), Keep::ReadWithin(5 * HOUR), dry);
        assert!(pruning.caches[0].directory_removed, "dry: {dry}");
    }
    assert!(!dir.exists());
}

#[test]
fn prune_leaves_a_foreign_manifest_and_its_directory() {
    let temp = tempfile::tempdir().expect("a temporary directory");
    let future = r#"{"format":2,"module":"m","hash":"5eed","created_by":"","parts":[]}"#;
    let huge = " ".repeat((16 << 20) + 1);
    let foreign = [
        ("app", r#"{"name":"my app","icons":[]}"#),
        ("future", future),
        ("huge", &huge),
    ];
    let path = |name: &str| temp.path().join(name).join("manifest.json");
    let reset = || {
        for (name, text) in foreign {
            fs::create_dir_all(temp.path().join(name)).expect("it can be made");
            fs::write(path(name), text).expect("it can be written");
            super::set_read(&path(name), 100);
        }
        segment(&temp.path().join("app"), &keys(0..3), 50);
    };
    reset();
    for dry in [true, false] {
        let pruning = pruned(temp.path(), Keep::ReadWithin(10 * HOUR), dry);
        let [app] = &pruning.caches[..] else {
            panic!("{pruning:?}")
        };
        assert_eq!(
            (app.segments.len(), app.directory_removed),
            (1, false),
            "{pruning:?}"
        );
        assert_eq!(app.module, Err(io::ErrorKind::InvalidData));
    }
    reset();
    for cache in caches(temp.path()) {
        let cleared = clear(&cache, false).expect("it can be cleared");
        assert!(!cleared.directory_removed && cleared.failed.is_empty());
    }
    for (name, text) in foreign {
        let there = fs::read_to_string(path(name)).expect("it stays");
        assert!(there == text, "{name}");
    }
}

/// Between the listing and the removal, as while `torchcache clear` waits for an answer.
#[test]
fn a_cache_in_the_place_of_a_listed_one_stays() {
    let temp = tempfile::tempdir().expect("a temporary directory");
    let root = temp.path();
    for name in ["a", "b"] {
        drop(filled(&root.join(name), &keys(0..10)));
    }
    let listed = caches(root);
    let plan = Root::open(root).expect("it is there");
    let plan = PrunePlan::new(&plan, Keep::ReadWithin(Duration::ZERO));
    let plan = plan.expect("it can be listed");
    fs::rename(root.join("a"), root.join("a.old")).expect("it is there");
    fs::rename(root.join("b"), root.join("a")).expect("it is there");
    let error = clear(&listed[0], false).expect_err("it is another one");
    assert!(error.to_string().contains("took its place"), "{error}");
    assert_eq!(segments(&root.join("a")).len(), 1);
    plan.carry_out();
    assert_eq!(segments(&root.join("a")).len(), 1);
}

/// The root itself is a cache, and the directory above it must not be read.
#[test]
fn a_root_in_the_place_of_an_opened_one_stays() {
    let temp = tempfile::tempdir().expect("a temporary directory");
    let root = temp.path().canonicalize().expect("it exists").join("root");
    let other = root.with_file_name("other");
    for dir in [&root, &other] {
        drop(filled(dir, &keys(0..10)));
    }
    let closed = Arc::new(ClosedAbove(root.clone()));
    let opened = Root::open_on(closed, &root).expect("it can be searched");
    let listed = opened.list().expect("it is there").caches;
    fs::rename(&root, root.with_file_name("old")).expect("it is there");
    fs::rename(&other, &root).expect("it is there");
    clear(&listed[0], false).expect_err("it is another one");
    opened.list().expect_err("it is another one");
    assert_eq!(segments(&root).len(), 1);
}

/// A file system where the directories above this one must not be read.
#[derive(Debug)]
struct ClosedAbove(PathBuf);

impl FileSystem for ClosedAbove {
    fn open_dir(&self, path: &Path, create: bool) -> io::Result<Arc<dyn Directory>> {
        match path.starts_with(&self.0) {
            true => Os.open_dir(path, create),
            false => Err(io::ErrorKind::PermissionDenied.into()),
        }
    }
}
