//! What is measured on each workload, and the best of several rounds.

use std::collections::BTreeMap;

use serde::Deserialize;

/// A way of serving rows, which is timed or counted on each side. The peer's answers have these names.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Served {
    /// The function itself, without a cache.
    Forward,
    /// Every row from memory.
    MemoryHit,
    /// The same with ids in place of hashed content; the peer has none.
    MemoryHitById,
    /// A fresh cache on a full directory: every row from disk, and into memory.
    DiskHit,
    /// The same, compressed.
    DiskHitZstd,
    /// With no room in memory: every row from disk at every call.
    DiskOnly,
    /// The first pass, stored in memory.
    MissMemory,
    /// The first pass, stored in memory and on disk.
    MissDisk,
    /// The same, until everything is written.
    MissWritten,
    /// The first pass, stored in memory and compressed on disk.
    MissDiskZstd,
    /// Bytes of all files per row.
    RowBytes,
    /// The same, compressed.
    RowBytesZstd,
}

use Served::*;

/// The rows of the tables.
pub const SHOWN: [Served; 11] = [
    MemoryHit,
    MemoryHitById,
    DiskHit,
    DiskHitZstd,
    DiskOnly,
    MissMemory,
    MissDisk,
    MissWritten,
    MissDiskZstd,
    RowBytes,
    RowBytesZstd,
];

impl Served {
    /// The name in tables.
    pub fn title(self) -> &'static str {
        match self {
            Forward => "forward",
            MemoryHit => "memory hit",
            MemoryHitById => "memory hit, by id",
            DiskHit => "disk hit",
            DiskHitZstd => "disk hit, zstd",
            DiskOnly => "disk hit, no room in memory",
            MissMemory => "cold pass, memory",
            MissDisk => "cold pass, persistent",
            MissWritten => "cold pass, until it is on disk",
            MissDiskZstd => "cold pass, persistent, zstd",
            RowBytes => "bytes a row beyond the data",
            RowBytesZstd => "bytes a row, zstd",
        }
    }

    /// Whether the peer has it.
    pub fn has_peer(self) -> bool {
        self != MemoryHitById
    }

    /// Whether the time of the forward is subtracted.
    pub fn beyond_forward(self) -> bool {
        matches!(self, MissMemory | MissDisk | MissWritten | MissDiskZstd)
    }

    /// Whether it is counted in bytes, not milliseconds.
    pub fn is_bytes(self) -> bool {
        matches!(self, RowBytes | RowBytesZstd)
    }
}

/// The figures of one side for one workload.
#[derive(Debug, Default)]
pub struct Figures {
    rounds: BTreeMap<Served, Vec<f64>>,
}

impl Figures {
    /// Adds the figure of a round.
    pub fn add(&mut self, served: Served, value: f64) {
        self.rounds.entry(served).or_default().push(value);
    }

    /// The smallest of all rounds; for a cold pass, without the forward. `None` if it was not measured.
    pub fn best(&self, served: Served) -> Option<f64> {
        let least = |served| {
            let values: &Vec<f64> = self.rounds.get(&served)?;
            values.iter().copied().reduce(f64::min)
        };
        match served.beyond_forward() {
            true => Some((least(served)? - least(Forward)?).max(0.0)),
            false => least(served),
        }
    }

    /// The slowest round divided by the fastest, as the median over all figures: about 1 on a quiet
    /// machine.
    pub fn spread(&self) -> f64 {
        let slowest_by_fastest = |values: &Vec<f64>| {
            let most = values.iter().copied().fold(0.0, f64::max);
            most / values.iter().copied().fold(f64::INFINITY, f64::min)
        };
        median(self.rounds.values().map(slowest_by_fastest)).unwrap_or(1.0)
    }
}

/// The median; of an even number the greater one of the two in the middle.
pub fn median(figures: impl Iterator<Item = f64>) -> Option<f64> {
    let mut figures: Vec<_> = figures.collect();
    figures.sort_by(f64::total_cmp);
    figures.get(figures.len() / 2).copied()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_best_round_counts_without_the_forward() {
        let mut figures = Figures::default();
        for (forward, miss) in [(1.0, 9.0), (2.0, 7.0)] {
            figures.add(Forward, forward);
            figures.add(MissDisk, miss);
        }
        assert_eq!(figures.best(MissDisk), Some(6.0));
        assert_eq!(figures.best(Forward), Some(1.0));
        assert_eq!(figures.best(MemoryHit), None);
    }

    #[test]
    fn the_spread_is_the_slowest_round_by_the_fastest() {
        let mut figures = Figures::default();
        assert_eq!(figures.spread(), 1.0);
        figures.add(MemoryHit, 2.0);
        figures.add(MemoryHit, 3.0);
        assert_eq!(figures.spread(), 1.5);
    }

    #[test]
    fn every_figure_has_a_unique_title() {
        let titles: std::collections::BTreeSet<_> = SHOWN.map(Served::title).into();
        assert_eq!(titles.len(), SHOWN.len());
    }
}
