//! A file system in memory that knows what a power cut leaves: what was synced, and of the rest
//! whatever the medium happened to have taken, in any order. Stores that are opened on it share
//! their directories as processes do.

mod medium;

use std::collections::BTreeMap;
use std::ffi::OsStr;
use std::io::{self, ErrorKind, IoSliceMut, Write};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread;
use std::time::{Duration, SystemTime};

use fastrand::Rng;
use rustix::process::{getegid, geteuid};
use torchcache_store::fs::{DirEntry, Directory, DirectoryId, File, FileSystem, Mapped, Metadata};

pub use medium::Locks;
use medium::{Content, Medium, Names};

/// A file system in memory. Clones are the same one.
#[derive(Clone, Debug, Default)]
pub struct Sim(Arc<Mutex<Medium>>);

impl Sim {
    /// An empty file system.
    pub fn new() -> Sim {
        Sim::default()
    }

    fn medium(&self) -> MutexGuard<'_, Medium> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Lets all files together have so many bytes; `None` for as many as they like.
    pub fn set_capacity(&self, bytes: Option<u64>) {
        self.medium().capacity = bytes;
    }

    /// Makes a directory whose name no process has synced yet: the one that makes it is about to.
    pub fn add_unsynced_dir(&self, path: &Path) {
        let mut medium = self.medium();
        medium.directories.entry(path.to_owned()).or_default();
        medium.unsynced.insert(path.to_owned());
    }

    /// Makes the disk slow: a sync of more bytes than this takes until there is no such limit.
    pub fn set_most_at_once(&self, bytes: Option<usize>) {
        self.medium().most_at_once = bytes;
    }

    /// Lets the times of files and directories be even seconds, as on FAT.
    pub fn set_whole_seconds(&self) {
        self.medium().whole_seconds = true;
    }

    /// Sets when a directory changed last.
    pub fn age_dir(&self, path: &Path, age: Duration) {
        if let Some(names) = self.medium().directories.get_mut(path) {
            names.modified = Some(SystemTime::now() - age);
        }
    }

    /// Lets locks work in another way, as on some network file systems.
    pub fn set_locks(&self, locks: Locks) {
        self.medium().locks = locks;
    }

    /// Gives all files and directories one mode, as some mounts do.
    pub fn set_mode(&self, mode: u32) {
        self.medium().mode = Some(mode);
    }

    /// Gives all files another mode than the directories have, as some mounts do.
    pub fn set_file_mode(&self, mode: u32) {
        self.medium().file_mode = Some(mode);
    }

    /// Cuts the power. Each name that changed since its directory was synced means any of the
    /// things that it meant since then; each page that was not synced holds what was written, or
    /// zeros, or anything, or is not there. Whatever was open is closed.
    pub fn cut_power(&self, rng: &mut Rng) {
        let mut medium = self.medium();
        medium.boots += 1;
        for path in std::mem::take(&mut medium.unsynced) {
            if rng.bool() {
                medium.directories.remove(&path);
            }
        }
        for (path, names) in std::mem::take(&mut medium.removed) {
            if rng.bool() {
                medium.directories.entry(path).or_insert(names);
            }
        }
        for names in medium.directories.values_mut() {
            for (name, meanings) in std::mem::take(&mut names.since) {
                match rng.choice(meanings).flatten() {
                    Some(file) => names.now.insert(name, file),
                    None => names.now.remove(&name),
                };
            }
        }
        for file in &mut medium.files {
            file.lose_unsynced(rng);
        }
    }

    /// Another file system with the same content, all of it synced.
    pub fn copy(&self) -> Sim {
        let medium = self.medium();
        let files = medium.files.iter().map(|file| Content {
            bytes: file.bytes.clone(),
            synced: file.bytes.len(),
            modified: file.modified,
            locked: false,
            taken: 0,
        });
        let directories = medium.directories.iter().map(|(path, names)| {
            let names = Names {
                id: names.id,
                now: names.now.clone(),
                since: BTreeMap::new(),
                modified: names.modified,
            };
            (path.clone(), names)
        });
        Sim(Arc::new(Mutex::new(Medium {
            directories: directories.collect(),
            files: files.collect(),
            ..Medium::default()
        })))
    }

