//! The byte layout of a segment file, versions 1 and 2: encoding and decoding of each structure,
//! without I/O. `docs/format.md` describes the same layout, and golden files pin it.
//!
//! ```text
//! header      16 bytes     magic, version
//! records     variable     for each row: stored bytes, then a checksum of 8 bytes
//! row groups  variable     each: raw_len u32, schema_len u32, schema      ┐
//! row table   40 bytes     for each row: key, stored_len, group, encoding ┘ footer
//! trailer     48 bytes     position and size of the footer, its checksum, magic
//! ```
//!
//! Records are in the order of the row table, without gaps. Their positions are not stored: the
//! first begins at 16, each other one where its predecessor ends, so records cannot overlap. All
//! numbers are unsigned, little-endian and of fixed width. Version 2 added encodings 2 to 4;
//! everything else is the same in both versions.

use std::hash::Hasher;
use std::sync::Arc;

use twox_hash::XxHash3_64;

use crate::key::Key;

/// The version that this build writes, and the newest that it reads.
pub const VERSION: u32 = 2;

/// The longest schema, in bytes.
pub const MAX_SCHEMA: usize = 4096;

/// The first bytes of a segment. As in PNG, a non-ASCII byte and a CR LF reveal a transfer in text
/// mode.
pub(crate) const MAGIC: [u8; 8] = *b"\x89TCSEG\r\n";

/// The last bytes of a segment. A file that was cut short does not end with them.
pub(crate) const END_MAGIC: [u8; 8] = *b"TCSEGEND";

pub(crate) const HEADER_LEN: usize = 16;
pub(crate) const GROUP_HEAD_LEN: usize = 8;
pub(crate) const ROW_LEN: usize = 40;
pub(crate) const CHECKSUM_LEN: usize = 8;
pub(crate) const TRAILER_LEN: usize = 48;

/// An upper bound for the size of a segment of `rows` rows of one schema.
pub(crate) fn segment_bytes(rows: usize, row_len: usize, schema_len: usize) -> u64 {
    /// More than the bytes of a row group without its schema.
    const GROUP_LEN: usize = 16;
    let once = (HEADER_LEN + TRAILER_LEN + GROUP_LEN + schema_len) as u64;
    once + rows as u64 * (row_len + CHECKSUM_LEN + ROW_LEN) as u64
}

/// How many uncompressed rows of one schema fit into a segment of `max_bytes`.
pub(crate) fn rows_within(max_bytes: u64, row_len: usize, schema_len: usize) -> usize {
    let none = segment_bytes(0, row_len, schema_len);
    let each = segment_bytes(1, row_len, schema_len) - none;
    usize::try_from(max_bytes.saturating_sub(none) / each).unwrap_or(usize::MAX)
}

/// The last record ends before this. Record positions must fit into the 40 bits that the index has
/// for them.
pub(crate) const MAX_DATA: u64 = 1 << 40;

/// The numbers of row groups have 16 bits.
pub(crate) const MAX_GROUPS: usize = 1 << 16;

/// The most bytes that one byte of a frame can decompress to. (zstd needs at least four bytes for
/// each block of 128 KiB, which is half of this.) A record that claims more is corrupt.
const MAX_EXPANSION: u64 = 1 << 16;

/// How the stored bytes of a record become the value. A new encoding needs a new number and a new
/// format version.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
#[repr(u8)]
pub enum Encoding {
    /// The value itself.
    Raw = 0,
    /// One zstd frame of the value, shorter than the value.
    Zstd = 1,
    /// One zstd frame of the value shuffled as elements of two bytes. Since version 2.
    ZstdShuffled2 = 2,
    /// The same with elements of four bytes. Since version 2.
    ZstdShuffled4 = 3,
    /// The same with elements of eight bytes. Since version 2.
    ZstdShuffled8 = 4,
}

impl Encoding {
    /// The encoding of a number, if this format version has it.
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

