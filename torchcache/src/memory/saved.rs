//! [`SavedRows`]: which rows of the memory tier were given to the disk tier.

use std::path::{Path, PathBuf};

/// When a row entered the memory tier: a number that grows with each change of the disk tier.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct SavedAt(u32);

/// The disk tier that rows are given to, as far as it matters whether a row is there.
#[derive(Debug, Default)]
pub(crate) struct SavedRows {
    directory: Option<PathBuf>,
    /// How many rows the disk tier had lost.
    lost: u64,
    now: u32,
    /// Earlier rows were not given to this directory.
    directory_since: u32,
    /// Earlier rows belong to another module hash.
    hash_since: u32,
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
        SavedAt(self.now)
    }

    /// Any row may be missing on disk: the next flush looks.
    pub(crate) fn doubt(&mut self) {
        self.now += 1;
    }

    /// The tier is used for another module hash from now on.
    pub(crate) fn begin_hash(&mut self) {
        self.doubt();
        self.hash_since = self.now;
    }

    /// Whether there is a directory that a row of this module hash was not given to.
    pub(crate) fn is_older(&self, saved: SavedAt) -> bool {
        (self.hash_since..self.directory_since).contains(&saved.0)
    }

    /// Whether a row of this module hash may be missing on disk.
    pub(crate) fn is_doubtful(&self, saved: SavedAt) -> bool {
        (self.hash_since..self.now).contains(&saved.0)
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
        let before = mark(&mut saved, FIRST);
        saved.begin_hash();
        mark(&mut saved, Some(("second", 0)));
        assert!(!saved.is_older(before) && !saved.is_doubtful(before));
    }
}
