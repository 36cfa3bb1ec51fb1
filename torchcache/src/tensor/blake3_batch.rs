//! BLAKE3 of many rows of one length: the rows fill the SIMD lanes, and groups of rows the cores.
//!
//! The `blake3` crate fills the lanes with the chunks (1,024 bytes) of one input, so a row of a few
//! chunks leaves most of them empty: 256 rows of 3 KB take four times as long one by one. Here each
//! lane hashes a row of its own, chunk by chunk and up the same tree. The compression itself, and
//! which instructions it uses, is that crate's. Digests are those of plain BLAKE3, to the bit.

use blake3::platform::{MAX_SIMD_DEGREE, Platform};
use blake3::{BLOCK_LEN, CHUNK_LEN, Hasher, IncrementCounter, OUT_LEN};

use torchcache_store::threads;

use crate::tensor::parallel;

/// A BLAKE3 digest.
pub(crate) type Digest = [u8; OUT_LEN];

/// Rows that are hashed together.
const LANES: usize = MAX_SIMD_DEGREE;

/// BLAKE3's initial value, which is SHA-256's: of the square roots of the first eight primes, the
/// first 32 bits behind the point.
const IV: [u32; 8] = [
    0x6A09_E667,
    0xBB67_AE85,
    0x3C6E_F372,
    0xA54F_F53A,
    0x510E_527F,
    0x9B05_688C,
    0x1F83_D9AB,
    0x5BE0_CD19,
];

/// BLAKE3's flags of a block.
mod flag {
    pub(super) const CHUNK_START: u8 = 1;
    pub(super) const CHUNK_END: u8 = 1 << 1;
    pub(super) const PARENT: u8 = 1 << 2;
    pub(super) const ROOT: u8 = 1 << 3;
    pub(super) const KEYED_HASH: u8 = 1 << 4;
}

/// The digests of consecutive rows of `row_bytes` bytes each; keyed where there is a `key`.
pub(crate) fn hash_rows(bytes: &[u8], row_bytes: usize, key: Option<&Digest>) -> Vec<Digest> {
    let rows = bytes.len() / row_bytes;
    let mut digests = vec![[0; OUT_LEN]; rows];
    let workers = parallel::workers(bytes.len());
    let group = rows.div_ceil(workers).clamp(1, LANES);
    let tree = Tree::new(key);
    if rows < workers {
        // Not a row for each core: the cores share each row.
        for (row, digest) in bytes.chunks_exact(row_bytes).zip(&mut digests) {
            let mut hasher = tree.hasher();
            parallel::update(&mut hasher, row);
            *digest = *hasher.finalize().as_bytes();
        }
        return digests;
    }
    let jobs = bytes
        .chunks(group * row_bytes)
        .zip(digests.chunks_mut(group));
    threads::each(workers, jobs, |(rows, digests)| {
        tree.hash(rows, row_bytes, digests);
    });
    digests
}

/// Chaining values, one for each lane.
type Values = [Digest; LANES];

/// BLAKE3's tree of chunks, for several rows at once.
struct Tree<'k> {
    platform: Platform,
    key: Option<&'k Digest>,
    words: [u32; 8],
    /// On every block.
    flags: u8,
}

/// A run of whole blocks at the same place of each row.
struct Blocks {
    at: usize,
    count: usize,
    chunk: u64,
    /// On the first and on the last of them.
    start: u8,
    end: u8,
}

impl<'k> Tree<'k> {
    fn new(key: Option<&'k Digest>) -> Self {
        Tree {
            platform: Platform::detect(),
            key,
            words: key.map_or(IV, words),
            flags: key.map_or(0, |_| flag::KEYED_HASH),
        }
    }

    fn hasher(&self) -> Hasher {
        self.key.map_or_else(Hasher::new, Hasher::new_keyed)
    }

