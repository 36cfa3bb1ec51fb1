//! What can go wrong, and the rule for it: a fault is a miss that is counted, and told once
//! for each kind. Misuse by the caller is the only thing that is an error.

use std::fmt::{self, Display};
use std::io;
use std::path::Path;
use std::sync::atomic::{AtomicU64, Ordering};

/// A kind of trouble with the disk. None of them reaches the caller as an error.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Fault {
    /// The operating system failed to read.
    Read,
    /// The operating system failed to write, for another reason than space.
    Write,
    /// The disk, the quota or the file-size limit is exhausted.
    NoSpace,
    /// Bytes are not what their checksum says, or a segment contradicts itself.
    Corrupt,
    /// A segment is shorter than it was written.
    Truncated,
    /// A segment is of a format version that this build does not know.
    FutureVersion,
    /// A segment was removed by another program, and its rows are nowhere else.
    Vanished,
    /// A segment belongs to somebody else, or everybody may write to it.
    Untrusted,
    /// The disk did not answer for so long that rows were given up.
    Stalled,
    /// The writer thread panicked over some rows: a bug of this crate.
    Panic,
}

impl Fault {
    /// Every kind, in the order in which they are counted and shown.
    pub const ALL: [Fault; 10] = [
        Fault::Read,
        Fault::Write,
        Fault::NoSpace,
        Fault::Corrupt,
        Fault::Truncated,
        Fault::FutureVersion,
        Fault::Vanished,
        Fault::Untrusted,
        Fault::Stalled,
        Fault::Panic,
    ];

    /// A short name for tables and logs.
    pub fn name(self) -> &'static str {
        match self {
            Fault::Read => "read error",
            Fault::Write => "write error",
            Fault::NoSpace => "no space",
            Fault::Corrupt => "corrupt",
            Fault::Truncated => "truncated",
            Fault::FutureVersion => "future version",
            Fault::Vanished => "vanished",
            Fault::Untrusted => "not trusted",
            Fault::Stalled => "stalled",
            Fault::Panic => "panic",
        }
    }

    /// The kind of fault that a failed write is.
    pub(crate) fn of_write(error: &io::Error) -> Fault {
        match error.kind() {
            io::ErrorKind::StorageFull
            | io::ErrorKind::QuotaExceeded
            | io::ErrorKind::FileTooLarge => Fault::NoSpace,
            _ => Fault::Write,
        }
    }
}

impl Display for Fault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// How often each kind of fault was met.
///
/// ```
/// use torchcache_store::{Fault, FaultCounts};
/// let none = FaultCounts::default();
/// assert_eq!(none.get(Fault::Corrupt), 0);
/// assert_eq!(none.total(), 0);
/// ```
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct FaultCounts([u64; Fault::ALL.len()]);

impl FaultCounts {
    /// How often this kind was met.
    pub fn get(&self, fault: Fault) -> u64 {
        self.0[fault as usize]
    }

    /// How many faults there were in all.
    pub fn total(&self) -> u64 {
        self.0.iter().sum()
    }

    /// Every kind with its count, those never met included.
    pub fn iter(&self) -> impl Iterator<Item = (Fault, u64)> + '_ {
        Fault::ALL.into_iter().map(|fault| (fault, self.get(fault)))
    }
}

/// Counts the faults of one store and warns of the first of each kind.
#[derive(Debug, Default)]
pub(crate) struct FaultLog([AtomicU64; Fault::ALL.len()]);

impl FaultLog {
    /// Counts one fault at `path`.
    pub(crate) fn note(&self, fault: Fault, path: &Path, reason: impl Display) {
        if self.0[fault as usize].fetch_add(1, Ordering::Relaxed) == 0 {
            tracing::warn!(
                fault = fault.name(),
                path = %path.display(),
                count = 1,
                "cache fault, taken as a miss: {reason}; further faults of this kind are only counted"
            );
        }
    }

    /// Warns once more of the kinds met more than once, with their counts: the store is closed.
    pub(crate) fn tell_totals(&self, dir: &Path) {
        for (fault, count) in self.counts().iter().filter(|(_, count)| *count > 1) {
            tracing::warn!(fault = fault.name(), dir = %dir.display(), count, "cache faults in all");
        }
    }

    pub(crate) fn counts(&self) -> FaultCounts {
        FaultCounts(std::array::from_fn(|i| self.0[i].load(Ordering::Relaxed)))
    }
}
