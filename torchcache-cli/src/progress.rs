//! How far a long command is: a bar on standard error, if that is a terminal.

use indicatif::{ProgressBar, ProgressStyle};
use torchcache_store::admin::Progress;

/// A bar over bytes.
#[derive(Debug)]
pub(crate) struct Bar(ProgressBar);

impl Bar {
    /// indicatif draws nothing where standard error is no terminal.
    pub(crate) fn bytes() -> Bar {
        const TEMPLATE: &str = "{bar:30} {decimal_bytes} of {decimal_total_bytes}, \
                                {decimal_bytes_per_sec}, {eta} left";
        Bar::new(TEMPLATE)
    }

    /// The same over rows.
    pub(crate) fn rows(rows: u64) -> Bar {
        let bar = Bar::new("{bar:30} {human_pos} of {human_len} rows, {eta} left");
        bar.0.set_length(rows);
        bar
    }

    fn new(template: &str) -> Bar {
        let bar = ProgressBar::new(0);
        // A template that cannot be read is a bug that a test finds; the bar is not worth a panic.
        if let Ok(style) = ProgressStyle::with_template(template) {
            bar.set_style(style);
        }
        Bar(bar)
    }

    /// Begins anew.
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

impl Progress for Bar {
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
    fn a_bar_adds_up_what_it_hears() {
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
