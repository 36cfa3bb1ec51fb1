//! Which files of a cache directory are segments, by their names.

use std::io;

use crate::fs::temp_file::SUFFIX;
use crate::fs::{Directory, file_names};

/// Whether a file name is that of a segment: it ends in `.tcs`, does not begin with a dot, and
/// consists of ASCII letters, digits, `-`, `_` and `.`.
pub(crate) fn is_segment(name: &str) -> bool {
    let is_allowed = |byte: u8| byte.is_ascii_alphanumeric() || b"-_.".contains(&byte);
    name.ends_with(SUFFIX) && !name.starts_with('.') && name.bytes().all(is_allowed)
}

/// The names of all segments in a directory, in no particular order.
pub(crate) fn segment_names(dir: &dyn Directory) -> io::Result<Vec<String>> {
    file_names(dir, is_segment)
}
