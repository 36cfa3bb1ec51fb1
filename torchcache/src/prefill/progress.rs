//! The progress bar of a prefill, which is empty without the feature `progress`.

use crate::cache::stats::Stats;

#[cfg(feature = "progress")]
use {
    indicatif::{HumanCount, ProgressBar, ProgressDrawTarget, ProgressStyle},
    std::time::{Duration, Instant},
    torchcache_store::size::human,
};

/// How often the message next to the bar is updated.
#[cfg(feature = "progress")]
const UPDATE_INTERVAL: Duration = Duration::from_millis(200);

/// A bar on standard error, cleared at the end.
pub(super) struct PrefillProgress {
    #[cfg(feature = "progress")]
    bar: ProgressBar,
    #[cfg(feature = "progress")]
    counted: Option<Instant>,
}

#[cfg(not(feature = "progress"))]
impl PrefillProgress {
    pub(super) fn new(_batches: Option<u64>) -> Self {
        PrefillProgress {}
    }

    pub(super) fn batch(&mut self, _stats: impl FnOnce() -> Stats) {}
}

#[cfg(feature = "progress")]
impl PrefillProgress {
    /// A bar for so many batches, if that is known.
    pub(super) fn new(batches: Option<u64>) -> Self {
        PrefillProgress::with_target(ProgressDrawTarget::stderr(), batches)
    }

    fn with_target(target: ProgressDrawTarget, batches: Option<u64>) -> Self {
        let (bar, left) = match batches {
            Some(batches) => (
                ProgressBar::new(batches),
                "{bar:24} {pos}/{len} batches, {eta} left",
            ),
            None => (
                ProgressBar::no_length(),
                "{spinner} {pos} batches, {elapsed}",
            ),
        };
        let style = ProgressStyle::with_template(&format!("prefill {left}  {{msg}}"));
        bar.set_style(style.expect("the template is valid"));
        bar.set_draw_target(target);
        PrefillProgress { bar, counted: None }
    }

    /// Advances by one batch.
    pub(super) fn batch(&mut self, stats: impl FnOnce() -> Stats) {
        self.bar.inc(1);
        if self.bar.is_hidden()
            || self
                .counted
                .is_some_and(|counted| counted.elapsed() < UPDATE_INTERVAL)
        {
            return;
        }
        self.counted = Some(Instant::now());
        self.bar.set_message(message(&stats(), self.bar.elapsed()));
    }
}

/// Clears the terminal, also where a forward fails or panics.
#[cfg(feature = "progress")]
impl Drop for PrefillProgress {
    fn drop(&mut self) {
        self.bar.finish_and_clear();
    }
}

/// Rows per second, hits and bytes.
#[cfg(feature = "progress")]
fn message(stats: &Stats, elapsed: Duration) -> String {
    let rate = (stats.rows as f64 / elapsed.as_secs_f64().max(1e-9)) as u64;
    let hits = stats.hits() * 100 / stats.rows.max(1);
    let bytes = stats.disk.bytes.max(stats.memory.bytes);
    format!(
        "{} rows/s, {hits} % hits, {}",
        HumanCount(rate),
        human(bytes)
    )
}

#[cfg(all(test, feature = "progress"))]
mod tests {
    use indicatif::InMemoryTerm;

    use super::*;
    use crate::cache::stats::Counters;

    #[test]
    fn the_bar_shows_rows_per_second_hits_and_bytes() {
        let counters = Counters::new();
        Counters::add(&counters.rows, 4000);
        Counters::add(&counters.disk.hits, 1000);
        let mut stats = counters.snapshot();
        stats.disk.bytes = 2_000_000;
        assert_eq!(
            message(&stats, Duration::from_secs(2)),
            format!("2,000 rows/s, 25 % hits, {}", human(2_000_000))
        );

        let term = InMemoryTerm::new(10, 120);
        let target = ProgressDrawTarget::term_like(Box::new(term.clone()));
        let mut progress = PrefillProgress::with_target(target, Some(4));
        progress.batch(|| stats.clone());
        progress.bar.tick();
        let shown = term.contents();
        assert!(shown.starts_with("prefill "), "{shown}");
        for part in [
            "1/4 batches",
            " left",
            "rows/s, 25 % hits",
            &human(2_000_000),
        ] {
            assert!(shown.contains(part), "no {part:?} in {shown:?}");
        }
        drop(progress);
        assert_eq!(term.contents(), "", "cleared at the end");
    }
}
