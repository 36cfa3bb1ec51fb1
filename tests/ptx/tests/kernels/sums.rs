//! `line_sums`.

use crate::launch::{Checked, Kernels, Piece, random_bytes, same};
use crate::plan::{BLOCK_THREADS, FACTORS, MAX_LINE_BYTES};

fn factors() -> Vec<u64> {
    let mut random = fastrand::Rng::with_seed(3);
    (0..FACTORS).map(|_| random.u64(..) | 1).collect()
}

/// What a block of lines is to be summed to.
fn expected(lines: &[Piece], factors: &[u64]) -> u64 {
    let mut sum = 0u64;
    for (line, factors) in lines.iter().zip(factors.chunks(16)) {
        for (word, factor) in line.bytes.chunks(4).zip(factors) {
            let mut bytes = [0; 4];
            bytes[..word.len()].copy_from_slice(word);
            let word = u64::from(u32::from_le_bytes(bytes));
            sum = sum.wrapping_add(word.wrapping_mul(*factor));
        }
    }
    sum
}

fn check_lines(kernels: &Kernels, lines: &[Piece]) -> Checked {
    let factors = factors();
    let blocks = lines.chunks(BLOCK_THREADS as usize);
    let sums: Vec<_> = blocks.map(|lines| expected(lines, &factors)).collect();
    let lengths: Vec<_> = lines
        .iter()
        .map(|line| (line.offset, line.bytes.len()))
        .collect();
    same(&kernels.line_sums(lines, &factors)?, &sums, &lengths)
}

fn line(offset: u64, bytes: u64) -> Piece {
    Piece {
        offset,
        bytes: random_bytes(offset + 64 * bytes, bytes as usize),
    }
}

/// Lines of each length, at addresses of each kind, in two blocks.
pub(crate) fn check(kernels: &Kernels) -> Checked {
    let lengths = (0..=MAX_LINE_BYTES).chain([MAX_LINE_BYTES]);
    let lines = lengths.flat_map(|bytes| [0, 4, 1].map(|offset| line(offset, bytes)));
    check_lines(kernels, &lines.collect::<Vec<_>>())
}

#[test]
fn lines_of_all_kinds_have_their_sums() {
    check(&Kernels::embedded()).unwrap();
}

#[test]
fn lines_of_any_length_and_address_have_their_sums() {
    let kernels = Kernels::embedded();
    for offset in 0..16 {
        let lines: Vec<_> = (0..=MAX_LINE_BYTES)
            .map(|bytes| line(offset, bytes))
            .collect();
        check_lines(&kernels, &lines).unwrap();
    }
}

#[test]
fn blocks_are_filled_with_lines_or_not() {
    let kernels = Kernels::embedded();
    for count in [1, 2, 63, 64, 65, 127, 128, 129, 255, 256, 257, 1000] {
        let lines: Vec<_> = (0..count).map(|index| line(0, 64 - index % 3)).collect();
        check_lines(&kernels, &lines).unwrap();
    }
}

#[test]
fn each_bit_of_a_line_counts() {
    let (kernels, factors) = (Kernels::embedded(), factors());
    let mut lines = vec![line(0, 64); 3];
    let sum = kernels.line_sums(&lines, &factors).unwrap();
    for bit in 0..512 {
        lines[1].bytes[bit / 8] ^= 1 << (bit % 8);
        assert_ne!(
            kernels.line_sums(&lines, &factors).unwrap(),
            sum,
            "bit {bit}"
        );
        lines[1].bytes[bit / 8] ^= 1 << (bit % 8);
    }
}
