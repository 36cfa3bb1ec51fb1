//! Statistics as a table.

use std::fmt;
use std::time::Duration;

use torchcache_store::size::human;

use super::stats::{RemoteState, RemoteStats, Stats};

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
        if self.remote.state != RemoteState::Absent {
            let (rows, waited) = (self.remote.hits, seconds(self.time.fetching));
            let share = share(rows);
            writeln!(f, "  remote   {rows:>12}   {share}, waited {waited}")?;
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
        self.remote.write_lines(f)?;
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

impl RemoteStats {
    /// The lines of the table, if there is a remote tier.
    fn write_lines(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let state = match self.state {
            RemoteState::Absent => return Ok(()),
            RemoteState::On => "",
            RemoteState::Off => ", off since requests failed",
        };
        let requests = [
            (self.lists, "lists"),
            (self.gets, "gets"),
            (self.puts, "puts"),
        ];
        let requests = requests.map(|(count, kind)| format!("{count} {kind}"));
        let (received, put) = (human(self.bytes_in), human(self.bytes_out));
        writeln!(
            f,
            "in remote  {:>12}   {}, {received} in, {put} out{state}",
            self.rows,
            requests.join(", ")
        )?;
        writeln!(
            f,
            "uploaded   {:>12}   {} rows not uploaded yet, {} dropped",
            self.uploaded, self.pending, self.dropped
        )
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
    use crate::cache::stats::Counters;

    #[test]
    fn display_shows_the_remote_where_there_is_one() {
        let mut stats = Stats::default();
        assert!(!stats.to_string().contains("remote"));
        stats.remote = RemoteStats {
            gets: 7,
            bytes_in: 2_000_000,
            pending: 3,
            state: RemoteState::Off,
            ..RemoteStats::default()
        };
        let table = stats.to_string();
        for line in [
            "0 lists, 7 gets, 0 puts, 2.0 MB in, 0 B out, off since requests failed",
            "uploaded              0   3 rows not uploaded yet, 0 dropped",
        ] {
            assert!(table.contains(line), "{table}");
        }
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
