//! The bytes of a segment file, versions 1 and 2. Every offset is written here and in
//! `docs/format.md`; golden files pin them. Apart from the writer and the reader so that
//! both speak of one layout. Version 2 knows more ways to store a record; all else is alike.
//!
//! ```text
//! header    16            magic, version
//! records   …             each: stored bytes, then 8 bytes checksum; no gaps
//! groups   …             each: raw_len u32, schema_len u32, schema bytes
//! rows      40 each       key, stored_len, group, encoding; in the order of the records
//! trailer   48            where the footer is, how much it holds, its checksum, magic
//! ```
//!
//! Positions of records are not stored: each begins where the one before ends. So rows can
//! neither overlap nor leave holes. All numbers are little-endian and of fixed width.

use std::hash::Hasher;
use std::sync::Arc;

use twox_hash::XxHash3_64;

use crate::key::Key;

/// The version that this build writes, and the newest that it reads.
pub const VERSION: u32 = 2;

/// The longest schema, in bytes.
pub const MAX_SCHEMA: usize = 4096;

/// First bytes of a segment. As in PNG, a byte that is not text and both line ends, so that
/// a transfer that mangles text is noticed.
pub(crate) const MAGIC: [u8; 8] = *b"\x89TCSEG\r\n";

/// Last bytes of a segment: if they are missing, so is the rest.
pub(crate) const END_MAGIC: [u8; 8] = *b"TCSEGEND";

pub(crate) const HEADER_LEN: usize = 16;
pub(crate) const GROUP_HEAD_LEN: usize = 8;
pub(crate) const ROW_LEN: usize = 40;
pub(crate) const CHECKSUM_LEN: usize = 8;
pub(crate) const TRAILER_LEN: usize = 48;

/// A segment of so many rows of one schema is at most so long.
pub(crate) fn segment_bytes(rows: usize, row_len: usize, schema_len: usize) -> u64 {
    /// More than a group costs beside its schema.
    const GROUP_LEN: usize = 16;
    let once = (HEADER_LEN + TRAILER_LEN + GROUP_LEN + schema_len) as u64;
    once + rows as u64 * (row_len + CHECKSUM_LEN + ROW_LEN) as u64
}

/// How many rows of a batch fit a segment of `max_bytes`, stored as they are.
pub(crate) fn rows_within(max_bytes: u64, row_len: usize, schema_len: usize) -> usize {
    let none = segment_bytes(0, row_len, schema_len);
    let each = segment_bytes(1, row_len, schema_len) - none;
    usize::try_from(max_bytes.saturating_sub(none) / each).unwrap_or(usize::MAX)
}

/// Record positions must fit the 40 bits that the index gives them.
pub(crate) const MAX_DATA: u64 = 1 << 40;

/// RowGroup numbers are 16 bits wide.
pub(crate) const MAX_GROUPS: usize = 1 << 16;

/// zstd needs at least four bytes for each block of 128 KiB that it describes, so a row
/// that claims to grow more than this lies about its length.
const MAX_EXPANSION: u64 = 1 << 16;

/// How the bytes of a record are to be read. New ways get new numbers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum Encoding {
    /// The value itself.
    Raw = 0,
    /// One zstd frame that holds the value, shorter than the value.
    Zstd = 1,
    /// The same of the value's bytes grouped as numbers of two bytes. Since version 2.
    ZstdShuffled2 = 2,
    /// As numbers of four bytes. Since version 2.
    ZstdShuffled4 = 3,
    /// As numbers of eight bytes. Since version 2.
    ZstdShuffled8 = 4,
}

impl Encoding {
    /// The way that a number stands for in a segment of this version.
    pub(crate) fn from_byte(byte: u8, version: u32) -> Option<Encoding> {
        match byte {
            0 => Some(Encoding::Raw),
            1 => Some(Encoding::Zstd),
            2..=4 if version < 2 => None,
            2 => Some(Encoding::ZstdShuffled2),
            3 => Some(Encoding::ZstdShuffled4),
            4 => Some(Encoding::ZstdShuffled8),
            _ => None,
        }
    }

    /// The compressed way for numbers of so many bytes; bytes as they are for any other number.
    pub(crate) fn shuffled(element_bytes: u8) -> Encoding {
        match element_bytes {
            2 => Encoding::ZstdShuffled2,
            4 => Encoding::ZstdShuffled4,
            8 => Encoding::ZstdShuffled8,
            _ => Encoding::Zstd,
        }
    }

