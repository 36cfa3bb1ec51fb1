//! [`SavedRows`]: which rows of the memory tier were given to the disk tier.

use std::path::{Path, PathBuf};

use twox_hash::XxHash3_64;

/// When a row was given to the disk tier.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct SavedAt {
    /// A number that grows with each change of the disk tier.
    change: u32,
    hash: ShortHash,
}

/// 32 bits of a module hash. A row that is taken for one of another module hash is written to a directory
/// where nothing looks for it.
type ShortHash = u32;

/// The disk tier that rows are given to, as far as it matters whether a row is there.
#[derive(Debug, Default)]
pub(crate) struct SavedRows {
    directory: Option<PathBuf>,
    /// How many rows the disk tier had lost.
    lost: u64,
    now: u32,
    /// Rows were not given to this directory before, or not since another one was used.
    directory_since: u32,
    /// Of the module hash that the tiers are used for.
    hash: ShortHash,
}

impl SavedRows {
    /// The mark of rows that are given to the disk tier now: its directory, and how many rows it lost.
    pub(crate) fn mark(&mut self, disk: Option<(&Path, u64)>) -> SavedAt {
        let (directory, lost) = disk.unzip();
        let lost = lost.unwrap_or(self.lost);
        if self.directory.as_deref() != directory {
            self.directory = directory.map(Path::to_owned);
            self.doubt();
            if directory.is_some() {
                self.directory_since = self.now;
            }
        } else if self.lost != lost {
            self.doubt();
        }
        self.lost = lost;
        let (change, hash) = (self.now, self.hash);
        SavedAt { change, hash }
    }

    /// Any row may be missing on disk: the next flush looks.
    pub(crate) fn doubt(&mut self) {
        self.now += 1;
    }

    /// The tiers are used for a module hash from now on. Rows of others stay in memory, and are used again
    /// when their hash returns.
    pub(crate) fn use_hash(&mut self, hash: &str) {
        let hash = XxHash3_64::oneshot(hash.as_bytes()) as ShortHash;
        if self.hash != hash {
            self.hash = hash;
            self.doubt();
        }
    }

    /// Whether there is a directory that a row, which was found under this module hash, may not have been
    /// given to.
    pub(crate) fn is_older(&self, saved: SavedAt) -> bool {
        saved.change < self.directory_since
    }

    /// Whether a row is one of this module hash and may be missing on disk.
    pub(crate) fn is_doubtful(&self, saved: SavedAt) -> bool {
        saved.hash == self.hash && saved.change < self.now
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const FIRST: Option<(&str, u64)> = Some(("first", 0));

    fn mark(saved: &mut SavedRows, disk: Option<(&str, u64)>) -> SavedAt {
        saved.mark(disk.map(|(directory, lost)| (Path::new(directory), lost)))
    }

    #[test]
    fn another_directory_has_none_of_the_rows() {
        let mut saved = SavedRows::default();
        let in_memory = mark(&mut saved, None);
        assert!(!saved.is_older(in_memory), "there is no disk tier");
        let first = mark(&mut saved, FIRST);
        assert!(saved.is_older(in_memory) && !saved.is_older(first));
        let second = mark(&mut saved, Some(("second", 0)));
        assert!(saved.is_older(first) && !saved.is_older(second));
    }

    #[test]
    fn a_loss_makes_every_row_doubtful() {
        let mut saved = SavedRows::default();
        let before = mark(&mut saved, FIRST);
        assert_eq!(mark(&mut saved, FIRST), before);
        assert!(!saved.is_doubtful(before));
        let after = mark(&mut saved, Some(("first", 3)));
        assert!(saved.is_doubtful(before) && !saved.is_doubtful(after));
        assert!(!saved.is_older(before), "it is not known to be lost");
    }

    #[test]
    fn rows_of_another_module_hash_are_left_alone() {
        let mut saved = SavedRows::default();
        saved.use_hash("one");
        let before = mark(&mut saved, FIRST);
        saved.use_hash("two");
        mark(&mut saved, Some(("second", 0)));
        assert!(!saved.is_doubtful(before));
    }

    #[test]
    fn rows_of_a_module_hash_that_returns_are_doubtful() {
        let mut saved = SavedRows::default();
        saved.use_hash("one");
        let before = mark(&mut saved, None);
        saved.use_hash("two");
        saved.use_hash("one");
        assert!(saved.is_doubtful(before) && !saved.is_older(before));
        let after = mark(&mut saved, FIRST);
        assert!(saved.is_doubtful(before) && saved.is_older(before));
        assert!(!saved.is_doubtful(after) && !saved.is_older(after));
        saved.use_hash("one");
        assert!(!saved.is_doubtful(after), "it is the same");
    }
}
