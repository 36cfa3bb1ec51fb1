//! Encoding values for storage: raw, or as zstd frames that several threads make.

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

/// How many values of a run are compressed both ways, shuffled and not, to choose one.
const SAMPLES: usize = 4;

/// The bytes of each sample.
const SAMPLE_BYTES: usize = 16 << 10;

/// A value to be encoded.
#[derive(Clone, Copy, Debug)]
pub(crate) struct RawValue<'a> {
    pub(crate) bytes: &'a [u8],
    /// The size of the value's elements: 2, 4 or 8 if shuffling may help, else any other number.
    pub(crate) element_bytes: u8,
}

/// The stored form of some values, in their order.
pub(crate) struct EncodedRows {
    chunks: Vec<EncodedChunk>,
}

/// The stored form of consecutive values, made by one thread.
struct EncodedChunk {
    buffer: Vec<u8>,
    /// Where each value's frame is in the buffer; `None` if the value is stored raw.
    frames: Vec<Option<(Encoding, Range<usize>)>>,
}

impl EncodedRows {
    /// Each value's encoding and stored bytes, given the values that were encoded.
    pub(crate) fn rows<'a>(
        &'a self,
        values: &'a [RawValue<'a>],
    ) -> impl Iterator<Item = (Encoding, &'a [u8])> {
        let frames = self.chunks.iter().flat_map(|chunk| {
            let frames = chunk.frames.iter().cloned();
            frames.map(|frame| frame.map(|(encoding, range)| (encoding, &chunk.buffer[range])))
        });
        let stored = values.iter().zip(frames);
        stored.map(|(value, frame)| frame.unwrap_or((Encoding::Raw, value.bytes)))
    }
}