    /// Puts a file into a directory.
    pub fn add(&self, path: &Path, bytes: Vec<u8>) {
        let mut medium = self.medium();
        let (Some(dir), Some(name)) = (path.parent(), path.file_name()) else {
            return;
        };
        let modified = medium.now();
        medium.files.push(Content {
            synced: bytes.len(),
            bytes,
            modified,
            locked: false,
            taken: 0,
        });
        let file = medium.files.len() - 1;
        medium.change_name(dir, name, Some(file));
    }

    /// The bytes of a file; none if it is not there.
    pub fn bytes(&self, path: &Path) -> Vec<u8> {
        let medium = self.medium();
        let names = path.parent().and_then(|dir| medium.directories.get(dir));
        let file = names.zip(path.file_name());
        let file = file.and_then(|(names, name)| names.now.get(name));
        file.map_or_else(Vec::new, |&file| medium.files[file].bytes.clone())
    }

    /// Changes the bytes of a file.
    pub fn damage(&self, path: &Path, change: impl FnOnce(&mut Vec<u8>)) {
        let mut medium = self.medium();
        let (Some(dir), Some(name)) = (path.parent(), path.file_name()) else {
            return;
        };
        let names = medium.directories.get(dir);
        if let Some(&file) = names.and_then(|names| names.now.get(name)) {
            let content = &mut medium.files[file];
            change(&mut content.bytes);
            content.synced = content.bytes.len();
        }
    }

    /// Writes other bytes into a file, which changes its time.
    pub fn overwrite(&self, path: &Path, bytes: Vec<u8>) {
        self.damage(path, |present| *present = bytes);
        let mut medium = self.medium();
        let now = medium.now();
        let names = path.parent().and_then(|dir| medium.directories.get(dir));
        let file = names.zip(path.file_name());
        let file = file.and_then(|(names, name)| names.now.get(name).copied());
        if let Some(file) = file {
            medium.files[file].modified = now;
        }
    }

    /// The paths of the directories in a directory.
    pub fn directories(&self, dir: &Path) -> Vec<PathBuf> {
        let medium = self.medium();
        let paths = medium.directories.keys();
        let within = paths.filter(|path| path.parent() == Some(dir));
        within.cloned().collect()
    }

    /// The paths of all files of a directory.
    pub fn files(&self, dir: &Path) -> Vec<PathBuf> {
        let medium = self.medium();
        let names = medium.directories.get(dir);
        let names = names.into_iter().flat_map(|names| names.now.keys());
        names.map(|name| dir.join(name)).collect()
    }
}

impl FileSystem for Sim {
    fn open_dir(&self, path: &Path, create: bool) -> io::Result<Arc<dyn Directory>> {
        let mut medium = self.medium();
        if create {
            medium.directories.entry(path.to_owned()).or_default();
        } else if !medium.directories.contains_key(path) {
            return Err(ErrorKind::NotFound.into());
        }
        Ok(Arc::new(SimDirectory {
            sim: self.clone(),
            path: path.to_owned(),
            boot: medium.boots,
        }))
    }

    fn sync_parents(&self, path: &Path) -> io::Result<()> {
        self.medium().unsynced.remove(path);
        Ok(())
    }

    fn remove_dir(&self, path: &Path) -> io::Result<()> {
        let mut medium = self.medium();
        let has_directories = medium
            .directories
            .keys()
            .any(|it| it.parent() == Some(path));
        match medium.directories.get(path) {
            None => return Err(ErrorKind::NotFound.into()),
            Some(names) if !names.now.is_empty() || has_directories => {
                return Err(ErrorKind::DirectoryNotEmpty.into());
            }
            Some(_) => {}
        }
        if let Some(names) = medium.directories.remove(path) {
            medium.removed.insert(path.to_owned(), names);
        }
        Ok(())
    }
}

#[derive(Debug)]
struct SimDirectory {
    sim: Sim,
    path: PathBuf,
    boot: u64,
}

impl SimDirectory {
    fn medium(&self) -> io::Result<MutexGuard<'_, Medium>> {
        since(&self.sim, self.boot)
    }

    fn file(&self, medium: &Medium, name: &OsStr) -> io::Result<usize> {
        let names = medium.directories.get(&self.path);
        let file = names.and_then(|names| names.now.get(name));
        file.copied().ok_or_else(|| ErrorKind::NotFound.into())
    }

    fn opened(&self, file: usize) -> Box<dyn File> {
        Box::new(SimFile {
            sim: self.sim.clone(),
            file,
            boot: self.boot,
            has_lock: false.into(),
        })
    }
}

