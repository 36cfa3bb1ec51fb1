//! Which elements of a large weight each call compares.
//!
//! A step of an optimiser may change few rows (those of an embedding) or few columns (those of sparse
//! inputs), and libtorch counts no version for it. So of every row a cache line is read, in a place that
//! moves from row to row until each column was read in several rows. A line is the least that memory
//! returns, and all of it counts.
//!
//! A step may also change single elements. Where a weight still has the gradient, its rows are also read
//! where that is largest: a step with this gradient changes them there. A few elements of the gradient show
//! whether it is another one by now. What an optimiser keeps of earlier gradients may change others.

use std::hash::{BuildHasher, RandomState};
use std::sync::OnceLock;

use tch::{Kind, TchError, Tensor};
use twox_hash::XxHash3_64;

use crate::tensor::raw::{self, StridedElements};

/// The size of a cache line.
pub(super) const LINE: usize = 64;

/// Of longer rows a line is read of each this many bytes.
pub(super) const MAX_SPACING: usize = 4096;

/// In so many rows each column is read, if there are as many.
const ROWS_PER_COLUMN: usize = 8;

/// How many lines are under way from memory at once.
const PREFETCHED: usize = 64;

/// How many elements of a row are read at once where the elements of a tensor are apart in memory.
const RUN: usize = 8;

/// How many lines of a gradient are read.
const GRADIENT_LINES: usize = 16;

/// Numbers that only this process knows, so that no two values can be made to collide.
struct Secret {
    seed: u64,
    words: [u64; LINE / 8],
}

fn secret() -> &'static Secret {
    static SECRET: OnceLock<Secret> = OnceLock::new();
    SECRET.get_or_init(|| Secret {
        seed: RandomState::new().hash_one(0),
        words: std::array::from_fn(|word| RandomState::new().hash_one(word)),
    })
}

/// A digest for this process alone.
pub(super) fn digest(bytes: &[u8]) -> i64 {
    XxHash3_64::oneshot_with_seed(secret().seed, bytes) as i64
}

/// A digest of a line: products of its words, as XXH3 makes them of a short input.
fn line_digest(line: &[u8; LINE], secret: &[u64; LINE / 8]) -> u64 {
    let (words, _) = line.as_chunks();
    let word = |at: usize| u64::from_le_bytes(words[at]) ^ secret[at];
    (0..LINE / 16).fold(0, |sum: u64, pair| {
        let product = u128::from(word(2 * pair)) * u128::from(word(2 * pair + 1));
        sum.wrapping_add(product as u64 ^ (product >> 64) as u64)
    })
}

/// The rows of a tensor, in elements or bytes.
#[derive(Debug, Clone, Copy)]
struct RowLayout {
    count: usize,
    length: usize,
}

/// The places in the rows of a tensor that are read, each the start of a piece.
#[derive(Debug)]
struct Places<'g> {
    rows: RowLayout,
    /// The length of a piece.
    piece: usize,
    /// How many pieces cover a row.
    pieces: usize,
    /// Of how many pieces one is read.
    spacing: usize,
    guide: Option<&'g Guide>,
    /// The piece of this row to which the guide points, until it was read.
    guided: Option<usize>,
    /// In one of so many rounds it is read with the first piece, in the others instead of it: so that each
    /// column is read in several rows, and few pieces more are read.
    both_every: usize,
    /// How many rounds are left until both are read.
    left_until_both: usize,
    row: usize,
    /// Where the row begins.
    row_begin: usize,
    /// The first piece that is read of this row.
    first: usize,
    /// The next piece.
    next: usize,
    /// How many rows until each piece was the first one.
    left_in_round: usize,
}

impl<'g> Places<'g> {
    /// Pieces of rows that are not shorter than a piece: at least one of each row and of `max_spacing`.
    fn new(rows: RowLayout, piece: usize, max_spacing: usize, guide: Option<&'g Guide>) -> Self {
        let pieces = rows.length.div_ceil(piece);
        let by_column = (pieces * ROWS_PER_COLUMN).div_ceil(rows.count);
        let of_each_row = rows.length.div_ceil(max_spacing).max(by_column);
        let spacing = pieces.div_ceil(of_each_row.min(pieces));
        Places {
            rows,
            piece,
            pieces,
            spacing,
            guide,
            guided: guide.and_then(|guide| guide.piece(0)),
            both_every: (rows.count / spacing / ROWS_PER_COLUMN).max(1),
            left_until_both: 0,
            row: 0,
            row_begin: 0,
            first: 0,
            next: 0,
            left_in_round: spacing,
        }
    }

