//! Reading records of an open segment file as they are stored: adjacent ones with one system call, each checked.

use super::error::SegmentError;
use super::fetch::check;
use super::format::{CHECKSUM_LEN, RowEntry, RowGroup};
use super::segment_file::SegmentFile;

/// The most bytes of one read, unless one record is longer.
const MAX_RUN: u64 = 1 << 20;

/// Calls `each` with the stored bytes of these records, and their positions in `rows`, in order.
pub(crate) fn fetch_stored(
    source: &SegmentFile,
    rows: &[(&RowEntry, &RowGroup)],
    mut each: impl FnMut(usize, Result<&[u8], SegmentError>),
) {
    let (mut window, mut copy) = (Vec::new(), Vec::new());
    let mut begin = 0;
    while let Some(&(first, _)) = rows.get(begin) {
        let pairs = rows[begin..].windows(2);
        let follows = |pair: &&[(&RowEntry, &RowGroup)]| {
            let (this, next) = (pair[0].0, pair[1].0);
            this.end() == next.offset && next.end() - first.offset <= MAX_RUN
        };
        let end = begin + 1 + pairs.take_while(follows).count();
        let len = (rows[end - 1].0.end() - first.offset) as usize;
        let mut end = end;
        let bytes = match source.bytes(first.offset, len, &mut window) {
            // One that cannot be read costs no other.
            Err(_) if end > begin + 1 => {
                end = begin + 1;
                let len = (first.end() - first.offset) as usize;
                source.bytes(first.offset, len, &mut window)
            }
            bytes => bytes,
        };
        match bytes {
            Err(error) => each(begin, Err(error)),
            Ok(bytes) => {
                // A map may change at any time, so a copy is checked and used.
                let bytes = match source.is_mapped() {
                    true => {
                        copy.clear();
                        copy.extend_from_slice(bytes);
                        &copy
                    }
                    false => bytes,
                };
                for (n, (row, group)) in (begin..).zip(&rows[begin..end]) {
                    let at = (row.offset - first.offset) as usize;
                    let (stored, rest) = bytes[at..].split_at(row.stored_len as usize);
                    let sum: [u8; CHECKSUM_LEN] = std::array::from_fn(|i| rest[i]);
                    each(n, check(row, group, stored, sum).map(|()| stored));
                }
            }
        }
        begin = end;
    }
}
