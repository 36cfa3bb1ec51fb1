//! [`FetchCosts`]: whether the rows of a function are worth a fetch from the remote. Where its forward takes clearly
//! less time, they are computed.

use std::sync::Mutex;
use std::time::Duration;

use crate::sync::lock;

/// So many fetches show how long one takes.
const MIN_FETCHES: u32 = 16;

/// So many computed rows show how long one takes.
const MIN_COMPUTED: f64 = 16.0;

/// The forward is clearly cheaper if it takes this part of the time.
const CLEARLY_CHEAPER: f64 = 0.25;

/// Of the fetches that would be left out, one in so many is made, to see how long it takes now.
const PROBE_EVERY: u32 = 64;

/// By how much each measurement counts less than the one after it.
const DECAY: f64 = 0.95;

/// How long fetches and forwards of a function took.
#[derive(Debug)]
pub(crate) struct FetchCosts(Mutex<Measured>);

#[derive(Debug, Default)]
struct Measured {
    fetches: u32,
    fetched: Line,
    /// Rows, and seconds.
    computed: (f64, f64),
    /// How many fetches in a row would have been left out.
    left_out: u32,
}

impl FetchCosts {
    pub(crate) const fn new() -> Self {
        FetchCosts(Mutex::new(Measured {
            fetches: 0,
            fetched: Line::EMPTY,
            computed: (0.0, 0.0),
            left_out: 0,
        }))
    }

    /// A fetch of so many bytes took so long.
    pub(crate) fn note_fetch(&self, bytes: usize, took: Duration) {
        let mut measured = lock(&self.0);
        measured.fetches = measured.fetches.saturating_add(1);
        measured.fetched.add(bytes as f64, took.as_secs_f64());
    }

    /// A forward of so many rows took so long.
    pub(crate) fn note_forward(&self, rows: usize, took: Duration) {
        let (counted, seconds) = &mut lock(&self.0).computed;
        *counted = *counted * DECAY + rows as f64;
        *seconds = *seconds * DECAY + took.as_secs_f64();
    }

    /// Whether to compute rows that the remote has, of so many bytes together. One of many such calls fetches them all
    /// the same.
    pub(crate) fn prefers_forward(&self, rows: usize, bytes: usize) -> bool {
        let mut measured = lock(&self.0);
        let (computed, seconds) = measured.computed;
        if measured.fetches < MIN_FETCHES || computed < MIN_COMPUTED {
            return false;
        }
        let forward = seconds / computed * rows as f64;
        if forward >= CLEARLY_CHEAPER * measured.fetched.at(bytes as f64) {
            measured.left_out = 0;
            return false;
        }
        measured.left_out += 1;
        !measured.left_out.is_multiple_of(PROBE_EVERY)
    }
}

/// The line through points that is closest to them: a latency, and a time for each byte.
#[derive(Debug, Default)]
struct Line {
    count: f64,
    x: f64,
    y: f64,
    xx: f64,
    xy: f64,
}

impl Line {
    const EMPTY: Line = Line {
        count: 0.0,
        x: 0.0,
        y: 0.0,
        xx: 0.0,
        xy: 0.0,
    };

    fn add(&mut self, x: f64, y: f64) {
        for (sum, term) in [
            (&mut self.count, 1.0),
            (&mut self.x, x),
            (&mut self.y, y),
            (&mut self.xx, x * x),
            (&mut self.xy, x * y),
        ] {
            *sum = *sum * DECAY + term;
        }
    }

    /// The value at `x`. It does not fall: of points with one `x` it is their mean.
    fn at(&self, x: f64) -> f64 {
        let (mean_x, mean_y) = (self.x / self.count, self.y / self.count);
        let variance = self.xx / self.count - mean_x * mean_x;
        let covariance = self.xy / self.count - mean_x * mean_y;
        let slope = match variance > 1e-9 * mean_x * mean_x {
            true => (covariance / variance).max(0.0),
            false => 0.0,
        };
        (mean_y + slope * (x - mean_x)).max(0.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MILLISECOND: Duration = Duration::from_millis(1);

    /// Fetches of 1 to 16 KB that took `latency` and a millisecond for each KB; forwards of a row each.
    fn measured(latency: Duration, forward: Duration) -> FetchCosts {
        let costs = FetchCosts::new();
        for number in 1..=16 {
            costs.note_fetch(1000 * number as usize, latency + number * MILLISECOND);
            costs.note_forward(1, forward);
            costs.note_forward(1, forward);
        }
        costs
    }

    /// How many of so many calls fetch a row.
    fn fetches(costs: &FetchCosts, calls: usize, rows: usize, bytes: usize) -> usize {
        let is_fetched = |_: &usize| !costs.prefers_forward(rows, bytes);
        (0..calls).filter(is_fetched).count()
    }

    #[test]
    fn rows_are_fetched_until_enough_fetches_and_forwards_were_measured() {
        let costs = FetchCosts::new();
        assert!(!costs.prefers_forward(1, 1000));
        for _ in 0..15 {
            costs.note_fetch(1000, 100 * MILLISECOND);
        }
        for _ in 0..100 {
            costs.note_forward(1, Duration::from_micros(1));
        }
        assert_eq!(
            fetches(&costs, 100, 1, 1000),
            100,
            "15 fetches show nothing"
        );
        costs.note_fetch(1000, 100 * MILLISECOND);
        assert!(costs.prefers_forward(1, 1000));
        let only_fetched = FetchCosts::new();
        for _ in 0..100 {
            only_fetched.note_fetch(1000, 100 * MILLISECOND);
        }
        assert_eq!(fetches(&only_fetched, 100, 1, 1000), 100);
    }

    #[test]
    fn only_a_forward_that_is_four_times_as_fast_is_preferred() {
        // A fetch of one KB takes 20 ms.
        let latency = 19 * MILLISECOND;
        assert_eq!(
            fetches(&measured(latency, 6 * MILLISECOND), 63, 1, 1000),
            63
        );
        assert_eq!(fetches(&measured(latency, 4 * MILLISECOND), 63, 1, 1000), 0);
        // Of two rows the forward takes twice as long, and the fetch hardly longer.
        assert_eq!(
            fetches(&measured(latency, 4 * MILLISECOND), 63, 2, 2000),
            63
        );
    }

    #[test]
    fn one_of_many_calls_measures_a_fetch_again() {
        let costs = measured(19 * MILLISECOND, MILLISECOND / 10);
        assert_eq!(fetches(&costs, 640, 1, 1000), 10);
        // The network is fast again.
        for _ in 0..200 {
            costs.note_fetch(1000, MILLISECOND / 10);
        }
        assert_eq!(fetches(&costs, 100, 1, 1000), 100);
    }

    #[test]
    fn latency_and_bandwidth_are_told_apart() {
        let mut line = Line::EMPTY;
        for x in 1..=16 {
            line.add(f64::from(x), 5.0 + 2.0 * f64::from(x));
        }
        assert!((line.at(1.0) - 7.0).abs() < 1e-9);
        assert!((line.at(1000.0) - 2005.0).abs() < 1e-6);
        let mut same = Line::EMPTY;
        same.add(10.0, 4.0);
        same.add(10.0, 4.0);
        assert!(
            (same.at(1000.0) - 4.0).abs() < 1e-9,
            "nothing shows the bandwidth"
        );
    }
}