/// Compresses values. Those that do not shrink are stored raw.
pub(crate) fn encode_rows(
    values: &[RawValue<'_>],
    compression: Compression,
) -> io::Result<EncodedRows> {
    let Compression { level, threads } = compression;
    // Chosen before the work is divided, so that the number of threads does not change the result.
    let encodings = choose_encodings(values, level)?;
    let work: Vec<_> = values.iter().copied().zip(encodings).collect();
    let threads = match threads {
        0 => thread::available_parallelism().map_or(1, NonZero::get),
        some => some as usize,
    };
    let share = work.len().div_ceil(threads).max(1);
    if share >= work.len() {
        return Ok(EncodedRows {
            chunks: vec![encode_chunk(&work, level)?],
        });
    }
    let chunks = thread::scope(|scope| {
        let workers: Vec<_> = work
            .chunks(share)
            .map(|chunk| {
                let encode = move || encode_chunk(chunk, level);
                let worker = thread::Builder::new().spawn_scoped(scope, encode);
                worker.map_err(|_| chunk)
            })
            .collect();
        workers
            .into_iter()
            .map(|worker| match worker {
                Ok(worker) => worker
                    .join()
                    .unwrap_or_else(|panic| std::panic::resume_unwind(panic)),
                // There is no thread for it.
                Err(chunk) => encode_chunk(chunk, level),
            })
            .collect::<io::Result<Vec<EncodedChunk>>>()
    })?;
    Ok(EncodedRows { chunks })
}

fn encode_chunk(work: &[(RawValue<'_>, Encoding)], level: i32) -> io::Result<EncodedChunk> {
    let mut encoder = FrameEncoder::new(level)?;
    let mut chunk = EncodedChunk {
        buffer: Vec::new(),
        frames: Vec::with_capacity(work.len()),
    };
    for (value, encoding) in work {
        let frame = encoder.frame(value.bytes, *encoding)?;
        chunk
            .frames
            .push((frame.len() < value.bytes.len()).then(|| {
                let begin = chunk.buffer.len();
                chunk.buffer.extend_from_slice(frame);
                (*encoding, begin..chunk.buffer.len())
            }));
    }
    Ok(chunk)
}

/// Chooses how each value is compressed. Consecutive values of one length and element size, such as
/// those of a batch, all get the encoding that is shorter for some samples of them.
fn choose_encodings(values: &[RawValue<'_>], level: i32) -> io::Result<Vec<Encoding>> {
    let mut encodings = Vec::with_capacity(values.len());
    let sizes = |value: &RawValue<'_>| (value.element_bytes, value.bytes.len());
    for run in values.chunk_by(|a, b| sizes(a) == sizes(b)) {
        let encoding = match Encoding::shuffled(run[0].element_bytes) {
            Encoding::Zstd => Encoding::Zstd,
            shuffled => {
                let shuffled_size = sampled_size(run, shuffled, level)?;
                match shuffled_size < sampled_size(run, Encoding::Zstd, level)? {
                    true => shuffled,
                    false => Encoding::Zstd,
                }
            }
        };
        encodings.extend(repeat_n(encoding, run.len()));
    }
    Ok(encodings)
}

/// How many bytes samples of these values take in an encoding.
fn sampled_size(values: &[RawValue<'_>], encoding: Encoding, level: i32) -> io::Result<usize> {
    let mut encoder = FrameEncoder::new(level)?;
    let step = values.len().div_ceil(SAMPLES);
    let mut size = 0;
    for value in values.iter().step_by(step) {
        let sample = &value.bytes[..value.bytes.len().min(SAMPLE_BYTES)];
        size += encoder.frame(sample, encoding)?.len().min(sample.len());
    }
    Ok(size)
}

/// Makes frames, reusing its memory.
struct FrameEncoder {
    zstd: CCtx<'static>,
    shuffled: Vec<u8>,
    frame: Vec<u8>,
}

impl FrameEncoder {
    fn new(level: i32) -> io::Result<FrameEncoder> {
        let mut zstd =
            CCtx::try_create().ok_or_else(|| io::Error::other("no memory for compressing"))?;
        zstd.set_parameter(CParameter::CompressionLevel(level))
            .map_err(zstd_error)?;
        Ok(FrameEncoder {
            zstd,
            shuffled: Vec::new(),
            frame: Vec::new(),
        })
    }

    /// One frame of the value. If it is shuffled, the bytes of each significance get their own
    /// blocks, so that random ones do not spoil the statistics of the others; and only long matches
    /// are searched, since short ones are coincidences there and cost more than they save.
    fn frame(&mut self, value: &[u8], encoding: Encoding) -> io::Result<&[u8]> {
        let element_bytes = encoding.element_bytes();
        let mut rest = value;
        if element_bytes > 1 {
            self.shuffled.resize(value.len(), 0);
            shuffle(element_bytes, value, &mut self.shuffled);
            rest = &self.shuffled;
        }
        self.frame.clear();
        let block_ends = 8 * element_bytes; // of all blocks but the last
        self.frame
            .reserve(zstd_safe::compress_bound(value.len()) + block_ends);
        let mut out = OutBuffer::around(&mut self.frame);
        let min_match = if element_bytes > 1 { 7 } else { 0 }; // 0: that of the level
        self.zstd
            .set_parameter(CParameter::MinMatch(min_match))
            .and_then(|_| self.zstd.set_pledged_src_size(Some(value.len() as u64)))
            .map_err(zstd_error)?;
        for _ in 1..element_bytes {
            let (plane, after) = rest.split_at(value.len() / element_bytes);
            compress(&mut self.zstd, plane, &mut out, Directive::ZSTD_e_flush)?;
            rest = after;
        }
        compress(&mut self.zstd, rest, &mut out, Directive::ZSTD_e_end)?;
        Ok(&self.frame)
    }
}

/// Appends `input` to the frame, and ends the block or the frame.
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

    /// Numbers like those of a layer: the same sign and exponent, the rest random.
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
        let value = |bytes| RawValue {
            bytes,
            element_bytes,
        };
        let values: Vec<RawValue<'_>> = values.iter().map(|bytes| value(bytes)).collect();
        let encoded = encode_rows(&values, Compression::new(3, threads)).expect("zstd works");
        let rows = encoded.rows(&values);
        rows.map(|(encoding, bytes)| (encoding, bytes.to_vec()))
            .collect()
    }

    #[test]
    fn the_number_of_threads_does_not_change_the_result() {
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
    fn values_are_shuffled_if_that_is_shorter() {
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
                "repeated elements compress better unshuffled"
            );
        }
    }

    #[test]
    fn zstd_reads_frames_of_every_level_and_length() {
        let encodings = [1, 2, 4, 8].map(Encoding::shuffled);
        for level in [-7, 1, 3, 9, 15, 22] {
            let mut encoder = FrameEncoder::new(level).expect("zstd works");
            for len in (0..40).chain([1000, 1003, 300_000]) {
                let value = &features(9, 75_001)[..len];
                for encoding in encodings {
                    let frame = encoder.frame(value, encoding).expect("zstd works");
                    let mut expected = value.to_vec();
                    if encoding != Encoding::Zstd {
                        shuffle(encoding.element_bytes(), value, &mut expected);
                    }
                    let back = zstd::bulk::decompress(frame, len).expect("it is sound");
                    assert!(
                        back == expected,
                        "{len} bytes at level {level}, {encoding:?}"
                    );
                }
            }
        }
    }
}
