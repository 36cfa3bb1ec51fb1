//! Launches as the library makes them.

use std::ops::Range;

use torchcache_ptx::{Buffers, Grid, Memory, Module};

use crate::plan::{self, Level};

/// What the library embeds.
pub(crate) const PTX: &str = include_str!("../../../../torchcache/src/device/kernels.ptx");

pub(crate) type Digest = [u8; 32];

/// A result, or what the interpreter or a comparison found.
pub(crate) type Checked<T = ()> = Result<T, String>;

pub(crate) struct Kernels {
    module: Module,
}

/// Rows of bytes in memory.
#[derive(Debug, Clone)]
pub(crate) struct Rows {
    /// The address of the first modulo 2^40.
    pub(crate) offset: u64,
    pub(crate) rows: u64,
    pub(crate) row_bytes: u64,
    /// From one to the next.
    pub(crate) stride: u64,
}

/// Bytes in memory.
#[derive(Debug, Clone)]
pub(crate) struct Piece {
    /// The address modulo 2^40.
    pub(crate) offset: u64,
    pub(crate) bytes: Vec<u8>,
}

/// A copy of bytes in memory.
#[derive(Debug, Clone)]
pub(crate) struct RowCopy {
    pub(crate) from: Piece,
    /// The address of the copy modulo 2^40.
    pub(crate) to_offset: u64,
}

impl Kernels {
    pub(crate) fn embedded() -> Self {
        Self::parse(PTX).expect("the PTX is known to the interpreter")
    }

    pub(crate) fn parse(ptx: &str) -> Checked<Self> {
        let module = Module::parse(ptx).map_err(|error| error.to_string())?;
        Ok(Self { module })
    }

    /// Runs all blocks of a launch.
    pub(crate) fn launch(
        &self,
        name: &str,
        blocks: u32,
        params: &[u64],
        memory: &mut impl Memory,
    ) -> Checked {
        self.launch_part(name, blocks, 0..blocks, params, memory)
    }

    /// Runs some blocks of a launch.
    pub(crate) fn launch_part(
        &self,
        name: &str,
        blocks: u32,
        part: Range<u32>,
        params: &[u64],
        memory: &mut impl Memory,
    ) -> Checked {
        let grid = Grid {
            blocks,
            threads: plan::BLOCK_THREADS,
        };
        let kernel = self.module.kernel(name);
        let run = kernel.and_then(|kernel| kernel.run_blocks(grid, part, params, memory));
        run.map_err(|error| error.to_string())
    }

    /// The digest of each row of `bytes`, by these launches.
    pub(crate) fn row_digests(
        &self,
        rows: &Rows,
        bytes: &[u8],
        levels: &[Level],
    ) -> Checked<Vec<Digest>> {
        let mut memory = Buffers::new();
        let mut from = memory.input(rows.offset, bytes);
        let &Rows {
            rows,
            row_bytes,
            stride,
            ..
        } = rows;
        if rows == 0 {
            return Ok(Vec::new());
        }
        for (index, level) in levels.iter().enumerate() {
            let width = level.width.into();
            let out = memory.output(0, (rows * level.groups * plan::VALUE_BYTES) as usize);
            let (name, params) = match index {
                0 => (
                    "blake3_chunks",
                    &[from, rows, row_bytes, stride, width, out][..],
                ),
                _ => ("blake3_nodes", &[from, rows, level.nodes, width, out][..]),
            };
            self.launch(name, level.blocks, params, &mut memory)?;
            from = out;
        }
        digests(&memory, from)
    }

    /// The digest of each piece.
    pub(crate) fn piece_digests(&self, pieces: &[Piece]) -> Checked<Vec<Digest>> {
        let mut memory = Buffers::new();
        let table = spans(&mut memory, pieces);
        let out = memory.output(0, 32 * pieces.len());
        let count = pieces.len() as u64;
        let blocks = plan::piece_blocks(count).expect("a grid");
        self.launch("blake3_pieces", blocks, &[table, count, out], &mut memory)?;
        digests(&memory, out)
    }

    /// The sum of each block of lines.
    pub(crate) fn line_sums(&self, lines: &[Piece], factors: &[u64]) -> Checked<Vec<u64>> {
        let mut memory = Buffers::new();
        let table = spans(&mut memory, lines);
        let factors = memory.input(0, words(factors.iter().copied()));
        let count = lines.len() as u64;
        let blocks = plan::line_blocks(count).expect("a grid");
        let out = memory.output(0, 8 * blocks as usize);
        self.launch(
            "line_sums",
            blocks,
            &[table, count, factors, out],
            &mut memory,
        )?;
        let sums = memory.written(out).ok_or("a sum is missing")?;
        let (sums, _) = sums.as_chunks();
        Ok(sums.iter().map(|&sum| u64::from_le_bytes(sum)).collect())
    }

    /// What is in memory after copies of equal length, by `blocks` blocks.
    pub(crate) fn copies(&self, copies: &[RowCopy], blocks: u32) -> Checked<Vec<Vec<u8>>> {
        let mut memory = Buffers::new();
        let row_bytes = copies[0].from.bytes.len();
        let (mut table, mut outputs) = (Vec::new(), Vec::new());
        for copy in copies {
            let from = memory.input(copy.from.offset, copy.from.bytes.as_slice());
            let to = memory.output(copy.to_offset, row_bytes);
            table.extend([from, to]);
            outputs.push(to);
        }
        let table = memory.input(0, words(table));
        let params = [table, copies.len() as u64, row_bytes as u64];
        self.launch("copy_rows", blocks, &params, &mut memory)?;
        let outputs = outputs.into_iter();
        let copied = outputs.map(|to| memory.written(to).map(<[u8]>::to_vec));
        copied
            .collect::<Option<_>>()
            .ok_or("a byte was not copied".to_owned())
    }
}

/// A table of addresses and lengths.
fn spans(memory: &mut Buffers, pieces: &[Piece]) -> u64 {
    let mut table = Vec::new();
    for piece in pieces {
        let address = memory.input(piece.offset, piece.bytes.as_slice());
        table.extend([address, piece.bytes.len() as u64]);
    }
    memory.input(0, words(table))
}

pub(crate) fn words(words: impl IntoIterator<Item = u64>) -> Vec<u8> {
    words.into_iter().flat_map(u64::to_le_bytes).collect()
}

pub(crate) fn digests(memory: &Buffers, out: u64) -> Checked<Vec<Digest>> {
    let bytes = memory.written(out).ok_or("a digest is missing")?;
    Ok(bytes.as_chunks().0.to_vec())
}

/// `Ok` if `found` is `expected`.
pub(crate) fn same<T: PartialEq>(
    found: &[T],
    expected: &[T],
    what: &dyn std::fmt::Debug,
) -> Checked {
    if found.len() != expected.len() {
        return Err(format!(
            "{} results of {}: {what:?}",
            found.len(),
            expected.len()
        ));
    }
    match found
        .iter()
        .zip(expected)
        .position(|(found, expected)| found != expected)
    {
        Some(index) => Err(format!("result {index} differs: {what:?}")),
        None => Ok(()),
    }
}

/// Bytes that differ from seed to seed.
pub(crate) fn random_bytes(seed: u64, count: usize) -> Vec<u8> {
    let mut random = fastrand::Rng::with_seed(seed);
    let mut bytes = vec![0; count];
    random.fill(&mut bytes);
    bytes
}
