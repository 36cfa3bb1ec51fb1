//! Each way of hashing against the `blake3` crate, which hashes a row at a time.

use blake3::CHUNK_LEN;
use proptest::prelude::*;

use super::*;

/// Random bytes, so that a read at a wrong place gives another digest.
fn random(length: usize) -> Vec<u8> {
    let mut bytes = vec![0; length];
    Hasher::new()
        .update(&length.to_le_bytes())
        .finalize_xof()
        .fill(&mut bytes);
    bytes
}

fn expected(rows: &[&[u8]], key: Option<&Digest>) -> Vec<Digest> {
    let digest = |row: &&[u8]| match key {
        Some(key) => *blake3::keyed_hash(key, row).as_bytes(),
        None => *blake3::hash(row).as_bytes(),
    };
    rows.iter().map(digest).collect()
}

/// Checks [`row_digests`], and each vector width of this CPU even where it would not be used.
fn assert_digests(count: usize, row_bytes: usize, key: Option<&Digest>) {
    // From an odd address.
    let bytes = random(count * row_bytes + 1);
    let bytes = &bytes[1..];
    let rows: Vec<_> = (0..count)
        .map(|row| &bytes[row * row_bytes..][..row_bytes])
        .collect();
    let expected = expected(&rows, key);
    assert_eq!(
        row_digests(bytes, count, key),
        expected,
        "{count} rows of {row_bytes} bytes"
    );
    #[cfg(target_arch = "x86_64")]
    for (name, digests) in tree::by_each_width(bytes, count, key) {
        assert_eq!(
            digests, expected,
            "{count} rows of {row_bytes} bytes by {name}"
        );
    }
}

#[test]
fn digests_match_for_lengths_up_to_a_chunk() {
    for length in (0..=130).chain((130..=CHUNK_LEN + 65).step_by(7)) {
        assert_digests(3, length, None);
    }
}

#[test]
fn digests_match_around_block_and_chunk_borders() {
    let key = *blake3::hash(b"key").as_bytes();
    for chunks in (1..=5).chain([8, 9, 15, 16, 17, 33]) {
        for around in [-65, -64, -1, 0, 1, 64] {
            let length = (CHUNK_LEN * chunks).wrapping_add_signed(around);
            assert_digests(2, length, Some(&key));
        }
    }
}

#[test]
fn digests_match_for_every_number_of_rows() {
    for count in 0..=2 * GROUP + 1 {
        for length in [0, 1, 64, 100, 1024, 3073] {
            assert_digests(count, length, None);
        }
    }
}

#[test]
fn digests_match_where_threads_share_the_rows() {
    for (count, length) in [(1, 3 << 20), (3, 1_000_001), (40, 20_001)] {
        let bytes = random(count * length);
        let rows: Vec<_> = bytes.chunks_exact(length).collect();
        assert_eq!(row_digests(&bytes, count, None), expected(&rows, None));
    }
}

#[test]
#[should_panic(expected = "10 bytes are no 3 rows of equal length")]
fn rows_of_unequal_length_are_refused() {
    row_digests(&[0; 10], 3, None);
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 32, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn digests_match_for_any_length(
        count in 1..=2 * GROUP,
        length in 0..=20_000usize,
        key in any::<Option<Digest>>(),
    ) {
        assert_digests(count, length, key.as_ref());
    }
}
