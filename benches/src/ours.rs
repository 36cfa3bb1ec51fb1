//! torchcache on a workload: each way of serving rows, with the counts that prove where rows came from.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use tch::nn::Func;
use tch::{Device, Tensor};
use torchcache::{Cached, Options, OptionsBuilder, Stats};

use crate::clock::{best, milliseconds, pass, pass_with_ids};
use crate::figures::{Figures, Served};
use crate::workload::{Batch, Workload};

/// More than any workload needs.
const ROOM: &str = "8 GB";

/// A cache around the workload's forward. Caches of one `version` and directory share their rows.
pub fn cached(
    workload: &Workload,
    version: &str,
    options: OptionsBuilder,
) -> Cached<Func<'static>> {
    let options = options.version(format!("{} {version}", workload.name));
    let options = options.build().expect("valid options");
    Cached::shared(tch::nn::func(workload.forward), (), options).expect("a new identity")
}

/// One round: the forward, memory, and disk with and without compression, each with new rows.
pub fn round(workload: &Workload, data: &[Batch], round: usize, passes: usize, to: &mut Figures) {
    let forward = |xs: &Tensor| (workload.forward)(xs);
    to.add(Served::Forward, best(passes, || pass(data, forward)));
    memory(workload, data, round, passes, to);
    disk(workload, data, round, false, to);
    disk(workload, data, round, true, to);
}

fn memory(workload: &Workload, data: &[Batch], round: usize, passes: usize, to: &mut Figures) {
    let options = Options::builder().max_memory_cache_size(ROOM);
    let cache = cached(workload, &format!("memory {round}"), options);
    let call = |xs: &Tensor| cache.forward(xs);
    to.add(Served::MissMemory, pass(data, call));
    to.add(Served::MemoryHit, best(passes, || pass(data, call)));
    let rows = rows(data);
    expect(&cache.cache().stats(), |stats| {
        (stats.misses, stats.memory.hits) == (rows, rows * passes as u64)
    });

    let options = Options::builder().max_memory_cache_size(ROOM);
    let cache = cached(workload, &format!("ids {round}"), options);
    let call = |batch: &Batch| cache.forward_by_id(&batch.input, batch.ids.as_slice());
    pass_with_ids(data, call);
    to.add(
        Served::MemoryHitById,
        best(passes, || pass_with_ids(data, call)),
    );
    expect(&cache.cache().stats(), |stats| {
        (stats.misses, stats.memory.hits) == (rows, rows * passes as u64)
    });
}

fn disk(workload: &Workload, data: &[Batch], round: usize, zstd: bool, to: &mut Figures) {
    let (miss, hit, bytes) = match zstd {
        false => (Served::MissDisk, Served::DiskHit, Served::RowBytes),
        true => (
            Served::MissDiskZstd,
            Served::DiskHitZstd,
            Served::RowBytesZstd,
        ),
    };
    let directory = tempfile::tempdir().expect("a temporary folder");
    let open = |room| {
        let options = Options::builder()
            .persistent(true)
            .persistent_cache_dir(directory.path())
            .zstd_compression(zstd)
            .max_memory_cache_size(room);
        cached(workload, &format!("disk {zstd} {round}"), options)
    };
    let rows = rows(data);

    let writer = open(ROOM);
    let call = pass(data, |xs| writer.forward(xs));
    let flush = milliseconds(Device::Cpu, || {
        writer.cache().flush().expect("everything is written");
    });
    to.add(miss, call);
    if !zstd {
        to.add(Served::MissWritten, call + flush / data.len() as f64);
    }
    expect(&writer.cache().stats(), |stats| {
        stats.misses == rows && stats.disk.rows == rows
    });
    let files = bytes_below(directory.path()).expect("the directory can be read");
    to.add(bytes, files as f64 / rows as f64);
    // The memory tier is freed with the last handle, so that the next one starts with the disk.
    drop(writer);

    let fresh = open(ROOM);
    to.add(hit, pass(data, |xs| fresh.forward(xs)));
    expect(&fresh.cache().stats(), |stats| stats.disk.hits == rows);
    drop(fresh);

    if !zstd {
        let bounded = open("0 B");
        // The first pass opens the files as well; the peer has two passes, too.
        let hits = best(2, || pass(data, |xs| bounded.forward(xs)));
        to.add(Served::DiskOnly, hits);
        expect(&bounded.cache().stats(), |stats| {
            stats.disk.hits == 2 * rows
        });
    }
}

/// All files of a directory and of those in it.
pub fn files_below(directory: &Path) -> io::Result<Vec<PathBuf>> {
    let mut files = Vec::new();
    for entry in fs::read_dir(directory)? {
        let entry = entry?;
        match entry.file_type()?.is_dir() {
            true => files.extend(files_below(&entry.path())?),
            false => files.push(entry.path()),
        }
    }
    Ok(files)
}

/// Bytes of all files; the peer counts the same way.
fn bytes_below(directory: &Path) -> io::Result<u64> {
    let files = files_below(directory)?;
    files
        .iter()
        .try_fold(0, |sum, file| Ok(sum + fs::metadata(file)?.len()))
}

fn rows(data: &[Batch]) -> u64 {
    data.iter().map(|batch| batch.input.size()[0] as u64).sum()
}

/// Asserts that rows were served as the figure says.
pub fn expect(stats: &Stats, holds: impl Fn(&Stats) -> bool) {
    assert!(holds(stats), "rows were not served as intended:\n{stats}");
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::figures::SHOWN;
    use tch::Kind;

    #[test]
    fn a_round_gives_every_figure_of_the_tables() {
        let tiny = Workload {
            name: "tiny",
            batch: 4,
            batches: 2,
            shape: &[8],
            kind: Kind::Float,
            forward: |xs| xs * 2,
        };
        let mut figures = Figures::default();
        let data = tiny.data(tiny.batches, tch::Device::Cpu);
        round(&tiny, &data, 0, 2, &mut figures);
        for served in SHOWN {
            assert!(figures.best(served).is_some(), "{served:?}");
        }
        assert!(figures.best(Served::MissWritten) > figures.best(Served::MissDisk));
    }

    #[test]
    fn the_bytes_of_a_directory_include_nested_files() {
        let directory = tempfile::tempdir().unwrap();
        let deep = directory.path().join("a/b");
        fs::create_dir_all(&deep).unwrap();
        fs::write(directory.path().join("one"), [0; 5]).unwrap();
        fs::write(deep.join(".two"), [0; 7]).unwrap();
        assert_eq!(bytes_below(directory.path()).unwrap(), 12);
    }
}
