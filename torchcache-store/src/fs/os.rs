//! The file system of the operating system. Files are opened relative to their open directory, so a
//! directory that is replaced meanwhile, by a symbolic link for example, leads nowhere else.

use std::ffi::OsStr;
use std::fs::{FileTimes, TryLockError};
use std::io::{self, IoSliceMut, Write};
use std::os::fd::AsFd;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use rustix::fs::{Access, AtFlags, CWD, FileType, Mode, OFlags, RenameFlags, Stat};
use rustix::io::{Errno, retry_on_intr};

use super::{DirEntry, Directory, DirectoryId, File, FileSystem, Mapped, Metadata, private_dirs};
use crate::{descriptors, sys};

/// The file system of the operating system.
#[derive(Clone, Copy, Debug, Default)]
pub struct Os;

/// Directories are never made writable for all users, whatever the umask is.
const DIR_MODE: Mode = Mode::from_raw_mode(0o775);

/// Nor are files.
const FILE_MODE: Mode = Mode::from_raw_mode(0o664);

impl FileSystem for Os {
    fn open_dir(&self, path: &Path, create: bool) -> io::Result<Arc<dyn Directory>> {
        // With a slash at the end, a link would be followed.
        let path = path.components().as_path();
        let fd = match open(CWD, path, OFlags::NOFOLLOW) {
            Err(Errno::NOENT) if create => {
                make_dir(path)?;
                open(CWD, path, OFlags::NOFOLLOW)
            }
            opened => opened,
        };
        let path = path.to_owned();
        let fd = fd.map_err(|errno| describe_link(&path, errno))?;
        Ok(Arc::new(OsDirectory { fd, path }))
    }

    fn sync_parents(&self, path: &Path) -> io::Result<()> {
        let mut dir = open(CWD, path, OFlags::NOFOLLOW)?;
        for above in path.ancestors().skip(1) {
            // "b" is in ".".
            let above = match above.as_os_str().is_empty() {
                true => Path::new("."),
                false => above,
            };
            let parent = match open(CWD, above, OFlags::empty()) {
                Err(Errno::ACCESS | Errno::PERM) => break, // it must not be read
                parent => parent?,
            };
            if rustix::fs::fstat(&parent)?.st_dev != rustix::fs::fstat(&dir)?.st_dev {
                break; // that a file system is mounted is not up to its directories
            }
            sync_dir(&parent)?;
            dir = parent;
        }
        Ok(())
    }

    fn remove_dir(&self, path: &Path) -> io::Result<()> {
        Ok(rustix::fs::rmdir(path)?)
    }
}

/// Opens a directory. A path that is not absolute begins at `dir`.
fn open(dir: impl AsFd, path: &Path, flags: OFlags) -> rustix::io::Result<std::fs::File> {
    let flags = flags | OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
    let open = || retry_on_intr(|| rustix::fs::openat(&dir, path, flags, Mode::empty()));
    Ok(descriptors::retry(open)?.into())
}

/// Names a symbolic link in place of a directory as the reason.
fn describe_link(path: &Path, errno: Errno) -> io::Error {
    if matches!(errno, Errno::NOTDIR | Errno::LOOP) && path.is_symlink() {
        let what = "it is a symbolic link, which is not followed; name its target";
        return io::Error::new(io::ErrorKind::NotADirectory, what);
    }
    errno.into()
}

/// Makes a directory and its parents, and syncs each in the one above it.
fn make_dir(path: &Path) -> io::Result<()> {
    // "a/b" is in "a", and "b" in "."; "/" exists.
    let parent = match path.parent() {
        Some(parent) if parent.as_os_str().is_empty() => Path::new("."),
        Some(parent) => parent,
        None => return Ok(()),
    };
    private_dirs::check(path)?;
    let made = match rustix::fs::mkdir(path, DIR_MODE) {
        Err(Errno::NOENT) => {
            make_dir(parent)?;
            rustix::fs::mkdir(path, DIR_MODE)
        }
        made => made,
    };
    match made {
        Err(Errno::EXIST) => return Ok(()), // another process made it
        made => made?,
    }
    private_dirs::check(path).inspect_err(|_| {
        // It was removed in between.
        let _ = rustix::fs::rmdir(path);
    })?;
    let parent = match open(CWD, parent, OFlags::empty()) {
        Err(Errno::ACCESS | Errno::PERM) => return Ok(()), // it must not be read
        parent => parent,
    };
    let synced = parent.map_err(io::Error::from).and_then(|parent| {
        let _ = share_with_group(path, &parent);
        sync_dir(&parent)
    });
    synced.inspect_err(|_| {
        // The next opener would take it for one that survives a power loss.
        let _ = rustix::fs::rmdir(path);
    })
}

