//! A progress bar on standard error, if that is a terminal.

use indicatif::{ProgressBar, ProgressStyle};
use torchcache_store::admin::CheckProgress;

/// A progress bar over bytes or rows.
#[derive(Debug)]
pub(crate) struct Bar(ProgressBar);

impl Bar {
    /// A bar over bytes. indicatif draws nothing if standard error is not a terminal.
    pub(crate) fn bytes() -> Bar {
        const TEMPLATE: &str = "{bar:30} {decimal_bytes} of {decimal_total_bytes}, \
                                {decimal_bytes_per_sec}, {eta} left";
        Bar::new(TEMPLATE)
    }

    /// A bar over rows.
    pub(crate) fn rows(rows: u64) -> Bar {
        let bar = Bar::new("{bar:30} {human_pos} of {human_len} rows, {eta} left");
        bar.0.set_length(rows);
        bar
    }

    fn new(template: &str) -> Bar {
        let bar = ProgressBar::new(0);
        // Not worth a panic: an invalid template falls back to the default style.
        if let Ok(style) = ProgressStyle::with_template(template) {
            bar.set_style(style);
        }
        Bar(bar)
    }

    /// Starts again from zero.
    pub(crate) fn restart(&self, rows: u64) {
        self.0.set_length(rows);
        self.0.set_position(0);
    }

    pub(crate) fn step(&self) {
        self.0.inc(1);
    }

    pub(crate) fn finish(&self) {
        self.0.finish_and_clear();
    }
}

impl CheckProgress for Bar {
    fn expect(&self, bytes: u64) {
        self.0.inc_length(bytes);
    }

    fn advance(&self, bytes: u64) {
        self.0.inc(bytes);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_bar_adds_up_its_progress() {
        let bar = Bar::bytes();
        bar.expect(10);
        bar.expect(20);
        bar.advance(12);
        assert_eq!((bar.0.length(), bar.0.position()), (Some(30), 12));
        let bar = Bar::rows(7);
        bar.step();
        bar.restart(6);
        assert_eq!((bar.0.length(), bar.0.position()), (Some(6), 0));
    }
}
