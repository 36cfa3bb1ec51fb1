//! Counting what a cache does, and showing it.

use std::fmt;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::time::Duration;

use torchcache_store::size::human;

use super::tiers::Tiers;

/// Declares the counters of a handle, all of them zero at first.
macro_rules! counters {
    ($($name:ident)*) => {
        #[derive(Debug)]
        pub(crate) struct Counters {
            $(pub(crate) $name: AtomicU64,)*
        }

        impl Counters {
            pub(crate) const fn new() -> Self {
                Counters { $($name: AtomicU64::new(0),)* }
            }
        }
    };
}

counters! {
    calls rows memory_hits disk_hits misses duplicates bypassed stored verified mismatched
    hashing loading forward storing verifying
    memory_faults layout_faults hashing_faults disk_faults
}

/// Where the rows of one call came from.
#[derive(Debug, Clone, Copy)]
pub(crate) struct RowCounts {
    pub(crate) rows: usize,
    pub(crate) memory: usize,
    pub(crate) disk: usize,
    /// Rows with the key of an earlier row of the call.
    pub(crate) duplicates: usize,
    pub(crate) computed: usize,
}

/// What a cache did and holds. Printed with `{}` it is a table.
#[derive(Debug, Clone, PartialEq)]
#[non_exhaustive]
pub struct Stats {
    /// Calls of the cached function while the cache was enabled.
    pub calls: u64,
    /// Rows in those calls that went through the cache.
    pub rows: u64,
    /// Rows that came from memory.
    pub memory_hits: u64,
    /// Rows that came from disk, or from the queue on its way there.
    pub disk_hits: u64,
    /// Rows that were computed.
    pub misses: u64,
    /// Rows that were in their batch before.
    pub duplicates: u64,
    /// Calls that went past the cache: training, gradients, layouts it cannot hold, no rows.
    pub bypassed: u64,
    /// Computed rows that were given to the tiers.
    pub stored: u64,
    /// Rows found that were computed anew to verify them: see [`Options::verify`](crate::Options).
    pub verified: u64,
    /// Of these, rows that did not agree with what the cache gave.
    pub mismatched: u64,
    /// Rows dropped from memory to make room.
    pub evicted_from_memory: u64,
    /// Rows that were not kept in memory: they found no room, or others were worth more.
    pub refused_by_memory: u64,
    /// Rows dropped from disk to make room, by this process.
    pub evicted_from_disk: u64,
    /// Rows that were not kept on disk, by this process: a batch was larger than the bound, or it was
    /// reached and `eviction` is `"never"`.
    pub refused_by_disk: u64,
    /// Rows in memory now.
    pub memory_rows: u64,
    /// Bytes allocated in memory now, keys and bookkeeping included.
    pub memory_bytes: u64,
    /// Rows on disk now, as far as this process knows.
    pub disk_rows: u64,
    /// Bytes on disk now, as far as this process knows.
    pub disk_bytes: u64,
    /// Faults that were survived, by kind. Kinds that did not occur are left out.
    pub faults: Vec<(&'static str, u64)>,
    /// Time spent making keys.
    pub hashing: Duration,
    /// Time spent looking up and copying hits.
    pub loading: Duration,
    /// Time spent in the forward.
    pub forward: Duration,
    /// Time spent handing computed rows to the tiers.
    pub storing: Duration,
    /// Time spent computing rows anew to verify them, and comparing.
    pub verifying: Duration,
}

impl Stats {
    /// Rows that did not have to be computed.
    pub fn hits(&self) -> u64 {
        self.memory_hits + self.disk_hits + self.duplicates
    }

    /// An estimate of the time saved: what the rows not computed would have taken at the mean
    /// speed of those that were, less the time spent in the cache. Zero where it cost more than it
    /// saved; `None` where nothing was computed to estimate from.
    pub fn time_saved(&self) -> Option<Duration> {
        if self.misses == 0 {
            return None;
        }
        let spared = self.forward.as_secs_f64() / self.misses as f64 * self.hits() as f64;
        let spent = self.hashing + self.loading + self.storing + self.verifying;
        Some(Duration::from_secs_f64(
            (spared - spent.as_secs_f64()).max(0.0),
        ))
    }