/// Syncs a directory, where its file system supports that.
fn sync_dir(dir: &std::fs::File) -> io::Result<()> {
    match sync(dir, std::fs::File::sync_all) {
        Err(error) if is_unsupported(&error) => Ok(()),
        synced => synced,
    }
}

/// Syncs a file by the call that the standard library has for it. On Apple systems that also empties the cache of
/// the disk, which not all file systems support: there, what `fsync` does has to do.
fn sync(
    file: &std::fs::File,
    call: impl FnOnce(&std::fs::File) -> io::Result<()>,
) -> io::Result<()> {
    match call(file) {
        Err(error) if is_unsupported(&error) => Ok(rustix::fs::fsync(file)?),
        synced => synced,
    }
}

fn is_unsupported(error: &io::Error) -> bool {
    use Errno as E;
    let errno = E::from_io_error(error);
    matches!(
        errno,
        Some(E::INVAL | E::NOSYS | E::NOTSUP | E::NOTTY | E::SPIPE)
    )
}

/// Lets the group write to a new directory if it may write to the parent, although the umask may deny
/// it: users who share the parent share the new directory.
fn share_with_group(path: &Path, parent: &std::fs::File) -> rustix::io::Result<()> {
    let dir = open(CWD, path, OFlags::NOFOLLOW)?;
    let (above, made) = (rustix::fs::fstat(parent)?, rustix::fs::fstat(&dir)?);
    let mode = Mode::from_raw_mode(made.st_mode);
    if Mode::from_raw_mode(above.st_mode).contains(Mode::WGRP)
        && above.st_gid == made.st_gid
        && mode.contains(Mode::RGRP | Mode::XGRP)
    {
        rustix::fs::fchmod(&dir, mode | Mode::WGRP)?;
    }
    Ok(())
}

#[derive(Debug)]
struct OsDirectory {
    fd: std::fs::File,
    path: PathBuf,
}

impl Directory for OsDirectory {
    fn path(&self) -> &Path {
        &self.path
    }

    fn metadata(&self) -> io::Result<Metadata> {
        Ok(metadata(&rustix::fs::fstat(&self.fd)?))
    }

    fn id(&self) -> io::Result<DirectoryId> {
        let metadata = self.fd.metadata()?;
        Ok(DirectoryId {
            device: metadata.dev(),
            inode: metadata.ino(),
            created: metadata.created().ok(),
        })
    }

    fn check_writable(&self) -> io::Result<()> {
        let needed = Access::WRITE_OK | Access::EXEC_OK;
        Ok(rustix::fs::accessat(
            &self.fd,
            ".",
            needed,
            AtFlags::EACCESS,
        )?)
    }

    fn list(&self) -> io::Result<Vec<DirEntry>> {
        let mut entries = Vec::new();
        for entry in descriptors::retry(|| rustix::fs::Dir::read_from(&self.fd))? {
            let entry = entry?;
            let name = OsStr::from_bytes(entry.file_name().to_bytes());
            if name == "." || name == ".." {
                continue;
            }
            let is_file = match entry.file_type() {
                FileType::Unknown => self.stat(name).is_ok_and(|file| file.is_file),
                kind => kind == FileType::RegularFile,
            };
            let name = name.to_owned();
            entries.push(DirEntry { name, is_file });
        }
        Ok(entries)
    }

    fn open_dir(&self, name: &OsStr) -> io::Result<Arc<dyn Directory>> {
        let path = self.path.join(name);
        let fd = open(&self.fd, name.as_ref(), OFlags::NOFOLLOW);
        let fd = fd.map_err(|errno| describe_link(&path, errno))?;
        Ok(Arc::new(OsDirectory { fd, path }))
    }

    fn remove_dir(&self, name: &OsStr) -> io::Result<()> {
        Ok(rustix::fs::unlinkat(&self.fd, name, AtFlags::REMOVEDIR)?)
    }

    fn stat(&self, name: &OsStr) -> io::Result<Metadata> {
        let stat = rustix::fs::statat(&self.fd, name, AtFlags::SYMLINK_NOFOLLOW)?;
        Ok(metadata(&stat))
    }

    fn open(&self, name: &OsStr) -> io::Result<Box<dyn File>> {
        // Without NONBLOCK, opening a pipe in its place would wait for a writer.
        let flags = OFlags::RDONLY | OFlags::NONBLOCK;
        let file = self.open_file(name, flags, Mode::empty())?;
        if !metadata(&rustix::fs::fstat(&file)?).is_file {
            let what = "it is not a regular file";
            return Err(io::Error::new(io::ErrorKind::InvalidInput, what));
        }
        let is_new = false;
        Ok(Box::new(OsFile { file, is_new }))
    }

