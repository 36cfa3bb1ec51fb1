//! Whether the kernels compute on a device what they should.

use super::driver::{DeviceBuffer, DeviceError, Kernels, LineTable, Lines};
use super::plan::{FACTORS, MAX_LINE_BYTES, MAX_PIECE_BYTES, VALUE_BYTES};

/// The longest row: of more chunks than one block of threads joins.
const MAX_ROW_BYTES: usize = 129 * 1024 + 1;

/// Rows whose ends are next to those of blocks, chunks and groups of chunks.
const ROW_BYTES: [usize; 14] = [
    1,
    3,
    63,
    64,
    65,
    1_023,
    1_024,
    1_025,
    2_048,
    5_000,
    65_536,
    131_071,
    131_072,
    MAX_ROW_BYTES,
];

/// Why a device is not used.
#[derive(Debug, thiserror::Error)]
pub(super) enum Failure {
    #[error(transparent)]
    Device(#[from] DeviceError),
    #[error("it computes wrong {0}")]
    Wrong(&'static str),
}

/// Runs each kernel and compares what it writes with what the host computes.
///
/// # Errors
///
/// A kernel that cannot run, or that writes something else.
pub(super) fn run(kernels: &Kernels) -> Result<(), Failure> {
    let bytes: Vec<u8> = (0..MAX_ROW_BYTES as u64).map(byte).collect();
    let memory = DeviceBuffer::upload(kernels.device(), &bytes)?;
    hash_rows(kernels, &bytes, &memory)?;
    hash_pieces(kernels, &bytes, &memory)?;
    copy_rows(kernels, &bytes, &memory)?;
    sum_lines(kernels, &bytes, &memory)
}

/// Bytes without a period that a kernel knows.
fn byte(at: u64) -> u8 {
    (at.wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 56) as u8
}

/// At most so many rows of each length: more than one block of threads has groups for, where rows are short.
const MAX_ROWS: u64 = 17;

fn hash_rows(kernels: &Kernels, bytes: &[u8], memory: &DeviceBuffer) -> Result<(), Failure> {
    let rows = ROW_BYTES.map(|row_bytes| memory.rows(row_bytes as u64).take(MAX_ROWS));
    let count: u64 = rows.iter().map(|rows| rows.count()).sum();
    let digests = DeviceBuffer::new(kernels.device(), count * VALUE_BYTES)?;
    let mut first = 0;
    for rows in &rows {
        kernels.hash_rows(rows, &digests, first)?;
        first += rows.count();
    }
    let expected = ROW_BYTES.iter().zip(&rows).flat_map(|(&row_bytes, rows)| {
        let rows = bytes.chunks(row_bytes).take(rows.count() as usize);
        rows.flat_map(|row| *blake3::hash(row).as_bytes())
    });
    compare("digests of rows", &digests, expected.collect())
}

fn hash_pieces(kernels: &Kernels, bytes: &[u8], memory: &DeviceBuffer) -> Result<(), Failure> {
    const BYTES: [u64; 8] = [
        1,
        64,
        1_000,
        1_024,
        1_025,
        50_000,
        MAX_PIECE_BYTES - 1,
        MAX_PIECE_BYTES,
    ];
    let pieces = BYTES.map(|length| memory.rows(length).pieces(length).last());
    let pieces: Vec<_> = pieces.into_iter().flatten().collect();
    let digests = DeviceBuffer::new(kernels.device(), pieces.len() as u64 * VALUE_BYTES)?;
    kernels.hash_pieces(&pieces, &digests, 0)?;
    let expected = BYTES.iter().flat_map(|&length| {
        let piece = bytes.chunks_exact(length as usize).next_back();
        *blake3::hash(piece.unwrap_or_default()).as_bytes()
    });
    compare("digests of pieces", &digests, expected.collect())
}

fn copy_rows(kernels: &Kernels, bytes: &[u8], memory: &DeviceBuffer) -> Result<(), Failure> {
    // In words of 16 bytes, of 4, and of one.
    for row_bytes in [48, 20, 33, 33_000] {
        let rows = memory.rows(row_bytes).take(MAX_ROWS);
        let copy = DeviceBuffer::new(kernels.device(), rows.count() * row_bytes)?;
        let from: Vec<_> = rows.pieces(row_bytes).collect();
        let to = copy.rows(row_bytes).pieces(row_bytes);
        let moves: Vec<_> = from.into_iter().rev().zip(to).collect();
        kernels.copy_rows(&moves)?;
        let expected = bytes.chunks(row_bytes as usize).take(moves.len()).rev();
        compare(
            "copies of rows",
            &copy,
            expected.flatten().copied().collect(),
        )?;
    }
    Ok(())
}

fn sum_lines(kernels: &Kernels, bytes: &[u8], memory: &DeviceBuffer) -> Result<(), Failure> {
    const ROW_BYTES: u64 = 1_000;
    let factors: Vec<u64> = (0..FACTORS as u64)
        .map(|at| u64::from(byte(at)) << 40 | at << 8 | u64::from(byte(!at)) | 1)
        .collect();
    let uploaded: Vec<u8> = factors
        .iter()
        .flat_map(|factor| factor.to_le_bytes())
        .collect();
    let uploaded = DeviceBuffer::upload(kernels.device(), &uploaded)?;
    let rows = memory.rows(ROW_BYTES).take(MAX_ROWS);
    let summed: Vec<_> = rows.pieces(ROW_BYTES).collect();
    let mut lines = Lines::default();
    summed.iter().for_each(|&row| lines.add_all(row));
    let table = LineTable::upload(kernels.device(), &lines)?;
    let factors_of = uploaded.rows(FACTORS as u64 * 8).row(0);
    let sums = kernels.sum_lines(&table, &summed, factors_of)?;
    let lines = bytes.chunks(ROW_BYTES as usize).take(rows.count() as usize);
    let lines: Vec<_> = lines
        .flat_map(|row| row.chunks(MAX_LINE_BYTES as usize))
        .collect();
    let words = MAX_LINE_BYTES as usize / 4;
    let sum_of = |lines: &[&[u8]]| {
        let products = lines
            .iter()
            .zip(factors.chunks(words))
            .flat_map(|(line, factors)| {
                line.chunks(4).zip(factors).map(|(bytes, factor)| {
                    let mut word = [0; 4];
                    word[..bytes.len()].copy_from_slice(bytes);
                    u64::from(u32::from_le_bytes(word)).wrapping_mul(*factor)
                })
            });
        products.fold(0, u64::wrapping_add).to_le_bytes()
    };
    let expected = lines.chunks(FACTORS / words).flat_map(sum_of);
    compare("sums of lines", &sums, expected.collect())
}

fn compare(what: &'static str, written: &DeviceBuffer, expected: Vec<u8>) -> Result<(), Failure> {
    match written.download()? == expected {
        true => Ok(()),
        false => Err(Failure::Wrong(what)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    #[ignore = "needs a CUDA device"]
    fn each_device_passes() {
        let count = tch::Cuda::device_count() as usize;
        assert!(count > 0, "no CUDA device");
        for device in 0..count {
            let kernels = Kernels::load(device).expect("a driver").unwrap();
            for _ in 0..3 {
                run(&kernels).unwrap();
            }
        }
    }
}
