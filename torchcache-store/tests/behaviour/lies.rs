//! Segments whose checksums are right and whose contents lie. They are built by hand after
//! `docs/format.md`, so that the document is tested too.

use std::fs;
use std::path::PathBuf;

use torchcache_store::segment::{Encoding, Row, SegmentError, SegmentReader, SegmentWriter};
use twox_hash::XxHash3_64;

use crate::common::key;

/// The parts of a segment with one raw row of four bytes.
#[derive(Clone)]
struct Parts {
    records: Vec<u8>,
    /// raw_len, schema_len, schema.
    groups: Vec<u8>,
    /// key, stored_len, group, encoding, zero.
    row: [u8; 40],
    row_count: u32,
    group_count: u32,
    footer_offset: Option<u64>,
    footer_len: Option<u64>,
    version: u32,
    /// The version in the trailer, if it is another one.
    ends_as: Option<u32>,
}

fn sound() -> Parts {
    let mut row = [0; 40];
    row[..32].copy_from_slice(&key(1));
    row[32] = 4;
    Parts {
        records: [b"four".as_slice(), &[0; 8]].concat(),
        groups: [&4u32.to_le_bytes(), &3u32.to_le_bytes(), b"abc".as_slice()].concat(),
        row,
        row_count: 1,
        group_count: 1,
        footer_offset: None,
        footer_len: None,
        version: 2,
        ends_as: None,
    }
}

/// A sound segment of the first version.
fn old() -> Parts {
    Parts {
        version: 1,
        ..sound()
    }
}

impl Parts {
    fn bytes(&self) -> Vec<u8> {
        let version = self.version.to_le_bytes();
        let mut file = [b"\x89TCSEG\r\n".as_slice(), &version, &[0; 4]].concat();
        file.extend(&self.records);
        let footer = [&*self.groups, &self.row].concat();
        let offset = self.footer_offset.unwrap_or(file.len() as u64);
        file.extend(&footer);
        let mut trailer = offset.to_le_bytes().to_vec();
        trailer.extend(self.footer_len.unwrap_or(footer.len() as u64).to_le_bytes());
        trailer.extend(self.row_count.to_le_bytes());
        trailer.extend(self.group_count.to_le_bytes());
        trailer.extend(self.ends_as.unwrap_or(self.version).to_le_bytes());
        trailer.extend([0; 4]);
        let sum = XxHash3_64::oneshot_with_seed(XxHash3_64::oneshot(&trailer), &footer);
        trailer.extend(sum.to_le_bytes());
        file.extend(trailer);
        file.extend(b"TCSEGEND");
        file
    }

    /// Makes these bytes the only record.
    fn store(&mut self, stored: &[u8], raw_len: u32, encoding: u8) {
        let stored_len = (stored.len() as u32).to_le_bytes();
        let mut head = [0; 56];
        head[..32].copy_from_slice(&key(1));
        head[32..40].copy_from_slice(&XxHash3_64::oneshot(b"abc").to_le_bytes());
        head[40..44].copy_from_slice(&raw_len.to_le_bytes());
        head[44..48].copy_from_slice(&stored_len);
        head[48] = encoding;
        let sum = XxHash3_64::oneshot_with_seed(XxHash3_64::oneshot(&head), stored);
        self.records = [stored, &sum.to_le_bytes()].concat();
        self.groups[..4].copy_from_slice(&raw_len.to_le_bytes());
        self.row[32..36].copy_from_slice(&stored_len);
        self.row[38] = encoding;
    }

    fn open(&self) -> Result<SegmentReader, SegmentError> {
        let dir = tempfile::tempdir().expect("a temporary directory");
        let path: PathBuf = dir.path().join("lie.tcs");
        fs::write(&path, self.bytes()).expect("it can be written");
        let reader = SegmentReader::open(&path, false)?;
        reader.rows().collect::<Result<Vec<_>, _>>()?;
        Ok(reader)
    }
}

#[test]
fn a_segment_built_after_the_document_is_read() {
    for mut parts in [old(), sound()] {
        parts.store(b"four", 4, 0);
        let file = parts.open().expect("it is sound");
        let row = file.rows().next().expect("one row").expect("it is sound");
        let mut value = [0; 4];
        file.read(&row, &mut value).expect("it is sound");
        assert_eq!(
            (row.key, &value, row.encoding),
            (key(1), b"four", Encoding::Raw)
        );
    }
}

