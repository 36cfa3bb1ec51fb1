//! The work during which calls fail: everything that a store does with its directory, so that it makes
//! each of its calls.

use std::ffi::OsString;
use std::ops::Range;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use torchcache_faults::rows::{batch, count_right, expect_all, manual_flush, opened, put_flushed};
use torchcache_faults::sim::Sim;
use torchcache_store::fs::FileSystem;
use torchcache_store::{Fault, Store};

/// Short, since they are checked many thousands of times.
pub(super) const LEN: usize = 64;

pub(super) const DIR: &str = "/failing";

/// A directory that does not exist before.
pub(super) const NEW: &str = "/failing/new";

/// Rows that each of two earlier processes wrote. They must not be lost.
pub(super) const OLD: Range<u64> = 1000..1004;

/// A limit below the size of the directory when it is set.
const LIMIT: u64 = 1500;

/// The directory before anything fails: the same rows in two segments, the first of them damaged, and a
/// temporary file of a killed writer.
pub(super) struct Before {
    sim: Sim,
    /// The name of the first segment.
    first: OsString,
}

impl Before {
    pub(super) fn new() -> Before {
        let sim = Sim::new();
        let processes = [(); 2].map(|()| opened(sim.clone(), DIR));
        for process in &processes {
            put_flushed(process, OLD, LEN);
        }
        drop(processes);
        let segments = sim.files(DIR.as_ref());
        assert_eq!(segments.len(), 2, "both wrote them");
        sim.damage(&segments[0], |bytes| bytes[16] ^= 1); // in the first record
        let left = ".tmp-0000000000000001-1-0000000000000001.tcs";
        sim.add(&Path::new(DIR).join(left), vec![0; 100]);
        let dir = sim.open_dir(DIR.as_ref(), false).unwrap();
        let file = dir.open(left.as_ref()).unwrap();
        let an_hour_ago = SystemTime::now() - Duration::from_secs(3600);
        file.set_modified(an_hour_ago).unwrap();
        let first = segments[0].file_name().unwrap_or_default().to_owned();
        Before { sim, first }
    }

    /// A copy for another run.
    pub(super) fn copy(&self) -> Before {
        let (sim, first) = (self.sim.copy(), self.first.clone());
        Before { sim, first }
    }

    pub(super) fn sim(&self) -> &Sim {
        &self.sim
    }

    /// Removes the damaged segment, if it is there.
    pub(super) fn take_first(&self) {
        let dir = self.sim.open_dir(DIR.as_ref(), false);
        let _ = dir.and_then(|dir| dir.remove(&self.first));
    }

    /// The files of a directory that are not complete.
    fn unfinished(&self, dir: &str) -> u64 {
        let files = self.sim.files(dir.as_ref());
        let name = |path: &PathBuf| path.file_name().unwrap_or_default().to_owned();
        let unfinished = |path: &&PathBuf| name(path).as_bytes().starts_with(b".");
        files.iter().filter(unfinished).count() as u64
    }

    /// Bytes of segments.
    fn bytes(&self) -> u64 {
        let files = self.sim.files(DIR.as_ref());
        files
            .iter()
            .map(|file| self.sim.bytes(file).len() as u64)
            .sum()
    }
}

/// The results of a run.
#[derive(Debug, Default)]
pub(super) struct Run {
    /// How many rows were there at each look.
    rows: Vec<u64>,
    /// How many files or bytes were left that should have been removed, at each look.
    left: Vec<u64>,
    /// Faults that were counted or returned, without the damage of before.
    pub(super) counted: u64,
    compacted: u64,
    evicted: u64,
}

impl Run {
    /// Expects that every step was reached and nothing failed.
    pub(super) fn expect_whole(&self) {
        let Run {
            rows,
            left,
            counted,
            compacted,
            evicted,
            ..
        } = self;
        let (compacted, evicted) = (*compacted >= 8, *evicted > 0);
        let all_well = left.iter().all(|left| *left == 0) && *counted == 0;
        assert!(
            all_well && compacted && evicted && rows.iter().all(|rows| *rows > 0),
            "{self:?}"
        );
    }

