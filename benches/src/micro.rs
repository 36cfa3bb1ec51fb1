//! Micro-benchmarks: Criterion measures and reports, and its median is returned for tables of ratios.

use std::fs;
use std::path::PathBuf;
use std::time::Duration;

use criterion::Criterion;
use serde_json::Value;

/// Criterion and its folder, with which the next run is compared.
pub struct Micro {
    criterion: Criterion,
    folder: PathBuf,
    measurement: Duration,
}

impl Micro {
    /// With little time for each benchmark if `quick`.
    pub fn new(quick: bool) -> Self {
        let program = std::env::current_exe().expect("a program has a path");
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

    /// The median time of a part of a call, in milliseconds. `run` does a number of calls and returns the
    /// time of that part, which is about `share` of the whole.
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

    /// The median time of a call, in milliseconds.
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
    fn the_median_is_of_the_reported_time() {
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
