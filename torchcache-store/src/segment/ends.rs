//! Header and trailer of a segment file, checked against the length of the file, and the checksum
//! of the footer between them. Everything else in a file is used only after these checks.

use std::hash::Hasher;

use super::error::SegmentError;
use super::format::{
    END_MAGIC, GROUP_HEAD_LEN, HEADER_LEN, MAGIC, MAX_GROUPS, MAX_SCHEMA, ROW_LEN, TRAILER_LEN,
    Trailer, VERSION, header,
};
use super::segment_file::read_at;
use crate::fs::{Directory, File};

/// A footer is hashed in pieces of this size. A file with holes can claim a footer of any length,
/// so memory for a longer one is allocated only after its checksum was found right.
pub(super) const PIECE: usize = 1 << 20;

/// Header and trailer of a segment whose numbers fit each other and the length of the file. The
/// bytes of the footer are not checked yet.
#[derive(Debug)]
pub(super) struct Ends {
    pub(super) trailer: Trailer,
    /// The trailer's bytes, with the checksum of the footer.
    tail: [u8; TRAILER_LEN],
}

impl Ends {
    /// Reads and checks both ends of a file of `file_len` bytes.
    pub(super) fn read(file: &dyn File, file_len: u64) -> Result<Ends, SegmentError> {
        let between = file_len.checked_sub((HEADER_LEN + TRAILER_LEN) as u64);
        let Some(between) = between else {
            return Err(SegmentError::Truncated(format!("it has {file_len} bytes")));
        };
        let mut head = [0; HEADER_LEN];
        read_at(file, &mut head, 0)?;
        Ends::read_end(file, file_len, check_header(&head)?, between)
    }

    /// Reads and checks the end of a file whose header has this version. `between` the two are so many bytes.
    fn read_end(
        file: &dyn File,
        file_len: u64,
        version: u32,
        between: u64,
    ) -> Result<Ends, SegmentError> {
        let mut tail = [0; TRAILER_LEN];
        read_at(file, &mut tail, file_len - TRAILER_LEN as u64)?;
        Ends::parse(tail, version, between)
    }

    /// Checks the end of a segment of `len` bytes whose header is not at hand: nothing that depends on it is used.
    pub(super) fn of_tail(tail: [u8; TRAILER_LEN], len: u64) -> Result<Ends, SegmentError> {
        let version = Trailer::decode(&tail).version;
        match len.checked_sub((HEADER_LEN + TRAILER_LEN) as u64) {
            None => Err(SegmentError::Truncated(format!("it has {len} bytes"))),
            Some(_) if tail.ends_with(&END_MAGIC) && version > VERSION => {
                Err(SegmentError::FutureVersion(version))
            }
            Some(_) if version == 0 => corrupt("the trailer is malformed".into()),
            Some(between) => Ends::parse(tail, version, between),
        }
    }

    fn parse(tail: [u8; TRAILER_LEN], version: u32, between: u64) -> Result<Ends, SegmentError> {
        if !tail.ends_with(&END_MAGIC) {
            return Err(SegmentError::Truncated("the end mark is missing".into()));
        }
        let trailer = Trailer::decode(&tail);
        if trailer.version != version {
            return corrupt(format!(
                "it begins as version {version} and ends as version {}",
                trailer.version
            ));
        }
        let records_len = trailer.footer_offset.checked_sub(HEADER_LEN as u64);
        if records_len.and_then(|len| len.checked_add(trailer.footer_len)) != Some(between) {
            return corrupt("the trailer does not fit the size of the file".into());
        }
        if !groups_can_fill(&trailer) {
            return corrupt(format!(
                "a footer of {} bytes cannot hold exactly {} rows and {} row groups",
                trailer.footer_len, trailer.rows, trailer.groups
            ));
        }
        Ok(Ends { trailer, tail })
    }

    /// Checks the footer's checksum, reading the footer in pieces.
    pub(super) fn check_in_pieces(&self, file: &dyn File) -> Result<(), SegmentError> {
        let mut sum = self.trailer.begin_sum();
        let mut piece = Vec::new();
        let mut at = self.trailer.footer_offset;
        let end = at + self.trailer.footer_len;
        while at < end {
            piece.resize((end - at).min(PIECE as u64) as usize, 0);
            read_at(file, &mut piece, at)?;
            sum.write(&piece);
            at += piece.len() as u64;
        }
        self.compare(self.trailer.sealed(&sum))
    }

    /// Checks the checksum of a footer that is in memory.
    pub(super) fn check(&self, footer: &[u8]) -> Result<(), SegmentError> {
        self.compare(self.trailer.encode(footer))
    }

    fn compare(&self, sealed: [u8; TRAILER_LEN]) -> Result<(), SegmentError> {
        match sealed == self.tail {
            true => Ok(()),
            false => corrupt("the footer's checksum is wrong".into()),
        }
    }
}

/// Whether what the row table leaves of the footer is a possible length of the row groups.
fn groups_can_fill(trailer: &Trailer) -> bool {
    let groups = u64::from(trailer.groups);
    let least = groups * GROUP_HEAD_LEN as u64;
    let most = groups * (GROUP_HEAD_LEN + MAX_SCHEMA) as u64;
    groups <= MAX_GROUPS as u64
        && trailer
            .footer_len
            .checked_sub(u64::from(trailer.rows) * ROW_LEN as u64)
            .is_some_and(|len| (least..=most).contains(&len))
}

/// The version in a header.
fn check_header(head: &[u8; HEADER_LEN]) -> Result<u32, SegmentError> {
    let [magic @ .., a, b, c, d, _, _, _, _] = *head;
    if magic != MAGIC {
        return corrupt("it does not begin like a segment".into());
    }
    let version = u32::from_le_bytes([a, b, c, d]);
    if version > VERSION {
        return Err(SegmentError::FutureVersion(version));
    }
    if version == 0 || *head != header(version) {
        return corrupt("the header is malformed".into());
    }
    Ok(version)
}

/// Whether a segment that seems to be of a newer version is one of this version, or of an earlier one, with
/// a flipped bit in its header: the end of it has a version too, and a checksum over that.
pub(crate) fn has_flipped_version(file: &dyn File, newer: u32) -> Result<bool, SegmentError> {
    let file_len = file.metadata()?.len;
    let between = file_len.saturating_sub((HEADER_LEN + TRAILER_LEN) as u64);
    for version in (1..=VERSION).filter(|version| (version ^ newer).is_power_of_two()) {
        let read = Ends::read_end(file, file_len, version, between);
        match read.and_then(|ends| ends.check_in_pieces(file)) {
            Ok(()) => return Ok(true),
            Err(error @ SegmentError::Io(_)) => return Err(error),
            Err(_) => {}
        }
    }
    Ok(false)
}

/// How many rows a segment claims to have. The number fits the length of the file; the footer is
/// not read.
pub(crate) fn claimed_rows(dir: &dyn Directory, name: &str) -> Result<u64, SegmentError> {
    let file = dir.open(name.as_ref())?;
    let ends = Ends::read(&*file, file.metadata()?.len)?;
    Ok(ends.trailer.rows.into())
}

/// The same of a segment of `len` bytes whose last ones these are.
pub(crate) fn claimed_rows_of_tail(tail: [u8; TRAILER_LEN], len: u64) -> Result<u64, SegmentError> {
    Ok(Ends::of_tail(tail, len)?.trailer.rows.into())
}

pub(super) fn corrupt<T>(what: String) -> Result<T, SegmentError> {
    Err(SegmentError::Corrupt(what))
}