/// The medium, if the power was not cut since.
fn since(sim: &Sim, boot: u64) -> io::Result<MutexGuard<'_, Medium>> {
    let medium = sim.medium();
    if medium.boots == boot {
        Ok(medium)
    } else {
        Err(io::Error::other("the power was cut"))
    }
}

fn metadata(medium: &Medium, len: usize, modified: SystemTime, is_file: bool) -> Metadata {
    Metadata {
        len: len as u64,
        modified,
        is_file,
        owner: geteuid().as_raw(),
        group: getegid().as_raw(),
        mode: match is_file {
            true => medium.file_mode.or(medium.mode).unwrap_or(0o644),
            false => medium.mode.unwrap_or(0o755),
        },
    }
}

impl Directory for SimDirectory {
    fn path(&self) -> &Path {
        &self.path
    }

    fn metadata(&self) -> io::Result<Metadata> {
        let medium = self.medium()?;
        let names = medium.directories.get(&self.path);
        let modified = names.and_then(|names| names.modified);
        Ok(metadata(
            &medium,
            0,
            modified.unwrap_or(SystemTime::UNIX_EPOCH),
            false,
        ))
    }

    fn id(&self) -> io::Result<DirectoryId> {
        let medium = self.medium()?;
        let names = medium.directories.get(&self.path);
        Ok(DirectoryId {
            device: 0,
            inode: names.map_or(0, |names| names.id.0),
            created: None,
        })
    }

    fn list(&self) -> io::Result<Vec<DirEntry>> {
        let medium = self.medium()?;
        let names = medium.directories.get(&self.path);
        let names = names.into_iter().flat_map(|names| names.now.keys());
        let entry = |name: &OsStr, is_file| DirEntry {
            name: name.to_owned(),
            is_file,
        };
        let files = names.map(|name| entry(name, true));
        let within = medium.directories.keys();
        let within = within.filter(|path| path.parent() == Some(&*self.path));
        let within = within.filter_map(|path| Some(entry(path.file_name()?, false)));
        Ok(files.chain(within).collect())
    }

    fn open_dir(&self, name: &OsStr) -> io::Result<Arc<dyn Directory>> {
        drop(self.medium()?);
        self.sim.open_dir(&self.path.join(name), false)
    }

    fn remove_dir(&self, name: &OsStr) -> io::Result<()> {
        drop(self.medium()?);
        self.sim.remove_dir(&self.path.join(name))
    }

    fn stat(&self, name: &OsStr) -> io::Result<Metadata> {
        let medium = self.medium()?;
        let file = &medium.files[self.file(&medium, name)?];
        Ok(metadata(&medium, file.bytes.len(), file.modified, true))
    }

    fn open(&self, name: &OsStr) -> io::Result<Box<dyn File>> {
        let medium = self.medium()?;
        let file = self.file(&medium, name)?;
        Ok(self.opened(file))
    }

    fn create(&self, name: &OsStr) -> io::Result<Box<dyn File>> {
        let mut medium = self.medium()?;
        if !medium.directories.contains_key(&self.path) {
            return Err(ErrorKind::NotFound.into());
        }
        if self.file(&medium, name).is_ok() {
            return Err(ErrorKind::AlreadyExists.into());
        }
        let modified = medium.now();
        medium.files.push(Content {
            bytes: Vec::new(),
            synced: 0,
            modified,
            locked: false,
            taken: 0,
        });
        let file = medium.files.len() - 1;
        medium.change_name(&self.path, name, Some(file));
        Ok(self.opened(file))
    }

    fn rename(&self, from: &OsStr, to: &OsStr) -> io::Result<()> {
        let mut medium = self.medium()?;
        let file = self.file(&medium, from)?;
        if self.file(&medium, to).is_ok() {
            return Err(ErrorKind::AlreadyExists.into());
        }
        medium.change_name(&self.path, from, None);
        medium.change_name(&self.path, to, Some(file));
        Ok(())
    }