    /// Goes on to the next row, without a division: that would take as long as reading a line.
    fn next_row(&mut self) {
        self.row += 1;
        self.row_begin += self.rows.length;
        self.first += 1;
        self.left_in_round -= 1;
        if self.left_in_round == 0 {
            // One further, or a column would be read in even rows alone.
            self.first += 1;
            self.left_in_round = self.spacing;
            self.left_until_both = match self.left_until_both {
                0 => self.both_every - 1,
                left => left - 1,
            };
        }
        while self.first >= self.spacing {
            self.first -= self.spacing;
        }
        self.next = self.first;
        self.guided = self.guide.and_then(|guide| guide.piece(self.row));
    }
}

impl Iterator for Places<'_> {
    type Item = usize;

    fn next(&mut self) -> Option<usize> {
        if self.row == self.rows.count {
            return None;
        }
        let guided = self.guided.take();
        let piece = guided.unwrap_or(self.next);
        if guided.is_none() || self.left_until_both > 0 {
            self.next += self.spacing;
        }
        let in_row = (piece * self.piece).min(self.rows.length - self.piece);
        let begin = self.row_begin + in_row;
        if self.next >= self.pieces {
            self.next_row();
        }
        Some(begin)
    }
}

/// Where a gradient is largest, in each row.
#[derive(Debug)]
pub(super) struct Guide {
    /// The line of each row, or `NO_LINE` where the gradient is zero.
    lines: Box<[u32]>,
    /// Rows of the gradient that are read: some of those where it is not zero.
    gradient_rows: Vec<usize>,
}

const NO_LINE: u32 = u32::MAX;

impl Guide {
    /// Reads all of a gradient, of rows of `row_bytes` bytes.
    pub(super) fn of(gradient: &Tensor, row_bytes: usize) -> Result<Self, TchError> {
        let element = gradient.f_kind()?.elt_size_in_bytes();
        let row = (row_bytes / element) as i64;
        let sizes = gradient.f_detach()?.f_view([-1, row])?.f_abs()?;
        let (largest, columns) = sizes.f_max_dim(1, false)?;
        let largest: Vec<f64> = largest.f_to_kind(Kind::Double)?.try_into()?;
        let columns: Vec<i64> = columns.try_into()?;
        let line = |(size, column): (f64, i64)| match size {
            0.0 => NO_LINE,
            _ => (column as usize * element / LINE) as u32,
        };
        let lines: Box<[u32]> = largest.into_iter().zip(columns).map(line).collect();
        let rows: Vec<_> = (0..lines.len())
            .filter(|&row| lines[row] != NO_LINE)
            .collect();
        let spacing = rows.len().div_ceil(GRADIENT_LINES).max(1);
        let gradient_rows = rows.into_iter().step_by(spacing).collect();
        Ok(Guide {
            lines,
            gradient_rows,
        })
    }

    fn piece(&self, row: usize) -> Option<usize> {
        let line = *self.lines.get(row)?;
        (line != NO_LINE).then_some(line as usize)
    }
}

/// Appends digests of some lines of `bytes`, which consist of rows, or short rows as they are; with a
/// guide, also of the line of each row to which it points. A vector is cut into rows.
pub(super) fn sample_bytes(
    bytes: &[u8],
    row_bytes: usize,
    guide: Option<&Guide>,
    sample: &mut Vec<u8>,
) {
    if row_bytes <= LINE {
        return sample.extend_from_slice(bytes);
    }
    let rows = RowLayout {
        count: bytes.len() / row_bytes,
        length: row_bytes,
    };
    // Of a vector whose length is not a multiple.
    sample.extend_from_slice(&bytes[rows.count * row_bytes..]);
    let mut places = Places::new(rows, LINE, MAX_SPACING, guide);
    // Most of the time is waiting for memory, where each line is on a page of its own: so it is asked
    // for lines long before they are read.
    let mut ask = || {
        let at = places.next()?;
        raw::prefetch(bytes, at);
        Some(at)
    };
    let mut asked: [Option<usize>; PREFETCHED] = std::array::from_fn(|_| ask());
    let secret = &secret().words;
    for slot in (0..PREFETCHED).cycle() {
        let Some(at) = asked[slot] else { return };
        asked[slot] = ask();
        if let Some(line) = bytes[at..].first_chunk() {
            sample.extend_from_slice(&line_digest(line, secret).to_le_bytes());
        }
    }
}

/// Where the lines begin that [`sample_bytes`] reads of `length` bytes; `None` where it reads all of them.
pub(super) fn sampled_lines(
    length: usize,
    row_bytes: usize,
    guide: Option<&Guide>,
) -> Option<Vec<usize>> {
    if row_bytes <= LINE {
        return None;
    }
    let rows = RowLayout {
        count: length / row_bytes,
        length: row_bytes,
    };
    let rest = (rows.count * row_bytes..length).step_by(LINE);
    let rest = rest.map(|begin| begin.min(length - LINE));
    Some(
        rest.chain(Places::new(rows, LINE, MAX_SPACING, guide))
            .collect(),
    )
}

