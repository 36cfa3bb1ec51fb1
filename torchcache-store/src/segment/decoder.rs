//! Values out of records whose checksum was found right, for whoever goes through many of them on one
//! thread: the buffers and the decompressor are kept from one to the next.

use std::io::{self, Read};

use zstd::bulk::Decompressor;

use super::fetch::{decode, undecodable};
use super::format::{Class, Row};
use super::reader::Unreadable;

/// Longer values are not held in memory to find out whether they are sound.
const HELD: usize = 1 << 20;

/// Makes values of stored bytes.
#[derive(Default)]
pub(crate) struct Decoder {
    zstd: Option<Decompressor<'static>>,
    shuffled: Vec<u8>,
    value: Vec<u8>,
}

impl Decoder {
    /// The value of a record: the stored bytes themselves, or what they decompress to.
    pub(crate) fn value<'a>(
        &'a mut self,
        row: &Row,
        class: &Class,
        stored: &'a [u8],
    ) -> Result<&'a [u8], Unreadable> {
        if row.storage.is_raw() {
            return Ok(stored);
        }
        let len = class.raw_len as usize;
        if self.value.len() < len {
            self.value.resize(len, 0);
        }
        let value = &mut self.value[..len];
        let element_bytes = row.storage.element_bytes();
        decode(
            &mut self.zstd,
            &mut self.shuffled,
            element_bytes,
            stored,
            value,
        )?;
        Ok(value)
    }

    /// Whether a record has a value, in little memory however long it is.
    pub(crate) fn check(
        &mut self,
        row: &Row,
        class: &Class,
        stored: &[u8],
    ) -> Result<(), Unreadable> {
        if row.storage.is_raw() || class.raw_len as usize <= HELD {
            return self.value(row, class, stored).map(|_| ());
        }
        let expected = u64::from(class.raw_len);
        let corrupt = |what: String| Err(Unreadable::Corrupt(what));
        let frame = zstd::stream::read::Decoder::with_buffer(stored)?;
        // One byte more than there should be tells that there are more.
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

#[cfg(test)]
mod tests {
    use super::super::Storage;
    use super::*;

    fn record(value: &[u8], claimed: usize) -> (Row, Class, Vec<u8>) {
        let stored = zstd::bulk::compress(value, 1).expect("it compresses");
        let row = Row {
            key: [0; 32],
            offset: 16,
            stored_len: stored.len() as u32,
            class: 0,
            storage: Storage::Zstd,
        };
        let class = Class::new(b"".as_slice().into(), claimed as u32);
        (row, class, stored)
    }

    #[test]
    fn short_and_long_values_are_sound_only_if_they_are_as_long_as_claimed() {
        for len in [1000, HELD, HELD + 1, 3 * HELD] {
            let value: Vec<u8> = (0..len).map(|n| (n / 100) as u8).collect();
            let mut decoder = Decoder::default();
            let (row, class, stored) = record(&value, len);
            let decoded = decoder.value(&row, &class, &stored).expect("it is sound");
            assert!(decoded == value, "{len} bytes");
            decoder.check(&row, &class, &stored).expect("it is sound");
            for claimed in [len - 1, len + 1] {
                let (row, class, stored) = record(&value, claimed);
                assert!(decoder.check(&row, &class, &stored).is_err(), "{claimed}");
            }
            let cut = &stored[..stored.len() - 1];
            let bad = decoder.check(&row, &class, cut);
            assert!(matches!(bad, Err(Unreadable::Corrupt(_))), "{len}: {bad:?}");
        }
    }

    #[test]
    fn that_memory_is_short_is_no_damage() {
        let short = undecodable(io::ErrorKind::OutOfMemory.into());
        assert!(matches!(short, Unreadable::Io(_)), "{short}");
        let cut = undecodable(io::ErrorKind::UnexpectedEof.into());
        assert!(matches!(cut, Unreadable::Corrupt(_)), "{cut}");
    }
}