    fn create(&self, name: &OsStr) -> io::Result<Box<dyn File>> {
        let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL;
        let file = self.open_file(name, flags, FILE_MODE)?;
        let is_new = true;
        Ok(Box::new(OsFile { file, is_new }))
    }

    fn rename(&self, from: &OsStr, to: &OsStr) -> io::Result<()> {
        let fd = &self.fd;
        match rustix::fs::renameat_with(fd, from, fd, to, RenameFlags::NOREPLACE) {
            // Some file systems do not support this flag.
            Err(Errno::INVAL | Errno::NOSYS | Errno::NOTSUP) if self.is_absent(to) => {
                rustix::fs::renameat(fd, from, fd, to)?;
            }
            renamed => renamed?,
        }
        Ok(())
    }

    fn remove(&self, name: &OsStr) -> io::Result<()> {
        Ok(rustix::fs::unlinkat(&self.fd, name, AtFlags::empty())?)
    }

    fn sync(&self) -> io::Result<()> {
        sync_dir(&self.fd)
    }
}

impl OsDirectory {
    fn is_absent(&self, name: &OsStr) -> bool {
        let stat = rustix::fs::statat(&self.fd, name, AtFlags::SYMLINK_NOFOLLOW);
        stat.is_err_and(|errno| errno == Errno::NOENT)
    }

    fn open_file(&self, name: &OsStr, flags: OFlags, mode: Mode) -> io::Result<std::fs::File> {
        let flags = flags | OFlags::NOFOLLOW | OFlags::CLOEXEC | OFlags::NOCTTY;
        let open = || retry_on_intr(|| rustix::fs::openat(&self.fd, name, flags, mode));
        Ok(descriptors::retry(open)?.into())
    }
}

#[derive(Debug)]
struct OsFile {
    file: std::fs::File,
    /// It was made by this process.
    is_new: bool,
}

impl Drop for OsFile {
    /// A child that this process forked meanwhile has the file open as well, and would keep its lock.
    fn drop(&mut self) {
        if self.is_new {
            let _ = self.file.unlock();
        }
    }
}