/// Appends some lines of a gradient.
pub(super) fn sample_gradient(bytes: &[u8], row_bytes: usize, guide: &Guide, sample: &mut Vec<u8>) {
    for at in sampled_gradient(row_bytes, guide) {
        sample.extend_from_slice(bytes.get(at..at + LINE).unwrap_or_default());
    }
}

/// Where the lines begin that [`sample_gradient`] reads.
pub(super) fn sampled_gradient(row_bytes: usize, guide: &Guide) -> impl Iterator<Item = usize> {
    guide.gradient_rows.iter().map(move |&row| {
        let in_row = guide.lines[row] as usize * LINE;
        row * row_bytes + in_row.min(row_bytes - LINE)
    })
}

/// As [`sample_bytes`], by elements, in rows of `row` elements.
pub(super) fn sample_elements(elements: &StridedElements<'_>, row: usize, sample: &mut Vec<u8>) {
    for at in sampled_elements(elements.count(), elements.size(), row) {
        sample.extend_from_slice(elements.get(at));
    }
}

/// Which of `count` elements of `size` bytes [`sample_elements`] reads.
pub(super) fn sampled_elements(
    count: usize,
    size: usize,
    row: usize,
) -> impl Iterator<Item = usize> {
    // Rows of a line or less are read in full, as one.
    let (row, run) = match row * size <= LINE {
        true => (count, count),
        false => (row, RUN.min(row)),
    };
    let rows = RowLayout {
        count: count / row,
        length: row,
    };
    Places::new(rows, run, MAX_SPACING / size, None).flat_map(move |begin| begin..begin + run)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::BTreeMap;

    #[test]
    fn every_row_and_column_is_read() {
        for (count, length) in [
            (1, 5_000),
            (3, 65),
            (64, 120_000),
            (768, 3_072),
            (30_000, 256),
        ] {
            let rows = RowLayout { count, length };
            let (mut in_rows, mut in_columns) = (vec![0; count], BTreeMap::new());
            for begin in Places::new(rows, LINE, MAX_SPACING, None) {
                let (row, column) = (begin / length, begin % length);
                assert!(column + LINE <= length, "a line of one row");
                in_rows[row] += 1;
                for column in column..column + LINE {
                    *in_columns.entry(column).or_insert(0) += 1;
                }
            }
            let least = *in_rows.iter().min().unwrap();
            assert!(least >= length / MAX_SPACING && least > 0, "{rows:?}");
            assert_eq!(in_columns.len(), length, "{rows:?}");
            let least = *in_columns.values().min().unwrap();
            assert!(least >= count.min(ROWS_PER_COLUMN / 2), "{rows:?}: {least}");
        }
    }

    #[test]
    fn columns_are_read_in_rows_of_a_guide() {
        for (count, length) in [(64, 120_000), (768, 3_072), (3_072, 3_072), (30_000, 3_072)] {
            let rows = RowLayout { count, length };
            let guide = Guide {
                lines: vec![5; count].into(),
                gradient_rows: Vec::new(),
            };
            let (mut guided, mut all) = (0, 0);
            let mut in_columns = vec![0; length / LINE];
            for begin in Places::new(rows, LINE, MAX_SPACING, Some(&guide)) {
                let line = begin % length / LINE;
                guided += usize::from(line == 5);
                in_columns[line] += 1;
                all += 1;
            }
            assert!(guided >= count, "{rows:?}");
            let least = *in_columns.iter().min().unwrap();
            assert!(least >= ROWS_PER_COLUMN / 2, "{rows:?}: {least}");
            let without = Places::new(rows, LINE, MAX_SPACING, None).count();
            let more = all - without;
            let most = ROWS_PER_COLUMN * length / LINE;
            assert!(more <= 2 * most.min(count), "{rows:?}: {more} more");
        }
    }

    #[test]
    fn even_rows_alone_show_every_column() {
        let rows = RowLayout {
            count: 768,
            length: 3_072,
        };
        let places = Places::new(rows, LINE, MAX_SPACING, None);
        let even = places.filter(|begin| (begin / 3_072).is_multiple_of(2));
        let columns: std::collections::BTreeSet<_> = even.map(|begin| begin % 3_072).collect();
        assert_eq!(columns.len(), 48);
    }

    #[test]
    fn each_word_of_a_line_counts() {
        let secret = &secret().words;
        let line: [u8; LINE] = std::array::from_fn(|at| at as u8);
        let before = line_digest(&line, secret);
        assert_eq!(line_digest(&line, secret), before);
        for bit in 0..8 * LINE {
            let mut other = line;
            other[bit / 8] ^= 1 << (bit % 8);
            assert_ne!(line_digest(&other, secret), before, "bit {bit}");
        }
    }
}
