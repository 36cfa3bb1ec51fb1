//! Which files of a cache directory are segments, by their names.

use std::collections::BTreeSet;
use std::io;

use crate::fs::temp_file::SUFFIX;
use crate::fs::{Directory, file_names};

/// How often a directory is listed, at most, while it changes.
const MAX_LISTINGS: usize = 64;

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

/// Lists the segments of a directory until a listing has no new one and the directory did not change
/// meanwhile: another process may publish the result of a compaction, and a listing during that may lack
/// both the result and a source. `visit` gets the names that the listing before did not have. Returns the
/// last listing.
pub(crate) fn visit_segments(
    dir: &dyn Directory,
    mut visit: impl FnMut(Vec<String>),
) -> io::Result<BTreeSet<String>> {
    let mut last = BTreeSet::new();
    for _ in 0..MAX_LISTINGS {
        let before = dir.metadata()?.modified;
        let listed: BTreeSet<String> = segment_names(dir)?.into_iter().collect();
        let new: Vec<String> = listed.difference(&last).cloned().collect();
        let is_stable = new.is_empty() && dir.metadata()?.modified == before;
        last = listed;
        if is_stable {
            break;
        }
        visit(new);
    }
    Ok(last)
}