    /// What was done since an earlier look at the same cache. What the tiers hold is as it is now.
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
    /// let before = double::cache().stats();
    /// double(&xs);
    /// let epoch = double::cache().stats().since(&before);
    /// assert_eq!((epoch.memory_hits, epoch.misses), (3, 0));
    /// ```
    pub fn since(&self, before: &Stats) -> Stats {
        let fault = |&(kind, count): &(&'static str, u64)| {
            let earlier = before.faults.iter().find(|(earlier, _)| *earlier == kind);
            let new = count.saturating_sub(earlier.map_or(0, |(_, count)| *count));
            (new > 0).then_some((kind, new))
        };
        let count = |of: fn(&Stats) -> u64| of(self).saturating_sub(of(before));
        let time = |of: fn(&Stats) -> Duration| of(self).saturating_sub(of(before));
        Stats {
            calls: count(|stats| stats.calls),
            rows: count(|stats| stats.rows),
            memory_hits: count(|stats| stats.memory_hits),
            disk_hits: count(|stats| stats.disk_hits),
            misses: count(|stats| stats.misses),
            duplicates: count(|stats| stats.duplicates),
            bypassed: count(|stats| stats.bypassed),
            stored: count(|stats| stats.stored),
            verified: count(|stats| stats.verified),
            mismatched: count(|stats| stats.mismatched),
            evicted_from_memory: count(|stats| stats.evicted_from_memory),
            refused_by_memory: count(|stats| stats.refused_by_memory),
            evicted_from_disk: count(|stats| stats.evicted_from_disk),
            refused_by_disk: count(|stats| stats.refused_by_disk),
            hashing: time(|stats| stats.hashing),
            loading: time(|stats| stats.loading),
            forward: time(|stats| stats.forward),
            storing: time(|stats| stats.storing),
            verifying: time(|stats| stats.verifying),
            faults: self.faults.iter().filter_map(fault).collect(),
            memory_rows: self.memory_rows,
            memory_bytes: self.memory_bytes,
            disk_rows: self.disk_rows,
            disk_bytes: self.disk_bytes,
        }
    }

    pub(crate) fn add_tiers(&mut self, tiers: &Tiers) {
        let memory = tiers.memory().usage();
        (self.memory_rows, self.memory_bytes) = (memory.rows, memory.bytes);
        self.evicted_from_memory = memory.evicted;
        self.refused_by_memory = memory.refused;
        if let Some(store) = tiers.store.as_ref().map(torchcache_store::Store::stats) {
            (self.disk_rows, self.disk_bytes) = (store.rows, store.bytes);
            self.evicted_from_disk = store.evicted_rows;
            self.refused_by_disk = store.refused_rows;
            let faults = store.faults.iter().filter(|(_, count)| *count > 0);
            self.faults
                .extend(faults.map(|(fault, count)| (fault.name(), count)));
        }
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
            (&self.memory_hits, call.memory),
            (&self.disk_hits, call.disk),
            (&self.duplicates, call.duplicates),
            (&self.misses, call.computed),
        ] {
            Counters::add(counter, rows);
        }
    }

    /// Adds the time since `start`.
    pub(crate) fn time(counter: &AtomicU64, start: std::time::Instant) {
        counter.fetch_add(start.elapsed().as_nanos() as u64, Relaxed);
    }

