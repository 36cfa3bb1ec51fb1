//! Golden files pin the bytes of each format version. If one of these tests fails, the format changed:
//! then the version must change too, and the old files must stay readable.

use std::fs;
use std::path::{Path, PathBuf};

use torchcache_store::segment::{Encoding, SegmentReader, SegmentWriter, VERSION};
use torchcache_store::{Key, Store};

use crate::common::{fetch, key, manual_flush, segments, value};

struct Golden {
    key: Key,
    schema: &'static str,
    encoding: Encoding,
    value: Vec<u8>,
    /// What is stored, if that is not the value. Kept here since another version of zstd may make
    /// other frames, which is no change of our format.
    frame: &'static [u8],
}

/// The rows of version 1, one of each kind: raw, empty, another schema, compressed.
fn rows_of_version_1() -> Vec<Golden> {
    let row = |n, schema, value| Golden {
        key: key(n),
        schema,
        encoding: Encoding::Raw,
        value,
        frame: &[],
    };
    vec![
        row(1, "f32[4]", value(&key(1), 16)),
        row(2, "f32[4]", value(&key(2), 16)),
        row(3, "f32[0]", vec![]),
        Golden {
            encoding: Encoding::Zstd,
            frame: &[
                0x28, 0xb5, 0x2f, 0xfd, 0x20, 0x40, 0x45, 0x00, 0x00, 0x10, 0x07, 0x07, 0x01, 0x00,
                0x93, 0x00, 0x16,
            ],
            ..row(4, "u8[64]", vec![7; 64])
        },
        row(5, "f32[4]", value(&key(5), 16)),
    ]
}

/// Version 2 has these as well: numbers of two, four and eight bytes, shuffled.
fn rows_of_version_2() -> Vec<Golden> {
    let two = (0..33u16).flat_map(|n| (0x3C00 + n % 3).to_le_bytes());
    let four = (0..20).flat_map(|n| (1.0 + (n % 4) as f32).to_le_bytes());
    let eight = (0..12i64).flat_map(|n| (30_000 - n % 5).to_le_bytes());
    let row = |n, schema, encoding, value, frame| Golden {
        key: key(n),
        schema,
        encoding,
        value,
        frame,
    };
    let mut rows = rows_of_version_1();
    rows.extend([
        row(
            6,
            "f16[33] and a byte",
            Encoding::ZstdShuffled2,
            two.chain([9]).collect(),
            &[
                0x28, 0xb5, 0x2f, 0xfd, 0x20, 0x43, 0x6d, 0x00, 0x00, 0x28, 0x00, 0x01, 0x02, 0x3c,
                0x09, 0x02, 0x00, 0x38, 0x5c, 0x28, 0xba, 0x21,
            ],
        ),
        row(
            7,
            "f32[20]",
            Encoding::ZstdShuffled4,
            four.collect(),
            &[
                0x28, 0xb5, 0x2f, 0xfd, 0x20, 0x50, 0xa5, 0x00, 0x00, 0x50, 0x00, 0x00, 0x80, 0x00,
                0x40, 0x80, 0x3f, 0x40, 0x40, 0x40, 0x03, 0x00, 0x00, 0x21, 0x3b, 0x84, 0x7c, 0x00,
                0x16,
            ],
        ),
        row(
            8,
            "i64[12]",
            Encoding::ZstdShuffled8,
            eight.collect(),
            &[
                0x28, 0xb5, 0x2f, 0xfd, 0x20, 0x60, 0x8d, 0x00, 0x00, 0x38, 0x30, 0x2f, 0x2e, 0x2d,
                0x2c, 0x75, 0x00, 0x03, 0x00, 0x04, 0x90, 0xe0, 0xe2, 0x85, 0x5b, 0xb4,
            ],
        ),
    ]);
    rows
}

fn fixture(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("tests/fixtures")
        .join(name)
}

/// Every version with its rows and the number of its groups.
fn versions() -> [(PathBuf, Vec<Golden>, usize); 2] {
    [
        (fixture("v1.tcs"), rows_of_version_1(), 3),
        (fixture("v2.tcs"), rows_of_version_2(), 6),
    ]
}

fn write(dir: &Path) -> PathBuf {
    let mut writer = SegmentWriter::create(dir).expect("it can be made");
    for Golden {
        key,
        schema,
        encoding,
        value,
        frame,
    } in rows_of_version_2()
    {
        let stored = if encoding == Encoding::Raw {
            &value
        } else {
            frame
        };
        let schema = schema.as_bytes().into();
        writer
            .push(&key, &schema, value.len() as u32, encoding, stored)
            .expect("it is written");
    }
    let bytes = writer.bytes();
    let finished = writer.finish().expect("it is written");
    assert_eq!(finished.bytes(), bytes);
    let path = finished.publish().expect("it gets its name");
    assert_eq!(path.metadata().expect("it exists").len(), bytes);
    path
}

#[test]
fn written_bytes_match_the_golden_file() {
    let dir = tempfile::tempdir().expect("a temporary directory");
    let written = fs::read(write(dir.path())).expect("it can be read");
    let golden = fs::read(fixture("v2.tcs")).expect("the fixture is checked in");
    assert_eq!(written, golden);
    assert_eq!(VERSION, 2, "a new version needs a new fixture");
}

#[test]
fn golden_files_are_read_row_by_row() {
    for mmap in [false, true] {
        for (path, rows, groups) in versions() {
            let file = SegmentReader::open(&path, mmap).expect("it opens");
            assert_eq!(file.row_count(), rows.len() as u64);
            assert_eq!(file.groups().len(), groups);
            for (row, golden) in file.rows().zip(rows) {
                let row = row.expect("it is sound");
                let mut value = vec![0xEE; golden.value.len()];
                file.read(&row, &mut value).expect("it is sound");
                assert_eq!((row.key, value), (golden.key, golden.value));
                let group = &file.groups()[usize::from(row.group)];
                assert_eq!(
                    (&*group.schema, row.encoding),
                    (golden.schema.as_bytes(), golden.encoding)
                );
                assert!(
                    file.read(&row, &mut [0; 17]).is_err(),
                    "a wrong length is refused"
                );
            }
        }
    }
}

#[test]
fn stores_read_golden_files_under_any_name() {
    for (path, rows, _) in versions() {
        let dir = tempfile::tempdir().expect("a temporary directory");
        fs::copy(path, dir.path().join("from-a-colleague.tcs")).expect("it is copied");
        let store = Store::open(dir.path(), manual_flush()).expect("it opens");
        for golden in rows {
            let found = store.locate(&[golden.key]).pop().flatten().expect("a hit");
            assert_eq!(found.schema(), golden.schema.as_bytes());
            assert_eq!(fetch(&store, &golden.key), Some(golden.value));
        }
        assert_eq!(store.stats().faults.total(), 0);
        assert_eq!(segments(dir.path()).len(), 1);
    }
}

#[test]
#[ignore = "makes the fixture; only for a new format version, under a new name"]
fn make_the_fixture() {
    let dir = tempfile::tempdir().expect("a temporary directory");
    let name = format!("v{VERSION}.tcs");
    fs::copy(write(dir.path()), fixture(&name)).expect("it is copied");
}
