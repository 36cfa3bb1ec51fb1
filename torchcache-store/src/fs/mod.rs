//! What a store needs of a file system, as three traits, and their implementation by the operating
//! system.
//!
//! Another implementation can be put under a store with [`Store::open_on`](crate::Store::open_on): one
//! that fails at a chosen call, that loses what was not synced, or that counts calls. Every operation of
//! a store on a disk is a method here, and so is every guarantee that it relies on.
//!
//! ```
//! use std::path::Path;
//! use torchcache_store::fs::{FileSystem, Os};
//!
//! let parent = tempfile::tempdir()?;
//! let path = parent.path().join("cache");
//! assert!(Os.open_dir(&path, false).is_err(), "it does not exist");
//! let dir = Os.open_dir(&path, true)?;
//! dir.create("rows.tcs".as_ref())?.write_all(b"rows")?;
//! assert_eq!(dir.stat("rows.tcs".as_ref())?.len, 4);
//! assert_eq!(dir.list()?.len(), 1);
//! # Ok::<(), std::io::Error>(())
//! ```

mod os;
pub(crate) mod permissions;
pub(crate) mod private_dirs;
pub(crate) mod temp_file;

use std::ffi::{OsStr, OsString};
use std::fmt::Debug;
use std::io::{self, IoSliceMut};
use std::path::Path;
use std::sync::Arc;
use std::time::SystemTime;

pub use os::{Os, try_lock};
pub use permissions::is_private;

use crate::{progress, sys};

/// Opens and removes directories.
pub trait FileSystem: Debug + Send + Sync {
    /// Opens a directory; with `create`, makes it and its parents if they do not exist, so that they
    /// survive a power loss. A symbolic link in its place is not followed.
    ///
    /// # Errors
    /// What the system reports, for example that the directory does not exist, or is none.
    fn open_dir(&self, path: &Path, create: bool) -> io::Result<Arc<dyn Directory>>;

    /// Waits until the name of a directory survives a power loss, and those of the directories above it: another
    /// process may have made them.
    ///
    /// # Errors
    /// What the system reports, but not that it does not support this.
    fn sync_parents(&self, path: &Path) -> io::Result<()> {
        let _ = path;
        Ok(())
    }

    /// Removes an empty directory. A store never does; [`admin`](crate::admin) does.
    ///
    /// # Errors
    /// What the system reports, for example that the directory is not empty, or
    /// [`Unsupported`](io::ErrorKind::Unsupported).
    fn remove_dir(&self, path: &Path) -> io::Result<()> {
        let _ = path;
        Err(io::ErrorKind::Unsupported.into())
    }
}

/// An open directory. It stays the same one if another takes its path. Names are those of
/// files in it and have no slash. A symbolic link in place of a file is never followed.
pub trait Directory: Debug + Send + Sync {
    /// The path by which it was opened, for messages.
    fn path(&self) -> &Path;

    /// The metadata of the directory itself. Its time changes whenever a name in it does.
    ///
    /// # Errors
    /// What the system reports.
    fn metadata(&self) -> io::Result<Metadata>;

    /// Tells this directory from every other one, also from one that took its path after it was removed.
    ///
    /// # Errors
    /// What the system reports.
    fn id(&self) -> io::Result<DirectoryId>;

    /// Checks whether files may be made and removed in it, without doing that. A store never does;
    /// [`admin`](crate::admin) does.
    ///
    /// # Errors
    /// Why they may not be, or what the system reports.
    fn check_writable(&self) -> io::Result<()> {
        Ok(())
    }

    /// Its entries, in any order.
    ///
    /// # Errors
    /// What the system reports.
    fn list(&self) -> io::Result<Vec<DirEntry>>;

    /// Opens a directory in this one, whichever directory has its path by now. A symbolic link is not followed.
    ///
    /// # Errors
    /// What the system reports, or [`Unsupported`](io::ErrorKind::Unsupported): it is then opened by its path.
    fn open_dir(&self, name: &OsStr) -> io::Result<Arc<dyn Directory>> {
        let _ = name;
        Err(io::ErrorKind::Unsupported.into())
    }

    /// Removes an empty directory in this one. A store never does; [`admin`](crate::admin) does.
    ///
    /// # Errors
    /// What the system reports, for example that the directory is not empty, or
    /// [`Unsupported`](io::ErrorKind::Unsupported): it is then removed by its path.
    fn remove_dir(&self, name: &OsStr) -> io::Result<()> {
        let _ = name;
        Err(io::ErrorKind::Unsupported.into())
    }

    /// The metadata of a file. For `..`, `../..` and so on, that of a directory above this one.
    ///
    /// # Errors
    /// What the system reports, for example that the file does not exist.
    fn stat(&self, name: &OsStr) -> io::Result<Metadata>;

    /// Opens a regular file for reading and for setting its time.
    ///
    /// # Errors
    /// What the system reports, or that it is not a regular file.
    fn open(&self, name: &OsStr) -> io::Result<Box<dyn File>>;

    /// Makes a file and opens it for writing.
    ///
    /// # Errors
    /// What the system reports, for example that the file exists.
    fn create(&self, name: &OsStr) -> io::Result<Box<dyn File>>;

    /// Renames a file atomically. An existing file is not replaced.
    ///
    /// # Errors
    /// What the system reports; the file then has its old name.
    fn rename(&self, from: &OsStr, to: &OsStr) -> io::Result<()>;

    /// Removes a file. It can still be read by those who have it open.
    ///
    /// # Errors
    /// What the system reports, for example that the file does not exist.
    fn remove(&self, name: &OsStr) -> io::Result<()>;

