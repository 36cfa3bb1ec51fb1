//! Micro-benchmarks: Criterion takes the time, and the median comes back for tables that put it
//! beside what it is compared with.

use std::fs;
use std::path::PathBuf;
use std::time::Duration;

use criterion::Criterion;
use serde_json::Value;

/// Criterion, and where it keeps what it measured: with the next run it says what has changed.
pub struct Micro {
    criterion: Criterion,
    folder: PathBuf,
    measurement: Duration,
}

impl Micro {
    /// In little time if it is only to be seen that everything runs.
    pub fn new(quick: bool) -> Self {
        let program = std::env::current_exe().expect("a program knows where it lies");
        let folder = program.with_file_name("criterion");
        let [warm_up, measurement] = if quick { [10, 20] } else { [200, 800] };
        let criterion = Criterion::default()
            .without_plots()
            .output_directory(&folder)
            .sample_size(if quick { 10 } else { 20 })
            .warm_up_time(Duration::from_millis(warm_up));
        Micro {
            criterion,
            folder,
            measurement: Duration::from_millis(measurement),
        }
    }

    /// The median of what a call takes, in milliseconds. `run` does so many calls and gives the time
    /// of the part that is meant, which is about this share of the whole.
    pub fn part(
        &mut self,
        group: &str,
        name: &str,
        share: f64,
        mut run: impl FnMut(u64) -> Duration,
    ) -> f64 {
        let time = self.measurement.mul_f64(share.clamp(1e-3, 1.0));
        let mut benchmarks = self.criterion.benchmark_group(group);
        benchmarks
            .measurement_time(time)
            .bench_function(name, |bencher| bencher.iter_custom(&mut run));
        benchmarks.finish();
        self.median(group, name)
    }

    /// The same where all of the call is meant.
    pub fn whole<R>(&mut self, group: &str, name: &str, mut call: impl FnMut() -> R) -> f64 {
        let mut benchmarks = self.criterion.benchmark_group(group);
        benchmarks
            .measurement_time(self.measurement)
            .bench_function(name, |bencher| bencher.iter(&mut call));
        benchmarks.finish();
        self.median(group, name)
    }

    fn median(&self, group: &str, name: &str) -> f64 {
        let file = self
            .folder
            .join(group)
            .join(name)
            .join("new/estimates.json");
        let text =
            fs::read_to_string(&file).unwrap_or_else(|error| panic!("{}: {error}", file.display()));
        let estimates: Value = serde_json::from_str(&text).expect("Criterion writes JSON");
        let nanoseconds = estimates["median"]["point_estimate"].as_f64();
        nanoseconds.expect("Criterion writes a median") / 1e6
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Instant;

    #[test]
    fn the_median_is_of_the_time_that_is_given() {
        let mut micro = Micro::new(true);
        let nap = Duration::from_micros(50);
        let whole = micro.whole("micro", "slept", || std::thread::sleep(nap));
        assert!(whole >= 0.05, "{whole} ms");
        let tenth = micro.part("micro", "a tenth of it", 0.1, |calls| {
            let start = Instant::now();
            (0..calls).for_each(|_| std::thread::sleep(nap));
            start.elapsed() / 10
        });
        assert!((0.005..whole).contains(&tenth), "{tenth} of {whole} ms");
    }
}
