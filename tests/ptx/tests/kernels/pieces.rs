//! `blake3_pieces`.

use crate::launch::{Checked, Kernels, Piece, random_bytes, same};
use crate::plan::MAX_PIECE_BYTES;

fn check_pieces(kernels: &Kernels, pieces: &[Piece]) -> Checked {
    let digest = |piece: &Piece| *blake3::hash(&piece.bytes).as_bytes();
    let expected: Vec<_> = pieces.iter().map(digest).collect();
    let lengths: Vec<_> = pieces
        .iter()
        .map(|piece| (piece.offset, piece.bytes.len()))
        .collect();
    same(&kernels.piece_digests(pieces)?, &expected, &lengths)
}

fn piece(offset: u64, bytes: u64) -> Piece {
    Piece {
        offset,
        bytes: random_bytes(bytes, bytes as usize),
    }
}

/// A few pieces of each kind.
pub(crate) fn check(kernels: &Kernels) -> Checked {
    let mixed = [
        piece(0, 0),
        piece(0, 1024),
        piece(1, 1030),
        piece(4, 1025),
        piece(16, 5 * 1024),
        piece(3, 66),
        piece(0, MAX_PIECE_BYTES),
    ];
    check_pieces(kernels, &mixed)
}

#[test]
fn pieces_of_all_kinds_have_their_digests() {
    check(&Kernels::embedded()).unwrap();
}

#[test]
fn pieces_of_any_length_and_address_have_their_digests() {
    let borders = [64, 128, 1024, 2048, 3072, 8192, MAX_PIECE_BYTES / 2];
    let around = borders
        .iter()
        .flat_map(|border| [border - 1, *border, border + 1]);
    let lengths = (0..6)
        .chain(around)
        .chain([MAX_PIECE_BYTES - 1, MAX_PIECE_BYTES]);
    let pieces: Vec<_> = lengths
        .enumerate()
        .map(|(index, bytes)| piece(index as u64 * 5 % 16, bytes))
        .collect();
    check_pieces(&Kernels::embedded(), &pieces).unwrap();
    let any_last_block = [0, 4, 1].into_iter().flat_map(|offset| {
        let lengths = (0..=64).chain(1024 + 65..=1024 + 128);
        lengths.map(move |bytes| piece(offset, bytes))
    });
    check_pieces(&Kernels::embedded(), &any_last_block.collect::<Vec<_>>()).unwrap();
    let short =
        (0..16).flat_map(|offset| [1, 63, 64, 65, 1025, 2048].map(|bytes| piece(offset, bytes)));
    check_pieces(&Kernels::embedded(), &short.collect::<Vec<_>>()).unwrap();
}

#[test]
fn hundreds_of_random_pieces_have_their_digests() {
    let mut random = fastrand::Rng::with_seed(2);
    let pieces =
        (0..600).map(|_| piece(random.u64(0..64), random.u64(0..6000) >> random.u32(0..8)));
    check_pieces(&Kernels::embedded(), &pieces.collect::<Vec<_>>()).unwrap();
}
