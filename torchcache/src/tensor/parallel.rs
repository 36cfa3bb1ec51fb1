//! Hashing and copying on several threads, where it is worth waking them. No lock of this crate may be
//! held meanwhile.

use std::fs::File;
use std::io::{self, Read};

use torchcache_store::threads;

/// One more thread for each of these many bytes to hash: waking a thread takes as long as hashing half
/// of them.
const BYTES_PER_WORKER: usize = 128 * 1024;

/// How many threads to use for `bytes`. One does not use the pool.
pub(crate) fn workers(bytes: usize) -> usize {
    match bytes / BYTES_PER_WORKER {
        0 | 1 => 1,
        worth => worth.min(threads::count()),
    }
}

/// Adds bytes to a hasher, on several threads if there are enough.
pub(crate) fn update(hasher: &mut blake3::Hasher, bytes: &[u8]) {
    let spread = workers(bytes.len()) > 1
        && threads::install(|| {
            hasher.update_rayon(bytes);
        })
        .is_some();
    if !spread {
        hasher.update(bytes);
    }
}

/// A file is read in pieces of this size, each of which several threads hash.
const FILE_PIECE: u64 = 8 << 20;

/// BLAKE3 of the rest of a file.
///
/// # Errors
///
/// Errors of reading it.
pub(crate) fn hash_file(file: &mut File) -> io::Result<[u8; 32]> {
    let mut hasher = blake3::Hasher::new();
    let mut piece = Vec::new();
    loop {
        piece.clear();
        if file.by_ref().take(FILE_PIECE).read_to_end(&mut piece)? == 0 {
            return Ok(*hasher.finalize().as_bytes());
        }
        update(&mut hasher, &piece);
    }
}

/// How many threads to copy `bytes` with, and how many of the `count` items each takes at a time.
/// Copying takes a quarter of the time of hashing.
pub(crate) fn copying(bytes: usize, count: usize) -> (usize, usize) {
    let workers = workers(bytes / 4);
    (workers, count.div_ceil(4 * workers).max(1))
}

/// Copies bytes of one length.
pub(crate) fn copy(out: &mut [u8], bytes: &[u8]) {
    let (workers, share) = copying(bytes.len(), bytes.len());
    let jobs = out.chunks_mut(share).zip(bytes.chunks(share));
    threads::for_each(workers, jobs, |(out, bytes)| out.copy_from_slice(bytes));
}

/// Copies rows of one length into `out`, one after the other, which they fill.
pub(crate) fn copy_rows(out: &mut [u8], rows: &[&[u8]]) {
    let row_bytes = rows.first().map_or(0, |row| row.len());
    if row_bytes == 0 {
        return;
    }
    let (workers, share) = copying(out.len(), rows.len());
    let jobs = out.chunks_mut(share * row_bytes).zip(rows.chunks(share));
    threads::for_each(workers, jobs, |(out, rows)| {
        for (out, row) in out.chunks_exact_mut(row_bytes).zip(rows) {
            out.copy_from_slice(row);
        }
    });
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn copies_are_complete_at_every_size() {
        for length in [0, 1, 1000, (4 << 20) + 13] {
            let bytes: Vec<u8> = (0..length).map(|n| (n * 31) as u8).collect();
            let mut out = vec![0; length];
            copy(&mut out, &bytes);
            assert!(out == bytes, "{length} bytes");
            let rows: Vec<&[u8]> = bytes.chunks_exact(1000).rev().collect();
            let mut out = vec![0; rows.len() * 1000];
            copy_rows(&mut out, &rows);
            assert!(out == rows.concat(), "{} rows", rows.len());
        }
    }

    #[test]
    fn files_of_any_size_have_the_digest_of_their_bytes() {
        let path = tempfile::NamedTempFile::new().unwrap();
        for length in [0, 1, 100_000, FILE_PIECE as usize, FILE_PIECE as usize + 77] {
            let bytes: Vec<u8> = (0..length).map(|n| (n * 31) as u8).collect();
            std::fs::write(&path, &bytes).unwrap();
            let hashed = hash_file(&mut File::open(&path).unwrap()).unwrap();
            assert_eq!(hashed, *blake3::hash(&bytes).as_bytes(), "{length} bytes");
        }
    }

    #[test]
    fn small_work_uses_one_thread() {
        assert_eq!(workers(0), 1);
        assert_eq!(workers(BYTES_PER_WORKER * 2 - 1), 1);
        assert_eq!(copying(BYTES_PER_WORKER * 8 - 1, 1).0, 1);
    }
}
