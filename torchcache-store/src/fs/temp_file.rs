//! A file in the making: it is written under a name that nobody else chooses, and gets its own when
//! it is complete. Dropped before that, it is removed; what a kill leaves is known by its name.

use std::ffi::OsStr;
use std::fmt;
use std::hash::{BuildHasher, RandomState};
use std::io;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use super::{Directory, File};
use crate::clock;

/// Begins the name of a file that is still being written.
const PREFIX: &str = ".tmp-";

/// Ends it. The name of a segment ends so too.
pub(crate) const SUFFIX: &str = ".tcs";

/// A temporary file that was not written to for so long has no writer, if nobody has its lock.
const STALE_AFTER: Duration = Duration::from_secs(60);

/// The same where there are no locks; and how far ahead the clock of a file server may be.
const LONG: Duration = Duration::from_secs(3600);

/// Whether a file of a cache directory is one in the making by its name.
pub(crate) fn is_temp(name: &str) -> bool {
    name.starts_with(PREFIX) && name.ends_with(SUFFIX)
}

/// Whether a name is one that nobody else chooses: see [`Temp::unique`].
pub(crate) fn is_unique(name: &str) -> bool {
    let parts: Vec<&str> = name.strip_suffix(SUFFIX).unwrap_or("").split('-').collect();
    let is_hex = |part: &&str| part.bytes().all(|byte| byte.is_ascii_hexdigit());
    let [time, _, random] = parts[..] else {
        return false;
    };
    (time.len(), random.len()) == (16, 16) && parts.iter().all(is_hex)
}

/// The file under its temporary name; removed when dropped, unless it was published.
pub(crate) struct Temp {
    dir: Arc<dyn Directory>,
    name: String,
    /// Whether there is no file of the temporary name any more.
    is_gone: bool,
}

impl Temp {
    /// Makes a file of a name that nobody else chooses: the time (so that names sort by age), the
    /// process, and 64 random bits for those who share the directory from another machine.
    pub(crate) fn create(dir: Arc<dyn Directory>) -> io::Result<(Temp, Box<dyn File>)> {
        let now = clock::now();
        let random = RandomState::new().hash_one(now);
        let process = std::process::id();
        let name = format!("{PREFIX}{now:016x}-{process:x}-{random:016x}{SUFFIX}");
        let file = dir.create(name.as_ref())?;
        // Whoever finds it locked knows that its writer lives. Where there are no locks, its age
        // has to tell.
        let _ = file.try_lock();
        let temp = Temp {
            dir,
            name,
            is_gone: false,
        };
        Ok((temp, file))
    }

    /// Where it is.
    pub(crate) fn dir(&self) -> &Arc<dyn Directory> {
        &self.dir
    }

    /// That of its name which nobody else chooses: for a file that may have any name.
    pub(crate) fn unique(&self) -> &str {
        &self.name[PREFIX.len()..]
    }

    /// Gives the file its own name. An existing file is never replaced.
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

impl Drop for Temp {
    fn drop(&mut self) {
        if !self.is_gone {
            // There is nobody to tell of a failure.
            let _ = self.dir.remove(self.name.as_ref());
        }
    }
}

impl fmt::Debug for Temp {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Temp").field(&self.name).finish()
    }
}

/// Whether nobody writes to a file any more: it is not locked, or cannot be, and has been as it is
/// for some time. A time that has yet to come says nothing of it, unless it is far off.
pub(crate) fn is_stale(dir: &dyn Directory, name: &OsStr) -> io::Result<bool> {
    let file = dir.open(name)?;
    let (metadata, locked) = (file.metadata()?, file.try_lock());
    Ok(match locked {
        Ok(taken) => taken && is_older(metadata.modified, STALE_AFTER),
        Err(_) => is_older(metadata.modified, LONG),
    })
}

/// Whether a file was written to a moment ago, perhaps by somebody who goes on.
pub(crate) fn is_recent(modified: SystemTime) -> bool {
    !is_older(modified, STALE_AFTER)
}

fn is_older(modified: SystemTime, least: Duration) -> bool {
    match modified.elapsed() {
        Ok(age) => age > least,
        Err(ahead) => ahead.duration() > LONG,
    }
}