impl Write for OsFile {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        sys::without_file_size_signal(|| self.file.write(bytes))
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl File for OsFile {
    fn metadata(&self) -> io::Result<Metadata> {
        Ok(metadata(&rustix::fs::fstat(&self.file)?))
    }

    fn read_at(&self, buffers: &mut [IoSliceMut<'_>], offset: u64) -> io::Result<usize> {
        Ok(rustix::io::preadv(&self.file, buffers, offset)?)
    }

    fn sync(&self) -> io::Result<()> {
        sync(&self.file, std::fs::File::sync_data)
    }

    fn sync_part(&self) -> io::Result<()> {
        match sys::write_back(&self.file) {
            Err(error) if is_unsupported(&error) => self.sync(),
            done => done,
        }
    }

    fn set_modified(&self, time: SystemTime) -> io::Result<()> {
        if !self.is_new && copies_on_change(&self.file) {
            let what = "the file system would copy the whole file";
            return Err(io::Error::new(io::ErrorKind::Unsupported, what));
        }
        self.file.set_times(FileTimes::new().set_modified(time))
    }

    fn try_lock(&self) -> io::Result<bool> {
        try_lock(&self.file)
    }

    /// By a shared lock: two that look do not see each other, and NFS refuses others for reading.
    fn is_locked(&self) -> io::Result<bool> {
        let is_free = lock_by(&self.file, std::fs::File::try_lock_shared)?;
        if is_free {
            self.file.unlock()?;
        }
        Ok(!is_free)
    }

    fn map(&self) -> io::Result<Option<Mapped>> {
        // An empty file cannot be mapped.
        if self.metadata()?.len == 0 {
            return Ok(None);
        }
        Ok(Some(Box::new(sys::map(&self.file)?)))
    }
}

/// Locks a file for all processes that share it: see [`File::try_lock`].
///
/// ```
/// use torchcache_store::fs::try_lock;
///
/// let file = tempfile::tempfile()?;
/// assert!(try_lock(&file)?, "no other process has it");
/// # Ok::<(), std::io::Error>(())
/// ```
///
/// # Errors
/// What the system reports, or [`Unsupported`](io::ErrorKind::Unsupported) where locks are local to a machine.
pub fn try_lock(file: &std::fs::File) -> io::Result<bool> {
    lock_by(file, std::fs::File::try_lock)
}

/// Takes a lock by this call, unless locks are local to a machine. Returns whether it was free.
fn lock_by(
    file: &std::fs::File,
    call: impl FnOnce(&std::fs::File) -> Result<(), TryLockError>,
) -> io::Result<bool> {
    if kind_of_fs(file).is_some_and(has_local_locks) {
        let what = "the file system has locks among the processes of a machine only";
        return Err(io::Error::new(io::ErrorKind::Unsupported, what));
    }
    match call(file) {
        Ok(()) => Ok(true),
        Err(TryLockError::WouldBlock) => Ok(false),
        Err(TryLockError::Error(error)) => Err(error),
    }
}

/// Whether locks on a kind of file system may be local to a machine although its files are not. Those of NFS and Lustre
/// are not, unless they are mounted with `local_lock`, `nolock` or `localflock`.
fn has_local_locks(kind: i64) -> bool {
    const V9FS: i64 = 0x0102_1997;
    const CIFS: i64 = 0xff53_4d42;
    const SMB2: i64 = 0xfe53_4d42;
    const SMB: i64 = 0x517b;
    const VBOXSF: i64 = 0x786f_4256;
    // By default.
    const BEEGFS: i64 = 0x1983_0326;
    // virtiofs too.
    const FUSE: i64 = 0x6573_5546;
    [V9FS, CIFS, SMB2, SMB, VBOXSF, BEEGFS, FUSE].contains(&kind)
}

/// The number by which Linux tells kinds of file systems apart.
#[cfg(target_os = "linux")]
fn kind_of_fs(file: &std::fs::File) -> Option<i64> {
    // The type differs between machines, and some extend a sign.
    rustix::fs::fstatfs(file)
        .ok()
        .map(|fs| i64::from(fs.f_type as u32))
}

#[cfg(not(target_os = "linux"))]
fn kind_of_fs(_: &std::fs::File) -> Option<i64> {
    None
}

/// Whether the first change of a file, even of its time, copies it: in an overlay, it may be in a layer below, as
/// part of a container image.
fn copies_on_change(file: &std::fs::File) -> bool {
    const OVERLAYFS: i64 = 0x794c_7630;
    const AUFS: i64 = 0x6175_6673;
    kind_of_fs(file).is_some_and(|kind| [OVERLAYFS, AUFS].contains(&kind))
}

#[expect(
    clippy::unnecessary_cast,
    clippy::useless_conversion,
    reason = "the types of these numbers differ between systems"
)]
fn metadata(stat: &Stat) -> Metadata {
    Metadata {
        len: u64::try_from(stat.st_size).unwrap_or(0),
        modified: time(i64::from(stat.st_mtime), stat.st_mtime_nsec as u64),
        is_file: FileType::from_raw_mode(stat.st_mode) == FileType::RegularFile,
        owner: stat.st_uid,
        group: stat.st_gid,
        mode: u32::from(stat.st_mode) & 0o1777,
    }
}

/// A time before 1970, or one out of range, becomes 1970.
fn time(seconds: i64, nanoseconds: u64) -> SystemTime {
    let since = u64::try_from(seconds).unwrap_or(0);
    let since = Duration::from_secs(since) + Duration::from_nanos(nanoseconds % 1_000_000_000);
    UNIX_EPOCH.checked_add(since).unwrap_or(UNIX_EPOCH)
}

#[cfg(test)]
mod tests {
    use std::fs::{Permissions, set_permissions};
    use std::os::unix::fs::PermissionsExt;

    use super::*;

    #[test]
    fn a_group_that_writes_to_the_parent_writes_to_the_child() {
        let root = tempfile::tempdir().expect("a temporary directory");
        for (parent, shared) in [(0o775, true), (0o755, false), (0o2775, true)] {
            let above = root.path().join(format!("{parent:o}"));
            std::fs::create_dir(&above).expect("it can be made");
            set_permissions(&above, Permissions::from_mode(parent)).expect("it is ours");
            let made = Os.open_dir(&above.join("a/b"), true).expect("it is made");
            let mode = made.metadata().expect("it is there").mode;
            assert_eq!(mode & 0o020 != 0, shared, "{mode:o} in {parent:o}");
            assert_eq!(mode & 0o002, 0, "{mode:o}");
        }
    }

    #[test]
    fn a_directory_in_the_place_of_another_has_another_id() {
        let root = tempfile::tempdir().expect("a temporary directory");
        let path = root.path().join("cache");
        let id = || Os.open_dir(&path, true).and_then(|dir| dir.id());
        let before = id().expect("it is made");
        std::fs::write(path.join("a"), "b").expect("it can be written");
        assert_eq!(id().expect("it is there"), before);
        std::fs::rename(&path, root.path().join("other")).expect("it is there");
        assert_ne!(id().expect("it is made"), before);
    }

