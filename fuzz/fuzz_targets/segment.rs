//! Any bytes as a segment file: opening and reading must neither panic nor allocate more than
//! the file warrants. The trailer's lengths and checksum are made right after what the fuzzer
//! chose, or it would never get beyond the checksum.

#![no_main]

use std::fs;

use libfuzzer_sys::fuzz_target;
use torchcache_store::segment::SegmentFile;
use xxhash_rust::xxh3::{xxh3_64, xxh3_64_with_seed};

/// The longest value that is read; a compressed one may state much more than it holds.
const MAX_VALUE: u32 = 1 << 20;

fuzz_target!(|input: (bool, u16, u32, u32, Vec<u8>)| {
    let (old, records, rows, classes, body) = input;
    let version: u8 = if old { 1 } else { 2 };
    let (records, footer) = body.split_at(body.len().min(usize::from(records)));
    let head = [version, 0, 0, 0, 0, 0, 0, 0];
    let mut file = [b"\x89TCSEG\r\n".as_slice(), &head, records, footer].concat();
    let mut trailer = (16 + records.len() as u64).to_le_bytes().to_vec();
    trailer.extend((footer.len() as u64).to_le_bytes());
    trailer.extend(rows.to_le_bytes());
    trailer.extend(classes.to_le_bytes());
    trailer.extend(head);
    trailer.extend(xxh3_64_with_seed(footer, xxh3_64(&trailer)).to_le_bytes());
    file.extend(trailer);
    file.extend(b"TCSEGEND");

    let dir = tempfile::tempdir().expect("a temporary directory");
    let path = dir.path().join("fuzz.tcs");
    fs::write(&path, file).expect("it can be written");
    let Ok(segment) = SegmentFile::open(&path, false) else { return };
    for row in segment.footer().rows() {
        let raw_len = segment.footer().classes()[usize::from(row.class)].raw_len;
        if raw_len <= MAX_VALUE {
            let _ = segment.read(&row, &mut vec![0; raw_len as usize]);
        }
    }
});
