//! How the work of each kernel is divided into launches and blocks.

/// Threads of every block.
pub(crate) const BLOCK_THREADS: u32 = 128;

/// Bytes of a digest, and of the values that are joined on the way to it.
pub(crate) const VALUE_BYTES: u64 = 32;

/// The longest piece of `blake3_pieces`.
pub(crate) const MAX_PIECE_BYTES: u64 = BLOCK_THREADS as u64 * CHUNK_BYTES;

/// The longest line of `line_sums`.
pub(crate) const MAX_LINE_BYTES: u64 = 64;

/// Factors of `line_sums`: one for each word of each line of a block.
pub(crate) const FACTORS: usize = BLOCK_THREADS as usize * MAX_LINE_BYTES as usize / 4;

/// The most blocks of a launch.
const MAX_BLOCKS: u64 = (1 << 31) - 1;

const CHUNK_BYTES: u64 = 1024;

/// What a group of threads of `copy_rows` copies at a time.
const SEGMENT_BYTES: u64 = 16 * 1024;

/// One launch towards the digests of rows: of `blake3_chunks` first, then of `blake3_nodes`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Level {
    pub(crate) blocks: u32,
    /// Nodes of a row that one group of threads joins, at most.
    pub(crate) width: u32,
    /// Chunks of each row, or values of it that the launch before wrote.
    pub(crate) nodes: u64,
    /// Values of each row that this launch writes.
    pub(crate) groups: u64,
}

/// The launches after which each of `rows` rows of `row_bytes` bytes has one value, its digest: none for no
/// rows. `None` if a launch would have too many blocks.
pub(crate) fn row_digest_levels(rows: u64, row_bytes: u64) -> Option<Vec<Level>> {
    let mut levels = Vec::new();
    let mut nodes = row_bytes.div_ceil(CHUNK_BYTES).max(1);
    while rows > 0 && (levels.is_empty() || nodes > 1) {
        let width = nodes.min(BLOCK_THREADS.into()).next_power_of_two() as u32;
        let groups = nodes.div_ceil(width.into());
        levels.push(Level {
            blocks: blocks(rows.checked_mul(groups)?, BLOCK_THREADS / width)?,
            width,
            nodes,
            groups,
        });
        nodes = groups;
    }
    Some(levels)
}

/// The blocks of `blake3_pieces`, `None` if they are too many.
pub(crate) fn piece_blocks(pieces: u64) -> Option<u32> {
    blocks(pieces, 1)
}

/// The blocks of `line_sums`, which are also its sums, `None` if they are too many.
pub(crate) fn line_blocks(lines: u64) -> Option<u32> {
    blocks(lines, BLOCK_THREADS)
}

/// The blocks of `copy_rows`: enough to fill a device, where each copies some of the rows.
pub(crate) fn copy_blocks(rows: u64, row_bytes: u64) -> u32 {
    const ENOUGH: u64 = 1 << 16;
    // As the kernel forms its groups.
    let width = row_bytes.div_ceil(16).clamp(1, BLOCK_THREADS.into());
    let groups_of_block = u64::from(BLOCK_THREADS) / width.next_power_of_two();
    let segments = rows.saturating_mul(row_bytes.div_ceil(SEGMENT_BYTES));
    segments.div_ceil(groups_of_block).min(ENOUGH) as u32
}

/// The blocks of `count` groups of threads.
fn blocks(count: u64, groups_of_block: u32) -> Option<u32> {
    let blocks = count.div_ceil(groups_of_block.into());
    (blocks <= MAX_BLOCKS).then_some(blocks as u32)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn level(blocks: u32, width: u32, nodes: u64, groups: u64) -> Level {
        Level {
            blocks,
            width,
            nodes,
            groups,
        }
    }

    fn levels(rows: u64, row_bytes: u64) -> Vec<Level> {
        row_digest_levels(rows, row_bytes).unwrap()
    }

    #[test]
    fn short_rows_share_blocks() {
        for row_bytes in [0, 1, 1024] {
            assert_eq!(levels(1, row_bytes), [level(1, 1, 1, 1)]);
            assert_eq!(levels(129, row_bytes), [level(2, 1, 1, 1)]);
        }
        assert_eq!(levels(256, 3 * 1024), [level(8, 4, 3, 1)]);
        assert_eq!(levels(3, 64 * 1024), [level(2, 64, 64, 1)]);
    }

    #[test]
    fn long_rows_take_several_launches() {
        assert_eq!(levels(1, 128 * 1024), [level(1, 128, 128, 1)]);
        let two = [level(2, 128, 129, 2), level(1, 2, 2, 1)];
        assert_eq!(levels(1, 128 * 1024 + 1), two);
        let vision = [level(320, 128, 588, 5), level(4, 8, 5, 1)];
        assert_eq!(levels(64, 602_112), vision);
        let huge = [
            level(32_768, 128, 1 << 22, 1 << 15),
            level(256, 128, 1 << 15, 256),
            level(2, 128, 256, 2),
            level(1, 2, 2, 1),
        ];
        assert_eq!(levels(1, 4 << 30), huge);
    }

    #[test]
    fn nothing_is_launched_for_nothing() {
        assert_eq!(levels(0, 0), []);
        assert_eq!(levels(0, 1 << 40), []);
        assert_eq!(piece_blocks(0), Some(0));
        assert_eq!(line_blocks(0), Some(0));
        assert_eq!(copy_blocks(0, 64), 0);
        assert_eq!(copy_blocks(64, 0), 0);
    }

    #[test]
    fn grids_that_no_device_has_are_refused() {
        let most = MAX_BLOCKS * u64::from(BLOCK_THREADS);
        assert_eq!(levels(most, 1), [level(MAX_BLOCKS as u32, 1, 1, 1)]);
        assert_eq!(row_digest_levels(most + 1, 1), None);
        assert_eq!(row_digest_levels(u64::MAX, u64::MAX), None);
        assert_eq!(piece_blocks(MAX_BLOCKS), Some(MAX_BLOCKS as u32));
        assert_eq!(piece_blocks(MAX_BLOCKS + 1), None);
        assert_eq!(line_blocks(most), Some(MAX_BLOCKS as u32));
        assert_eq!(line_blocks(most + 1), None);
    }

    #[test]
    fn rows_are_copied_by_as_many_threads_as_they_have_words() {
        assert_eq!(copy_blocks(1, 1), 1);
        assert_eq!(copy_blocks(128, 16), 1);
        assert_eq!(copy_blocks(129, 16), 2);
        assert_eq!(copy_blocks(128, 17), 2);
        assert_eq!(copy_blocks(10, 16 * 1024), 10);
        assert_eq!(copy_blocks(10, 16 * 1024 + 1), 20);
        assert_eq!(copy_blocks(u64::MAX, u64::MAX), 1 << 16);
    }
}
