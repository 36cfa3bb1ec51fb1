//! What a cache did and holds: the counters of a handle, and the statistics made from them.

use std::fmt;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::time::{Duration, Instant};

use torchcache_store::size::human;
use torchcache_store::{FaultCounts, Store};

use super::tiers::Tiers;

/// Declares statistics, and the atomic counters that the `counted` ones are read from. `reported`
/// ones are sums that the tiers count, `held` ones are what the tiers hold now.
macro_rules! stats {
    (
        $(#[$meta:meta])*
        $stats:ident, $counters:ident: $unit:ty {
            $(counted { $($(#[$counted_doc:meta])* $counted:ident,)* })?
            $(reported { $($(#[$reported_doc:meta])* $reported:ident: $reported_type:ty,)* })?
            $(held { $($(#[$held_doc:meta])* $held:ident,)* })?
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
            /// Rows that [`read_ahead`](crate::TorchCache::read_ahead) brought from the disk into memory.
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
        }
    }
}

/// Where the rows of one call came from.
#[derive(Debug, Clone, Copy)]
pub(crate) struct RowCounts {
    pub(crate) rows: usize,
    pub(crate) memory: usize,
    pub(crate) disk: usize,
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
        self.memory.hits + self.disk.hits + self.duplicates + self.awaited
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
        let spent = idle + time.hashing + time.loading + time.storing + time.verifying;
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

impl fmt::Display for Stats {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let share = |rows: u64| match self.rows {
            0 => String::new(),
            all => format!("{:5.1} %", rows as f64 / all as f64 * 100.0),
        };
        writeln!(
            f,
            "calls      {:>12}   {} bypassed",
            self.calls, self.bypassed
        )?;
        writeln!(f, "rows       {:>12}", self.rows)?;
        for (name, rows) in [
            ("  memory   ", self.memory.hits),
            ("  disk     ", self.disk.hits),
            ("  repeated ", self.duplicates),
            ("  computed ", self.misses),
        ] {
            writeln!(f, "{name}{rows:>12}   {}", share(rows))?;
        }
        if self.awaited > 0 {
            let (rows, waited) = (self.awaited, seconds(self.time.waiting));
            let share = share(rows);
            writeln!(f, "  awaited  {rows:>12}   {share}, waited {waited}")?;
        }
        for (name, rows) in [
            ("imported  ", self.imported),
            ("read ahead", self.read_ahead),
        ] {
            if rows > 0 {
                writeln!(f, "{name} {rows:>12}")?;
            }
        }
        for (name, tier, queued) in [
            ("in memory  ", &self.memory, 0),
            ("on disk    ", &self.disk, self.queued),
        ] {
            let queued = match queued {
                0 => String::new(),
                rows => format!(", {rows} rows not written yet"),
            };
            writeln!(
                f,
                "{name}{:>12}   {}{queued}, {} rows evicted, {} refused",
                tier.rows,
                human(tier.bytes),
                tier.evicted,
                tier.refused
            )?;
        }
        for (name, time) in [
            ("watching   ", self.time.watching),
            ("attaching  ", self.time.attaching),
            ("hashing    ", self.time.hashing),
            ("loading    ", self.time.loading),
            ("forward    ", self.time.forward),
            ("storing    ", self.time.storing),
        ] {
            writeln!(f, "{name}{:>12}", seconds(time))?;
        }
        if self.verified > 0 {
            writeln!(
                f,
                "verified   {:>12}   {}, {} mismatched",
                self.verified,
                seconds(self.time.verifying),
                self.mismatched
            )?;
        }
        for (fault, count) in self.faults.iter() {
            writeln!(f, "fault      {count:>12}   {fault}")?;
        }
        match self.time_saved() {
            Some(time) => write!(f, "saved      {:>12}   estimated", seconds(time)),
            None => write!(
                f,
                "saved      {:>12}   no row was computed to estimate from",
                "-"
            ),
        }
    }
}

fn seconds(time: Duration) -> String {
    match time.as_secs_f64() {
        seconds if seconds < 1.0 => format!("{:.2} ms", seconds * 1e3),
        seconds => format!("{seconds:.2} s"),
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

    #[test]
    fn display_shows_rows_by_where_they_came_from() {
        let counters = Counters::new();
        Counters::add(&counters.calls, 2);
        Counters::add(&counters.rows, 8);
        Counters::add(&counters.memory.hits, 4);
        Counters::add(&counters.misses, 4);
        Counters::add(&counters.faults.memory, 1);
        let table = counters.snapshot().to_string();
        assert!(table.contains("memory              4    50.0 %"), "{table}");
        assert!(
            table.contains("fault                 1   memory tier"),
            "{table}"
        );
    }
}
