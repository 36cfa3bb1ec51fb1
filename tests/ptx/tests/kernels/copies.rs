//! `copy_rows`.

use crate::launch::{Checked, Kernels, Piece, RowCopy, random_bytes, same};
use crate::plan;

fn check_copies(
    kernels: &Kernels,
    row_bytes: usize,
    offsets: &[(u64, u64)],
    blocks: u32,
) -> Checked {
    let copies: Vec<_> = (0..)
        .zip(offsets)
        .map(|(seed, &(offset, to_offset))| RowCopy {
            from: Piece {
                offset,
                bytes: random_bytes(seed, row_bytes),
            },
            to_offset,
        })
        .collect();
    let expected: Vec<_> = copies.iter().map(|copy| copy.from.bytes.clone()).collect();
    let copied = kernels.copies(&copies, blocks)?;
    same(&copied, &expected, &(row_bytes, offsets))
}

fn planned(row_bytes: usize, offsets: &[(u64, u64)]) -> u32 {
    plan::copy_blocks(offsets.len() as u64, row_bytes as u64)
}

/// Each of up to 16 bytes, of source and destination.
fn all_offsets() -> Vec<(u64, u64)> {
    (0..16)
        .flat_map(|from| (0..16).map(move |to| (from, to)))
        .collect()
}

/// Copies of each word size.
pub(crate) fn check(kernels: &Kernels) -> Checked {
    let offsets = [
        (0, 0),
        (0, 16),
        (4, 8),
        (4, 0),
        (0, 4),
        (1, 0),
        (0, 8),
        (2, 6),
        (0, 1),
    ];
    for row_bytes in [1, 16, 36, 48, 50, 80, 4096, 16_384, 16_400, 27_000, 40_004] {
        for blocks in [planned(row_bytes, &offsets), 1] {
            check_copies(kernels, row_bytes, &offsets, blocks)?;
        }
    }
    Ok(())
}

#[test]
fn rows_of_all_kinds_are_copied() {
    check(&Kernels::embedded()).unwrap();
}

#[test]
fn rows_of_any_length_and_address_are_copied() {
    let (kernels, offsets) = (Kernels::embedded(), all_offsets());
    for row_bytes in 1..66 {
        let blocks = planned(row_bytes, &offsets);
        check_copies(&kernels, row_bytes, &offsets, blocks).unwrap();
    }
}

#[test]
fn rows_of_no_bytes_need_no_copy() {
    check_copies(&Kernels::embedded(), 0, &[(0, 0), (1, 2)], 1).unwrap();
    assert_eq!(planned(0, &[(0, 0), (1, 2)]), 0);
}

#[test]
fn lengths_around_segments_are_copied() {
    let offsets = [(0, 0), (4, 8), (1, 3), (0, 8)];
    for segments in [1, 2, 5] {
        for change in [-16, -1, 0, 1, 4, 16] {
            let row_bytes = (segments * 16 * 1024 + change) as usize;
            let blocks = planned(row_bytes, &offsets);
            check_copies(&Kernels::embedded(), row_bytes, &offsets, blocks).unwrap();
        }
    }
}

#[test]
fn any_number_of_blocks_copies_all_rows() {
    let (kernels, offsets) = (Kernels::embedded(), all_offsets());
    for blocks in [1, 3, 1000] {
        for row_bytes in [5, 64, 2048] {
            check_copies(&kernels, row_bytes, &offsets, blocks).unwrap();
        }
        check_copies(&kernels, 100_000, &offsets[..3], blocks).unwrap();
    }
}
