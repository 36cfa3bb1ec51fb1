//! A second reader of segments, written after `docs/format.md` and not after the store's code, as simple
//! as possible. If the two disagree, one of them is wrong. And the reverse: valid checksums for any
//! numbers.

use torchcache_store::{Fault, Key};
use twox_hash::XxHash3_64;

/// The bytes before the records.
pub const HEADER: usize = 16;
/// The bytes after the row table.
pub const TRAILER: usize = 48;
/// The bytes of a row group without its schema.
pub const GROUP_HEAD: usize = 8;
/// The bytes of an entry of the row table.
pub const ROW: usize = 40;

/// A compressed value is at most so many times longer than what is stored.
pub const EXPANSION: u64 = 1 << 16;

/// Longer values are not decompressed: a file may claim many of them.
pub const LONGEST: u64 = 1 << 18;

/// A row of a sound segment.
#[derive(Clone, Debug)]
pub struct SoundRow<'f> {
    /// The whole key.
    pub key: Key,
    /// The schema of its row group.
    pub schema: &'f [u8],
    /// The length of the value.
    pub len: u64,
    encoding: u8,
    stored: &'f [u8],
    /// The checksum behind it.
    sum: u64,
}

/// A little-endian number of so many bytes.
fn number(bytes: &[u8], at: usize, width: usize) -> Option<u64> {
    let number = bytes.get(at..at.checked_add(width)?)?;
    let digits = number.iter().rev();
    Some(digits.fold(0, |number, byte| number << 8 | u64::from(*byte)))
}

/// Where the footer begins according to the trailer, if that is inside of the file.
pub fn footer_at(file: &[u8]) -> Option<usize> {
    let trailer = file.len().checked_sub(TRAILER)?;
    let at = usize::try_from(number(file, trailer, 8)?).ok()?;
    (at <= trailer).then_some(at)
}

/// The numbers of an entry of the row table.
struct TableEntry {
    key: Key,
    stored_len: u64,
    group: usize,
    encoding: u8,
    zero: u8,
}

impl TableEntry {
    fn new(entry: &[u8; ROW]) -> TableEntry {
        let [key @ .., _, _, _, _, _, _, encoding, zero] = *entry;
        TableEntry {
            key,
            stored_len: number(entry, 32, 4).expect("it is there"),
            group: number(entry, 36, 2).expect("it is there") as usize,
            encoding,
            zero,
        }
    }

    /// The row that it makes of the bytes from `offset` on, if there are enough of them.
    fn row<'f>(
        &self,
        group: &SoundGroup<'f>,
        file: &'f [u8],
        offset: usize,
    ) -> Option<SoundRow<'f>> {
        let end = offset + self.stored_len as usize;
        Some(SoundRow {
            key: self.key,
            schema: group.schema,
            len: group.raw_len,
            encoding: self.encoding,
            stored: file.get(offset..end)?,
            sum: number(file, end, 8)?,
        })
    }
}

struct SoundGroup<'f> {
    raw_len: u64,
    schema: &'f [u8],
}

/// The content of a footer: as many row groups as are claimed or can be decoded, and whole entries after
/// them.
struct Tables<'f> {
    groups: Vec<SoundGroup<'f>>,
    entries: &'f [[u8; ROW]],
    /// Whether the footer holds nothing else, and the counts are those claimed.
    fits: bool,
}

