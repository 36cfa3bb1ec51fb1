//! BLAKE3 digests of many rows of equal length.
//!
//! The `blake3` crate fills vector registers with the chunks (1,024 bytes) of one input, so a row of
//! a few chunks leaves most lanes empty: rows of 3 KB hash at a fifth of the speed of long ones.
//! Here each lane hashes a row of its own, and groups of rows are spread over the threads. Without
//! AVX2, for few rows, and for one row that needs several threads, the crate hashes row by row.
//! Digests are plain BLAKE3 in every case.

#[cfg(target_arch = "x86_64")]
mod simd;
#[cfg(target_arch = "x86_64")]
mod tree;

use blake3::{Hasher, OUT_LEN};

use torchcache_store::threads;

use crate::tensor::parallel;

#[cfg(target_arch = "x86_64")]
use tree::Simd;

/// A BLAKE3 digest.
pub(crate) type Digest = [u8; OUT_LEN];

/// Rows that one thread takes at a time: as many as the widest vectors have lanes.
const GROUP: usize = 16;

/// The digests of `rows` consecutive rows that make up `bytes`, keyed if there is a `key`.
///
/// # Panics
///
/// If the rows cannot be of equal length.
pub(crate) fn row_digests(bytes: &[u8], rows: usize, key: Option<&Digest>) -> Vec<Digest> {
    assert!(
        bytes.len().is_multiple_of(rows.max(1)),
        "{} bytes are no {rows} rows of equal length",
        bytes.len()
    );
    let row_bytes = bytes.len() / rows.max(1);
    let hasher = RowHasher::new(key);
    if row_bytes == 0 {
        return vec![hasher.digest(&[]); rows];
    }
    let mut digests = vec![[0; OUT_LEN]; rows];
    let workers = parallel::workers(bytes.len());
    if rows < workers {
        // Fewer rows than threads: the threads share each row.
        for (row, digest) in bytes.chunks_exact(row_bytes).zip(&mut digests) {
            let mut hasher = hasher.start();
            parallel::update(&mut hasher, row);
            *digest = *hasher.finalize().as_bytes();
        }
        return digests;
    }
    let group = rows.div_ceil(workers).min(GROUP);
    let jobs = bytes
        .chunks(group * row_bytes)
        .zip(digests.chunks_mut(group));
    threads::for_each(workers, jobs, |(bytes, digests)| {
        hasher.hash(bytes, row_bytes, digests);
    });
    digests
}

/// Hashes rows on one thread.
struct RowHasher<'k> {
    key: Option<&'k Digest>,
    #[cfg(target_arch = "x86_64")]
    simd: Option<Simd>,
}

impl<'k> RowHasher<'k> {
    fn new(key: Option<&'k Digest>) -> Self {
        RowHasher {
            key,
            // Vector intrinsics that are not inlined are a hundred times slower than the assembly
            // of the `blake3` crate, which debug builds have as well.
            #[cfg(target_arch = "x86_64")]
            simd: if cfg!(unoptimized) {
                None
            } else {
                Simd::detect()
            },
        }
    }

    fn start(&self) -> Hasher {
        self.key.map_or_else(Hasher::new, Hasher::new_keyed)
    }

    fn digest(&self, row: &[u8]) -> Digest {
        *self.start().update(row).finalize().as_bytes()
    }

    /// Hashes up to [`GROUP`] consecutive rows of `row_bytes` bytes.
    fn hash(&self, bytes: &[u8], row_bytes: usize, digests: &mut [Digest]) {
        #[cfg(target_arch = "x86_64")]
        if let Some(simd) = self.simd
            && simd.is_faster(digests.len(), row_bytes)
        {
            return simd.hash(bytes, row_bytes, self.key, digests);
        }
        for (row, digest) in bytes.chunks_exact(row_bytes).zip(digests) {
            *digest = self.digest(row);
        }
    }
}

#[cfg(test)]
mod tests;
