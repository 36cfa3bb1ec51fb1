//! A file system whose calls go wrong on demand: they fail, do half of their work, panic, hang, or end
//! the process.

use std::ffi::OsStr;
use std::fmt;
use std::io::{self, IoSliceMut, Write};
use std::path::Path;
use std::sync::Arc;
use std::time::SystemTime;

use rustix::io::Errno;
use rustix::process::{Signal, getpid, kill_process};
use torchcache_store::fs::{DirEntry, Directory, DirectoryId, File, FileSystem, Mapped, Metadata};

use crate::cases::Counter;

/// A call of the file system, by what it does.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Call {
    /// A directory is opened, or made.
    OpenDir,
    /// A directory is looked at.
    LookDir,
    /// A directory is listed.
    List,
    /// A file is looked at by its name.
    Stat,
    /// A file is opened for reading.
    Open,
    /// A file is made.
    Create,
    /// A file gets another name.
    Rename,
    /// A file is removed.
    Remove,
    /// The names of a directory are synced.
    SyncDir,
    /// An open file is looked at.
    Look,
    /// A file is read.
    Read,
    /// A file is written to.
    Write,
    /// A file is synced.
    Sync,
    /// The time of a file is set.
    SetModified,
    /// A file is locked, or its lock is looked at.
    Lock,
    /// A file is mapped.
    Map,
    /// The names of a directory and of those above it are synced.
    SyncParents,
    /// An empty directory is removed, which only administration does.
    RemoveDir,
    /// It is checked whether a directory may be written to, which only administration does.
    CheckWritable,
}

impl Call {
    /// Every call of a store.
    pub const ALL: [Call; 17] = [
        Call::OpenDir,
        Call::LookDir,
        Call::List,
        Call::Stat,
        Call::Open,
        Call::Create,
        Call::Rename,
        Call::Remove,
        Call::SyncDir,
        Call::Look,
        Call::Read,
        Call::Write,
        Call::Sync,
        Call::SetModified,
        Call::Lock,
        Call::Map,
        Call::SyncParents,
    ];

    /// Whether it takes bytes, and so can take only some of them.
    pub fn has_bytes(self) -> bool {
        matches!(self, Call::Read | Call::Write)
    }
}

/// The errors of failing calls. Inputs of a fuzzer number them, so their order stays.
pub const ERRORS: [Errno; 7] = [
    Errno::IO,
    Errno::INTR,
    Errno::NOSPC,
    Errno::DQUOT,
    Errno::MFILE,
    Errno::STALE,
    Errno::ACCESS,
];

/// What becomes of a call.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fate {
    /// It is done.
    Done,
    /// It is not done, and the system says so.
    Fails(Errno),
    /// Only half of the bytes are read or written; the rest of the calls is done.
    Half,
    /// It panics.
    Panics,
    /// The process is killed before it.
    KillsBefore,
    /// The process is killed with half of the bytes written.
    KillsHalfway,
    /// The process is killed after it.
    KillsAfter,
}

/// Decides what becomes of a call. It may also wait.
pub trait Decide: Fn(Call, &OsStr) -> Fate + Send + Sync {}

impl<F: Fn(Call, &OsStr) -> Fate + Send + Sync> Decide for F {}

/// A file system whose calls `decide` may change.
pub struct Faulty {
    inner: Arc<dyn FileSystem>,
    decide: Arc<dyn Decide>,
}

impl Faulty {
    /// Puts `decide` before each call of a file system.
    pub fn new(inner: impl FileSystem + 'static, decide: impl Decide + 'static) -> Faulty {
        Faulty {
            inner: Arc::new(inner),
            decide: Arc::new(decide),
        }
    }

    /// Counts the calls of one kind.
    pub fn counting(inner: impl FileSystem + 'static, counted: Call) -> (Faulty, Arc<Counter>) {
        let calls = Arc::new(Counter::default());
        let counter = calls.clone();
        let decide = move |call: Call, _: &OsStr| {
            if call == counted {
                counter.next();
            }
            Fate::Done
        };
        (Faulty::new(inner, decide), calls)
    }
}

