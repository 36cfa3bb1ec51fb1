//! Faults of the disk, which make rows misses. Each is counted, and the first of each kind is logged.

use std::fmt::{self, Display};
use std::io;
use std::path::Path;
use std::sync::atomic::{AtomicU64, Ordering};

use crate::events;

macro_rules! faults {
    ($($(#[doc = $doc:literal])+ $kind:ident = $name:literal,)*) => {
        /// A kind of disk fault. Its rows are misses; callers get no error.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
        #[non_exhaustive]
        pub enum Fault {
            $($(#[doc = $doc])+ $kind,)*
        }

        impl Fault {
            /// Every kind, in a fixed order.
            pub const ALL: &[Fault] = &[$(Fault::$kind),*];

            /// A short name, for tables and logs.
            pub fn name(self) -> &'static str {
                match self { $(Fault::$kind => $name,)* }
            }
        }
    };
}

faults! {
    /// A file or directory could not be read.
    Read = "read error",
    /// A file or directory could not be written, for another reason than space.
    Write = "write error",
    /// The disk, the quota or the file-size limit is exhausted.
    NoSpace = "no space",
    /// A checksum is wrong, or a segment contradicts itself.
    Corrupt = "corrupt",
    /// A segment is shorter than it was written.
    Truncated = "truncated",
    /// A newer version wrote the segment in a format that this build does not know.
    FutureVersion = "future version",
    /// Another program removed a segment, and its rows are in no other.
    Vanished = "vanished",
    /// Other users may have written a segment: one of them owns it, or all may write to it.
    PermissionRejected = "permission rejected",
    /// The disk made no progress for the stall timeout.
    Stalled = "stalled",
    /// The flusher thread panicked: a bug of this crate.
    Panic = "panic",
}

impl Fault {
    /// The kind of fault of a failed write.
    pub(crate) fn from_write_error(error: &io::Error) -> Fault {
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

/// How often each kind of fault occurred.
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
    /// How often this kind occurred.
    pub fn get(&self, fault: Fault) -> u64 {
        self.0[fault as usize]
    }

    /// How many faults occurred in all.
    pub fn total(&self) -> u64 {
        self.0.iter().sum()
    }

    /// The faults that were counted after `before`, an earlier state of the same counts.
    pub fn since(&self, before: &FaultCounts) -> FaultCounts {
        FaultCounts(std::array::from_fn(|i| {
            self.0[i].saturating_sub(before.0[i])
        }))
    }

    /// Every kind with its count.
    pub fn iter(&self) -> impl Iterator<Item = (Fault, u64)> + '_ {
        Fault::ALL.iter().map(|fault| (*fault, self.get(*fault)))
    }
}

/// Counts the faults of one store, and logs the first of each kind.
#[derive(Debug, Default)]
pub(crate) struct FaultLog([AtomicU64; Fault::ALL.len()]);

impl FaultLog {
    /// Counts one fault at `path`.
    pub(crate) fn note(&self, fault: Fault, path: &Path, reason: impl Display) {
        if self.0[fault as usize].fetch_add(1, Ordering::Relaxed) == 0 {
            let (path, reason) = (path.to_owned(), reason.to_string());
            events::emit(move || {
                tracing::warn!(
                    fault = fault.name(),
                    path = %path.display(),
                    count = 1,
                    "cache fault, handled as a miss: {reason}; further faults of this kind are only counted"
                );
            });
        }
    }

    /// Logs how often each kind occurred, if more than once. Called when the store is closed.
    pub(crate) fn log_totals(&self, dir: &Path) {
        for (fault, count) in self.counts().iter().filter(|(_, count)| *count > 1) {
            let dir = dir.to_owned();
            events::emit(move || {
                tracing::warn!(fault = fault.name(), dir = %dir.display(), count, "total cache faults");
            });
        }
    }

    pub(crate) fn counts(&self) -> FaultCounts {
        FaultCounts(std::array::from_fn(|i| self.0[i].load(Ordering::Relaxed)))
    }
}
