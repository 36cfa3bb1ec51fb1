//! Blocks of launches on so much memory that sizes and indices need more than 32 bits. Only what the block accesses
//! is in memory.

use blake3::hazmat::{HasherExt, Mode, merge_subtrees_non_root};
use torchcache_ptx::Buffers;

use crate::launch::{Checked, Digest, Kernels, digests, random_bytes, same, words};
use crate::plan::{self, BLOCK_THREADS};

const CHUNK: u64 = 1024;
const THREADS: u64 = BLOCK_THREADS as u64;
/// The last block of the largest launch.
const LAST: u32 = i32::MAX as u32 - 1;

/// The address of a range that begins `before` bytes before an address.
fn begin(address: u64, before: u64) -> u64 {
    address.wrapping_sub(before)
}

/// Runs one block of the largest launch.
fn run_block(
    kernels: &Kernels,
    name: &str,
    block: u32,
    params: &[u64],
    memory: &mut Buffers,
) -> Checked {
    kernels.launch_part(name, LAST + 1, block..block + 1, params, memory)
}

fn check_bytes(memory: &Buffers, out: u64, expected: &[u8]) -> Checked {
    let bytes = memory.written(out).ok_or("a byte is missing")?;
    same(bytes, expected, &"a huge launch")
}

fn check_digests(memory: &Buffers, out: u64, expected: &[Digest]) -> Checked {
    same(&digests(memory, out)?, expected, &"a huge launch")
}

/// The value that chunks of a longer row are joined into.
fn value_of(first_chunk: u64, bytes: &[u8]) -> Digest {
    let mut hasher = blake3::Hasher::new();
    hasher.set_input_offset(first_chunk * CHUNK);
    hasher.update(bytes).finalize_non_root()
}

fn chunks_of_a_row_of_8_tib_are_joined(kernels: &Kernels) -> Checked {
    let row_bytes = (1 << 43) + 100;
    let levels = plan::row_digest_levels(1, row_bytes).unwrap();
    assert_eq!(levels[0].groups, (1 << 26) + 1);
    for (group, length) in [((1 << 26) - 1, THREADS * CHUNK), (1 << 26, 100)] {
        let bytes = random_bytes(group, length as usize);
        let mut memory = Buffers::new();
        let input = memory.input(0, bytes.as_slice());
        let out = memory.output(0, 32);
        let (from, to) = (
            begin(input, group * THREADS * CHUNK),
            begin(out, group * 32),
        );
        let params = [from, 1, row_bytes, row_bytes, THREADS, to];
        run_block(kernels, "blake3_chunks", group as u32, &params, &mut memory)?;
        let expected = value_of(group * THREADS, &bytes);
        check_digests(&memory, out, &[expected])?;
    }
    Ok(())
}

fn values_of_more_than_a_row_of_4_tib_are_joined(kernels: &Kernels) -> Checked {
    let (rows, nodes, group) = (3, 1 << 33, (1 << 27) + 5);
    let values: Vec<Digest> = random_bytes(1, 32 * 128).as_chunks().0.to_vec();
    let mut memory = Buffers::new();
    let input = memory.input(0, values.concat());
    let out = memory.output(0, 32);
    // It is in the third row, of 2^26 groups each.
    let (from, to) = (begin(input, group * THREADS * 32), begin(out, group * 32));
    run_block(
        kernels,
        "blake3_nodes",
        group as u32,
        &[from, rows, nodes, THREADS, to],
        &mut memory,
    )?;
    let mut expected = values;
    while expected.len() > 1 {
        let pairs = expected.chunks(2);
        let join = |pair: &[Digest]| merge_subtrees_non_root(&pair[0], &pair[1], Mode::Hash);
        expected = pairs.map(join).collect();
    }
    check_digests(&memory, out, &expected)
}

fn the_last_of_270_billion_rows_have_their_digests(kernels: &Kernels) -> Checked {
    for (row_bytes, width) in [(8, 1), (1500, 2), (5000, 8)] {
        let rows_of_block = THREADS / width;
        let rows = u64::from(LAST + 1) * rows_of_block;
        let levels = plan::row_digest_levels(rows, row_bytes).unwrap();
        assert_eq!((levels.len(), levels[0].blocks), (1, LAST + 1));
        let first = u64::from(LAST) * rows_of_block;
        let bytes = random_bytes(row_bytes, (rows_of_block * row_bytes) as usize);
        let mut memory = Buffers::new();
        let input = memory.input(0, bytes.as_slice());
        let out = memory.output(0, 32 * rows_of_block as usize);
        let (from, to) = (begin(input, first * row_bytes), begin(out, first * 32));
        let params = [from, rows, row_bytes, row_bytes, width, to];
        run_block(kernels, "blake3_chunks", LAST, &params, &mut memory)?;
        let rows = bytes.chunks(row_bytes as usize);
        let expected = rows
            .map(|row| *blake3::hash(row).as_bytes())
            .collect::<Vec<_>>();
        check_digests(&memory, out, &expected)?;
    }
    Ok(())
}

/// Rows of five nodes in groups of two, three a row: the first group of the last block, and the rows.
fn rows_of_three_groups() -> (u64, u64) {
    let groups_of_block = THREADS / 2;
    let groups = u64::from(LAST + 1) * groups_of_block;
    (groups - groups_of_block, groups / 3)
}

