//! Which rows a process has to upload, on the local disk, so that they are uploaded after it was killed: by the next
//! process that opens the tier, as far as the store has them.
//!
//! A file has an entry for each row. It is locked while its process lives, and removed when all of its rows are settled.
//! Nothing is synced: after a power loss, some rows are missing in the remote.

use std::collections::VecDeque;
use std::io;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use twox_hash::XxHash3_64;

use crate::catalog::directory;
use crate::events::Deferring;
use crate::fs::temp_file::{SUFFIX, TempFile};
use crate::fs::{Directory, File, FileSystem, file_names, read_exact, remove_if_present};
use crate::remote::local_dir::{JOURNAL_SUFFIX, is_journal};
use crate::remote::{Pushed, PushedRow};

/// Key, length of the stored value, whether the row replaces others, and a checksum of these.
const ENTRY_LEN: usize = 41;

/// Where the checksum is.
const SUM_AT: usize = ENTRY_LEN - 4;

/// A file gets no further entries once it has so many.
const FILE_ROWS: usize = 1 << 16;

/// The most bytes that are read of a file.
const MAX_BYTES: u64 = (ENTRY_LEN << 20) as u64;

/// The files of this process.
#[derive(Debug)]
pub(super) struct Journal {
    fs: Arc<dyn FileSystem>,
    dir: PathBuf,
    /// Held while entries are appended, so that files and backlog have the rows in one order.
    state: Mutex<State>,
}

#[derive(Debug, Default)]
struct State {
    /// The oldest first.
    files: VecDeque<JournalFile>,
    /// An entry could not be written: nothing is, until all rows are settled.
    has_failed: bool,
}

#[derive(Debug)]
struct JournalFile {
    dir: Arc<dyn Directory>,
    name: String,
    /// Locked while it is open.
    file: Box<dyn File>,
    rows: usize,
    /// How many rows are settled when those of this file are.
    end: u64,
    /// It gets no further entries.
    is_complete: bool,
}

impl Journal {
    pub(super) fn new(fs: Arc<dyn FileSystem>, dir: PathBuf) -> Journal {
        Journal {
            fs,
            dir,
            state: Mutex::default(),
        }
    }

    fn state(&self) -> Deferring<MutexGuard<'_, State>> {
        Deferring::new(self.state.lock().unwrap_or_else(PoisonError::into_inner))
    }

    /// Notes the rows that `push` takes into the backlog.
    pub(super) fn append(&self, push: impl FnOnce() -> Pushed) {
        let mut state = self.state();
        let Pushed { rows, end } = push();
        if rows.is_empty() || state.has_failed {
            return;
        }
        state.has_failed = self.try_append(&mut state, &rows, end).is_err();
    }

    fn try_append(&self, state: &mut State, rows: &[PushedRow], end: u64) -> io::Result<()> {
        if state.files.back().is_none_or(|last| last.is_complete) {
            let dir = directory::open(&*self.fs, &self.dir, true)?;
            state.files.push_back(JournalFile::create(dir)?);
        }
        let entries: Vec<u8> = rows.iter().flat_map(entry).collect();
        let last = state.files.back_mut().expect("one was added");
        last.end = end;
        last.rows += rows.len();
        let written = last.file.write_all(&entries);
        last.is_complete = written.is_err() || last.rows >= FILE_ROWS;
        written
    }

    /// Removes the files of which all rows are settled.
    pub(super) fn settle(&self, settled_rows: u64) {
        let mut state = self.state();
        let is_settled = |file: &&JournalFile| file.end <= settled_rows;
        let count = state.files.iter().take_while(is_settled).count();
        for file in state.files.drain(..count) {
            // Where it cannot be removed, its rows are found to be there later.
            let _ = remove_if_present(&*file.dir, &file.name);
        }
        state.has_failed &= !state.files.is_empty();
    }

    /// Takes over the files of processes that are gone: their rows are passed to `push`.
    pub(super) fn take_over(&self, push: impl Fn(Vec<PushedRow>) -> Pushed) {
        let Ok(dir) = directory::open(&*self.fs, &self.dir, false) else {
            return;
        };
        for name in file_names(&*dir, is_journal).unwrap_or_default() {
            let Some((file, rows)) = abandoned(&*dir, &name) else {
                continue;
            };
            let mut state = self.state();
            let end = push(rows).end;
            state.files.push_back(JournalFile {
                dir: dir.clone(),
                name,
                file,
                rows: 0,
                end,
                is_complete: true,
            });
        }
    }
}