    /// Hashes up to [`LANES`] consecutive rows.
    fn hash(&self, bytes: &[u8], row_bytes: usize, digests: &mut [Digest]) {
        let chunks = row_bytes.div_ceil(CHUNK_LEN).max(1);
        let mut rows: [&[u8]; LANES] = [&[]; LANES];
        for (lane, row) in rows.iter_mut().zip(bytes.chunks_exact(row_bytes)) {
            *lane = row;
        }
        let rows = &rows[..digests.len()];
        if chunks.min(LANES) > rows.len() {
            // The chunks of one row fill more lanes than the rows would.
            for (row, digest) in rows.iter().zip(digests) {
                *digest = *self.hasher().update(row).finalize().as_bytes();
            }
            return;
        }
        let values = self.root(rows, row_bytes, chunks);
        digests.copy_from_slice(&values[..digests.len()]);
    }

    fn root(&self, rows: &[&[u8]], row_bytes: usize, chunks: usize) -> Values {
        if chunks == 1 {
            return self.chunk(rows, 0, row_bytes, flag::ROOT);
        }
        // The roots of the finished subtrees, each larger than the next.
        let mut finished: Vec<Values> = Vec::with_capacity(chunks.ilog2() as usize + 2);
        for chunk in 0..chunks {
            let length = CHUNK_LEN.min(row_bytes - chunk * CHUNK_LEN);
            finished.push(self.chunk(rows, chunk, length, 0));
            // As many subtrees end with this chunk as its number, counted from one, has zeros at
            // its end. The last chunk is different: one of its merges is the root.
            if chunk + 1 < chunks {
                for _ in 0..(chunk + 1).trailing_zeros() {
                    self.merge(rows.len(), &mut finished, 0);
                }
            }
        }
        while finished.len() > 2 {
            self.merge(rows.len(), &mut finished, 0);
        }
        self.merge(rows.len(), &mut finished, flag::ROOT);
        finished[0]
    }

    /// Chunk number `chunk` of each row, of `length` bytes.
    fn chunk(&self, rows: &[&[u8]], chunk: usize, length: usize, root: u8) -> Values {
        let mut values = [[0; OUT_LEN]; LANES];
        let at = chunk * CHUNK_LEN;
        let count = length / BLOCK_LEN;
        let rest = length % BLOCK_LEN;
        let whole = rest == 0 && count > 0;
        let mut start = flag::CHUNK_START;
        if count > 0 {
            let blocks = Blocks {
                at,
                count,
                chunk: chunk as u64,
                start,
                end: if whole { flag::CHUNK_END | root } else { 0 },
            };
            self.blocks(rows, &blocks, &mut values);
            start = 0;
        }
        if !whole {
            // A block that is not full is not for the lanes.
            let begin = at + count * BLOCK_LEN;
            for (row, value) in rows.iter().zip(&mut values) {
                let mut block = [0; BLOCK_LEN];
                block[..rest].copy_from_slice(&row[begin..begin + rest]);
                let mut state = if count > 0 { words(value) } else { self.words };
                self.platform.compress_in_place(
                    &mut state,
                    &block,
                    rest as u8,
                    chunk as u64,
                    self.flags | start | flag::CHUNK_END | root,
                );
                for (bytes, word) in value.as_chunks_mut::<4>().0.iter_mut().zip(state) {
                    *bytes = word.to_le_bytes();
                }
            }
        }
        values
    }

    fn blocks(&self, rows: &[&[u8]], blocks: &Blocks, values: &mut Values) {
        macro_rules! of_length {
            ($($count:literal)*) => {
                match blocks.count {
                    $($count => self.many::<{ $count * BLOCK_LEN }>(rows, blocks, values),)*
                    count => unreachable!("{count} blocks in a chunk"),
                }
            };
        }
        of_length!(1 2 3 4 5 6 7 8 9 10 11 12 13 14 15 16);
    }

    fn many<const LENGTH: usize>(&self, rows: &[&[u8]], blocks: &Blocks, values: &mut Values) {
        let mut inputs = [&[0; LENGTH]; LANES];
        for (input, row) in inputs.iter_mut().zip(rows) {
            *input = row[blocks.at..]
                .first_chunk()
                .expect("the row goes on for these blocks");
        }
        self.platform.hash_many(
            &inputs[..rows.len()],
            &self.words,
            blocks.chunk,
            IncrementCounter::No,
            self.flags,
            blocks.start,
            blocks.end,
            values.as_flattened_mut(),
        );
    }

