//! Progress bars on standard error. indicatif draws nothing if that is not a terminal.

use indicatif::{ProgressBar, ProgressStyle};
use torchcache_store::admin::CheckProgress;

/// A bar over the bytes of a check.
#[derive(Debug)]
pub(crate) struct ByteBar(pub(crate) ProgressBar);

impl ByteBar {
    /// A bar over objects.
    pub(crate) fn objects() -> ByteBar {
        ByteBar(bar(
            "{bar:30} {human_pos} of {human_len} objects, {eta} left",
        ))
    }

    pub(crate) fn new() -> ByteBar {
        ByteBar(bar(
            "{bar:30} {decimal_bytes} of {decimal_total_bytes}, {decimal_bytes_per_sec}, {eta} left",
        ))
    }
}

impl CheckProgress for ByteBar {
    fn expect(&self, bytes: u64) {
        self.0.inc_length(bytes);
    }

    fn advance(&self, bytes: u64) {
        self.0.inc(bytes);
    }
}

/// A bar over rows.
pub(crate) fn row_bar() -> ProgressBar {
    bar("{bar:30} {human_pos} of {human_len} rows, {eta} left")
}

fn bar(template: &str) -> ProgressBar {
    let style = ProgressStyle::with_template(template);
    ProgressBar::new(0).with_style(style.expect("the template is valid"))
}
