//! Temporary files: a file is written under a unique name and renamed when it is complete. Dropped
//! before, it is removed; one that a kill leaves is recognized by its name.

use std::fmt;
use std::hash::{BuildHasher, RandomState};
use std::io;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use super::{Directory, File, file_names, remove_if_present};
use crate::clock;

/// The start of the name of a temporary file.
pub(crate) const PREFIX: &str = ".tmp-";

/// The start of the name of one that its writer could not lock.
const UNLOCKED_PREFIX: &str = ".tmp-unlocked-";

/// The start of the name of one that holds rows of segments which it will replace.
const REPLACEMENT_PREFIX: &str = ".tmp-replacement-";

/// Its end, and that of the name of a segment.
pub(crate) const SUFFIX: &str = ".tcs";

/// A temporary file that is not locked and was not written to for so long has no writer.
const STALE_AFTER: Duration = Duration::from_secs(60);

/// The same if there are no locks. Also how far the clock of a file server may be ahead.
const STALE_AFTER_UNLOCKABLE: Duration = Duration::from_secs(3600);

/// Whether a file name is that of a temporary file. Other names that begin so may be of another program.
pub(crate) fn is_temp(name: &str) -> bool {
    let prefixes = [PREFIX, UNLOCKED_PREFIX, REPLACEMENT_PREFIX];
    let mut unique = prefixes
        .iter()
        .filter_map(|prefix| name.strip_prefix(prefix));
    unique.any(is_unique)
}

/// Whether a file name is that of a [replacement](TempFile::create_replacement).
pub(crate) fn is_replacement(name: &str) -> bool {
    name.strip_prefix(REPLACEMENT_PREFIX).is_some_and(is_unique)
}

/// Whether a name is of the form of [`TempFile::unique_name`].
pub(crate) fn is_unique(name: &str) -> bool {
    let parts: Vec<&str> = name.strip_suffix(SUFFIX).unwrap_or("").split('-').collect();
    let is_hex = |part: &&str| part.bytes().all(|byte| byte.is_ascii_hexdigit());
    let [time, _, random] = parts[..] else {
        return false;
    };
    time.len() == 16 && (1..=16).contains(&random.len()) && parts.iter().all(is_hex)
}

/// A file under its temporary name. Dropping it removes the file, unless it was published.
pub(crate) struct TempFile {
    dir: Arc<dyn Directory>,
    name: String,
    /// The start of the name.
    prefix: &'static str,
    /// It was renamed or removed.
    is_gone: bool,
}

impl TempFile {
    /// Makes a file with a [unique name](Self::unique_name).
    pub(crate) fn create(dir: Arc<dyn Directory>) -> io::Result<(TempFile, Box<dyn File>)> {
        TempFile::create_for(dir, &new_name())
    }

    /// The same for rows of segments that the file will replace. A process that clears them removes this file as
    /// well. Fails if the lock of the file is refused although there are locks: other processes would count its rows
    /// next to those of the segments.
    pub(crate) fn create_replacement(
        dir: Arc<dyn Directory>,
    ) -> io::Result<(TempFile, Box<dyn File>)> {
        let (temp, file) = TempFile::create_named(dir, REPLACEMENT_PREFIX, &new_name())?;
        let refused = match file.try_lock() {
            Ok(true) => return Ok((temp, file)),
            // Another process that looks at the file has the lock for a moment.
            Ok(false) => io::ErrorKind::WouldBlock.into(),
            Err(error) if are_no_locks(&error) => return Ok((temp, file)),
            Err(error) => error,
        };
        let what =
            format!("a file that replaces segments cannot be locked, so they stay: {refused}");
        Err(io::Error::new(refused.kind(), what))
    }

    /// Makes a file whose name is this one after a prefix.
    fn create_for(dir: Arc<dyn Directory>, unique: &str) -> io::Result<(TempFile, Box<dyn File>)> {
        let (mut temp, file) = TempFile::create_named(dir, PREFIX, unique)?;
        // Others may see locks where this process has none, for example on the host of a virtual machine.
        if !matches!(file.try_lock(), Ok(true)) {
            let unlocked = format!("{UNLOCKED_PREFIX}{unique}");
            temp.dir.rename(temp.name.as_ref(), unlocked.as_ref())?;
            (temp.name, temp.prefix) = (unlocked, UNLOCKED_PREFIX);
        }
        Ok((temp, file))
    }

    fn create_named(
        dir: Arc<dyn Directory>,
        prefix: &'static str,
        unique: &str,
    ) -> io::Result<(TempFile, Box<dyn File>)> {
        let name = format!("{prefix}{unique}");
        let file = dir.create(name.as_ref())?;
        let is_gone = false;
        let temp = TempFile {
            dir,
            name,
            prefix,
            is_gone,
        };
        Ok((temp, file))
    }

    /// Makes a file with these bytes, and `written` as its time, and syncs it, so that no power loss leaves the name
    /// that it gets without the bytes.
    pub(crate) fn written(
        dir: Arc<dyn Directory>,
        bytes: &[u8],
        written: Option<SystemTime>,
    ) -> io::Result<TempFile> {
        let (temp, mut file) = TempFile::create(dir)?;
        file.write_all(bytes)?;
        if let Some(written) = written {
            // A file with a wrong time is better than none.
            let _ = file.set_modified(written);
        }
        file.sync()?;
        Ok(temp)
    }

