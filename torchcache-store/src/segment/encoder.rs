//! Turning values into what is stored: as they are, or as zstd frames made by several
//! threads. Apart from the writer thread, which does files.

use std::io;
use std::iter::repeat_n;
use std::num::NonZero;
use std::ops::Range;
use std::thread;

use zstd::zstd_safe::zstd_sys::ZSTD_EndDirective as Directive;
use zstd::zstd_safe::{self, CCtx, CParameter, InBuffer, OutBuffer};

use super::format::Encoding;
use super::shuffle::shuffle;
use crate::config::Compression;

/// How many values of a kind are tried both ways, shuffled and not.
const SAMPLES: usize = 4;

/// How much of each is tried.
const SAMPLE_BYTES: usize = 16 << 10;

/// A value as the caller gave it.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Value<'a> {
    pub(crate) bytes: &'a [u8],
    /// The length of the numbers it is made of, if that is known: 2, 4 or 8.
    pub(crate) element_bytes: u8,
}

/// The stored form of some values, in their order.
pub(crate) struct Packed {
    parts: Vec<Part>,
}

/// What one thread made of consecutive values.
struct Part {
    buffer: Vec<u8>,
    /// Where each value's frame is in the buffer; `None` if the value is stored as it is.
    frames: Vec<Option<(Encoding, Range<usize>)>>,
}

impl Packed {
    /// Each value's encoding and stored bytes, given the values that were packed.
    pub(crate) fn rows<'a>(
        &'a self,
        values: &'a [Value<'a>],
    ) -> impl Iterator<Item = (Encoding, &'a [u8])> {
        let frames = self.parts.iter().flat_map(|part| {
            part.frames
                .iter()
                .map(|frame| frame.clone().map(|(way, range)| (way, &part.buffer[range])))
        });
        let stored = values.iter().zip(frames);
        stored.map(|(value, frame)| frame.unwrap_or((Encoding::Raw, value.bytes)))
    }
}