fn chunks_of_the_last_of_45_billion_rows_are_joined(kernels: &Kernels) -> Checked {
    let (first, rows) = rows_of_three_groups();
    let bytes = random_bytes(4, 5 * CHUNK as usize);
    let mut memory = Buffers::new();
    // All rows are at one place.
    let input = memory.input(0, bytes.as_slice());
    let out = memory.output(0, 32 * (3 * rows - first) as usize);
    let params = [input, rows, 5 * CHUNK, 0, 2, begin(out, first * 32)];
    run_block(kernels, "blake3_chunks", LAST, &params, &mut memory)?;
    let pairs = bytes.chunks(2 * CHUNK as usize).enumerate();
    let values: Vec<_> = pairs
        .map(|(pair, bytes)| value_of(2 * pair as u64, bytes))
        .collect();
    let expected = (first..3 * rows).map(|group| values[(group % 3) as usize]);
    check_digests(&memory, out, &expected.collect::<Vec<_>>())
}

fn values_of_the_last_of_45_billion_rows_are_joined(kernels: &Kernels) -> Checked {
    let (first, rows) = rows_of_three_groups();
    let first_row = first / 3;
    let count = (rows - first_row) as usize;
    let values: Vec<Digest> = random_bytes(5, 32 * 5 * count).as_chunks().0.to_vec();
    let mut memory = Buffers::new();
    let input = memory.input(0, values.concat());
    let out = memory.output(0, 32 * (3 * rows - first) as usize);
    let (from, to) = (begin(input, first_row * 5 * 32), begin(out, first * 32));
    run_block(
        kernels,
        "blake3_nodes",
        LAST,
        &[from, rows, 5, 2, to],
        &mut memory,
    )?;
    let join = |pair: &[Digest]| match pair {
        [left, right] => merge_subtrees_non_root(left, right, Mode::Hash),
        odd => odd[0],
    };
    let groups = values.chunks(5).flat_map(|row| row.chunks(2).map(join));
    let expected = groups.skip((first % 3) as usize).collect::<Vec<_>>();
    check_digests(&memory, out, &expected)
}

fn the_last_of_two_billion_pieces_has_its_digest(kernels: &Kernels) -> Checked {
    let bytes = random_bytes(2, 3000);
    let mut memory = Buffers::new();
    let input = memory.input(0, bytes.as_slice());
    let table = memory.input(0, words([input, 3000]));
    let out = memory.output(0, 32);
    let piece = u64::from(LAST);
    let (from, to) = (begin(table, piece * 16), begin(out, piece * 32));
    run_block(
        kernels,
        "blake3_pieces",
        LAST,
        &[from, piece + 1, to],
        &mut memory,
    )?;
    check_digests(&memory, out, &[*blake3::hash(&bytes).as_bytes()])
}

fn the_last_of_270_billion_lines_are_summed(kernels: &Kernels) -> Checked {
    let first = u64::from(LAST) * THREADS;
    let mut memory = Buffers::new();
    let line = memory.input(0, 5u32.to_le_bytes());
    let table = memory.input(0, words([line, 4].repeat(3)));
    let factors = memory.input(0, words((0..plan::FACTORS as u64).map(|at| 2 * at + 1)));
    let out = memory.output(0, 8);
    // The block has three lines, of one word each.
    let (from, to) = (begin(table, first * 16), begin(out, u64::from(LAST) * 8));
    run_block(
        kernels,
        "line_sums",
        LAST,
        &[from, first + 3, factors, to],
        &mut memory,
    )?;
    let sum: u64 = 5 * (1 + 33 + 65);
    check_bytes(&memory, out, &sum.to_le_bytes())
}

fn the_end_of_a_row_of_5_gib_is_copied(kernels: &Kernels) -> Checked {
    const SEGMENT: u64 = 16 * 1024;
    let row_bytes = (5 << 30) + 48;
    let begin_of_last = row_bytes / SEGMENT * SEGMENT;
    let bytes = random_bytes(3, 48);
    let mut memory = Buffers::new();
    let (input, out) = (memory.input(0, bytes.as_slice()), memory.output(0, 48));
    let table = memory.input(
        0,
        words([begin(input, begin_of_last), begin(out, begin_of_last)]),
    );
    let block = (begin_of_last / SEGMENT) as u32;
    run_block(
        kernels,
        "copy_rows",
        block,
        &[table, 1, row_bytes],
        &mut memory,
    )?;
    check_bytes(&memory, out, &bytes)
}

macro_rules! scenarios {
    ($($name:ident),* $(,)?) => {
        /// All of them.
        pub(crate) fn check(kernels: &Kernels) -> Checked {
            $($name(kernels)?;)*
            Ok(())
        }

        mod tests {
            use crate::launch::Kernels;

            $(
                #[test]
                fn $name() {
                    super::$name(&Kernels::embedded()).unwrap();
                }
            )*
        }
    };
}

scenarios! {
    chunks_of_a_row_of_8_tib_are_joined,
    values_of_more_than_a_row_of_4_tib_are_joined,
    the_last_of_270_billion_rows_have_their_digests,
    chunks_of_the_last_of_45_billion_rows_are_joined,
    values_of_the_last_of_45_billion_rows_are_joined,
    the_last_of_two_billion_pieces_has_its_digest,
    the_last_of_270_billion_lines_are_summed,
    the_end_of_a_row_of_5_gib_is_copied,
}
