//! BLAKE3's tree of chunks for several rows at once, one in each lane.

use blake3::{BLOCK_LEN, CHUNK_LEN, OUT_LEN};

use super::simd::{Avx2, Avx512, BlockRun, ChainingValues, IV, Lanes};

/// A BLAKE3 digest.
type Digest = [u8; OUT_LEN];

/// BLAKE3's flags of a block.
mod flag {
    pub(super) const CHUNK_START: u32 = 1;
    pub(super) const CHUNK_END: u32 = 1 << 1;
    pub(super) const PARENT: u32 = 1 << 2;
    pub(super) const ROOT: u32 = 1 << 3;
    pub(super) const KEYED_HASH: u32 = 1 << 4;
}

/// The vector instructions of this CPU.
#[derive(Debug, Clone, Copy)]
pub(super) enum Simd {
    Avx512(Avx512),
    Avx2(Avx2),
}

impl Simd {
    pub(super) fn detect() -> Option<Self> {
        Avx512::detect()
            .map(Simd::Avx512)
            .or_else(|| Avx2::detect().map(Simd::Avx2))
    }

    /// Whether so many rows are hashed faster side by side than one by one, where the lanes are
    /// filled with the chunks of a row.
    pub(super) fn is_faster(self, rows: usize, row_bytes: usize) -> bool {
        let lanes = match self {
            Simd::Avx512(_) => 16,
            Simd::Avx2(_) => 8,
        };
        rows >= lanes || rows > row_bytes.div_ceil(CHUNK_LEN)
    }

    /// Hashes consecutive rows of `row_bytes` bytes.
    pub(super) fn hash(
        self,
        bytes: &[u8],
        row_bytes: usize,
        key: Option<&Digest>,
        digests: &mut [Digest],
    ) {
        match self {
            Simd::Avx512(lanes) if digests.len() > 8 => {
                Tree::<_, 16>::new(lanes, key).hash(bytes, row_bytes, digests);
            }
            // Half a vector is faster than a whole one of which half is unused.
            Simd::Avx512(lanes) => Tree::<_, 8>::new(lanes, key).hash(bytes, row_bytes, digests),
            Simd::Avx2(lanes) => Tree::<_, 8>::new(lanes, key).hash(bytes, row_bytes, digests),
        }
    }
}

struct Tree<L, const N: usize> {
    lanes: L,
    key: [u32; 8],
    /// On every block.
    flags: u32,
}

impl<L: Lanes<N>, const N: usize> Tree<L, N> {
    fn new(lanes: L, key: Option<&Digest>) -> Self {
        let words = |key: &Digest| {
            let (words, _) = key.as_chunks();
            std::array::from_fn(|word| u32::from_le_bytes(words[word]))
        };
        Tree {
            lanes,
            key: key.map_or(IV, words),
            flags: key.map_or(0, |_| flag::KEYED_HASH),
        }
    }

    fn hash(&self, bytes: &[u8], row_bytes: usize, digests: &mut [Digest]) {
        for (group, digests) in digests.chunks_mut(N).enumerate() {
            // Lanes without a row of their own repeat the last one.
            let rows = std::array::from_fn(|lane| {
                let row = group * N + lane.min(digests.len() - 1);
                &bytes[row * row_bytes..][..row_bytes]
            });
            let roots = self.lanes.digests(&self.root(&rows));
            digests.copy_from_slice(&roots[..digests.len()]);
        }
    }

    fn root(&self, rows: &[&[u8]; N]) -> ChainingValues<N> {
        let chunks = rows[0].len().div_ceil(CHUNK_LEN).max(1);
        if chunks == 1 {
            return self.chunk(rows, 0, flag::ROOT);
        }
        // The roots of the complete subtrees, each larger than the next.
        let mut subtrees = Vec::with_capacity(chunks.ilog2() as usize + 2);
        for number in 0..chunks {
            subtrees.push(self.chunk(rows, number, 0));
            // A chunk completes one subtree for each trailing zero of its number, counted from 1.
            // The last chunk is left for the loop below, since one of its merges is the root.
            if number + 1 < chunks {
                for _ in 0..(number + 1).trailing_zeros() {
                    self.merge_last(&mut subtrees, 0);
                }
            }
        }
        while subtrees.len() > 2 {
            self.merge_last(&mut subtrees, 0);
        }
        self.merge_last(&mut subtrees, flag::ROOT);
        subtrees[0]
    }

    /// The chaining value of chunk `number` of each row; `root` is `ROOT` for the only chunk.
    fn chunk(&self, rows: &[&[u8]; N], number: usize, root: u32) -> ChainingValues<N> {
        let start = number * CHUNK_LEN;
        let end = rows[0].len().min(start + CHUNK_LEN);
        let length = end - start;
        // The last block is padded with zeros. An empty chunk is one block of padding.
        let in_padded = match length % BLOCK_LEN {
            0 if length > 0 => None,
            rest => Some(rest),
        };
        let mut values = ChainingValues::splat(&self.key);
        let mut run = BlockRun {
            counter: number as u64,
            block_len: BLOCK_LEN as u32,
            flags: self.flags,
            first: flag::CHUNK_START,
            last: flag::CHUNK_END | root,
        };
        if length >= BLOCK_LEN {
            let blocks = rows.map(|row| row[start..end].as_chunks().0);
            let last = if in_padded.is_some() { 0 } else { run.last };
            self.lanes
                .compress(&mut values, &blocks, BlockRun { last, ..run });
            run.first = 0;
        }
        if let Some(rest) = in_padded {
            let mut padded = [[0; BLOCK_LEN]; N];
            for (block, row) in padded.iter_mut().zip(rows) {
                block[..rest].copy_from_slice(&row[end - rest..end]);
            }
            run.block_len = rest as u32;
            let blocks = padded.each_ref().map(std::slice::from_ref);
            self.lanes.compress(&mut values, &blocks, run);
        }
        values
    }

    /// Replaces the last two subtrees by their parent.
    fn merge_last(&self, subtrees: &mut Vec<ChainingValues<N>>, root: u32) {
        let right = subtrees.pop().expect("two subtrees to merge");
        let left = subtrees.last_mut().expect("two subtrees to merge");
        let flags = self.flags | flag::PARENT | root;
        self.lanes.merge(&self.key, left, &right, flags);
    }
}

/// The digests of rows by each vector width that this CPU has.
#[cfg(test)]
pub(super) fn by_each_width(
    bytes: &[u8],
    rows: usize,
    key: Option<&Digest>,
) -> Vec<(&'static str, Vec<Digest>)> {
    fn hash<const N: usize>(
        lanes: impl Lanes<N>,
        bytes: &[u8],
        rows: usize,
        key: Option<&Digest>,
    ) -> Vec<Digest> {
        let mut digests = vec![Digest::default(); rows];
        Tree::new(lanes, key).hash(bytes, bytes.len() / rows.max(1), &mut digests);
        digests
    }
    let mut by_width = Vec::new();
    if let Some(lanes) = Avx512::detect() {
        by_width.push(("AVX-512", hash::<16>(lanes, bytes, rows, key)));
        by_width.push(("AVX-512VL", hash::<8>(lanes, bytes, rows, key)));
    }
    if let Some(lanes) = Avx2::detect() {
        by_width.push(("AVX2", hash::<8>(lanes, bytes, rows, key)));
    }
    by_width
}