    /// Waits until the present names survive a power loss.
    ///
    /// # Errors
    /// What the system reports; it is then unknown which names do.
    fn sync(&self) -> io::Result<()>;
}

/// An open file. Writing appends to what was written before.
pub trait File: io::Write + Debug + Send + Sync {
    /// The metadata of the file.
    ///
    /// # Errors
    /// What the system reports.
    fn metadata(&self) -> io::Result<Metadata>;

    /// Reads from `offset` into the buffers, one after the other. Returns the number of bytes: 0 at the
    /// end of the file, and possibly fewer than requested.
    ///
    /// # Errors
    /// What the system reports.
    fn read_at(&self, buffers: &mut [IoSliceMut<'_>], offset: u64) -> io::Result<usize>;

    /// Waits until everything that was written survives a power loss.
    ///
    /// # Errors
    /// What the system reports; it is then unknown what does.
    fn sync(&self) -> io::Result<()>;

    /// Has the disk take what was written, so that [`sync`](Self::sync) has less to wait for. It need not survive
    /// a power loss before that.
    ///
    /// # Errors
    /// What the system reports; it is then unknown what survives.
    fn sync_part(&self) -> io::Result<()> {
        self.sync()
    }

    /// Sets the time of the last change.
    ///
    /// # Errors
    /// What the system reports, or [`Unsupported`](io::ErrorKind::Unsupported) where that may copy the whole file.
    fn set_modified(&self, time: SystemTime) -> io::Result<()>;

    /// Locks a temporary file. The lock is released when the file is closed, also by a kill. `false`
    /// if another open file of the same name has it, on whichever machine.
    ///
    /// # Errors
    /// What the system reports, for example that it does not support locks, or only among the processes of a
    /// machine.
    fn try_lock(&self) -> io::Result<bool>;

    /// Whether another open file of the same name is [locked](Self::try_lock). Those who ask at the same time do not
    /// count.
    ///
    /// # Errors
    /// As `try_lock`.
    fn is_locked(&self) -> io::Result<bool>;

    /// Maps the file into memory; `None` if it has to be read.
    ///
    /// # Errors
    /// What the system reports.
    fn map(&self) -> io::Result<Option<Mapped>> {
        Ok(None)
    }
}

/// A file that is mapped into memory.
pub type Mapped = Box<dyn AsRef<[u8]> + Send + Sync>;

/// An entry of a directory.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DirEntry {
    /// Its name.
    pub name: OsString,
    /// Whether it is a regular file.
    pub is_file: bool,
}

/// What tells a directory from every other one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct DirectoryId {
    /// The number of the device.
    pub device: u64,
    /// Its number on the device, which another one may get after it was removed.
    pub inode: u64,
    /// When it was made; `None` where the file system does not record that.
    pub created: Option<SystemTime>,
}

/// What a file system knows about a file or a directory.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Metadata {
    /// The length of the file in bytes.
    pub len: u64,
    /// When it was last changed.
    pub modified: SystemTime,
    /// Whether it is a regular file.
    pub is_file: bool,
    /// The number of the user who owns it.
    pub owner: u32,
    /// The number of its group.
    pub group: u32,
    /// The permissions: the nine bits of Unix, and the sticky bit.
    pub mode: u32,
}

/// Writes to a file by `write`. A limit of file sizes is then an error of the system call, which has to be returned
/// as it is, and not the signal SIGXFSZ, which ends a program that does not handle it.
///
/// ```
/// use std::io::Write;
/// use torchcache_store::fs::without_file_size_signal;
///
/// let mut file = tempfile::tempfile()?;
/// without_file_size_signal(|| file.write_all(b"digests"))?;
/// # Ok::<(), std::io::Error>(())
/// ```
///
/// # Errors
/// Those of `write`.
pub fn without_file_size_signal<T>(write: impl FnOnce() -> io::Result<T>) -> io::Result<T> {
    sys::without_file_size_signal(write)
}

/// The names of the regular files in a directory that `is_wanted` accepts, in no particular order. Names
/// that are not UTF-8 are none of this crate.
pub(crate) fn file_names(
    dir: &dyn Directory,
    is_wanted: impl Fn(&str) -> bool,
) -> io::Result<Vec<String>> {
    let files = dir.list()?.into_iter().filter(|entry| entry.is_file);
    let names = files.filter_map(|entry| entry.name.into_string().ok());
    Ok(names.filter(|name| is_wanted(name)).collect())
}

/// Removes a file. Returns whether it existed.
pub(crate) fn remove_if_present(dir: &dyn Directory, name: impl AsRef<OsStr>) -> io::Result<bool> {
    match dir.remove(name.as_ref()) {
        Ok(()) => Ok(true),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(false),
        Err(error) => Err(error),
    }
}

/// The most bytes of a read, so that none takes long on a disk that is slow.
const READ_BYTES: usize = 4 << 20;

/// Fills `out` from `offset`; [`io::ErrorKind::UnexpectedEof`] if the file ends before.
pub(crate) fn read_exact(file: &dyn File, mut out: &mut [u8], mut offset: u64) -> io::Result<()> {
    while !out.is_empty() {
        let part = out.len().min(READ_BYTES);
        let read = file.read_at(&mut [IoSliceMut::new(&mut out[..part])], offset);
        progress::note();
        match read {
            Ok(0) => return Err(io::ErrorKind::UnexpectedEof.into()),
            Ok(read) => {
                out = out.get_mut(read..).unwrap_or_default();
                offset += read as u64;
            }
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
    Ok(())
}