    #[test]
    fn a_directory_without_permission_to_write_is_seen() {
        let root = tempfile::tempdir().expect("a temporary directory");
        let dir = Os.open_dir(root.path(), false).expect("it exists");
        for (mode, is_writable) in [(0o755, true), (0o555, false), (0o655, false)] {
            set_permissions(root.path(), Permissions::from_mode(mode)).expect("it is ours");
            let checked = dir.check_writable();
            let is_root = rustix::process::geteuid().is_root();
            assert_eq!(checked.is_ok(), is_writable || is_root, "{mode:o}");
        }
        set_permissions(root.path(), Permissions::from_mode(0o755)).expect("it is ours");
    }

    #[test]
    fn a_sync_that_is_not_supported_is_done_by_fsync() {
        let file = tempfile::tempfile().expect("a temporary file");
        let fails = |errno: Errno| sync(&file, |_| Err(errno.into()));
        for errno in [Errno::NOTSUP, Errno::NOTTY, Errno::INVAL, Errno::NOSYS] {
            fails(errno).expect("fsync succeeds");
        }
        for errno in [Errno::IO, Errno::NOSPC, Errno::DQUOT] {
            fails(errno).expect_err("it failed");
        }
        // One that cannot be synced at all.
        let (_reader, writer) = std::io::pipe().expect("it can be made");
        let pipe = std::fs::File::from(std::os::fd::OwnedFd::from(writer));
        sync(&pipe, |_| Err(Errno::NOTSUP.into())).expect_err("a file must be synced");
        sync_dir(&pipe).expect("a directory need not be");
    }

    #[test]
    fn only_the_writer_has_a_file_locked_and_not_who_looks_at_a_lock() {
        let parent = tempfile::tempdir().expect("a temporary directory");
        let dir = Os.open_dir(parent.path(), false).expect("it exists");
        let writer = dir.create("file".as_ref()).expect("it is new");
        let [looks, other] = [(); 2].map(|()| {
            let file = std::fs::File::open(parent.path().join("file"));
            let is_new = false;
            let file = file.expect("it exists");
            OsFile { file, is_new }
        });
        let held = looks.file.try_lock_shared(); // for the moment of a look
        held.expect("it is free");
        assert!(!other.is_locked().expect("it has locks"));
        looks.file.unlock().expect("it is locked");
        assert!(writer.try_lock().expect("it has locks"));
        assert!(other.is_locked().expect("it has locks"));
        drop(writer);
        assert!(!other.is_locked().expect("it has locks"));
    }

    /// A forked child has the same open file.
    #[test]
    fn a_lock_ends_with_its_writer_also_where_a_child_has_the_file() {
        let file = tempfile::NamedTempFile::new().expect("a temporary file");
        let [writer, other] = [(); 2].map(|()| file.reopen().expect("it exists"));
        let _child = writer.try_clone().expect("there are descriptors");
        let writer = OsFile {
            file: writer,
            is_new: true,
        };
        assert!(writer.try_lock().expect("it has locks"));
        drop(writer);
        let other = OsFile {
            file: other,
            is_new: false,
        };
        assert!(!other.is_locked().expect("it has locks"));
    }

    #[test]
    fn locks_of_a_machine_are_no_locks() {
        // 9p, SMB, virtiofs, BeeGFS; ext4, tmpfs, NFS, overlayfs.
        for (kind, is_local) in [
            (0x0102_1997, true),
            (0xff53_4d42, true),
            (0xfe53_4d42, true),
            (0x6573_5546, true),
            (0x1983_0326, true),
            (0xef53, false),
            (0x0102_1994, false),
            (0x6969, false),
            (0x794c_7630, false),
        ] {
            assert_eq!(has_local_locks(kind), is_local, "{kind:x}");
        }
        let file = tempfile::tempfile().expect("a temporary file");
        assert!(kind_of_fs(&file).is_some() || !cfg!(target_os = "linux"));
    }

    #[test]
    fn a_link_is_rejected_with_a_slash_after_it_too() {
        let root = tempfile::tempdir().expect("a temporary directory");
        let link = root.path().join("link");
        std::os::unix::fs::symlink(root.path(), &link).expect("it can be made");
        for path in [link.clone(), link.join(""), link.join(".")] {
            let refused = Os.open_dir(&path, true).expect_err("it is a link");
            assert!(refused.to_string().contains("symbolic link"), "{refused}");
        }
    }
}
