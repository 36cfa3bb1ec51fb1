//! Segment files without a store: rows that a reader and a writer refuse.

use std::fs;

use torchcache_store::segment::{Encoding, RowEntry, SegmentError, SegmentReader, SegmentWriter};

use crate::common::key;

#[test]
fn a_row_of_another_segment_is_refused() {
    let dir = tempfile::tempdir().expect("a temporary directory");
    let mut writer = SegmentWriter::create(dir.path()).expect("it can be made");
    for len in [50, 60] {
        let value = vec![7; len];
        let schema = b"abc"[..].into();
        let pushed = writer.push(&key(1), &schema, len as u32, Encoding::Raw, &value);
        pushed.expect("it is written");
    }
    let finished = writer.finish().expect("it is written");
    let path = finished.publish().expect("it is written");
    type Lie = fn(&mut RowEntry);
    let lies: [Lie; 7] = [
        |row| row.group = 1,
        |row| row.group = 2,
        |row| row.stored_len = 49,
        |row| row.stored_len = u32::MAX,
        |row| (row.encoding, row.stored_len) = (Encoding::Zstd, 50),
        |row| row.offset = u64::MAX,
        |row| row.offset = u64::MAX - 58,
    ];
    for mmap in [false, true] {
        let file = SegmentReader::open(&path, mmap).expect("it is sound");
        let sound = file.rows().next().expect("two rows").expect("it is sound");
        for (number, lie) in lies.iter().enumerate() {
            let mut row = sound;
            lie(&mut row);
            for len in [50, 60] {
                let read = file.read(&row, &mut vec![0; len]);
                let corrupt = matches!(read, Err(SegmentError::Corrupt(_)));
                assert!(corrupt, "lie {number} into {len} bytes: {read:?}");
            }
        }
        file.read(&sound, &mut [0; 50]).expect("it is sound");
    }
}

#[test]
fn the_writer_refuses_lengths_that_contradict() {
    let dir = tempfile::tempdir().expect("a temporary directory");
    for (raw_len, encoding) in [
        (5, Encoding::Raw),
        (4, Encoding::Zstd),
        (u32::MAX, Encoding::Zstd),
        (4, Encoding::ZstdShuffled2),
    ] {
        let mut writer = SegmentWriter::create(dir.path()).expect("it can be made");
        let error = writer.push(&key(1), &b"abc"[..].into(), raw_len, encoding, b"four");
        assert!(
            error
                .expect_err("misuse")
                .to_string()
                .contains("is not stored as 4 bytes")
        );
    }
    assert_eq!(
        fs::read_dir(dir.path()).expect("it is there").count(),
        0,
        "nothing is left behind"
    );
}