/// Kills the process.
pub fn kill_this_process() -> ! {
    let _ = kill_process(getpid(), Signal::KILL);
    unreachable!("SIGKILL ends the process")
}

fn run<T>(
    decide: &Arc<dyn Decide>,
    call: Call,
    name: &OsStr,
    done: impl FnOnce() -> io::Result<T>,
) -> io::Result<T> {
    settle(decide(call, name), call, done)
}

fn settle<T>(fate: Fate, call: Call, done: impl FnOnce() -> io::Result<T>) -> io::Result<T> {
    match fate {
        Fate::Done | Fate::Half => done(),
        Fate::Fails(errno) => Err(errno.into()),
        Fate::Panics => panic!("{call:?} panics"),
        Fate::KillsBefore | Fate::KillsHalfway => kill_this_process(),
        Fate::KillsAfter => {
            let _ = done();
            kill_this_process()
        }
    }
}

impl FileSystem for Faulty {
    fn open_dir(&self, path: &Path, create: bool) -> io::Result<Arc<dyn Directory>> {
        let name = path.file_name().unwrap_or_default();
        let inner = run(&self.decide, Call::OpenDir, name, || {
            self.inner.open_dir(path, create)
        })?;
        let decide = self.decide.clone();
        Ok(Arc::new(FaultyDirectory { inner, decide }))
    }

    fn sync_parents(&self, path: &Path) -> io::Result<()> {
        let name = path.file_name().unwrap_or_default();
        run(&self.decide, Call::SyncParents, name, || {
            self.inner.sync_parents(path)
        })
    }

    fn remove_dir(&self, path: &Path) -> io::Result<()> {
        let name = path.file_name().unwrap_or_default();
        run(&self.decide, Call::RemoveDir, name, || {
            self.inner.remove_dir(path)
        })
    }
}

struct FaultyDirectory {
    inner: Arc<dyn Directory>,
    decide: Arc<dyn Decide>,
}

impl FaultyDirectory {
    fn opened(&self, inner: Box<dyn File>, name: &OsStr) -> Box<dyn File> {
        Box::new(FaultyFile {
            inner,
            name: name.into(),
            decide: self.decide.clone(),
        })
    }
}

impl Directory for FaultyDirectory {
    fn path(&self) -> &Path {
        self.inner.path()
    }

    fn metadata(&self) -> io::Result<Metadata> {
        let name = OsStr::new("");
        run(&self.decide, Call::LookDir, name, || self.inner.metadata())
    }

    fn id(&self) -> io::Result<DirectoryId> {
        let name = OsStr::new("");
        run(&self.decide, Call::LookDir, name, || self.inner.id())
    }

    fn check_writable(&self) -> io::Result<()> {
        let name = self.inner.path().file_name().unwrap_or_default();
        run(&self.decide, Call::CheckWritable, name, || {
            self.inner.check_writable()
        })
    }

    /// Names are read one by one: those that come or go while the call is decided are not in it.
    fn list(&self) -> io::Result<Vec<DirEntry>> {
        let before = self.inner.list();
        let name = OsStr::new("");
        let mut entries = run(&self.decide, Call::List, name, || self.inner.list())?;
        let before = before?;
        entries.retain(|entry| before.contains(entry));
        Ok(entries)
    }

    fn open_dir(&self, name: &OsStr) -> io::Result<Arc<dyn Directory>> {
        let inner = run(&self.decide, Call::OpenDir, name, || {
            self.inner.open_dir(name)
        })?;
        let decide = self.decide.clone();
        Ok(Arc::new(FaultyDirectory { inner, decide }))
    }

    fn remove_dir(&self, name: &OsStr) -> io::Result<()> {
        run(&self.decide, Call::RemoveDir, name, || {
            self.inner.remove_dir(name)
        })
    }