    /// The directory of the file.
    pub(crate) fn dir(&self) -> &Arc<dyn Directory> {
        &self.dir
    }

    /// Whether other processes see that it is locked.
    pub(crate) fn is_locked(&self) -> bool {
        self.prefix == PREFIX
    }

    /// The unique part of the name, for a file that needs no particular one.
    pub(crate) fn unique_name(&self) -> &str {
        &self.name[self.prefix.len()..]
    }

    /// Renames the file. An existing file is not replaced.
    pub(crate) fn publish(mut self, name: &str) -> io::Result<PathBuf> {
        self.dir.rename(self.name.as_ref(), name.as_ref())?;
        self.is_gone = true;
        Ok(self.dir.path().join(name))
    }

    pub(crate) fn remove(mut self) -> io::Result<()> {
        self.is_gone = true;
        self.dir.remove(self.name.as_ref())
    }
}

impl Drop for TempFile {
    fn drop(&mut self) {
        if !self.is_gone {
            // A failure cannot be reported.
            let _ = self.dir.remove(self.name.as_ref());
        }
    }
}

impl fmt::Debug for TempFile {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("TempFile").field(&self.name).finish()
    }
}

/// A name that no other file has: the time (so that names sort by age), the process, and 64 random bits, since
/// machines may share the directory.
fn new_name() -> String {
    let now = clock::now();
    let random = RandomState::new().hash_one(now);
    let process = std::process::id();
    format!("{now:016x}-{process:x}-{random:016x}{SUFFIX}")
}

/// Whether an error of taking a lock says that there are none. NFS without a lock service reports that none is left.
fn are_no_locks(error: &io::Error) -> bool {
    error.kind() == io::ErrorKind::Unsupported || error.raw_os_error() == Some(libc::ENOLCK)
}

/// Writes a small file in place of one that may exist, which is removed first: where that succeeds and the renaming
/// fails, neither is left. The temporary file has one name, so that what a kill left is found without a listing.
pub(crate) fn replace(dir: &Arc<dyn Directory>, name: &str, bytes: &[u8]) -> io::Result<()> {
    let unique = format!("{name}{SUFFIX}");
    let lefts = [PREFIX, UNLOCKED_PREFIX].map(|prefix| format!("{prefix}{unique}"));
    for left in lefts {
        if is_stale(&**dir, &left).unwrap_or(false) {
            remove_if_present(&**dir, &left)?;
        }
    }
    let (temp, mut file) = match TempFile::create_for(dir.clone(), &unique) {
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {
            TempFile::create(dir.clone())? // another process writes one as well
        }
        created => created?,
    };
    file.write_all(bytes)?;
    file.sync()?;
    remove_if_present(&**dir, name)?;
    temp.publish(name).map(drop)
}

/// Whether a temporary file has no writer any more: it is not locked, or could not be, and was not written
/// to for some time. A time in the future counts as now, unless it is far ahead.
fn is_stale(dir: &dyn Directory, name: &str) -> io::Result<bool> {
    let file = dir.open(name.as_ref())?;
    let (metadata, locked) = (file.metadata()?, file.is_locked());
    Ok(match locked {
        Ok(is_locked) if !name.starts_with(UNLOCKED_PREFIX) => {
            !is_locked && is_older(metadata.modified, STALE_AFTER)
        }
        _ => is_older(metadata.modified, STALE_AFTER_UNLOCKABLE),
    })
}

/// Whether the writer of a segment is seen to have it locked, so that its sources may still exist. Another program may
/// lock files of other names.
pub(crate) fn is_locked(dir: &dyn Directory, name: &str) -> io::Result<bool> {
    Ok(is_unique(name) && dir.open(name.as_ref())?.is_locked().unwrap_or(false))
}

/// The names of the temporary files without a writer, without those that were removed since they were
/// listed and those of other users. Any other error of a file goes to `failed`, which decides whether
/// that is the end.
pub(crate) fn stale_names(
    dir: &dyn Directory,
    failed: impl Fn(&str, io::Error) -> io::Result<()>,
) -> io::Result<Vec<String>> {
    use io::ErrorKind::{NotFound, PermissionDenied};
    let mut stale = Vec::new();
    for name in file_names(dir, is_temp)? {
        match is_stale(dir, &name) {
            Ok(true) => stale.push(name),
            Ok(false) => {}
            Err(error) if matches!(error.kind(), NotFound | PermissionDenied) => {}
            Err(error) => failed(&name, error)?,
        }
    }
    Ok(stale)
}

/// Removes these files, and returns their names. An error of a file goes to `failed`.
pub(crate) fn remove_stale(
    dir: &dyn Directory,
    failed: impl Fn(&str, io::Error) -> io::Result<()>,
) -> io::Result<Vec<String>> {
    let mut removed = Vec::new();
    for name in stale_names(dir, &failed)? {
        match remove_if_present(dir, &name) {
            Ok(true) => removed.push(name),
            Ok(false) => {}
            Err(error) => failed(&name, error)?,
        }
    }
    Ok(removed)
}

/// Whether a file was written to a moment ago, so that another process may still be writing.
pub(crate) fn is_recent(modified: SystemTime) -> bool {
    !is_older(modified, STALE_AFTER)
}

fn is_older(modified: SystemTime, least: Duration) -> bool {
    match modified.elapsed() {
        Ok(age) => age > least,
        Err(ahead) => ahead.duration() > STALE_AFTER_UNLOCKABLE,
    }
}
