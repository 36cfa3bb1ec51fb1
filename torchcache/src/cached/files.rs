//! Digests of files of weights. A persistent cache remembers them next to the caches, by what changes with
//! every write: so a file of gigabytes is read once, and not at each start.
//!
//! Which file it is and its times say whether it is the same. The time of its last change cannot be set, but it
//! is as coarse as the kernel's clock, so that a file is remembered only when it has not changed for a minute.
//! That holds for the file systems below. Others take times from elsewhere, or change files in memory without
//! noting a time.

use std::fs::{self, File, Metadata};
use std::io::{self, Write};
use std::path::Path;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use torchcache_store::fs::{is_private, without_file_size_signal};

use crate::tensor::parallel;

/// The file of the remembered digests, below the directory of all caches.
const FILE: &str = "weights.txt";

/// How many are remembered, the last ones.
const MAX_REMEMBERED: usize = 256;

/// How long a file must not have changed. A page that a program has mapped and written to is written to
/// disk within that time, and the next write to it changes the time.
const SETTLED: Duration = Duration::from_secs(60);

/// The local file systems that note the time of every change.
const FILE_SYSTEMS: [&str; 7] = ["ext2", "ext3", "ext4", "xfs", "btrfs", "zfs", "f2fs"];

/// The digest of a file's content. `root`: where it is remembered.
///
/// # Errors
///
/// Errors of reading the file.
pub(super) fn digest(path: &Path, root: Option<&Path>) -> io::Result<[u8; 32]> {
    let state_now = |file: &File| {
        let metadata = file.metadata().ok()?;
        state(&metadata, SystemTime::now()).filter(|_| is_noted(&metadata))
    };
    digest_by(path, root, state_now)
}

/// As [`digest`], with what changes with each write to the file, where that is known.
fn digest_by(
    path: &Path,
    root: Option<&Path>,
    state: impl Fn(&File) -> Option<String>,
) -> io::Result<[u8; 32]> {
    let mut file = File::open(path)?;
    let root = root.filter(|root| is_ours(root, true));
    let state_before = state(&file).zip(root);
    if let Some((state, root)) = &state_before
        && let Some(digest) = remembered(root, state)
    {
        tracing::debug!(path = %path.display(), "the weights are those of before: the file did not change");
        return Ok(digest);
    }
    let digest = parallel::hash_file(&mut file)?;
    if let Some((before, root)) = state_before
        && state(&file).as_ref() == Some(&before)
        && let Err(error) = remember(root, &before, &digest)
    {
        tracing::debug!(root = %root.display(), %error, "the digest of a file cannot be remembered");
    }
    Ok(digest)
}

/// What changes with each write to a file, as text; `None` where it changed just before `now`.
#[cfg(target_os = "linux")]
fn state(metadata: &Metadata, now: SystemTime) -> Option<String> {
    use std::os::linux::fs::MetadataExt;
    let changed = UNIX_EPOCH + Duration::from_secs(metadata.st_ctime().try_into().ok()?);
    let is_settled = now.duration_since(changed).is_ok_and(|age| age > SETTLED);
    if !metadata.is_file() || !is_settled {
        return None;
    }
    Some(format!(
        "{} {} {} {}.{:09} {}.{:09}",
        metadata.st_dev(),
        metadata.st_ino(),
        metadata.st_size(),
        metadata.st_mtime(),
        metadata.st_mtime_nsec(),
        metadata.st_ctime(),
        metadata.st_ctime_nsec(),
    ))
}

#[cfg(not(target_os = "linux"))]
fn state(_: &Metadata, _: SystemTime) -> Option<String> {
    None
}

/// Whether a file is on a file system that notes every change, in time.
#[cfg(target_os = "linux")]
fn is_noted(metadata: &Metadata) -> bool {
    use std::os::linux::fs::MetadataExt;
    let mounts = fs::read_to_string("/proc/self/mountinfo").unwrap_or_default();
    notes_changes(metadata.st_dev(), &mounts) && writes_back()
}

#[cfg(not(target_os = "linux"))]
fn is_noted(_: &Metadata) -> bool {
    false
}

/// Whether the system writes changed pages to disk within [`SETTLED`].
#[cfg(target_os = "linux")]
fn writes_back() -> bool {
    let read = |name: &str| -> Option<u64> {
        let text = fs::read_to_string(Path::new("/proc/sys/vm").join(name)).ok()?;
        text.trim().parse().ok()
    };
    // In hundredths of a second: the age of pages to write, and how often that is looked at; zero is never.
    let times = read("dirty_expire_centisecs").zip(read("dirty_writeback_centisecs"));
    times.is_some_and(|(age, interval)| interval > 0 && (age + interval) / 100 < SETTLED.as_secs())
}