    pub(crate) fn snapshot(&self) -> Stats {
        let count = |counter: &AtomicU64| counter.load(Relaxed);
        let time = |counter: &AtomicU64| Duration::from_nanos(counter.load(Relaxed));
        let faults = [
            ("memory tier", count(&self.memory_faults)),
            ("row layout", count(&self.layout_faults)),
            ("disk tier", count(&self.disk_faults)),
            ("hashing", count(&self.hashing_faults)),
        ];
        Stats {
            calls: count(&self.calls),
            rows: count(&self.rows),
            memory_hits: count(&self.memory_hits),
            disk_hits: count(&self.disk_hits),
            misses: count(&self.misses),
            duplicates: count(&self.duplicates),
            bypassed: count(&self.bypassed),
            stored: count(&self.stored),
            verified: count(&self.verified),
            mismatched: count(&self.mismatched),
            evicted_from_memory: 0,
            refused_by_memory: 0,
            evicted_from_disk: 0,
            refused_by_disk: 0,
            memory_rows: 0,
            memory_bytes: 0,
            disk_rows: 0,
            disk_bytes: 0,
            faults: faults.into_iter().filter(|(_, count)| *count > 0).collect(),
            hashing: time(&self.hashing),
            loading: time(&self.loading),
            forward: time(&self.forward),
            storing: time(&self.storing),
            verifying: time(&self.verifying),
        }
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
            "calls      {:>12}   {} past the cache",
            self.calls, self.bypassed
        )?;
        writeln!(f, "rows       {:>12}", self.rows)?;
        for (name, rows) in [
            ("  memory   ", self.memory_hits),
            ("  disk     ", self.disk_hits),
            ("  repeated ", self.duplicates),
            ("  computed ", self.misses),
        ] {
            writeln!(f, "{name}{rows:>12}   {}", share(rows))?;
        }
        writeln!(
            f,
            "in memory  {:>12}   {}, {} rows evicted, {} refused",
            self.memory_rows,
            human(self.memory_bytes),
            self.evicted_from_memory,
            self.refused_by_memory
        )?;
        writeln!(
            f,
            "on disk    {:>12}   {}, {} rows evicted, {} refused",
            self.disk_rows,
            human(self.disk_bytes),
            self.evicted_from_disk,
            self.refused_by_disk
        )?;
        for (name, time) in [
            ("hashing    ", self.hashing),
            ("loading    ", self.loading),
            ("forward    ", self.forward),
            ("storing    ", self.storing),
        ] {
            writeln!(f, "{name}{:>12}", seconds(time))?;
        }
        if self.verified > 0 {
            writeln!(
                f,
                "verified   {:>12}   {}, {} mismatched",
                self.verified,
                seconds(self.verifying),
                self.mismatched
            )?;
        }
        for (fault, count) in &self.faults {
            writeln!(f, "fault      {count:>12}   {fault}")?;
        }
        match self.time_saved() {
            Some(time) => write!(f, "saved      {:>12}   estimated", seconds(time)),
            None => write!(
                f,
                "saved      {:>12}   nothing was computed to estimate from",
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
    fn time_saved_is_what_the_hits_would_have_taken_less_the_overhead() {
        let counters = Counters::new();
        assert_eq!(counters.snapshot().time_saved(), None);
        Counters::add(&counters.misses, 10);
        Counters::add(&counters.memory_hits, 30);
        Counters::add(&counters.forward, 1_000_000_000);
        Counters::add(&counters.hashing, 500_000_000);
        assert_eq!(
            counters.snapshot().time_saved(),
            Some(Duration::from_millis(2500))
        );
        Counters::add(&counters.hashing, 10_000_000_000);
        assert_eq!(counters.snapshot().time_saved(), Some(Duration::ZERO));
    }

    #[test]
    fn what_was_done_since_is_the_difference_and_what_is_held_is_not() {
        let counters = Counters::new();
        Counters::add(&counters.misses, 3);
        Counters::add(&counters.memory_faults, 1);
        let mut before = counters.snapshot();
        Counters::add(&counters.misses, 2);
        Counters::add(&counters.forward, 500);
        Counters::add(&counters.hashing_faults, 4);
        let mut after = counters.snapshot();
        (before.memory_rows, after.memory_rows) = (10, 7);
        let since = after.since(&before);
        assert_eq!((since.misses, since.memory_rows), (2, 7));
        assert_eq!(since.forward, Duration::from_nanos(500));
        assert_eq!(since.faults, [("hashing", 4)]);
        assert_eq!(after.since(&after).faults, []);
    }

    #[test]
    fn the_table_shows_rows_by_where_they_came_from() {
        let counters = Counters::new();
        Counters::add(&counters.calls, 2);
        Counters::add(&counters.rows, 8);
        Counters::add(&counters.memory_hits, 4);
        Counters::add(&counters.misses, 4);
        Counters::add(&counters.memory_faults, 1);
        let table = counters.snapshot().to_string();
        assert!(table.contains("memory              4    50.0 %"), "{table}");
        assert!(
            table.contains("fault                 1   memory tier"),
            "{table}"
        );
    }
}