impl<'f> Tables<'f> {
    fn new(footer: &'f [u8], group_count: u64, row_count: u64) -> Tables<'f> {
        let mut groups = Vec::new();
        let mut rest = footer;
        while (groups.len() as u64) < group_count
            && let Some(raw_len) = number(rest, 0, 4)
            && let Some(schema_len @ ..=4096) = number(rest, 4, 4)
            && let Some(schema) = rest[GROUP_HEAD..].get(..schema_len as usize)
        {
            groups.push(SoundGroup { raw_len, schema });
            rest = &rest[GROUP_HEAD + schema.len()..];
        }
        let (entries, left) = rest.as_chunks::<ROW>();
        let counts = (groups.len() as u64, entries.len() as u64);
        Tables {
            groups,
            entries,
            fits: counts == (group_count, row_count) && left.is_empty(),
        }
    }
}

/// The footer of a segment whose trailer is at `end` and has this version.
fn read_end(file: &[u8], end: usize, version: u64) -> Result<&[u8], Fault> {
    let ensure = |holds: bool, fault| if holds { Ok(()) } else { Err(fault) };
    let at = |at, width| number(file, at, width).expect("the file is long enough");
    // 2
    ensure(file.ends_with(b"TCSEGEND"), Fault::Truncated)?;
    ensure(
        at(end + 24, 4) == version && at(end + 28, 4) == 0,
        Fault::Corrupt,
    )?;
    // 3
    let begin = footer_at(file)
        .filter(|begin| *begin >= HEADER)
        .ok_or(Fault::Corrupt)?;
    let footer = &file[begin..end];
    ensure(at(end + 8, 8) == footer.len() as u64, Fault::Corrupt)?;
    // 4
    ensure(
        at(end + 32, 8) == footer_sum(footer, &file[end..]),
        Fault::Corrupt,
    )?;
    Ok(footer)
}

/// What administration says of a segment: of one whose version seems to be newer, whether that is a flipped bit.
///
/// # Errors
/// As [`read`].
pub fn read_closely(file: &[u8]) -> Result<Vec<SoundRow<'_>>, Fault> {
    let read = read(file);
    if !matches!(read, Err(Fault::FutureVersion)) {
        return read;
    }
    let (end, newer) = (file.len() - TRAILER, number(file, 8, 4).unwrap_or(0));
    let is_flipped = |version: &u64| {
        let Ok(footer) = read_end(file, end, *version) else {
            return false;
        };
        // What the counts say leaves a possible length of the row groups.
        let [rows, groups] = [16, 20].map(|at| number(file, end + at, 4).unwrap_or(0));
        let groups_len = (footer.len() as u64).checked_sub(rows * ROW as u64);
        let possible = groups * GROUP_HEAD as u64..=groups * (GROUP_HEAD as u64 + 4096);
        (version ^ newer).count_ones() == 1
            && groups <= 1 << 16
            && groups_len.is_some_and(|len| possible.contains(&len))
    };
    match [1, 2].iter().any(is_flipped) {
        true => Err(Fault::Corrupt),
        false => read,
    }
}

/// The rows of a segment in the order of the file, or the fault of the file. The checks have
/// the numbers of the section "Validity".
///
/// # Errors
/// Under which kind the store is to count the file.
pub fn read(file: &[u8]) -> Result<Vec<SoundRow<'_>>, Fault> {
    let ensure = |holds: bool, fault| if holds { Ok(()) } else { Err(fault) };
    let Some(end) = file.len().checked_sub(TRAILER).filter(|end| *end >= HEADER) else {
        return Err(Fault::Truncated);
    };
    let at = |at, width| number(file, at, width).expect("the file is long enough");

    // 1
    ensure(file.starts_with(b"\x89TCSEG\r\n"), Fault::Corrupt)?;
    let version = at(8, 4);
    ensure(version <= 2, Fault::FutureVersion)?;
    ensure(version >= 1 && at(12, 4) == 0, Fault::Corrupt)?;
    let footer = read_end(file, end, version)?;
    let begin = end - footer.len();
    // 5
    let tables = Tables::new(footer, at(end + 20, 4), at(end + 16, 4));
    ensure(
        tables.fits && tables.groups.len() <= 1 << 16,
        Fault::Corrupt,
    )?;
    // 6
    let mut rows = Vec::new();
    let mut offset = HEADER;
    for entry in tables.entries.iter().map(TableEntry::new) {
        let group = tables.groups.get(entry.group).ok_or(Fault::Corrupt)?;
        let known = if version == 1 { 0..=1 } else { 0..=4 };
        ensure(
            known.contains(&entry.encoding) && entry.zero == 0,
            Fault::Corrupt,
        )?;
        let lengths = match entry.encoding {
            0 => entry.stored_len == group.raw_len,
            _ => entry.stored_len < group.raw_len && group.raw_len <= entry.stored_len * EXPANSION,
        };
        ensure(lengths, Fault::Corrupt)?;
        // 7
        let row = entry.row(group, &file[..begin], offset);
        rows.push(row.ok_or(Fault::Corrupt)?);
        offset += entry.stored_len as usize + 8;
    }
    ensure(offset == begin, Fault::Corrupt)?;
    Ok(rows)
}