    fn remove(&self, name: &OsStr) -> io::Result<()> {
        let mut medium = self.medium()?;
        self.file(&medium, name)?;
        medium.change_name(&self.path, name, None);
        Ok(())
    }

    fn sync(&self) -> io::Result<()> {
        let mut medium = self.medium()?;
        if let Some(names) = medium.directories.get_mut(&self.path) {
            names.since.clear();
        }
        Ok(())
    }
}

#[derive(Debug)]
struct SimFile {
    sim: Sim,
    file: usize,
    boot: u64,
    has_lock: std::sync::atomic::AtomicBool,
}

impl SimFile {
    fn medium(&self) -> io::Result<MutexGuard<'_, Medium>> {
        since(&self.sim, self.boot)
    }

    /// Has the disk take what was written.
    fn wait_for_disk(&self) -> io::Result<()> {
        loop {
            let mut medium = self.medium()?;
            let limit = medium.most_at_once.unwrap_or(usize::MAX);
            let file = &mut medium.files[self.file];
            if file.bytes.len() - file.taken <= limit {
                file.taken = file.bytes.len();
                return Ok(());
            }
            drop(medium);
            thread::sleep(Duration::from_millis(1));
        }
    }
}

impl Write for SimFile {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let mut medium = self.medium()?;
        let used: usize = medium.files.iter().map(|file| file.bytes.len()).sum();
        let free = medium
            .capacity
            .map_or(usize::MAX, |all| (all as usize).saturating_sub(used));
        if free == 0 && !bytes.is_empty() {
            return Err(ErrorKind::StorageFull.into());
        }
        let taken = bytes.len().min(free);
        let now = medium.now();
        let file = &mut medium.files[self.file];
        file.bytes.extend_from_slice(&bytes[..taken]);
        file.modified = now;
        Ok(taken)
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl File for SimFile {
    fn metadata(&self) -> io::Result<Metadata> {
        let medium = self.medium()?;
        let file = &medium.files[self.file];
        Ok(metadata(&medium, file.bytes.len(), file.modified, true))
    }

    fn read_at(&self, buffers: &mut [IoSliceMut<'_>], offset: u64) -> io::Result<usize> {
        let medium = self.medium()?;
        let bytes = &medium.files[self.file].bytes;
        let mut rest = bytes.get(offset as usize..).unwrap_or_default();
        let mut read = 0;
        for buffer in buffers {
            let taken = buffer.len().min(rest.len());
            buffer[..taken].copy_from_slice(&rest[..taken]);
            rest = &rest[taken..];
            read += taken;
        }
        Ok(read)
    }

    fn sync(&self) -> io::Result<()> {
        self.wait_for_disk()?;
        let mut medium = self.medium()?;
        let file = &mut medium.files[self.file];
        file.synced = file.bytes.len();
        Ok(())
    }

    /// Nothing of it survives for sure.
    fn sync_part(&self) -> io::Result<()> {
        self.wait_for_disk()
    }

    fn set_modified(&self, time: SystemTime) -> io::Result<()> {
        self.medium()?.files[self.file].modified = time;
        Ok(())
    }

    fn try_lock(&self) -> io::Result<bool> {
        let mut medium = self.medium()?;
        match medium.locks {
            Locks::Shared => {}
            Locks::Local => return Ok(true),
            Locks::None => return Err(ErrorKind::Unsupported.into()),
        }
        let file = &mut medium.files[self.file];
        let taken = !std::mem::replace(&mut file.locked, true);
        self.has_lock
            .fetch_or(taken, std::sync::atomic::Ordering::Relaxed);
        Ok(taken)
    }

    fn is_locked(&self) -> io::Result<bool> {
        let medium = self.medium()?;
        match medium.locks {
            Locks::Shared => Ok(medium.files[self.file].locked),
            Locks::Local => Ok(false),
            Locks::None => Err(ErrorKind::Unsupported.into()),
        }
    }

    /// The bytes as they are now: what is damaged later does not show.
    fn map(&self) -> io::Result<Option<Mapped>> {
        let bytes = self.medium()?.files[self.file].bytes.clone();
        Ok(Some(Box::new(bytes)))
    }
}

impl Drop for SimFile {
    fn drop(&mut self) {
        if *self.has_lock.get_mut()
            && let Ok(mut medium) = self.medium()
        {
            medium.files[self.file].locked = false;
        }
    }
}
