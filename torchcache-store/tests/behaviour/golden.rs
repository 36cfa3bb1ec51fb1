//! The bytes of format version 1, pinned. If one of these tests fails, the format changed:
//! then the version must change too, and the old fixtures must stay readable.

use std::fs;
use std::path::{Path, PathBuf};

use torchcache_store::segment::{SegmentFile, SegmentWriter, Storage};
use torchcache_store::{Key, Store};

use crate::common::{fetch, key, patient, segments, value};

struct Golden {
    key: Key,
    schema: &'static str,
    storage: Storage,
    value: Vec<u8>,
}

/// One row of each kind: raw, empty, another schema, compressed.
fn rows() -> Vec<Golden> {
    let row = |n, schema, storage, value| Golden {
        key: key(n),
        schema,
        storage,
        value,
    };
    vec![
        row(1, "f32[4]", Storage::Raw, value(&key(1), 16)),
        row(2, "f32[4]", Storage::Raw, value(&key(2), 16)),
        row(3, "f32[0]", Storage::Raw, vec![]),
        row(4, "u8[64]", Storage::Zstd, vec![7; 64]),
        row(5, "f32[4]", Storage::Raw, value(&key(5), 16)),
    ]
}

/// The frame that zstd made of row 4 when the fixture was made. Kept here since another
/// version of zstd may make another one, which is no change of our format.
const FRAME: &[u8] = &[
    0x28, 0xb5, 0x2f, 0xfd, 0x20, 0x40, 0x45, 0x00, 0x00, 0x10, 0x07, 0x07, 0x01, 0x00, 0x93, 0x00,
    0x16,
];

fn fixture(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("tests/fixtures")
        .join(name)
}

fn write(dir: &Path) -> PathBuf {
    let mut writer = SegmentWriter::create(dir).expect("it can be made");
    for Golden {
        key,
        schema,
        storage,
        value,
    } in rows()
    {
        let stored = if storage == Storage::Zstd {
            FRAME
        } else {
            &value
        };
        let schema = schema.as_bytes().into();
        writer
            .push(&key, &schema, value.len() as u32, storage, stored)
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
fn the_writer_gives_the_golden_bytes() {
    let dir = tempfile::tempdir().expect("a temporary directory");
    let written = fs::read(write(dir.path())).expect("it can be read");
    let golden = fs::read(fixture("v1.tcs")).expect("the fixture is checked in");
    assert_eq!(written, golden);
}

#[test]
fn the_golden_file_is_read_row_by_row() {
    for mmap in [false, true] {
        let file = SegmentFile::open(&fixture("v1.tcs"), mmap).expect("it opens");
        assert_eq!(file.footer().row_count(), 5);
        assert_eq!(file.footer().classes().len(), 3);
        for (row, golden) in file.footer().rows().zip(rows()) {
            let mut value = vec![0xEE; golden.value.len()];
            file.read(&row, &mut value).expect("it is sound");
            assert_eq!((row.key, value), (golden.key, golden.value));
            let class = &file.footer().classes()[usize::from(row.class)];
            assert_eq!(
                (&*class.schema, row.storage),
                (golden.schema.as_bytes(), golden.storage)
            );
            assert!(
                file.read(&row, &mut [0; 17]).is_err(),
                "a wrong length is refused"
            );
        }
    }
}

#[test]
fn a_store_reads_the_golden_file_whatever_its_name() {
    let dir = tempfile::tempdir().expect("a temporary directory");
    fs::copy(fixture("v1.tcs"), dir.path().join("from-a-colleague.tcs")).expect("it is copied");
    let store = Store::open(dir.path(), patient()).expect("it opens");
    for golden in rows() {
        let found = store.locate(&[golden.key]).pop().flatten().expect("a hit");
        assert_eq!(&*found.schema, golden.schema.as_bytes());
        assert_eq!(fetch(&store, &golden.key), Some(golden.value));
    }
    assert_eq!(store.stats().faults.total(), 0);
    assert_eq!(segments(dir.path()).len(), 1);
}

#[test]
#[ignore = "makes the fixture; only for a new format version, under a new name"]
fn make_the_fixture() {
    let dir = tempfile::tempdir().expect("a temporary directory");
    fs::copy(write(dir.path()), fixture("v1.tcs")).expect("it is copied");
}
