//! From the stored bytes of a record to its value. Buffers and the decompressor are reused.

use std::io::{self, Read};

use zstd::bulk::Decompressor;
use zstd::zstd_safe::zstd_sys::ZSTD_ErrorCode;

use super::error::SegmentError;
use super::format::{Encoding, RowEntry, RowGroup};
use super::shuffle::unshuffle;

/// Longer values are not held in memory when they are only checked.
const HELD: usize = 1 << 20;

/// Decodes records whose checksum was found right.
#[derive(Default)]
pub(crate) struct Decoder {
    zstd: Option<Decompressor<'static>>,
    /// A decompressed, but still shuffled value.
    pub(super) shuffled: Vec<u8>,
    value: Vec<u8>,
}

impl Decoder {
    /// Decompresses a value into `out`, which has its length, and unshuffles it.
    pub(super) fn decode(
        &mut self,
        encoding: Encoding,
        stored: &[u8],
        out: &mut [u8],
    ) -> Result<(), SegmentError> {
        let Decoder { zstd, shuffled, .. } = self;
        let element_bytes = encoding.element_bytes();
        if element_bytes == 1 {
            return decompress(zstd, stored, out);
        }
        if shuffled.len() < out.len() {
            shuffled.resize(out.len(), 0);
        }
        let shuffled = &mut shuffled[..out.len()];
        decompress(zstd, stored, shuffled)?;
        unshuffle(element_bytes, shuffled, out);
        Ok(())
    }

    /// The value of a record: the stored bytes themselves, or their decompressed form.
    pub(crate) fn value<'a>(
        &'a mut self,
        row: &RowEntry,
        group: &RowGroup,
        stored: &'a [u8],
    ) -> Result<&'a [u8], SegmentError> {
        if row.encoding.is_raw() {
            return Ok(stored);
        }
        let len = group.raw_len as usize;
        let mut value = std::mem::take(&mut self.value);
        if value.len() < len {
            value.resize(len, 0);
        }
        let decoded = self.decode(row.encoding, stored, &mut value[..len]);
        self.value = value;
        decoded.map(|()| &self.value[..len])
    }

    /// Checks that a record can be decoded. Uses little memory however long the value is.
    pub(crate) fn check(
        &mut self,
        row: &RowEntry,
        group: &RowGroup,
        stored: &[u8],
    ) -> Result<(), SegmentError> {
        if row.encoding.is_raw() || group.raw_len as usize <= HELD {
            return self.value(row, group, stored).map(|_| ());
        }
        let expected = u64::from(group.raw_len);
        let corrupt = |what: String| Err(SegmentError::Corrupt(what));
        let frame = zstd::stream::read::Decoder::with_buffer(stored)?;
        // One byte more is enough to know that the frame is too long.
        match io::copy(&mut frame.take(expected + 1), &mut io::sink()) {
            Ok(len) if len == expected => Ok(()),
            Ok(len) => corrupt(format!(
                "a row of {expected} bytes decompresses to {}{len}",
                if len > expected { "at least " } else { "" }
            )),
            Err(error) => Err(undecodable(error)),
        }
    }
}

/// Decompresses a frame, which must give exactly as many bytes as `out` has.
fn decompress(
    zstd: &mut Option<Decompressor<'static>>,
    stored: &[u8],
    out: &mut [u8],
) -> Result<(), SegmentError> {
    let decompressor = match zstd {
        Some(decompressor) => decompressor,
        None => zstd.insert(Decompressor::new()?),
    };
    match decompressor.decompress_to_buffer(stored, out) {
        Ok(len) if len == out.len() => Ok(()),
        Ok(len) => Err(SegmentError::Corrupt(format!(
            "a row of {} bytes decompresses to {len}",
            out.len()
        ))),
        Err(error) => Err(undecodable(error)),
    }
}

/// Why a row does not decompress. Lack of memory is not corruption: the row may be sound, and a repair
/// must not remove it.
fn undecodable(error: io::Error) -> SegmentError {
    let inner = error.get_ref();
    let zstd = inner.and_then(|inner| inner.downcast_ref::<zstd::Error>());
    let is_short = |error: &zstd::Error| error.is(ZSTD_ErrorCode::ZSTD_error_memory_allocation);
    if error.kind() == io::ErrorKind::OutOfMemory || zstd.is_some_and(is_short) {
        return SegmentError::Io(io::ErrorKind::OutOfMemory.into());
    }
    SegmentError::Corrupt(format!("a row does not decompress: {error}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn record(value: &[u8], claimed: usize) -> (RowEntry, RowGroup, Vec<u8>) {
        let stored = zstd::bulk::compress(value, 1).expect("it compresses");
        let row = RowEntry {
            key: [0; 32],
            offset: 16,
            stored_len: stored.len() as u32,
            group: 0,
            encoding: Encoding::Zstd,
        };
        let group = RowGroup::new(b"".as_slice().into(), claimed as u32);
        (row, group, stored)
    }

    #[test]
    fn values_of_another_length_than_claimed_are_corrupt() {
        for len in [1000, HELD, HELD + 1, 3 * HELD] {
            let value: Vec<u8> = (0..len).map(|n| (n / 100) as u8).collect();
            let mut decoder = Decoder::default();
            let (row, group, stored) = record(&value, len);
            let decoded = decoder.value(&row, &group, &stored).expect("it is sound");
            assert!(decoded == value, "{len} bytes");
            decoder.check(&row, &group, &stored).expect("it is sound");
            for claimed in [len - 1, len + 1] {
                let (row, group, stored) = record(&value, claimed);
                assert!(decoder.check(&row, &group, &stored).is_err(), "{claimed}");
            }
            let cut = &stored[..stored.len() - 1];
            let bad = decoder.check(&row, &group, cut);
            assert!(
                matches!(bad, Err(SegmentError::Corrupt(_))),
                "{len}: {bad:?}"
            );
        }
    }

    #[test]
    fn lack_of_memory_is_not_corruption() {
        let short = undecodable(io::ErrorKind::OutOfMemory.into());
        assert!(matches!(short, SegmentError::Io(_)), "{short}");
        let cut = undecodable(io::ErrorKind::UnexpectedEof.into());
        assert!(matches!(cut, SegmentError::Corrupt(_)), "{cut}");
    }
}