fn footer_sum(footer: &[u8], trailer: &[u8]) -> u64 {
    XxHash3_64::oneshot_with_seed(XxHash3_64::oneshot(&trailer[..32]), footer)
}

impl SoundRow<'_> {
    /// The checksum of the record as that of a key.
    fn sum(&self, key: &Key) -> u64 {
        let mut head = [0; 56];
        head[..32].copy_from_slice(key);
        head[32..40].copy_from_slice(&XxHash3_64::oneshot(self.schema).to_le_bytes());
        head[40..44].copy_from_slice(&(self.len as u32).to_le_bytes());
        head[44..48].copy_from_slice(&(self.stored.len() as u32).to_le_bytes());
        head[48] = self.encoding;
        XxHash3_64::oneshot_with_seed(XxHash3_64::oneshot(&head), self.stored)
    }

    /// The bytes that it takes between header and footer.
    pub fn record_len(&self) -> usize {
        self.stored.len() + 8
    }

    /// Whether the record is sound, by its checksum.
    pub fn is_summed(&self) -> bool {
        self.sum == self.sum(&self.key)
    }

    /// The value, if the record belongs to this key and is not longer than [`LONGEST`].
    pub fn value(&self, key: &Key) -> Option<Vec<u8>> {
        // 8
        if self.sum != self.sum(key) || self.len > LONGEST {
            return None;
        }
        if self.encoding == 0 {
            return Some(self.stored.to_vec());
        }
        // 9
        let len = self.len as usize;
        let value = zstd::bulk::decompress(self.stored, len).ok();
        let value = value.filter(|value| value.len() == len)?;
        let width = [1, 2, 4, 8][usize::from(self.encoding) - 1];
        let count = len / width;
        let place = |at: usize| match at < count * width {
            true => at % width * count + at / width,
            false => at,
        };
        Some((0..len).map(|at| value[place(at)]).collect())
    }
}

/// Makes the trailer's checksum valid.
pub fn seal(file: &mut [u8]) {
    let Some(begin) = footer_at(file) else { return };
    let end = file.len() - TRAILER;
    let sum = footer_sum(&file[begin..end], &file[end..]);
    file[end + 32..end + 40].copy_from_slice(&sum.to_le_bytes());
}

/// Makes the checksums of records valid, as far as the row table can be decoded.
pub fn seal_records(file: &mut [u8]) {
    let Some(begin) = footer_at(file) else { return };
    let (records, behind) = file.split_at_mut(begin);
    let (footer, trailer) = behind.split_at(behind.len() - TRAILER);
    let group_count = number(trailer, 20, 4).expect("it is there");
    let tables = Tables::new(footer, group_count, 0);
    let mut offset = HEADER;
    for entry in tables.entries.iter().map(TableEntry::new) {
        let Some(group) = tables.groups.get(entry.group) else {
            return;
        };
        let Some(row) = entry.row(group, records, offset) else {
            return;
        };
        let sum = row.sum(&entry.key).to_le_bytes();
        offset += entry.stored_len as usize + 8;
        records[offset - 8..offset].copy_from_slice(&sum);
    }
}
