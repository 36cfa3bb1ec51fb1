//! Turning values into what is stored: as they are, or as zstd frames made by several
//! threads. Apart from the writer thread, which does files.

use std::io;
use std::num::NonZero;
use std::ops::Range;
use std::thread;

use zstd::bulk::Compressor;

use crate::config::Compression;
use crate::segment::Storage;

/// The stored form of some rows, in their order.
pub(crate) struct Packed {
    parts: Vec<Part>,
}

/// What one thread made of consecutive rows.
struct Part {
    buffer: Vec<u8>,
    /// Where each row's frame is in the buffer; `None` if the row is stored as it is.
    frames: Vec<Option<Range<usize>>>,
}

impl Packed {
    /// Each row's storage and stored bytes, given the values that were packed.
    pub(crate) fn rows<'a>(
        &'a self,
        values: &'a [&'a [u8]],
    ) -> impl Iterator<Item = (Storage, &'a [u8])> {
        let frames = self.parts.iter().flat_map(|part| {
            part.frames
                .iter()
                .map(|frame| frame.clone().map(|range| &part.buffer[range]))
        });
        values.iter().zip(frames).map(|(value, frame)| match frame {
            Some(frame) => (Storage::Zstd, frame),
            None => (Storage::Raw, *value),
        })
    }
}

/// Compresses values, where that makes them smaller.
pub(crate) fn pack(values: &[&[u8]], compression: Option<Compression>) -> io::Result<Packed> {
    let Some(Compression { level, threads }) = compression else {
        let frames = vec![None; values.len()];
        return Ok(Packed {
            parts: vec![Part {
                buffer: Vec::new(),
                frames,
            }],
        });
    };
    let threads = match threads {
        0 => thread::available_parallelism().map_or(1, NonZero::get),
        some => some as usize,
    };
    let share = values.len().div_ceil(threads).max(1);
    if share >= values.len() {
        return Ok(Packed {
            parts: vec![pack_part(values, level)?],
        });
    }
    let parts = thread::scope(|scope| {
        let workers: Vec<_> = values
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

fn pack_part(values: &[&[u8]], level: i32) -> io::Result<Part> {
    let mut compressor = Compressor::new(level)?;
    let mut part = Part {
        buffer: Vec::new(),
        frames: Vec::with_capacity(values.len()),
    };
    let mut frame = Vec::new();
    for value in values {
        frame.clear();
        frame.reserve(zstd::zstd_safe::compress_bound(value.len()));
        let len = compressor.compress_to_buffer(value, &mut frame)?;
        part.frames.push((len < value.len()).then(|| {
            let begin = part.buffer.len();
            part.buffer.extend_from_slice(&frame[..len]);
            begin..part.buffer.len()
        }));
    }
    Ok(part)
}

#[cfg(test)]
mod tests {
    use super::*;

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
        let values: Vec<&[u8]> = values.iter().map(Vec::as_slice).collect();
        let stored = |threads| {
            let packed =
                pack(&values, Some(Compression { level: 3, threads })).expect("zstd works");
            packed
                .rows(&values)
                .map(|(storage, bytes)| (storage, bytes.to_vec()))
                .collect::<Vec<_>>()
        };
        let one = stored(1);
        assert_eq!(one.len(), 20);
        assert_eq!(
            one[0],
            (Storage::Raw, noise.to_vec()),
            "noise does not shrink"
        );
        assert_eq!(one[1].0, Storage::Zstd);
        for threads in [0, 2, 7, 64] {
            assert_eq!(stored(threads), one, "{threads} threads");
        }
    }
}
