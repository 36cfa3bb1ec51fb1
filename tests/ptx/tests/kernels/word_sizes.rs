//! Memory is accessed in words as wide as addresses and lengths allow.

use std::cell::RefCell;
use std::collections::BTreeSet;

use torchcache_ptx::{Buffers, Denied, Memory};

use crate::launch::{Kernels, random_bytes, words};
use crate::plan;

/// Memory that records how many bytes are accessed at a time: reads of one buffer, and all writes.
struct Recorder {
    memory: Buffers,
    input: u64,
    reads: RefCell<BTreeSet<usize>>,
    writes: BTreeSet<usize>,
}

impl Memory for Recorder {
    fn read(&self, address: u64, bytes: &mut [u8]) -> Result<(), Denied> {
        if address >> 40 == self.input >> 40 {
            self.reads.borrow_mut().insert(bytes.len());
        }
        self.memory.read(address, bytes)
    }

    fn write(&mut self, address: u64, bytes: &[u8]) -> Result<(), Denied> {
        self.writes.insert(bytes.len());
        self.memory.write(address, bytes)
    }
}

/// The sizes in which `bytes` bytes at an offset are read and written, by a launch with what `params` makes of their
/// address.
fn sizes(
    name: &str,
    offset: u64,
    bytes: usize,
    params: impl FnOnce(&mut Buffers, u64) -> Vec<u64>,
) -> [Vec<usize>; 2] {
    let mut memory = Buffers::new();
    let input = memory.input(offset, random_bytes(offset, bytes));
    let params = params(&mut memory, input);
    let mut recorder = Recorder {
        memory,
        input,
        reads: RefCell::default(),
        writes: BTreeSet::new(),
    };
    Kernels::embedded()
        .launch(name, 1, &params, &mut recorder)
        .unwrap();
    let reads = recorder.reads.into_inner();
    [
        reads.into_iter().collect(),
        recorder.writes.into_iter().collect(),
    ]
}

#[test]
fn rows_are_copied_in_the_widest_words() {
    let copied = |offset, bytes| {
        sizes("copy_rows", offset, bytes, |memory, from| {
            let to = memory.output(offset, bytes);
            vec![memory.input(0, words([from, to])), 1, bytes as u64]
        })
    };
    for (offset, bytes, size) in [
        (0, 64, 16),
        (16, 4096, 16),
        (8, 64, 4),
        (0, 36, 4),
        (1, 64, 1),
        (0, 33, 1),
    ] {
        assert_eq!(
            copied(offset, bytes),
            [[size], [size]],
            "{bytes} bytes at {offset}"
        );
    }
}

/// The end of a row, or a line that is not full, is read in words of 4 bytes and the rest in bytes.
#[test]
fn rows_and_lines_are_read_in_the_widest_words() {
    let cases: [(u64, usize, &[usize]); 5] = [
        (0, 64, &[16]),
        (4, 64, &[4]),
        (0, 60, &[4]),
        (0, 62, &[1, 4]),
        (2, 64, &[1]),
    ];
    for (offset, bytes, expected) in cases {
        let [chunks, _] = sizes("blake3_chunks", offset, bytes, |memory, from| {
            let to = memory.output(0, 32);
            vec![from, 1, bytes as u64, bytes as u64, 1, to]
        });
        let [pieces, _] = sizes("blake3_pieces", offset, bytes, |memory, from| {
            let to = memory.output(0, 32);
            vec![memory.input(0, words([from, bytes as u64])), 1, to]
        });
        let [lines, _] = sizes("line_sums", offset, bytes, |memory, from| {
            let table = memory.input(0, words([from, bytes as u64]));
            let factors = memory.input(0, vec![1; 8 * plan::FACTORS]);
            vec![table, 1, factors, memory.output(0, 8)]
        });
        assert_eq!(
            [chunks, pieces, lines],
            [expected, expected, expected],
            "{bytes} bytes at {offset}"
        );
    }
}
