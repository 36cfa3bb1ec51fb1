//! What must hold in between: the rows that a process finds, its counters, and its files.

use std::path::{Path, PathBuf};

use torchcache_store::{Fault, StoreStats};

use super::input::Rules;
use super::model::located;
use super::world::{DIR, Process, World};

impl World {
    /// Whether nothing happens except what one caller asks for, so that everything is known.
    pub(super) fn is_exact(&self) -> bool {
        let Rules {
            is_shared,
            is_limited,
            is_damaged,
            is_failing,
        } = self.rules;
        !(is_shared || is_limited || is_damaged || is_failing)
    }

    /// Every row is right, and those that must be there are.
    pub(super) fn check_rows(&self, one: usize, numbers: impl Iterator<Item = usize> + Clone) {
        let process = &self.processes[one];
        let Some(store) = &process.store else { return };
        let mut there = self.values.read_checked(store, numbers.clone());
        if self.rules.is_shared {
            // Where a row went from one file to another between being found and being read, and is
            // there with a value of another process, of another length, it is a miss once.
            let missing = |number: &usize| !there.contains(number);
            let again: Vec<usize> = numbers.clone().filter(missing).collect();
            there.extend(self.values.read_checked(store, again.into_iter()));
        }
        if !self.power.is_on() || !process.life.is_sound() {
            return;
        }
        for number in numbers {
            let (is_there, is_known) = (there.contains(&number), process.known.contains(&number));
            assert!(
                is_there || !is_known,
                "row {number} is missing, process {one}"
            );
            assert!(
                !is_there || is_known || !self.is_exact(),
                "row {number} came back"
            );
        }
    }

    /// The counters of a process whose flusher has nothing to do.
    pub(super) fn check_idle(&self, one: usize) {
        let process = &self.processes[one];
        let Some(store) = &process.store else { return };
        let located = located(store) as u64;
        let stats = store.stats();
        if !self.power.is_on() {
            return;
        }
        let pending = (stats.pending_rows, stats.pending_bytes);
        assert_eq!(pending, (0, 0), "{stats:?}");
        assert_eq!(stats.rows, located, "{stats:?}");
        if process.life.is_sound() {
            assert_eq!(stats.lost_rows, 0, "{stats:?}");
            // What another process clears or evicts is gone.
            let vanished = match self.rules.is_shared {
                true => stats.faults.get(Fault::Vanished),
                false => 0,
            };
            if !self.rules.is_damaged {
                assert_eq!(stats.faults.total(), vanished, "{stats:?}");
            }
        }
        if !self.rules.is_limited {
            let gone = stats.evicted_rows + stats.refused_rows;
            assert_eq!(gone, 0, "{stats:?}");
        }
        if self.is_exact() {
            assert_eq!(stats.rows, process.known.len() as u64, "{stats:?}");
            let stored = process.count.unwrap_or(stats.stored_rows);
            assert_eq!(stats.stored_rows, stored, "{stats:?}");
        }
        // Another process may have another limit.
        let is_alone = !self.rules.is_shared;
        if self.rules.is_limited && is_alone && process.life.is_sound() {
            let config = store.config();
            let (_, bytes) = self.segments_and_bytes();
            assert!(bytes <= config.max_bytes, "{bytes}: {config:?} {stats:?}");
        }
    }

    /// The counters agree with the files.
    pub(super) fn check_files(&self, one: usize) {
        let Process { store, taken, .. } = &self.processes[one];
        // Otherwise its flusher may be writing.
        let Some(store) = store.as_ref().filter(|_| taken.is_empty()) else {
            return;
        };
        let StoreStats {
            segments, bytes, ..
        } = store.stats();
        if self.power.is_on() {
            assert_eq!((segments, bytes), self.segments_and_bytes());
        }
    }

    fn segments_and_bytes(&self) -> (u64, u64) {
        let lengths = self
            .segments()
            .into_iter()
            .map(|path| self.sim.bytes(&path).len() as u64);
        (lengths.len() as u64, lengths.sum())
    }

    /// The segments in the directory.
    pub(super) fn segments(&self) -> Vec<PathBuf> {
        let mut files = self.sim.files(Path::new(DIR));
        files.retain(|path| !path.to_string_lossy().contains(".tmp-"));
        files
    }
}