/// Compresses values, where that makes them smaller.
pub(crate) fn pack(values: &[Value<'_>], compression: Compression) -> io::Result<Packed> {
    let Compression { level, threads } = compression;
    // Chosen here and not by each thread, so that their number does not change what is stored.
    let ways = ways(values, level)?;
    let work: Vec<_> = values.iter().copied().zip(ways).collect();
    let threads = match threads {
        0 => thread::available_parallelism().map_or(1, NonZero::get),
        some => some as usize,
    };
    let share = work.len().div_ceil(threads).max(1);
    if share >= work.len() {
        return Ok(Packed {
            parts: vec![pack_part(&work, level)?],
        });
    }
    let parts = thread::scope(|scope| {
        let workers: Vec<_> = work
            .chunks(share)
            .map(|part| thread::Builder::new().spawn_scoped(scope, move || pack_part(part, level)))
            .collect();
        workers
            .into_iter()
            .map(|worker| {
                worker?
                    .join()
                    .unwrap_or_else(|panic| std::panic::resume_unwind(panic))
            })
            .collect::<io::Result<Vec<Part>>>()
    })?;
    Ok(Packed { parts })
}

fn pack_part(work: &[(Value<'_>, Encoding)], level: i32) -> io::Result<Part> {
    let mut packer = Packer::new(level)?;
    let mut part = Part {
        buffer: Vec::new(),
        frames: Vec::with_capacity(work.len()),
    };
    for (value, way) in work {
        let frame = packer.frame(value.bytes, *way)?;
        part.frames.push((frame.len() < value.bytes.len()).then(|| {
            let begin = part.buffer.len();
            part.buffer.extend_from_slice(frame);
            (*way, begin..part.buffer.len())
        }));
    }
    Ok(part)
}

/// For each value the way in which it is compressed. Values of one kind that follow each other,
/// such as those of a batch, all go the way that is the shorter one for a few of them.
fn ways(values: &[Value<'_>], level: i32) -> io::Result<Vec<Encoding>> {
    let mut ways = Vec::with_capacity(values.len());
    let kind = |value: &Value<'_>| (value.element_bytes, value.bytes.len());
    for alike in values.chunk_by(|a, b| kind(a) == kind(b)) {
        let shuffled = Encoding::shuffled(alike[0].element_bytes);
        let way = match shuffled {
            Encoding::Zstd => Encoding::Zstd,
            _ if total(alike, shuffled, level)? < total(alike, Encoding::Zstd, level)? => shuffled,
            _ => Encoding::Zstd,
        };
        ways.extend(repeat_n(way, alike.len()));
    }
    Ok(ways)
}

/// How many bytes samples of these values take.
fn total(values: &[Value<'_>], way: Encoding, level: i32) -> io::Result<usize> {
    let mut packer = Packer::new(level)?;
    let step = values.len().div_ceil(SAMPLES);
    let mut total = 0;
    for value in values.iter().step_by(step) {
        let sample = &value.bytes[..value.bytes.len().min(SAMPLE_BYTES)];
        total += packer.frame(sample, way)?.len().min(sample.len());
    }
    Ok(total)
}

/// Makes frames one after the other.
struct Packer {
    zstd: CCtx<'static>,
    shuffled: Vec<u8>,
    frame: Vec<u8>,
}

impl Packer {
    fn new(level: i32) -> io::Result<Packer> {
        let mut zstd =
            CCtx::try_create().ok_or_else(|| io::Error::other("no memory for compressing"))?;
        zstd.set_parameter(CParameter::CompressionLevel(level))
            .map_err(zstd_error)?;
        Ok(Packer {
            zstd,
            shuffled: Vec::new(),
            frame: Vec::new(),
        })
    }

    /// One frame of the value. Shuffled, each group of bytes gets blocks of its own: then the
    /// random ones among them do not spoil the statistics of the others. And only long repetitions
    /// are looked for: short ones come by chance there, and cost more to tell than they save.
    fn frame(&mut self, value: &[u8], way: Encoding) -> io::Result<&[u8]> {
        let element_bytes = way.element_bytes();
        let mut rest = value;
        if element_bytes > 1 {
            self.shuffled.resize(value.len(), 0);
            shuffle(element_bytes, value, &mut self.shuffled);
            rest = &self.shuffled;
        }
        self.frame.clear();
        let ends = 8 * element_bytes; // of the blocks before the last
        self.frame
            .reserve(zstd_safe::compress_bound(value.len()) + ends);
        let mut out = OutBuffer::around(&mut self.frame);
        let min_match = if element_bytes > 1 { 7 } else { 0 }; // 0: as the level has it
        self.zstd
            .set_parameter(CParameter::MinMatch(min_match))
            .and_then(|_| self.zstd.set_pledged_src_size(Some(value.len() as u64)))
            .map_err(zstd_error)?;
        for _ in 1..element_bytes {
            let (group, after) = rest.split_at(value.len() / element_bytes);
            compress(&mut self.zstd, group, &mut out, Directive::ZSTD_e_flush)?;
            rest = after;
        }
        compress(&mut self.zstd, rest, &mut out, Directive::ZSTD_e_end)?;
        Ok(&self.frame)
    }
}

/// Takes `input` into the frame, and ends the block or the frame.
fn compress(
    zstd: &mut CCtx<'_>,
    input: &[u8],
    out: &mut OutBuffer<'_, Vec<u8>>,
    end: Directive,
) -> io::Result<()> {
    let mut input = InBuffer::around(input);
    loop {
        let left = zstd
            .compress_stream2(out, &mut input, end)
            .map_err(zstd_error)?;
        if left == 0 {
            return Ok(());
        }
    }
}

fn zstd_error(code: zstd_safe::ErrorCode) -> io::Error {
    io::Error::other(zstd_safe::get_error_name(code))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Numbers as a layer gives them: signs and exponents alike, the rest random.
    fn features(seed: u8, count: usize) -> Vec<u8> {
        let mut noise = vec![0; 4 * count];
        blake3::Hasher::new()
            .update(&[seed])
            .finalize_xof()
            .fill(&mut noise);
        let number = |four: &[u8; 4]| 1.0 + u32::from_le_bytes(*four) as f32 / u32::MAX as f32;
        let (fours, _) = noise.as_chunks::<4>();
        fours
            .iter()
            .flat_map(|four| number(four).to_le_bytes())
            .collect()
    }

    fn stored(values: &[Vec<u8>], element_bytes: u8, threads: u32) -> Vec<(Encoding, Vec<u8>)> {
        let value = |bytes| Value {
            bytes,
            element_bytes,
        };
        let values: Vec<Value<'_>> = values.iter().map(|bytes| value(bytes)).collect();
        let packed = pack(&values, Compression { level: 3, threads }).expect("zstd works");
        let rows = packed.rows(&values);
        rows.map(|(encoding, bytes)| (encoding, bytes.to_vec()))
            .collect()
    }

    #[test]
    fn any_number_of_threads_gives_the_same_bytes_in_the_same_order() {
        let noise = *blake3::hash(b"noise").as_bytes();
        let values: Vec<Vec<u8>> = (0..20u8)
            .map(|n| {
                if n % 3 == 0 {
                    noise.to_vec()
                } else {
                    vec![n; 500]
                }
            })
            .collect();
        for element_bytes in [1, 4] {
            let one = stored(&values, element_bytes, 1);
            assert_eq!(one.len(), 20);
            assert_eq!(
                one[0],
                (Encoding::Raw, noise.to_vec()),
                "noise does not shrink"
            );
            assert_eq!(one[1].0, Encoding::Zstd);
            for threads in [0, 2, 7, 64] {
                assert_eq!(
                    stored(&values, element_bytes, threads),
                    one,
                    "{threads} threads"
                );
            }
        }
    }

    #[test]
    fn numbers_are_shuffled_where_that_is_shorter_and_only_if_their_length_is_told() {
        let size =
            |stored: &[(Encoding, Vec<u8>)]| stored.iter().map(|row| row.1.len()).sum::<usize>();
        let values: Vec<Vec<u8>> = (0..30).map(|n| features(n, 300)).collect();
        let [plain, shuffled] = [1, 4].map(|element_bytes| stored(&values, element_bytes, 1));
        assert!(shuffled.iter().all(|row| row.0 == Encoding::ZstdShuffled4));
        assert!(
            plain
                .iter()
                .all(|row| row.0 == Encoding::Zstd || row.0 == Encoding::Raw)
        );
        assert!(
            size(&shuffled) * 100 < size(&plain) * 95,
            "{} and {} bytes",
            size(&shuffled),
            size(&plain)
        );
        let zeros: Vec<Vec<u8>> = values
            .iter()
            .map(|value| {
                value
                    .iter()
                    .enumerate()
                    .map(|(at, byte)| if at % 64 < 52 { 0 } else { *byte })
                    .collect()
            })
            .collect();
        for row in stored(&zeros, 4, 1) {
            assert_eq!(
                row.0,
                Encoding::Zstd,
                "whole numbers that repeat are found as they are"
            );
        }
    }

    #[test]
    fn a_frame_is_what_zstd_reads_back_at_every_level_and_length_around_the_element() {
        let ways = [1, 2, 4, 8].map(Encoding::shuffled);
        for level in [-7, 1, 3, 9, 15, 22] {
            // One for all, as for the values of a batch.
            let mut packer = Packer::new(level).expect("zstd works");
            for len in (0..40).chain([1000, 1003, 300_000]) {
                let value = &features(9, 75_001)[..len];
                for way in ways {
                    let frame = packer.frame(value, way).expect("zstd works");
                    let mut expected = value.to_vec();
                    if way != Encoding::Zstd {
                        shuffle(way.element_bytes(), value, &mut expected);
                    }
                    let back = zstd::bulk::decompress(frame, len).expect("it is sound");
                    assert!(back == expected, "{len} bytes at level {level}, {way:?}");
                }
            }
        }
    }
}