    /// The shuffled encoding for elements of this size; [`Zstd`](Encoding::Zstd) for sizes that have
    /// none.
    pub(crate) fn shuffled(element_bytes: u8) -> Encoding {
        match element_bytes {
            2 => Encoding::ZstdShuffled2,
            4 => Encoding::ZstdShuffled4,
            8 => Encoding::ZstdShuffled8,
            _ => Encoding::Zstd,
        }
    }

    /// The size of the elements that are shuffled; 1 if nothing is shuffled.
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

/// What the rows of one schema and one value length share in a segment. Rows refer to their group
/// by its position in the footer.
///
/// ```text
/// 0  4           raw_len: length of the value
/// 4  4           schema_len: at most 4096
/// 8  schema_len  schema
/// ```
#[derive(Clone, Debug)]
pub struct RowGroup {
    /// The schema that the rows were stored with.
    pub schema: Arc<[u8]>,
    /// The length of each row's value.
    pub raw_len: u32,
    /// XXH3-64 of the schema.
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

    /// Whether a value of this group can be stored in this encoding and in this many bytes.
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

/// An entry of the row table.
///
/// ```text
/// 0   32  key
/// 32  4   stored_len
/// 36  2   number of the row group
/// 38  1   encoding
/// 39  1   zero
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RowEntry {
    /// The key of the row.
    pub key: Key,
    /// Where the record begins: where the previous one ends. Not stored.
    pub offset: u64,
    /// The length of the stored bytes, without the checksum.
    pub stored_len: u32,
    /// The number of the row's group in this segment.
    pub group: u16,
    /// How the value is stored.
    pub encoding: Encoding,
}

impl RowEntry {
    /// Where the next record begins. Does not overflow: a record has less than 2^33 bytes and begins
    /// below 2^40.
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

    /// `None` if the version does not have the encoding, or the last byte is not zero.
    pub(crate) fn decode(bytes: &[u8; ROW_LEN], offset: u64, version: u32) -> Option<RowEntry> {
        let [key @ .., a, b, c, d, e, f, encoding, 0] = *bytes else {
            return None;
        };
        Some(RowEntry {
            key,
            offset,
            stored_len: u32::from_le_bytes([a, b, c, d]),
            group: u16::from_le_bytes([e, f]),
            encoding: Encoding::from_byte(encoding, version)?,
        })
    }
}

/// The checksum of a record: XXH3-64 of the stored bytes, seeded with the XXH3-64 of
///
/// ```text
/// 0   32  key
/// 32  8   XXH3-64 of the schema
/// 40  4   raw_len
/// 44  4   stored_len
/// 48  1   encoding
/// 49  7   zero
/// ```
///
/// So a sound record does not pass under the entry of another row. The number of the row group is
/// not covered, since compaction changes it.
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
///
/// ```text
/// 0   8  footer_offset: where the row groups begin
/// 8   8  footer_len: bytes of row groups and row table
/// 16  4  number of rows
/// 20  4  number of row groups: at most 65,536
/// 24  4  version
/// 28  4  zero
/// 32  8  XXH3-64 of the footer, seeded with the XXH3-64 of trailer bytes 0..32
/// 40  8  magic
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Trailer {
    pub(crate) footer_offset: u64,
    pub(crate) footer_len: u64,
    pub(crate) rows: u32,
    pub(crate) groups: u32,
    pub(crate) version: u32,
}

impl Trailer {
    /// The trailer bytes that the checksum covers.
    const SUMMED: usize = 32;

    /// The bytes of the trailer for this footer.
    pub(crate) fn encode(&self, footer: &[u8]) -> [u8; TRAILER_LEN] {
        let mut sum = self.begin_sum();
        sum.write(footer);
        self.sealed(&sum)
    }

    /// The hasher of the checksum, to be fed the footer.
    pub(crate) fn begin_sum(&self) -> XxHash3_64 {
        XxHash3_64::with_seed(xxh3(0, &self.summed()[..Self::SUMMED]))
    }

    /// The bytes of the trailer, given the hasher that was fed the footer.
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

    /// Reads the fields, unchecked. The caller checks them against the file's length, and then
    /// compares all 48 bytes with those of [`encode`](Self::encode).
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

    /// The values come from another implementation. XXH3 has different code for each of these ranges
    /// of length.
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
