//! Segments made of parts that may contradict each other, under valid checksums: a fuzzer gets far into
//! the tables of a footer with few bytes.

use arbitrary::Arbitrary;

use super::input::derived;
use super::reference::{seal, seal_records};
use super::segment::examine;

/// A number of the file: the right one, a near one, or any.
#[derive(Arbitrary, Clone, Copy, Debug)]
enum ForgedNumber {
    Right,
    Near(i8),
    Any(u64),
}

impl ForgedNumber {
    fn number(self, right: usize) -> u64 {
        match self {
            ForgedNumber::Right => right as u64,
            ForgedNumber::Near(step) => (right as u64).wrapping_add_signed(step.into()),
            ForgedNumber::Any(number) => number,
        }
    }
}

#[derive(Arbitrary, Debug)]
struct ForgedGroup {
    /// The length of the values; right is that of the last row of the row group.
    raw_len: ForgedNumber,
    schema_len: ForgedNumber,
    /// So many bytes of this number.
    schema: u8,
}

/// How the bytes of a record are made: of these, so many times over.
#[derive(Arbitrary, Debug)]
enum Stored {
    Bytes([u8; 9], u8),
    Frame([u8; 5], u16),
}

#[derive(Arbitrary, Debug)]
struct ForgedRow {
    /// All bytes of the key but the last are the same, so that keys or their fingerprints collide.
    key: u8,
    last: u8,
    stored: Stored,
    stored_len: ForgedNumber,
    group: u8,
    encoding: u8,
    zero: bool,
}

/// A whole file.
#[derive(Arbitrary, Debug)]
struct Forged {
    version: u8,
    ends_as: ForgedNumber,
    records_are_summed: bool,
    footer_at: ForgedNumber,
    footer_len: ForgedNumber,
    row_count: ForgedNumber,
    group_count: ForgedNumber,
    /// So many bytes between the records and the footer.
    gap: u8,
    groups: Vec<ForgedGroup>,
    rows: Vec<ForgedRow>,
}

/// Makes a segment of parts that may contradict each other, and reads it as [`segment`](super::segment()) does.
///
/// # Panics
/// As that does.
pub fn run(bytes: &[u8]) {
    derived(bytes, |forged: &Forged| examine(&forged.file()));
}

impl Forged {
    fn file(&self) -> Vec<u8> {
        let version = u32::from(self.version % 4);
        let mut file = b"\x89TCSEG\r\n".to_vec();
        file.extend(version.to_le_bytes());
        file.extend([0; 4]);
        let mut entries = Vec::new();
        let mut raw_lens = vec![0; self.groups.len()];
        for row in &self.rows {
            let (stored, raw_len) = row.stored();
            if let Some(len) = raw_lens.get_mut(usize::from(row.group)) {
                *len = raw_len;
            }
            entries.extend(row.entry(stored.len()));
            file.extend(stored);
            file.extend([0; 8]);
        }
        file.extend(vec![0; usize::from(self.gap)]);
        let footer_at = file.len();
        for (group, raw_len) in self.groups.iter().zip(raw_lens) {
            file.extend((group.raw_len.number(raw_len) as u32).to_le_bytes());
            let schema = vec![group.schema; group.schema.into()];
            file.extend((group.schema_len.number(schema.len()) as u32).to_le_bytes());
            file.extend(schema);
        }
        file.extend(entries);
        let footer_len = file.len() - footer_at;
        file.extend(self.footer_at.number(footer_at).to_le_bytes());
        file.extend(self.footer_len.number(footer_len).to_le_bytes());
        file.extend((self.row_count.number(self.rows.len()) as u32).to_le_bytes());
        file.extend((self.group_count.number(self.groups.len()) as u32).to_le_bytes());
        file.extend((self.ends_as.number(version as usize) as u32).to_le_bytes());
        file.extend([0; 12]);
        file.extend(b"TCSEGEND");
        if self.records_are_summed {
            seal_records(&mut file);
        }
        seal(&mut file);
        file
    }
}

impl ForgedRow {
    /// The bytes of the record, and the length of the value that they give.
    fn stored(&self) -> (Vec<u8>, usize) {
        match self.stored {
            Stored::Bytes(bytes, times) => {
                let stored = bytes.repeat(usize::from(times % 16));
                let len = stored.len();
                (stored, len)
            }
            Stored::Frame(bytes, times) => {
                let value = bytes.repeat(usize::from(times));
                let frame = zstd::bulk::compress(&value, 1).expect("zstd works");
                (frame, value.len())
            }
        }
    }

    fn entry(&self, stored_len: usize) -> [u8; 40] {
        let mut entry = [self.key; 40];
        entry[31] = self.last;
        entry[32..36].copy_from_slice(&(self.stored_len.number(stored_len) as u32).to_le_bytes());
        entry[36..38].copy_from_slice(&u16::from(self.group).to_le_bytes());
        entry[38] = self.encoding % 8;
        entry[39] = self.zero.into();
        entry
    }
}
