//! The byte shuffle before compression, and back: bytes of the same significance are grouped.
//! Neighbouring numbers often share sign and exponent, which zstd finds only if those bytes are
//! adjacent. Plain loops that the compiler vectorises.
//!
//! With `count` whole elements of `N` bytes, byte `p` of element `i` goes to `p * count + i`. The
//! remaining bytes stay at the end.

/// Writes the shuffled form of `plain` to `out`.
///
/// # Panics
/// If `element_bytes` is not 2, 4 or 8, or the lengths differ.
pub(crate) fn shuffle(element_bytes: usize, plain: &[u8], out: &mut [u8]) {
    match element_bytes {
        2 => split(plain, out, |two, plane| {
            (u16::from_le_bytes(two) >> plane) as u8
        }),
        4 => split(plain, out, |four, plane| {
            (u32::from_le_bytes(four) >> plane) as u8
        }),
        8 => split(plain, out, |eight, plane| {
            (u64::from_le_bytes(eight) >> plane) as u8
        }),
        other => unreachable!("elements of {other} bytes are not shuffled"),
    }
}

/// Reverses [`shuffle`].
///
/// # Panics
/// As [`shuffle`] does.
pub(crate) fn unshuffle(element_bytes: usize, shuffled: &[u8], out: &mut [u8]) {
    match element_bytes {
        2 => join::<2>(shuffled, out),
        4 => join::<4>(shuffled, out),
        8 => join_blocks::<8>(shuffled, out),
        other => unreachable!("elements of {other} bytes are not shuffled"),
    }
}

/// `byte` returns the byte of an element that begins at a bit. (The compiler vectorises the shift of
/// a whole element, but not indexing its bytes.)
fn split<const N: usize>(plain: &[u8], out: &mut [u8], byte: impl Fn([u8; N], usize) -> u8) {
    let (numbers, rest) = plain.as_chunks::<N>();
    let (planes, left_over) = out.split_at_mut(numbers.len() * N);
    left_over.copy_from_slice(rest);
    for p in 0..N {
        let plane = &mut planes[p * numbers.len()..][..numbers.len()];
        for (out, number) in plane.iter_mut().zip(numbers) {
            *out = byte(*number, 8 * p);
        }
    }
}

fn join<const N: usize>(shuffled: &[u8], out: &mut [u8]) {
    let (numbers, left_over) = out.as_chunks_mut::<N>();
    let planes = planes::<N>(shuffled, left_over);
    for (i, number) in numbers.iter_mut().enumerate() {
        *number = std::array::from_fn(|p| planes[p][i]);
    }
}

/// [`join`] for several elements at a time: for long elements, the compiler does not vectorise the
/// simple loop.
fn join_blocks<const N: usize>(shuffled: &[u8], out: &mut [u8]) {
    const BLOCK: usize = 8;
    let (numbers, left_over) = out.as_chunks_mut::<N>();
    let planes = planes::<N>(shuffled, left_over);
    let (blocks, last) = numbers.as_chunks_mut::<BLOCK>();
    let in_blocks = blocks.len() * BLOCK;
    for (n, block) in blocks.iter_mut().enumerate() {
        let bytes: [[u8; BLOCK]; N] =
            std::array::from_fn(|p| std::array::from_fn(|i| planes[p][n * BLOCK..][..BLOCK][i]));
        *block = std::array::from_fn(|i| std::array::from_fn(|p| bytes[p][i]));
    }
    for (i, number) in last.iter_mut().enumerate() {
        *number = std::array::from_fn(|p| planes[p][in_blocks + i]);
    }
}

/// The planes, one for each significance. Copies the remaining bytes to `left_over`.
fn planes<'s, const N: usize>(shuffled: &'s [u8], left_over: &mut [u8]) -> [&'s [u8]; N] {
    let count = shuffled.len() / N;
    left_over.copy_from_slice(&shuffled[count * N..]);
    std::array::from_fn(|p| &shuffled[p * count..][..count])
}

#[cfg(test)]
mod tests {
    use super::*;

    fn shuffled(element_bytes: usize, plain: &[u8]) -> Vec<u8> {
        let mut out = vec![0xEE; plain.len()];
        shuffle(element_bytes, plain, &mut out);
        out
    }

    #[test]
    fn bytes_are_grouped_by_significance() {
        assert_eq!(shuffled(2, b"aAbBcC."), b"abcABC.");
        assert_eq!(shuffled(4, b"1aA!2bB?..."), b"12abAB!?...");
        assert_eq!(shuffled(8, b"12345678abcdefgh"), b"1a2b3c4d5e6f7g8h");
        assert_eq!(shuffled(4, b"abc"), b"abc");
    }

    #[test]
    fn unshuffle_reverses_shuffle_at_every_length() {
        let noise: Vec<u8> = (0..700u32)
            .map(|n| (n.wrapping_mul(2_654_435_761) >> 13) as u8)
            .collect();
        for element_bytes in [2, 4, 8] {
            for len in (0..300).chain(500..530).chain(690..=700) {
                let plain = &noise[..len];
                let shuffled = shuffled(element_bytes, plain);
                let count = len / element_bytes;
                for (at, byte) in plain[..count * element_bytes].iter().enumerate() {
                    let place = at % element_bytes * count + at / element_bytes;
                    assert_eq!(shuffled[place], *byte, "byte {at} of {len}");
                }
                let mut back = vec![0xEE; len];
                unshuffle(element_bytes, &shuffled, &mut back);
                assert_eq!(back, plain, "{len} bytes in numbers of {element_bytes}");
            }
        }
    }
}