/// Whether a device holds one of the file systems that note every change. `mounts`: those of the process,
/// as in `/proc/self/mountinfo`.
#[cfg(target_os = "linux")]
fn notes_changes(device: u64, mounts: &str) -> bool {
    let (major, minor) = (
        device >> 8 & 0xfff | device >> 32 & !0xfff,
        device & 0xff | device >> 12 & !0xff,
    );
    let number = format!("{major}:{minor}");
    let kinds = mounts.lines().filter_map(|line| {
        let (mount, kind) = line.split_once(" - ")?;
        let is_this = mount.split(' ').nth(2) == Some(&*number);
        is_this.then(|| kind.split(' ').next())?
    });
    let mut kinds = kinds.peekable();
    kinds.peek().is_some() && kinds.all(|kind| FILE_SYSTEMS.contains(&kind))
}

/// Whether only this user may write to a directory, or a file: others could name another digest.
fn is_ours(path: &Path, is_dir: bool) -> bool {
    use std::os::unix::fs::MetadataExt;
    let found = fs::symlink_metadata(path);
    found.is_ok_and(|found| {
        let is_kind = if is_dir {
            found.is_dir()
        } else {
            found.is_file()
        };
        is_kind && is_private(found.uid(), found.mode())
    })
}

fn remembered(root: &Path, state: &str) -> Option<[u8; 32]> {
    let path = root.join(FILE);
    let text = is_ours(&path, false).then(|| fs::read_to_string(&path))?;
    let text = text.ok()?;
    let mut lines = text.lines().rev();
    let digest = lines.find_map(|line| line.strip_prefix(state)?.strip_prefix(' '))?;
    Some(*blake3::Hash::from_hex(digest).ok()?.as_bytes())
}

fn remember(root: &Path, state: &str, digest: &[u8; 32]) -> io::Result<()> {
    let path = root.join(FILE);
    let text = match is_ours(&path, false) {
        true => fs::read_to_string(&path).unwrap_or_default(),
        false => String::new(),
    };
    let lines: Vec<&str> = text.lines().collect();
    let digest = blake3::Hash::from_bytes(*digest).to_hex();
    let last = format!("{state} {digest}");
    let kept = &lines[lines.len().saturating_sub(MAX_REMEMBERED - 1)..];
    let text = [kept, &[&last, ""]].concat().join("\n");
    let mut file = tempfile::NamedTempFile::new_in(root)?;
    // The errors of the file itself: those of the temporary file hide what the system reported.
    without_file_size_signal(|| file.as_file_mut().write_all(text.as_bytes()))?;
    file.persist(&path)?;
    Ok(())
}

#[cfg(all(test, target_os = "linux"))]
mod tests {
    use super::*;
    use std::os::unix::fs::PermissionsExt;

    const HOUR: Duration = Duration::from_secs(3600);

    fn private() -> tempfile::TempDir {
        let root = tempfile::tempdir().unwrap();
        fs::set_permissions(root.path(), fs::Permissions::from_mode(0o700)).unwrap();
        root
    }

    #[test]
    fn a_file_is_remembered_only_once_it_is_settled() {
        let root = private();
        let path = root.path().join("model.pt");
        fs::write(&path, b"weights").unwrap();
        let state = |now| super::state(&fs::metadata(&path).unwrap(), now);
        assert_eq!(state(SystemTime::now()), None, "it was just written");
        let before = state(SystemTime::now() + HOUR).expect("an hour ago");
        assert_eq!(state(SystemTime::now() + 2 * HOUR), Some(before.clone()));
        let (digest, again) = [(); 2].map(|()| digest(&path, Some(root.path()))).into();
        assert_eq!(
            (digest.unwrap(), again.unwrap()),
            (hash(b"weights"), hash(b"weights"))
        );
        assert!(
            !root.path().join(FILE).exists(),
            "nothing is remembered yet"
        );
    }

    /// The digest of a file that was written an hour ago.
    fn digest_later(path: &Path, root: &Path) -> [u8; 32] {
        let later = |file: &File| state(&file.metadata().unwrap(), SystemTime::now() + HOUR);
        digest_by(path, Some(root), later).unwrap()
    }

    fn hash(bytes: &[u8]) -> [u8; 32] {
        *blake3::hash(bytes).as_bytes()
    }

    const LIMITED: &str = "TORCHCACHE_TEST_LIMITED";

    #[test]
    #[ignore = "what the test below starts as another process"]
    fn remember_at_a_file_size_limit() {
        let Some(root) = std::env::var_os(LIMITED) else {
            return;
        };
        let failed = remember(Path::new(&root), "state", &[1; 32]);
        let failed = failed.expect_err("no file may have any bytes");
        assert_eq!(failed.kind(), io::ErrorKind::FileTooLarge);
    }

    #[test]
    fn a_file_size_limit_does_not_end_the_program() {
        let root = private();
        remember(root.path(), "before", &[2; 32]).unwrap();
        let mut limited = std::process::Command::new("env");
        let ended = limited
            .args(["--default-signal=XFSZ", "sh", "-c"])
            .arg("ulimit -f 0; exec \"$0\" --ignored --exact \"$1\"")
            .arg(std::env::current_exe().unwrap())
            .arg("cached::files::tests::remember_at_a_file_size_limit")
            .env(LIMITED, root.path())
            .output()
            .unwrap();
        let text = String::from_utf8_lossy(&ended.stdout);
        assert!(ended.status.success(), "{}: {text}", ended.status);
        assert!(text.contains("1 passed"), "{text}");
        assert_eq!(remembered(root.path(), "before"), Some([2; 32]));
        let left = fs::read_dir(root.path()).unwrap().count();
        assert_eq!(left, 1, "no temporary file");
    }