    /// The costs of a failure: missing rows, or, `with_files`, files that were not removed.
    pub(super) fn costs(&self, untouched: &Run, with_files: bool) -> Option<String> {
        let rows = self
            .rows
            .iter()
            .zip(&untouched.rows)
            .position(|(got, all)| got < all);
        let left = self
            .left
            .iter()
            .zip(&untouched.left)
            .position(|(got, none)| with_files && got > none);
        match (rows, left) {
            _ if self.rows.len() < untouched.rows.len() => Some("a store".into()),
            (Some(place), _) => Some(format!(
                "rows at look {place}: {} of {}",
                self.rows[place], untouched.rows[place]
            )),
            (_, Some(place)) => Some(format!("{} left at place {place}", self.left[place])),
            (None, None) => None,
        }
    }

    fn count_rows(&mut self, store: &Store, numbers: Range<u64>) {
        self.rows.push(count_right(store, numbers, LEN));
    }

    /// Adds the counters of a store at its end.
    fn close(&mut self, store: &Store) {
        let stats = store.stats();
        for (fault, count) in stats.faults.iter().filter(|(_, count)| *count > 0) {
            // The damage of before is counted by the store that reads it first.
            self.counted += if fault == Fault::Corrupt { 0 } else { count };
        }
        self.compacted += stats.compacted_segments;
        self.evicted += stats.evicted_rows;
    }
}

/// Runs everything on a file system whose calls may fail.
///
/// # Panics
/// If flushed rows are missing.
pub(super) fn work(before: &Before, fs: &Arc<dyn FileSystem>) -> Run {
    let mut run = Run::default();
    // Opening may fail with an error, which the caller sees.
    match Store::open_on(fs.clone(), DIR, manual_flush()) {
        Ok(store) => one_directory(before, fs, &mut run, &store),
        Err(_) => run.counted += 1,
    }
    match Store::open_on(fs.clone(), NEW, manual_flush()) {
        Ok(store) => {
            store.put(batch(0..4, LEN));
            let _ = store.flush();
            run.count_rows(&store, 0..4);
            run.close(&store);
        }
        Err(_) => run.counted += 1,
    }
    run.left
        .push(before.unfinished(DIR) + before.unfinished(NEW));
    run
}

fn one_directory(before: &Before, fs: &Arc<dyn FileSystem>, run: &mut Run, store: &Store) {
    // The temporary file of the killed writer is removed.
    run.left.push(before.unfinished(DIR));
    // Another process, which looks later.
    let other = Store::open_on(fs.clone(), DIR, manual_flush());
    // One row is corrupt, and a sound copy is shadowed by it.
    run.count_rows(store, OLD);
    // All rows are shadowed by the removed segment.
    before.take_first();
    store.refresh();
    run.count_rows(store, OLD);

    // Ten small segments, of which eight of about one size are compacted, and reads of all rows.
    let mut flushed = vec![OLD];
    for n in 0..10 {
        let rows = 2 * n..2 * n + 2;
        store.put(batch(rows.clone(), LEN));
        if store.flush().is_ok() {
            flushed.push(rows);
        }
    }
    for mmap in [false, true] {
        store.reconfigure(manual_flush().with_mmap(mmap));
        run.count_rows(store, 0..20);
        run.count_rows(store, OLD);
    }
    match other {
        Ok(other) => {
            other.refresh();
            run.count_rows(&other, 0..20);
            run.count_rows(&other, OLD);
            run.close(&other);
        }
        Err(_) => run.counted += 1,
    }
    // Missing rows are computed and stored again.
    store.put(batch(0..20, LEN));
    let _ = store.flush();
    run.count_rows(store, 0..20);

    // Nothing flushed may be lost so far.
    let sound = opened(before.sim.clone(), DIR);
    for rows in flushed {
        expect_all(&sound, rows, LEN);
    }
    run.close(&sound);
    drop(sound);

    store.reconfigure(manual_flush().with_max_bytes(LIMIT));
    let _ = store.flush();
    run.left.push(before.bytes().saturating_sub(LIMIT));
    store.reconfigure(manual_flush());
    run.count_rows(store, 0..20);
    store.clear();
    run.left.push(before.sim.files(DIR.as_ref()).len() as u64);
    store.put(batch(0..4, LEN));
    let _ = store.flush();
    run.count_rows(store, 0..4);
    run.close(store);
}