#[test]
fn shuffled_values_built_after_the_document_are_read() {
    let value: Vec<u8> = (0..1003u32).map(|n| (n * n % 251) as u8).collect();
    for (encoding, element) in [(2, 2), (3, 4), (4, 8)] {
        let count = value.len() / element;
        let mut shuffled = value.clone();
        for (i, number) in value.chunks_exact(element).enumerate() {
            for (p, byte) in number.iter().enumerate() {
                shuffled[p * count + i] = *byte;
            }
        }
        let frame = zstd::bulk::compress(&shuffled, 3).expect("zstd works");
        let mut parts = sound();
        parts.store(&frame, value.len() as u32, encoding);
        let file = parts.open().expect("it is sound");
        let row = file.rows().next().expect("one row").expect("it is sound");
        let mut read = vec![0xEE; value.len()];
        file.read(&row, &mut read).expect("it is sound");
        assert!(read == value, "numbers of {element} bytes");
        let old = Parts {
            version: 1,
            ..parts.clone()
        };
        assert!(
            old.open().is_err(),
            "version 1 knows no encoding {encoding}"
        );
        parts.row[38] = 1;
        let file = parts.open().expect("the footer is sound");
        let row = file.rows().next().expect("one row").expect("it is sound");
        let error = file.read(&row, &mut read).expect_err("a lie");
        assert!(
            error.to_string().contains("checksum"),
            "the way of storing is covered: {error}"
        );
    }
}

#[test]
fn every_lie_is_refused_before_anything_is_allocated_for_it() {
    type Lie = (&'static str, fn(&mut Parts));
    let lies: [Lie; 23] = [
        ("four billion rows", |parts| parts.row_count = u32::MAX),
        ("no rows", |parts| parts.row_count = 0),
        ("four billion groups", |parts| parts.group_count = u32::MAX),
        ("no groups", |parts| parts.group_count = 0),
        ("two groups", |parts| parts.group_count = 2),
        ("a schema of four gigabytes", |parts| {
            parts.groups[4..8].fill(0xFF)
        }),
        ("a schema of 4097 bytes", |parts| {
            parts.groups[4..8].copy_from_slice(&4097u32.to_le_bytes())
        }),
        ("a longer value", |parts| parts.groups[0] = 5),
        ("a value of four gigabytes", |parts| {
            parts.groups[..4].fill(0xFF)
        }),
        ("a longer record", |parts| parts.row[32] = 5),
        ("a shorter record", |parts| parts.row[32] = 3),
        ("a record and a value of four gigabytes", |parts| {
            parts.row[32..36].fill(0xFF);
            parts.groups[..4].fill(0xFF);
        }),
        ("another group", |parts| parts.row[36] = 1),
        ("an unknown encoding", |parts| parts.row[38] = 5),
        ("a shuffled frame that is as long as its value", |parts| {
            parts.row[38] = 3
        }),
        ("an end of another version", |parts| parts.ends_as = Some(1)),
        ("a version before the first", |parts| parts.version = 0),
        ("a frame that is as long as its value", |parts| {
            parts.row[38] = 1
        }),
        ("a frame that grows a billion times", |parts| {
            parts.row[38] = 1;
            parts.groups[..4].fill(0xFF);
        }),
        ("padding", |parts| parts.row[39] = 1),
        ("a hole before the footer", |parts| parts.records.push(0)),
        ("a footer beyond the end", |parts| {
            parts.footer_offset = Some(u64::MAX)
        }),
        ("a footer that wraps around", |parts| {
            parts.footer_offset = Some(u64::MAX - 8);
            parts.footer_len = Some(80);
        }),
    ];
    for (what, lie) in lies {
        let mut parts = sound();
        lie(&mut parts);
        let error = parts.open().expect_err(what);
        assert!(matches!(error, SegmentError::Corrupt(_)), "{what}: {error}");
    }
    let mut unknown = old();
    unknown.row[38] = 2;
    assert!(
        unknown.open().is_err(),
        "what a later version knows is refused in an earlier one"
    );
    let mixed = Parts {
        ends_as: Some(2),
        ..old()
    };
    assert!(mixed.open().is_err());
}

#[test]
fn a_row_that_is_none_of_the_segment_s_is_refused() {
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
    type Lie = fn(&mut Row);
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
fn the_writer_refuses_to_lie() {
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