    /// The bytes of the numbers that are shuffled; 1 if nothing is.
    pub(crate) fn element_bytes(self) -> usize {
        match self {
            Encoding::Raw | Encoding::Zstd => 1,
            Encoding::ZstdShuffled2 => 2,
            Encoding::ZstdShuffled4 => 4,
            Encoding::ZstdShuffled8 => 8,
        }
    }

    pub(crate) fn is_raw(self) -> bool {
        self == Encoding::Raw
    }
}

fn xxh3(seed: u64, bytes: &[u8]) -> u64 {
    XxHash3_64::oneshot_with_seed(seed, bytes)
}

/// What rows of one kind share: a schema and the length of the value.
#[derive(Clone, Debug)]
pub struct RowGroup {
    /// The schema that the rows were stored with.
    pub schema: Arc<[u8]>,
    /// The length of each row's value.
    pub raw_len: u32,
    digest: u64,
}

impl RowGroup {
    pub(crate) fn new(schema: Arc<[u8]>, raw_len: u32) -> RowGroup {
        RowGroup {
            digest: xxh3(0, &schema),
            schema,
            raw_len,
        }
    }

    /// Whether a value of this group can be stored so, in so many bytes.
    pub(crate) fn allows(&self, encoding: Encoding, stored_len: u32) -> bool {
        if encoding.is_raw() {
            return stored_len == self.raw_len;
        }
        stored_len < self.raw_len
            && u64::from(self.raw_len) <= u64::from(stored_len) * MAX_EXPANSION
    }

    pub(crate) fn encode(&self, out: &mut Vec<u8>) {
        out.extend(self.raw_len.to_le_bytes()); // 0..4
        out.extend((self.schema.len() as u32).to_le_bytes()); // 4..8
        out.extend(&*self.schema); // 8..
    }
}

/// One entry of the row table.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Row {
    /// The key of the row.
    pub key: Key,
    /// Where the record begins; implied by the records before it, not stored.
    pub offset: u64,
    /// Length of the stored bytes, without the checksum behind them.
    pub stored_len: u32,
    /// Number of the row's group within the segment.
    pub group: u16,
    /// How the bytes are stored.
    pub encoding: Encoding,
}

impl Row {
    /// Where the next record begins. Does not overflow: a record is below 2^33 bytes and
    /// begins below 2^40.
    pub(crate) fn end(&self) -> u64 {
        self.offset + u64::from(self.stored_len) + CHECKSUM_LEN as u64
    }

    pub(crate) fn encode(&self) -> [u8; ROW_LEN] {
        let mut out = [0; ROW_LEN];
        out[0..32].copy_from_slice(&self.key);
        out[32..36].copy_from_slice(&self.stored_len.to_le_bytes());
        out[36..38].copy_from_slice(&self.group.to_le_bytes());
        out[38] = self.encoding as u8;
        out // 39 is zero
    }

    /// `None` if the entry has a encoding number or a padding byte that the version does not.
    pub(crate) fn decode(bytes: &[u8; ROW_LEN], offset: u64, version: u32) -> Option<Row> {
        let [key @ .., a, b, c, d, e, f, encoding, 0] = *bytes else {
            return None;
        };
        Some(Row {
            key,
            offset,
            stored_len: u32::from_le_bytes([a, b, c, d]),
            group: u16::from_le_bytes([e, f]),
            encoding: Encoding::from_byte(encoding, version)?,
        })
    }
}

/// The checksum behind a record. It covers the whole key, the schema, both lengths and the
/// way of storing besides the bytes, so that a sound record under the wrong entry does not
/// pass. It does not cover the group number: a merge may give another one.
pub(crate) fn record_checksum(
    key: &Key,
    group: &RowGroup,
    encoding: Encoding,
    stored: &[u8],
) -> u64 {
    let mut head = [0; 56];
    head[0..32].copy_from_slice(key);
    head[32..40].copy_from_slice(&group.digest.to_le_bytes());
    head[40..44].copy_from_slice(&group.raw_len.to_le_bytes());
    head[44..48].copy_from_slice(&(stored.len() as u32).to_le_bytes());
    head[48] = encoding as u8; // 49..56 are zero
    xxh3(xxh3(0, &head), stored)
}

