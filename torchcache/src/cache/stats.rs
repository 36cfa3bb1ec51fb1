//! What a cache did and holds: the counters of a handle, and the statistics made from them.

use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::time::{Duration, Instant};

use torchcache_store::remote::{self, BreakerState, ObjectErrorKind};
use torchcache_store::remote_tier::RemoteTier;
use torchcache_store::{FaultCounts, Store};

use super::tiers::Tiers;

/// Declares statistics, and the atomic counters that the `counted` ones are read from. `reported`
/// ones are sums that the tiers count, `held` ones are what the tiers hold now, and `shown` ones are no numbers.
macro_rules! stats {
    (
        $(#[$meta:meta])*
        $stats:ident, $counters:ident: $unit:ty {
            $(counted { $($(#[$counted_doc:meta])* $counted:ident,)* })?
            $(reported { $($(#[$reported_doc:meta])* $reported:ident: $reported_type:ty,)* })?
            $(held { $($(#[$held_doc:meta])* $held:ident,)* })?
            $(shown { $($(#[$shown_doc:meta])* $shown:ident: $shown_type:ty,)* })?
            $(nested {
                $($(#[$nested_doc:meta])* $nested:ident: $nested_stats:ty, $nested_counters:ty;)*
            })?
        }
    ) => {
        $(#[$meta])*
        #[derive(Debug, Clone, Default, PartialEq)]
        #[non_exhaustive]
        pub struct $stats {
            $($($(#[$counted_doc])* pub $counted: $unit,)*)?
            $($($(#[$reported_doc])* pub $reported: $reported_type,)*)?
            $($($(#[$held_doc])* pub $held: $unit,)*)?
            $($($(#[$shown_doc])* pub $shown: $shown_type,)*)?
            $($($(#[$nested_doc])* pub $nested: $nested_stats,)*)?
        }

        #[derive(Debug)]
        pub(crate) struct $counters {
            $($(pub(crate) $counted: AtomicU64,)*)?
            $($(pub(crate) $nested: $nested_counters,)*)?
        }

        impl $counters {
            pub(crate) const fn new() -> Self {
                $counters {
                    $($($counted: AtomicU64::new(0),)*)?
                    $($($nested: <$nested_counters>::new(),)*)?
                }
            }

            pub(crate) fn snapshot(&self) -> $stats {
                $stats {
                    $($($counted: Unit::counted(self.$counted.load(Relaxed)),)*)?
                    $($($nested: self.$nested.snapshot(),)*)?
                    ..Default::default()
                }
            }
        }

        impl Plus for $stats {
            fn plus(&mut self, other: &Self) {
                $($(self.$counted.plus(&other.$counted);)*)?
                $($(self.$nested.plus(&other.$nested);)*)?
            }
        }

        impl Since for $stats {
            fn since(&self, before: &Self) -> Self {
                $stats {
                    $($($counted: self.$counted.since(&before.$counted),)*)?
                    $($($reported: self.$reported.since(&before.$reported),)*)?
                    $($($held: self.$held,)*)?
                    $($($shown: self.$shown,)*)?
                    $($($nested: self.$nested.since(&before.$nested),)*)?
                }
            }
        }
    };
}

stats! {
    /// What a cache did and holds. Printed with `{}` it is a table.
    Stats, Counters: u64 {
        counted {
            /// Calls of the cached function while the cache was enabled.
            calls,
            /// Calls that bypassed the cache: training, gradients, unsupported layouts, no rows, a forward that
            /// failed on a part of its batch. Also calls during which the module changed: their rows are counted
            /// and not kept.
            bypassed,
            /// Rows in the calls that were looked up.
            rows,
            /// Rows that were computed.
            misses,
            /// Rows that occurred earlier in their batch.
            duplicates,
            /// Rows that another call computed at the same time, which this one waited for: see
            /// [`Options::single_flight_timeout`](crate::Options::single_flight_timeout).
            awaited,
            /// Computed rows that were given to the tiers.
            stored,
            /// Rows that were given to the tiers by [`import`](crate::TorchCache::import).
            imported,
            /// Rows that [`read_ahead`](crate::TorchCache::read_ahead) brought from the disk or the remote into memory.
            read_ahead,
            /// Hits that were computed again: see [`Options::verify`](crate::Options::verify).
            verified,
            /// Verified rows that disagreed with the cached ones.
            mismatched,
        }
        held {
            /// Rows of the disk tier that wait to be written, for about a second. They are among those of
            /// [`disk`](Self::disk), and one that is being written may count there twice for a moment.
            queued,
        }
        nested {
            /// The memory tier.
            memory: TierStats, TierCounters;
            /// The disk tier.
            disk: TierStats, TierCounters;
            /// The remote tier.
            remote: RemoteStats, RemoteCounters;
            /// The time spent in each stage of a call.
            time: TimeStats, TimeCounters;
            /// The faults that were taken as misses.
            faults: FaultStats, FaultCounters;
        }
    }
}

stats! {
    /// What one tier did and holds. For the disk tier, rows queued to be written are included, and
    /// other processes are only as far as this one knows.
    TierStats, TierCounters: u64 {
        counted {
            /// Rows found in this tier.
            hits,
        }
        reported {
            /// Rows removed to make room, by this process.
            evicted: u64,
            /// Rows that were not admitted, by this process: they did not fit, or the tier was full
            /// and its [`Eviction`](crate::Eviction) kept the rows that it had.
            refused: u64,
        }
        held {
            /// Rows in this tier now.
            rows,
            /// Bytes in use now; in memory, keys and bookkeeping included.
            bytes,
        }
    }
}

stats! {
    /// What the [remote tier](crate::Options::remote) of this process did. Requests are what an object store bills.
    RemoteStats, RemoteCounters: u64 {
        counted {
            /// Rows found in it.
            hits,
            /// Rows that it has and that were computed, since the forward takes clearly less time.
            skipped,
        }
        reported {
            /// Requests that list objects, a page each.
            lists: u64,
            /// Requests that read an object or a part of one.
            gets: u64,
            /// Requests that put an object.
            puts: u64,
            /// Bytes of objects that were received.
            bytes_in: u64,
            /// Bytes of objects that were put.
            bytes_out: u64,
            /// Rows that were uploaded.
            uploaded: u64,
            /// Computed rows that it had already.
            present: u64,
            /// Computed rows that were not uploaded: too many were pending, or the disk did not keep them for so long.
            dropped: u64,
        }
        held {
            /// Computed rows that are not uploaded yet.
            pending,
            /// Rows that it is known to have.
            rows,
        }
        shown {
            /// Whether requests are made.
            state: RemoteState,
        }
    }
}

stats! {
    /// The time spent in each stage of a call.
    TimeStats, TimeCounters: Duration {
        counted {
            /// Comparing weights, fields and options with those of the module hash.
            watching,
            /// Computing the module hash, which reads every weight, and opening its tiers: at the first
            /// call, at a change, and when a module is wrapped in a [`Cached`](crate::Cached).
            attaching,
            /// Making keys.
            hashing,
            /// Looking up rows and copying hits.
            loading,
            /// Waiting for rows of the remote.
            fetching,
            /// In the forward. Where it queues work on a GPU, until that is queued: the call returns before it is done.
            forward,
            /// Giving computed rows to the tiers.
            storing,
            /// Waiting for rows that other calls compute.
            waiting,
            /// Computing hits again to verify them, and comparing.
            verifying,
        }
    }
}

stats! {
    /// The faults that were taken as misses, by kind.
    FaultStats, FaultCounters: u64 {
        counted {
            /// Rows could not be kept in memory or copied from it.
            memory,
            /// Rows in the cache could not be read by this version.
            layout,
            /// Arguments could not be hashed.
            hashing,
            /// The disk tier could not be opened.
            open,
        }
        reported {
            /// Faults of the disk tier.
            disk: FaultCounts,
            /// Requests to the remote that failed.
            remote: u64,
            /// Rows and row tables of the remote that are not as they were written.
            remote_corrupt: u64,
        }
    }
}

/// Whether requests are made to the remote tier.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
#[non_exhaustive]
pub enum RemoteState {
    /// The cache has no remote tier.
    #[default]
    Absent,
    /// They are.
    On,
    /// They are not, since the last ones failed. The background makes one from time to time, to see whether the others
    /// can be made again.
    Off,
}

/// Where the rows of one call came from.
#[derive(Debug, Clone, Copy)]
pub(crate) struct RowCounts {
    pub(crate) rows: usize,
    pub(crate) memory: usize,
    pub(crate) disk: usize,
    pub(crate) remote: usize,
    /// Rows with the key of an earlier row of the call.
    pub(crate) duplicates: usize,
    /// Rows that other calls computed meanwhile.
    pub(crate) awaited: usize,
    pub(crate) computed: usize,
}

/// The sum of what was counted. What the tiers report and hold is not counted by functions.
trait Plus {
    fn plus(&mut self, other: &Self);
}

impl Plus for u64 {
    fn plus(&mut self, other: &Self) {
        *self += other;
    }
}

impl Plus for Duration {
    fn plus(&mut self, other: &Self) {
        *self += *other;
    }
}

/// The difference between two snapshots.
trait Since {
    fn since(&self, before: &Self) -> Self;
}

impl Since for u64 {
    fn since(&self, before: &Self) -> Self {
        self.saturating_sub(*before)
    }
}

impl Since for Duration {
    fn since(&self, before: &Self) -> Self {
        self.saturating_sub(*before)
    }
}

impl Since for FaultCounts {
    fn since(&self, before: &Self) -> Self {
        FaultCounts::since(self, before)
    }
}

/// What a counter counts.
trait Unit {
    fn counted(count: u64) -> Self;
}

impl Unit for u64 {
    fn counted(count: u64) -> Self {
        count
    }
}

impl Unit for Duration {
    fn counted(count: u64) -> Self {
        Duration::from_nanos(count)
    }
}

impl Stats {
    /// Rows that did not have to be computed.
    pub fn hits(&self) -> u64 {
        self.memory.hits + self.disk.hits + self.remote.hits + self.duplicates + self.awaited
    }

    /// An estimate of the time saved: the time that the hits would have taken at the mean speed of
    /// the computed rows, less the time spent in the cache. Zero where the cache cost more than it
    /// saved; `None` where no row was computed to estimate from.
    pub fn time_saved(&self) -> Option<Duration> {
        if self.misses == 0 {
            return None;
        }
        let time = &self.time;
        let spared = time.forward.as_secs_f64() / self.misses as f64 * self.hits() as f64;
        let idle = time.watching + time.attaching + time.waiting;
        let loading = time.loading + time.fetching;
        let spent = idle + time.hashing + loading + time.storing + time.verifying;
        Some(Duration::from_secs_f64(
            (spared - spent.as_secs_f64()).max(0.0),
        ))
    }

    /// What was done after `before`, an earlier snapshot of the same cache. The rows and bytes that
    /// the tiers hold are those of `self`.
    ///
    /// ```
    /// # use tch::Tensor;
    /// # use torchcache::torchcache;
    /// #[torchcache]
    /// fn double(xs: &Tensor) -> Tensor {
    ///     xs * 2
    /// }
    ///
    /// let xs = Tensor::from_slice(&[1i64, 2, 3]);
    /// double(&xs);
    /// let before = double_cache().stats();
    /// double(&xs);
    /// let epoch = double_cache().stats().since(&before);
    /// assert_eq!((epoch.memory.hits, epoch.misses), (3, 0));
    /// ```
    pub fn since(&self, before: &Stats) -> Stats {
        Since::since(self, before)
    }

    /// Adds what `counters` have counted.
    pub(crate) fn add_counted(&mut self, counters: &Counters) {
        self.plus(&counters.snapshot());
    }

    pub(crate) fn add_tiers(&mut self, tiers: &Tiers) {
        let memory = tiers.memory().usage();
        (self.memory.rows, self.memory.bytes) = (memory.rows, memory.bytes);
        (self.memory.evicted, self.memory.refused) = (memory.evicted, memory.refused);
        if let Some(disk) = tiers.store.as_ref().map(Store::stats) {
            self.queued = disk.pending_rows;
            self.disk.rows = disk.rows + disk.pending_rows;
            self.disk.bytes = disk.bytes + disk.pending_bytes;
            (self.disk.evicted, self.disk.refused) = (disk.evicted_rows, disk.refused_rows);
            self.faults.disk = disk.faults;
        }
        if let Some(remote) = tiers.remote.as_ref().map(RemoteTier::stats) {
            self.add_remote(&remote);
        }
    }
}

impl Stats {
    fn add_remote(&mut self, tier: &remote::RemoteStats) {
        let (requests, uploads) = (&tier.requests, &tier.uploads);
        self.remote = RemoteStats {
            lists: requests.lists,
            gets: requests.gets,
            puts: requests.puts,
            bytes_in: requests.bytes_in,
            bytes_out: requests.bytes_out,
            uploaded: uploads.uploaded,
            present: uploads.present,
            dropped: uploads.dropped,
            pending: uploads.pending_rows,
            rows: tier.indexed_rows,
            state: match tier.breaker {
                BreakerState::Closed => RemoteState::On,
                BreakerState::Open | BreakerState::Probing => RemoteState::Off,
            },
            ..self.remote
        };
        let answers = [ObjectErrorKind::NotFound, ObjectErrorKind::AlreadyExists];
        let failures = ObjectErrorKind::ALL.iter();
        let is_failure = |it| it != ObjectErrorKind::NotMade && !answers.contains(&it);
        let failures = failures.filter(|&&it| is_failure(it));
        self.faults.remote = failures.map(|&kind| requests.errors(kind)).sum();
        self.faults.remote_corrupt = tier.corrupt;
    }
}

impl FaultStats {
    /// The number of faults of all kinds.
    pub fn total(&self) -> u64 {
        self.iter().map(|(_, count)| count).sum()
    }

    /// Whether there was no fault.
    pub fn is_empty(&self) -> bool {
        self.iter().next().is_none()
    }

    /// The name and count of each kind of fault that occurred.
    pub fn iter(&self) -> impl Iterator<Item = (&'static str, u64)> + '_ {
        let own = [
            ("memory tier", self.memory),
            ("row layout", self.layout),
            ("hashing", self.hashing),
            ("opening the disk tier", self.open),
            ("requests to the remote", self.remote),
            ("corruption in the remote", self.remote_corrupt),
        ];
        let disk = self.disk.iter().map(|(fault, count)| (fault.name(), count));
        own.into_iter().chain(disk).filter(|(_, count)| *count > 0)
    }
}

impl Counters {
    pub(crate) fn add(counter: &AtomicU64, amount: usize) {
        counter.fetch_add(amount as u64, Relaxed);
    }

    /// Adds a call's rows.
    pub(crate) fn add_rows(&self, call: RowCounts) {
        for (counter, rows) in [
            (&self.rows, call.rows),
            (&self.memory.hits, call.memory),
            (&self.disk.hits, call.disk),
            (&self.remote.hits, call.remote),
            (&self.duplicates, call.duplicates),
            (&self.awaited, call.awaited),
            (&self.misses, call.computed),
        ] {
            Counters::add(counter, rows);
        }
    }

    /// Adds the time since `start`.
    pub(crate) fn time(counter: &AtomicU64, start: Instant) {
        counter.fetch_add(start.elapsed().as_nanos() as u64, Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn time_saved_is_the_time_of_the_hits_less_the_overhead() {
        let counters = Counters::new();
        assert_eq!(counters.snapshot().time_saved(), None);
        Counters::add(&counters.misses, 10);
        Counters::add(&counters.memory.hits, 30);
        Counters::add(&counters.time.forward, 1_000_000_000);
        Counters::add(&counters.time.hashing, 500_000_000);
        assert_eq!(
            counters.snapshot().time_saved(),
            Some(Duration::from_millis(2500))
        );
        Counters::add(&counters.time.hashing, 10_000_000_000);
        assert_eq!(counters.snapshot().time_saved(), Some(Duration::ZERO));
    }

    #[test]
    fn since_subtracts_counts_and_keeps_what_is_held() {
        let counters = Counters::new();
        Counters::add(&counters.misses, 3);
        Counters::add(&counters.faults.memory, 1);
        let mut before = counters.snapshot();
        Counters::add(&counters.misses, 2);
        Counters::add(&counters.time.forward, 500);
        Counters::add(&counters.faults.hashing, 4);
        let mut after = counters.snapshot();
        (before.memory.rows, after.memory.rows) = (10, 7);
        (before.disk.evicted, after.disk.evicted) = (10, 11);
        let since = after.since(&before);
        assert_eq!((since.misses, since.memory.rows), (2, 7));
        assert_eq!((since.disk.evicted, since.disk.refused), (1, 0));
        assert_eq!(since.time.forward, Duration::from_nanos(500));
        assert_eq!(since.faults.iter().collect::<Vec<_>>(), [("hashing", 4)]);
        assert_eq!(after.since(&after).faults.total(), 0);
    }
}
