//! What a store asks of a file system: three traits, and the operating system's implementation.
//!
//! They are apart from the store so that another one can be put below it with
//! [`Store::open_on`](crate::Store::open_on): one that fails at a chosen call, that forgets what was
//! not synced, or that counts. Every call of a store that touches a disk is a method here, and so is
//! every promise that it relies on.
//!
//! ```
//! use std::path::Path;
//! use torchcache_store::fs::{FileSystem, Os};
//!
//! let parent = tempfile::tempdir()?;
//! let path = parent.path().join("cache");
//! assert!(Os.open_dir(&path, false).is_err(), "it is not there");
//! let dir = Os.open_dir(&path, true)?;
//! dir.create("rows.tcs".as_ref())?.write_all(b"rows")?;
//! assert_eq!(dir.stat("rows.tcs".as_ref())?.len, 4);
//! assert_eq!(dir.list()?.len(), 1);
//! # Ok::<(), std::io::Error>(())
//! ```

mod os;
pub(crate) mod permissions;
pub(crate) mod temp_file;

use std::ffi::{OsStr, OsString};
use std::fmt::Debug;
use std::io::{self, IoSliceMut};
use std::path::Path;
use std::sync::Arc;
use std::time::SystemTime;

pub use os::Os;

/// Directories by their paths.
pub trait FileSystem: Debug + Send + Sync {
    /// Opens a directory; with `create`, makes it and its parents if they are not there, so that a
    /// power cut does not take them back. A symbolic link in its place is not followed.
    ///
    /// # Errors
    /// What the system says; among it that there is no directory, or something else.
    fn open_dir(&self, path: &Path, create: bool) -> io::Result<Arc<dyn Directory>>;

    /// Removes a directory that holds nothing. A store never does; see [`maintain`](crate::admin).
    ///
    /// # Errors
    /// What the system says; among it that there is something in it, or that it cannot remove any.
    fn remove_dir(&self, path: &Path) -> io::Result<()> {
        let _ = path;
        Err(io::ErrorKind::Unsupported.into())
    }
}

/// An open directory. It stays the same one if its path comes to mean another. Names are those of
/// files in it, without any slash; a symbolic link in place of a file is never followed.
pub trait Directory: Debug + Send + Sync {
    /// Where it was when it was opened: for messages.
    fn path(&self) -> &Path;

    /// What is known of the directory itself. Its time changes whenever a name in it does.
    ///
    /// # Errors
    /// What the system says.
    fn metadata(&self) -> io::Result<Metadata>;

    /// What it holds, in any order.
    ///
    /// # Errors
    /// What the system says.
    fn list(&self) -> io::Result<Vec<Entry>>;

    /// What is known of a file.
    ///
    /// # Errors
    /// What the system says; among it that there is no such file.
    fn stat(&self, name: &OsStr) -> io::Result<Metadata>;

    /// Opens a regular file for reading, and for setting its time.
    ///
    /// # Errors
    /// What the system says, and that it is no regular file.
    fn open(&self, name: &OsStr) -> io::Result<Box<dyn File>>;

    /// Makes a file, and opens it for writing.
    ///
    /// # Errors
    /// What the system says; among it that there is one already.
    fn create(&self, name: &OsStr) -> io::Result<Box<dyn File>>;

    /// Gives a file another name, at once for all who look. An existing file is not replaced.
    ///
    /// # Errors
    /// What the system says; then the file has its old name.
    fn rename(&self, from: &OsStr, to: &OsStr) -> io::Result<()>;

    /// Removes a file. Whoever has it open can still read it.
    ///
    /// # Errors
    /// What the system says; among it that there is no such file.
    fn remove(&self, name: &OsStr) -> io::Result<()>;

    /// Waits until the names, as they are now, outlast a power cut.
    ///
    /// # Errors
    /// What the system says; then it is not known which names do.
    fn sync(&self) -> io::Result<()>;
}

/// An open file. What is written through it comes behind what was written before.
pub trait File: io::Write + Debug + Send + Sync {
    /// What is known of the file.
    ///
    /// # Errors
    /// What the system says.
    fn metadata(&self) -> io::Result<Metadata>;

    /// Reads from `offset` on into the buffers, one after the other, and returns how many bytes
    /// there were: none at the end of the file, and perhaps fewer than asked for.
    ///
    /// # Errors
    /// What the system says.
    fn read_at(&self, buffers: &mut [IoSliceMut<'_>], offset: u64) -> io::Result<usize>;

    /// Waits until all that was written outlasts a power cut.
    ///
    /// # Errors
    /// What the system says; then it is not known what does.
    fn sync(&self) -> io::Result<()>;

    /// Sets the time of the last change.
    ///
    /// # Errors
    /// What the system says.
    fn set_modified(&self, time: SystemTime) -> io::Result<()>;

    /// Takes the lock of a file in the making, which goes when the file is closed, by a kill too.
    /// `false` if another open file of the same name has it.
    ///
    /// # Errors
    /// What the system says; among it that it has no locks.
    fn try_lock(&self) -> io::Result<bool>;

    /// The file as memory; `None` where it has to be read.
    ///
    /// # Errors
    /// What the system says.
    fn map(&self) -> io::Result<Option<Mapped>> {
        Ok(None)
    }
}

/// A file as memory.
pub type Mapped = Box<dyn AsRef<[u8]> + Send + Sync>;

/// A name in a directory.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Entry {
    /// The name.
    pub name: OsString,
    /// Whether it is that of a regular file.
    pub is_file: bool,
}

/// What is known of a file or a directory.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Metadata {
    /// Bytes in the file.
    pub len: u64,
    /// When it was last changed.
    pub modified: SystemTime,
    /// Whether it is a regular file.
    pub is_file: bool,
    /// The number of the user whose it is.
    pub owner: u32,
    /// The number of the group whose it is.
    pub group: u32,
    /// Who may do what with it, as Unix has it: nine bits.
    pub mode: u32,
}

/// Reads exactly as many bytes as `out` has; that there are fewer is [`io::ErrorKind::UnexpectedEof`].
pub(crate) fn read_exact(file: &dyn File, mut out: &mut [u8], mut offset: u64) -> io::Result<()> {
    while !out.is_empty() {
        match file.read_at(&mut [IoSliceMut::new(out)], offset) {
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