    fn stat(&self, name: &OsStr) -> io::Result<Metadata> {
        run(&self.decide, Call::Stat, name, || self.inner.stat(name))
    }

    fn open(&self, name: &OsStr) -> io::Result<Box<dyn File>> {
        let file = run(&self.decide, Call::Open, name, || self.inner.open(name))?;
        Ok(self.opened(file, name))
    }

    fn create(&self, name: &OsStr) -> io::Result<Box<dyn File>> {
        let file = run(&self.decide, Call::Create, name, || self.inner.create(name))?;
        Ok(self.opened(file, name))
    }

    fn rename(&self, from: &OsStr, to: &OsStr) -> io::Result<()> {
        run(&self.decide, Call::Rename, to, || {
            self.inner.rename(from, to)
        })
    }

    fn remove(&self, name: &OsStr) -> io::Result<()> {
        run(&self.decide, Call::Remove, name, || self.inner.remove(name))
    }

    fn sync(&self) -> io::Result<()> {
        let name = OsStr::new("");
        run(&self.decide, Call::SyncDir, name, || self.inner.sync())
    }
}

struct FaultyFile {
    inner: Box<dyn File>,
    name: Box<OsStr>,
    decide: Arc<dyn Decide>,
}

impl FaultyFile {
    fn run<T>(&self, call: Call, done: impl FnOnce() -> io::Result<T>) -> io::Result<T> {
        run(&self.decide, call, &self.name, done)
    }
}

impl Write for FaultyFile {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let FaultyFile {
            inner,
            name,
            decide,
        } = self;
        let half = &bytes[..bytes.len().div_ceil(2)];
        match decide(Call::Write, name) {
            Fate::Half => inner.write(half),
            Fate::KillsHalfway => {
                let _ = inner.write(half);
                kill_this_process()
            }
            fate => settle(fate, Call::Write, || inner.write(bytes)),
        }
    }

    fn flush(&mut self) -> io::Result<()> {
        self.inner.flush()
    }
}

impl File for FaultyFile {
    fn metadata(&self) -> io::Result<Metadata> {
        self.run(Call::Look, || self.inner.metadata())
    }

    fn read_at(&self, buffers: &mut [IoSliceMut<'_>], offset: u64) -> io::Result<usize> {
        match (self.decide)(Call::Read, &self.name) {
            Fate::Half => {
                let first = buffers.iter_mut().find(|buffer| !buffer.is_empty());
                let Some(first) = first else { return Ok(0) };
                let half = first.len().div_ceil(2);
                self.inner
                    .read_at(&mut [IoSliceMut::new(&mut first[..half])], offset)
            }
            fate => settle(fate, Call::Read, || self.inner.read_at(buffers, offset)),
        }
    }

    fn sync(&self) -> io::Result<()> {
        self.run(Call::Sync, || self.inner.sync())
    }

    fn sync_part(&self) -> io::Result<()> {
        self.run(Call::Sync, || self.inner.sync_part())
    }

    fn set_modified(&self, time: SystemTime) -> io::Result<()> {
        self.run(Call::SetModified, || self.inner.set_modified(time))
    }

    fn try_lock(&self) -> io::Result<bool> {
        self.run(Call::Lock, || self.inner.try_lock())
    }

    fn is_locked(&self) -> io::Result<bool> {
        self.run(Call::Lock, || self.inner.is_locked())
    }

    fn map(&self) -> io::Result<Option<Mapped>> {
        self.run(Call::Map, || self.inner.map())
    }
}

impl fmt::Debug for Faulty {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Faulty").field(&self.inner).finish()
    }
}

impl fmt::Debug for FaultyDirectory {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("FaultyDirectory").field(&self.inner).finish()
    }
}

impl fmt::Debug for FaultyFile {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("FaultyFile").field(&self.inner).finish()
    }
}
