//! `blake3_chunks` and `blake3_nodes`.

use crate::launch::{Checked, Kernels, Rows, random_bytes, same};
use crate::plan::{self, BLOCK_THREADS, Level};

const CHUNK: u64 = 1024;
/// The chunks of a row that one launch joins.
const GROUP: u64 = 128 * CHUNK;

/// Compares the digests of rows, by the launches of the library, with those of the `blake3` crate.
fn check_rows(kernels: &Kernels, rows: &Rows) -> Checked {
    let levels = plan::row_digest_levels(rows.rows, rows.row_bytes).expect("a grid");
    check_levels(kernels, rows, &levels)
}

/// Launches that join rows in groups of these widths.
fn levels_of_widths(rows: &Rows, widths: &[u32]) -> Vec<Level> {
    let mut nodes = rows.row_bytes.div_ceil(CHUNK);
    let mut levels = Vec::new();
    for &width in widths {
        let groups = nodes.div_ceil(width.into());
        levels.push(Level {
            blocks: (rows.rows * groups).div_ceil(u64::from(BLOCK_THREADS / width)) as u32,
            width,
            nodes,
            groups,
        });
        nodes = groups;
    }
    assert_eq!(nodes, 1);
    levels
}

fn check_levels(kernels: &Kernels, rows: &Rows, levels: &[Level]) -> Checked {
    let last = rows.rows.saturating_sub(1) * rows.stride;
    let bytes = random_bytes(
        rows.row_bytes + rows.offset,
        (last + rows.row_bytes) as usize,
    );
    let expected: Vec<_> = (0..rows.rows)
        .map(|row| {
            let row = &bytes[(row * rows.stride) as usize..][..rows.row_bytes as usize];
            *blake3::hash(row).as_bytes()
        })
        .collect();
    same(&kernels.row_digests(rows, &bytes, levels)?, &expected, rows)
}

fn contiguous(rows: u64, row_bytes: u64) -> Rows {
    Rows {
        offset: 0,
        rows,
        row_bytes,
        stride: row_bytes,
    }
}

/// A few rows of each kind.
pub(crate) fn check(kernels: &Kernels) -> Checked {
    for row_bytes in [0, 3, 64, 1030, 5 * CHUNK] {
        check_rows(kernels, &contiguous(3, row_bytes))?;
    }
    for offset in [1, 4] {
        let rows = Rows {
            offset,
            ..contiguous(1, 1027)
        };
        check_rows(kernels, &rows)?;
    }
    check_rows(kernels, &contiguous(130, 5))?;
    check_rows(kernels, &contiguous(2, 2 * GROUP + 1))?;
    // As longer rows: several launches, of several groups and blocks.
    let rows = contiguous(30, 9 * CHUNK + 5);
    check_levels(kernels, &rows, &levels_of_widths(&rows, &[2, 4, 2]))
}

#[test]
fn rows_of_all_kinds_have_their_digests() {
    check(&Kernels::embedded()).unwrap();
}

#[test]
fn lengths_around_blocks_chunks_and_groups_are_right() {
    let kernels = Kernels::embedded();
    let borders = [64, 128, CHUNK, CHUNK + 64, 2 * CHUNK, 3 * CHUNK, 8 * CHUNK];
    let around = |border: &u64| [border - 1, *border, border + 1];
    for row_bytes in (0..6).chain(borders.iter().flat_map(around)) {
        for rows in [1, 3] {
            check_rows(&kernels, &contiguous(rows, row_bytes)).unwrap();
        }
    }
    let long = [GROUP / 2, GROUP, GROUP + CHUNK, 2 * GROUP, 5 * GROUP];
    for row_bytes in long.iter().flat_map(around) {
        check_rows(&kernels, &contiguous(1, row_bytes)).unwrap();
    }
}

#[test]
fn last_blocks_of_any_length_are_right_at_addresses_of_each_kind() {
    let kernels = Kernels::embedded();
    for offset in [0, 4, 1] {
        for row_bytes in (0..=64).chain(1024 + 65..=1024 + 128) {
            let rows = Rows {
                offset,
                ..contiguous(1, row_bytes)
            };
            check_rows(&kernels, &rows).unwrap();
        }
    }
}

#[test]
fn many_rows_fill_several_blocks() {
    let kernels = Kernels::embedded();
    for rows in [0, 1, 2, 127, 128, 129, 300] {
        for row_bytes in [0, 1, 100, 2 * CHUNK + 1] {
            check_rows(&kernels, &contiguous(rows, row_bytes)).unwrap();
        }
    }
    check_rows(&kernels, &contiguous(5, GROUP + 3 * CHUNK)).unwrap();
}

#[test]
fn rows_are_joined_in_groups_of_any_width() {
    let kernels = Kernels::embedded();
    let rows = contiguous(7, 21 * CHUNK - 3);
    for widths in [
        &[32][..],
        &[1, 32],
        &[2, 16],
        &[2, 2, 2, 2, 2],
        &[4, 1, 8],
        &[16, 2],
    ] {
        check_levels(&kernels, &rows, &levels_of_widths(&rows, widths)).unwrap();
    }
}

#[test]
fn three_launches_join_a_row_of_16_mib() {
    let kernels = Kernels::embedded();
    check_rows(&kernels, &contiguous(1, 128 * GROUP + CHUNK + 1)).unwrap();
}

#[test]
fn rows_may_overlap_or_have_gaps() {
    let kernels = Kernels::embedded();
    for stride in [0, 1, 16, 1500, 1504, 4096] {
        for row_bytes in [0, 64, 1500, 2 * CHUNK] {
            let rows = Rows {
                stride,
                ..contiguous(9, row_bytes)
            };
            check_rows(&kernels, &rows).unwrap();
        }
    }
}

#[test]
fn rows_begin_at_any_address() {
    let kernels = Kernels::embedded();
    for offset in 1..16 {
        for row_bytes in [0, 1, 3, 4, 7, 63, 64, 65, 100, 128, 1023, 1024, 1025, 2052] {
            let rows = Rows {
                offset,
                ..contiguous(3, row_bytes)
            };
            check_rows(&kernels, &rows).unwrap();
        }
    }
}

#[test]
fn thousands_of_random_rows_have_their_digests() {
    let kernels = Kernels::embedded();
    let mut random = fastrand::Rng::with_seed(1);
    for _ in 0..150 {
        let row_bytes = random.u64(0..6 * CHUNK) >> random.u32(0..8);
        let rows = Rows {
            offset: random.u64(0..64) & random.u64(0..64),
            stride: row_bytes + (random.u64(0..64) & random.u64(0..64)),
            ..contiguous(random.u64(1..40), row_bytes)
        };
        check_rows(&kernels, &rows).unwrap();
    }
}
