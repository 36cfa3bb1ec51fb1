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
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct ShortHash(u32);

impl ShortHash {
    pub(crate) fn of(hash: &str) -> Self {
        ShortHash(XxHash3_64::oneshot(hash.as_bytes()) as u32)
    }
}

/// The disk tier that rows are given to, as far as it matters whether a row is there.
#[derive(Debug, Default)]
pub(crate) struct SavedRows {
    directory: Option<PathBuf>,
    /// How many rows the disk tier had lost.
    lost: u64,
    now: u32,
    /// Rows were not given to this directory before, or not since another one was used.
    directory_since: u32,
}

impl SavedRows {
    /// The mark of rows of a module hash that are given to the disk tier now: its directory, and how many rows
    /// it lost.
    pub(crate) fn mark(&mut self, hash: ShortHash, disk: Option<(&Path, u64)>) -> SavedAt {
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
        let change = self.now;
        SavedAt { change, hash }
    }

    /// Any row may be missing on disk: the next flush looks.
    pub(crate) fn doubt(&mut self) {
        self.now += 1;
    }

    /// Whether there is a directory that a row of its module hash may not have been given to.
    pub(crate) fn is_older(&self, saved: SavedAt) -> bool {
        saved.change < self.directory_since
    }

    /// Whether a row is one of a module hash and may be missing in its directory.
    pub(crate) fn is_doubtful(&self, hash: ShortHash, saved: SavedAt) -> bool {
        saved.hash == hash && saved.change < self.now
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const HASH: ShortHash = ShortHash(1);
    const FIRST: Option<(&str, u64)> = Some(("first", 0));

    fn mark_as(saved: &mut SavedRows, hash: ShortHash, disk: Option<(&str, u64)>) -> SavedAt {
        saved.mark(
            hash,
            disk.map(|(directory, lost)| (Path::new(directory), lost)),
        )
    }

    fn mark(saved: &mut SavedRows, disk: Option<(&str, u64)>) -> SavedAt {
        mark_as(saved, HASH, disk)
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
        assert!(!saved.is_doubtful(HASH, before));
        let after = mark(&mut saved, Some(("first", 3)));
        assert!(saved.is_doubtful(HASH, before) && !saved.is_doubtful(HASH, after));
        assert!(!saved.is_older(before), "it is not known to be lost");
    }

    #[test]
    fn rows_of_a_module_hash_that_returns_are_doubtful() {
        let (mut saved, other) = (SavedRows::default(), ShortHash(2));
        let before = mark(&mut saved, FIRST);
        let others = mark_as(&mut saved, other, Some(("second", 0)));
        assert!(!saved.is_doubtful(other, before), "it is left alone");
        // Threads of both hashes may use the tier at once.
        let again = mark(&mut saved, FIRST);
        assert!(saved.is_doubtful(HASH, before) && saved.is_older(before));
        assert!(saved.is_doubtful(other, others) && !saved.is_doubtful(HASH, others));
        assert!(!saved.is_doubtful(HASH, again) && !saved.is_older(again));
    }
}
