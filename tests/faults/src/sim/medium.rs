//! The content of the medium, and what a power cut leaves of it.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::ffi::{OsStr, OsString};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use fastrand::Rng;

/// Media take pages as a whole.
const PAGE: usize = 512;

/// How files can be locked.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Locks {
    /// For all that use the file system.
    #[default]
    Shared,
    /// For the processes of one machine. Each store has a machine of its own.
    Local,
    /// Not at all.
    None,
}

#[derive(Debug, Default)]
pub(super) struct Medium {
    pub(super) directories: HashMap<PathBuf, Names>,
    /// Removed directories. The one above is not synced, so a power cut may bring them back.
    pub(super) removed: HashMap<PathBuf, Names>,
    /// Directories whose names a power cut may take.
    pub(super) unsynced: HashSet<PathBuf>,
    pub(super) files: Vec<Content>,
    /// Counts power cuts: what was open before one is closed.
    pub(super) boots: u64,
    /// Counts changes, for times that differ.
    pub(super) ticks: u64,
    /// The most bytes that can be synced at once.
    pub(super) most_at_once: Option<usize>,
    /// Bytes of all files that are allowed.
    pub(super) capacity: Option<u64>,
    /// Whether times are even seconds.
    pub(super) whole_seconds: bool,
    pub(super) locks: Locks,
    /// The one mode of all files and directories.
    pub(super) mode: Option<u32>,
    /// That of all files, if it is another one.
    pub(super) file_mode: Option<u32>,
}

/// The number of a directory, from 1 on.
#[derive(Clone, Copy, Debug)]
pub(super) struct NamesId(pub(super) u64);

impl Default for NamesId {
    fn default() -> NamesId {
        static LAST: AtomicU64 = AtomicU64::new(0);
        NamesId(LAST.fetch_add(1, Ordering::Relaxed) + 1)
    }
}

/// The names of a directory.
#[derive(Debug, Default)]
pub(super) struct Names {
    pub(super) id: NamesId,
    pub(super) now: BTreeMap<OsString, usize>,
    /// What each name meant since the directory was last synced, where that changed.
    pub(super) since: BTreeMap<OsString, Vec<Option<usize>>>,
    pub(super) modified: Option<SystemTime>,
}

#[derive(Debug)]
pub(super) struct Content {
    pub(super) bytes: Vec<u8>,
    /// How many of them outlast a power cut: bytes are only ever added.
    pub(super) synced: usize,
    /// How many of them the disk has taken already.
    pub(super) taken: usize,
    pub(super) modified: SystemTime,
    pub(super) locked: bool,
}

impl Medium {
    pub(super) fn now(&mut self) -> SystemTime {
        if self.whole_seconds {
            let since = SystemTime::now().duration_since(UNIX_EPOCH);
            return UNIX_EPOCH + Duration::from_secs(since.unwrap_or_default().as_secs() & !1);
        }
        self.ticks += 1;
        SystemTime::now() + Duration::from_nanos(self.ticks)
    }

    pub(super) fn change_name(&mut self, dir: &Path, name: &OsStr, meaning: Option<usize>) {
        let now = self.now();
        let names = self.directories.entry(dir.to_owned()).or_default();
        names.modified = Some(now);
        let before = match meaning {
            Some(file) => names.now.insert(name.to_owned(), file),
            None => names.now.remove(name),
        };
        let since = names.since.entry(name.to_owned());
        since.or_insert_with(|| vec![before]).push(meaning);
    }
}

impl Content {
    pub(super) fn lose_unsynced(&mut self, rng: &mut Rng) {
        self.locked = false;
        if self.synced == self.bytes.len() {
            return;
        }
        let len = match rng.u8(..3) {
            0 => self.synced,
            1 => self.bytes.len(),
            _ => rng.usize(self.synced..=self.bytes.len()),
        };
        self.bytes.truncate(len);
        let mut page = self.synced;
        while page < len {
            let end = (page + PAGE).min(len);
            match rng.u8(..4) {
                0 => self.bytes[page..end].fill(0),
                1 => rng.fill(&mut self.bytes[page..end]),
                _ => {}
            }
            page = end;
        }
        self.synced = len;
    }
}