    #[test]
    fn a_remembered_digest_holds_until_the_file_changes() {
        let root = private();
        let path = root.path().join("model.pt");
        fs::write(&path, b"weights").unwrap();
        assert_eq!(digest_later(&path, root.path()), hash(b"weights"));
        // It is not computed again: another one, which is remembered later, is returned.
        let state = state(&fs::metadata(&path).unwrap(), SystemTime::now() + HOUR).unwrap();
        remember(root.path(), &state, &hash(b"remembered")).unwrap();
        assert_eq!(digest_later(&path, root.path()), hash(b"remembered"));
        let change_time = || {
            use std::os::unix::fs::MetadataExt;
            let metadata = fs::metadata(&path).unwrap();
            (metadata.ctime(), metadata.ctime_nsec())
        };
        let before = change_time();
        // Until the clock of the file system has moved on.
        while change_time() == before {
            fs::write(&path, b"Weights").unwrap();
        }
        assert_eq!(
            digest_later(&path, root.path()),
            hash(b"Weights"),
            "of equal length"
        );
        let times = fs::FileTimes::new().set_modified(UNIX_EPOCH);
        let file = File::options().write(true).open(&path).unwrap();
        file.set_times(times).unwrap();
        remember(root.path(), &state, &hash(b"remembered")).unwrap();
        assert_eq!(
            digest_later(&path, root.path()),
            hash(b"Weights"),
            "with another time"
        );
        let other = root.path().join("other.pt");
        fs::write(&other, b"WEIGHTS").unwrap();
        assert_eq!(
            digest_later(&other, root.path()),
            hash(b"WEIGHTS"),
            "another file"
        );
    }

    #[test]
    fn a_file_that_changes_while_it_is_read_is_not_remembered() {
        let root = private();
        let path = root.path().join("model.pt");
        fs::write(&path, b"weights").unwrap();
        let reads = std::cell::Cell::new(0);
        let changing = |_: &File| {
            reads.set(reads.get() + 1);
            Some(format!("state {}", reads.get()))
        };
        digest_by(&path, Some(root.path()), changing).unwrap();
        assert_eq!(reads.get(), 2);
        assert!(!root.path().join(FILE).exists());
    }

    #[test]
    fn file_systems_that_note_no_changes_are_recognised() {
        let line = |device: &str, kind: &str| {
            format!("36 35 {device} / /mnt rw,noatime master:1 - {kind} /dev/sda1 rw\n")
        };
        let mounts = [
            line("8:1", "ext4"),
            line("0:44", "tmpfs"),
            line("0:45", "overlay"),
            line("0:46", "nfs4"),
            line("259:300", "xfs"),
            line("8:2", "ext4"),
            line("8:2", "fuse"),
        ];
        for (device, expected) in [
            (0x801, true),
            (259 << 8 | 300 & 0xff | (300 & !0xff) << 12, true),
            (44, false),
            (45, false),
            (46, false),
            (0x802, false),
            (0x803, false),
        ] {
            assert_eq!(
                notes_changes(device, &mounts.concat()),
                expected,
                "{device:#x}"
            );
        }
    }

    #[test]
    fn the_last_digests_are_remembered() {
        let root = private();
        let state = |number: usize| format!("1 {number} 3 4.5 6.7");
        let digest = |number: usize| *blake3::hash(&number.to_le_bytes()).as_bytes();
        assert_eq!(remembered(root.path(), &state(0)), None);
        for number in 0..MAX_REMEMBERED + 10 {
            remember(root.path(), &state(number), &digest(number)).unwrap();
        }
        assert_eq!(remembered(root.path(), &state(9)), None);
        for number in [10, 11, MAX_REMEMBERED + 9] {
            assert_eq!(
                remembered(root.path(), &state(number)),
                Some(digest(number))
            );
        }
        assert_eq!(remembered(root.path(), "1 1"), None, "not a whole state");
        let names = fs::read_dir(root.path()).unwrap().count();
        assert_eq!(names, 1, "no temporary file is left");
    }

    #[test]
    fn what_others_may_write_is_not_believed() {
        let root = private();
        let file = root.path().join(FILE);
        let digest = *blake3::hash(b"forged").as_bytes();
        remember(root.path(), "state", &digest).unwrap();
        assert_eq!(remembered(root.path(), "state"), Some(digest));
        fs::set_permissions(&file, fs::Permissions::from_mode(0o666)).unwrap();
        assert_eq!(remembered(root.path(), "state"), None);
        let moved = root.path().join("moved");
        fs::set_permissions(&file, fs::Permissions::from_mode(0o600)).unwrap();
        fs::rename(&file, &moved).unwrap();
        std::os::unix::fs::symlink(&moved, &file).unwrap();
        assert_eq!(remembered(root.path(), "state"), None, "a link");
        fs::set_permissions(root.path(), fs::Permissions::from_mode(0o777)).unwrap();
        assert!(!is_ours(root.path(), true));
    }
}