    /// Puts a parent in the place of the last two subtrees.
    fn merge(&self, rows: usize, finished: &mut Vec<Values>, root: u8) {
        let right = finished.pop().expect("two subtrees to merge");
        let left = finished.last_mut().expect("two subtrees to merge");
        let mut parents = [[0; BLOCK_LEN]; LANES];
        for (parent, (left, right)) in parents.iter_mut().zip(left.iter().zip(&right)) {
            parent[..OUT_LEN].copy_from_slice(left);
            parent[OUT_LEN..].copy_from_slice(right);
        }
        self.platform.hash_many(
            &parents.each_ref()[..rows],
            &self.words,
            0,
            IncrementCounter::No,
            self.flags | flag::PARENT | root,
            0,
            0,
            left.as_flattened_mut(),
        );
    }
}

fn words(bytes: &Digest) -> [u32; 8] {
    let (words, _) = bytes.as_chunks::<4>();
    std::array::from_fn(|word| u32::from_le_bytes(words[word]))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Rows that differ, without a pattern that a shifted read would not notice.
    fn rows(count: usize, length: usize) -> Vec<u8> {
        let mut bytes = vec![0; count * length];
        Hasher::new()
            .update(&(count as u64).to_le_bytes())
            .finalize_xof()
            .fill(&mut bytes);
        bytes
    }

    fn assert_plain_digests(count: usize, length: usize) {
        let bytes = rows(count, length);
        let key = *blake3::hash(b"key").as_bytes();
        let plain = hash_rows(&bytes, length, None);
        let keyed = hash_rows(&bytes, length, Some(&key));
        assert_eq!((plain.len(), keyed.len()), (count, count));
        for (number, row) in bytes.chunks_exact(length).enumerate() {
            let at = format!("row {number} of {count} of {length} bytes");
            assert_eq!(&plain[number], blake3::hash(row).as_bytes(), "{at}");
            assert_eq!(
                &keyed[number],
                blake3::keyed_hash(&key, row).as_bytes(),
                "{at}"
            );
        }
    }

    #[test]
    fn digests_are_plain_blake3_for_every_length_within_a_chunk_and_around_it() {
        for length in 1..=CHUNK_LEN + 2 * BLOCK_LEN + 1 {
            assert_plain_digests(3, length);
            if length % 61 == 0 || length % BLOCK_LEN < 2 {
                assert_plain_digests(LANES + 1, length);
            }
        }
    }

    #[test]
    fn digests_are_plain_blake3_around_every_border_of_the_tree() {
        for chunks in 1..=35 {
            for block in [-1i64, 0, 1] {
                for byte in [-1i64, 0, 1] {
                    let length = chunks * CHUNK_LEN as i64 + block * BLOCK_LEN as i64 + byte;
                    assert_plain_digests(LANES, length as usize);
                }
            }
        }
    }

    #[test]
    fn any_number_of_rows_is_hashed_alike() {
        for count in 0..=2 * LANES + 1 {
            for length in [1, 64, 100, 1024, 3072, 5000, 20_000] {
                assert_plain_digests(count, length);
            }
        }
    }

    #[test]
    fn long_rows_are_hashed_alike_over_the_cores() {
        assert_plain_digests(1, 3 << 20);
        assert_plain_digests(40, 200_001);
    }

    #[test]
    #[cfg(target_arch = "x86_64")]
    fn every_instruction_set_of_this_machine_gives_the_same_digests() {
        let others = [Platform::sse2(), Platform::sse41(), Platform::avx2()];
        let platforms = [Platform::Portable, Platform::detect()];
        for platform in others.into_iter().flatten().chain(platforms) {
            let tree = Tree {
                platform,
                ..Tree::new(None)
            };
            // Each count of blocks in a chunk, with and without a part of one more, and trees.
            let lengths = (1..=16).flat_map(|blocks| [64 * blocks, 64 * blocks + 1]);
            for length in lengths.chain([3072, 5000, 17 * 1024]) {
                let bytes = rows(LANES, length);
                let mut digests = [[0; OUT_LEN]; LANES];
                tree.hash(&bytes, length, &mut digests);
                for (row, digest) in bytes.chunks_exact(length).zip(&digests) {
                    let plain = blake3::hash(row);
                    assert_eq!(plain.as_bytes(), digest, "{platform:?}, {length} bytes");
                }
            }
        }
    }
}