impl JournalFile {
    /// Makes a file that has its name once it is locked: others take over one that is not.
    fn create(dir: Arc<dyn Directory>) -> io::Result<JournalFile> {
        let (temp, file) = TempFile::create(dir.clone())?;
        if !temp.is_locked() {
            return Err(io::ErrorKind::Unsupported.into());
        }
        let name = temp.unique_name().replace(SUFFIX, JOURNAL_SUFFIX);
        temp.publish(&name)?;
        Ok(JournalFile {
            dir,
            name,
            file,
            rows: 0,
            end: 0,
            is_complete: false,
        })
    }
}

/// The file of a process that is gone, locked, and its rows.
fn abandoned(dir: &dyn Directory, name: &str) -> Option<(Box<dyn File>, Vec<PushedRow>)> {
    let file = dir.open(name.as_ref()).ok()?;
    match file.try_lock() {
        Ok(is_free) => is_free.then_some(())?,
        // NFS does not lock files that are open for reading. If two take one over, some rows are put twice.
        Err(_) => (!file.is_locked().ok()?).then_some(())?,
    }
    // Another process may have settled its rows, and have removed it, in between.
    dir.stat(name.as_ref()).ok()?;
    let len = file.metadata().ok()?.len.min(MAX_BYTES);
    let mut bytes = vec![0; len as usize];
    read_exact(&*file, &mut bytes, 0).ok()?;
    // The last entry may be cut.
    let entries = bytes.as_chunks::<ENTRY_LEN>().0;
    Some((file, entries.iter().filter_map(parse).collect()))
}

fn checksum(entry: &[u8]) -> u32 {
    XxHash3_64::oneshot(entry) as u32
}

fn entry(row: &PushedRow) -> [u8; ENTRY_LEN] {
    let mut entry = [0; ENTRY_LEN];
    entry[..32].copy_from_slice(&row.key);
    entry[32..36].copy_from_slice(&row.stored_len.to_le_bytes());
    entry[36] = u8::from(row.replaces);
    let sum = checksum(&entry[..SUM_AT]);
    entry[SUM_AT..].copy_from_slice(&sum.to_le_bytes());
    entry
}

fn parse(entry: &[u8; ENTRY_LEN]) -> Option<PushedRow> {
    let (key, rest) = entry.split_first_chunk()?;
    let (len, rest) = rest.split_first_chunk()?;
    let ([replaces], sum) = rest.split_first_chunk()?;
    let is_sound = checksum(&entry[..SUM_AT]).to_le_bytes() == sum;
    is_sound.then_some(PushedRow {
        key: *key,
        stored_len: u32::from_le_bytes(*len),
        replaces: *replaces != 0,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn entries_are_read_as_they_are_written_and_damaged_ones_are_not() {
        for replaces in [false, true] {
            let row = PushedRow {
                key: *blake3::hash(b"row").as_bytes(),
                stored_len: 77,
                replaces,
            };
            let sound = entry(&row);
            assert_eq!(parse(&sound), Some(row));
            for at in 0..ENTRY_LEN {
                let mut damaged = sound;
                damaged[at] ^= 1;
                assert_eq!(parse(&damaged), None, "byte {at}");
            }
        }
        assert_eq!(parse(&[0; ENTRY_LEN]), None);
    }
}