/// The first 16 bytes: magic 0..8, version 8..12, zero 12..16.
pub(crate) fn header(version: u32) -> [u8; HEADER_LEN] {
    let mut out = [0; HEADER_LEN];
    out[0..8].copy_from_slice(&MAGIC);
    out[8..12].copy_from_slice(&version.to_le_bytes());
    out
}

/// The last 48 bytes of a segment.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Trailer {
    pub(crate) footer_offset: u64,
    pub(crate) footer_len: u64,
    pub(crate) rows: u32,
    pub(crate) groups: u32,
    pub(crate) version: u32,
}

impl Trailer {
    /// Bytes that the checksum covers besides the footer.
    const SUMMED: usize = 32;

    pub(crate) fn encode(&self, footer: &[u8]) -> [u8; TRAILER_LEN] {
        let mut sum = self.begin_sum();
        sum.write(footer);
        self.sealed(&sum)
    }

    /// The checksum before the footer's bytes were given to it.
    pub(crate) fn begin_sum(&self) -> XxHash3_64 {
        XxHash3_64::with_seed(xxh3(0, &self.summed()[..Self::SUMMED]))
    }

    /// The bytes of the trailer, with the sum of the whole footer.
    pub(crate) fn sealed(&self, sum: &XxHash3_64) -> [u8; TRAILER_LEN] {
        let mut out = self.summed();
        out[32..40].copy_from_slice(&sum.finish().to_le_bytes());
        out[40..48].copy_from_slice(&END_MAGIC);
        out
    }

    fn summed(&self) -> [u8; TRAILER_LEN] {
        let mut out = [0; TRAILER_LEN];
        out[0..8].copy_from_slice(&self.footer_offset.to_le_bytes());
        out[8..16].copy_from_slice(&self.footer_len.to_le_bytes());
        out[16..20].copy_from_slice(&self.rows.to_le_bytes());
        out[20..24].copy_from_slice(&self.groups.to_le_bytes());
        out[24..28].copy_from_slice(&self.version.to_le_bytes()); // 28..32 are zero
        out
    }

    /// Reads the fields; the caller checks them against the file before it trusts them, and
    /// then compares the whole trailer with what [`encode`](Self::encode) gives.
    pub(crate) fn decode(bytes: &[u8; TRAILER_LEN]) -> Trailer {
        let u64_at = |at: usize| u64::from_le_bytes(std::array::from_fn(|i| bytes[at + i]));
        let u32_at = |at: usize| u32::from_le_bytes(std::array::from_fn(|i| bytes[at + i]));
        Trailer {
            footer_offset: u64_at(0),
            footer_len: u64_at(8),
            rows: u32_at(16),
            groups: u32_at(20),
            version: u32_at(24),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Values of another implementation. XXH3 has other code for each of these ranges of length.
    #[test]
    fn checksums_are_xxh3_64_at_every_length() {
        let bytes: Vec<u8> = (0..5000u32)
            .map(|n| (n.wrapping_mul(0x9E37_79B1) >> 24) as u8)
            .collect();
        for (length, unseeded, seeded) in [
            (0, 0x2d06_8005_38d3_94c2, 0xcc1c_a35a_1b08_9c5c),
            (3, 0xe140_90f5_54a5_ea90, 0x5e25_aa47_407a_4c1c),
            (8, 0xcd1c_7f88_482f_caef, 0x9055_3f6a_fd4e_dd0a),
            (16, 0x81e9_eb86_3446_0bb9, 0x55ac_4d93_458d_b93e),
            (128, 0x75ec_a5c5_d559_4884, 0xf7c8_4632_fdd7_88ba),
            (240, 0x5eb2_467c_8c9e_3969, 0x7141_6ad8_2f66_2391),
            (241, 0x2d43_1e98_4c44_1f15, 0xf381_52bf_b1ca_9ce3),
            (1024, 0xe99d_ef11_45f1_2936, 0xc5bf_3e4c_df33_e166),
            (5000, 0xb9da_ede5_f99f_736e, 0xbde9_a2fa_c53c_6432),
        ] {
            assert_eq!(xxh3(0, &bytes[..length]), unseeded, "{length} bytes");
            let seed = 0x0123_4567_89ab_cdef;
            assert_eq!(xxh3(seed, &bytes[..length]), seeded, "{length} bytes");
        }
    }
}
