//! Machines that share a bucket: the code of the remote tier, with a clock and a bucket that are simulated. A row
//! stands for many.

use std::io::{self, ErrorKind};
use std::ops::{AddAssign, Mul, Range, Sub};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use torchcache_store::Key;
use torchcache_store::fs::{Directory, FileSystem};
use torchcache_store::remote::{
    Clock, RecordSource, Remote, RemoteConfig, RemoteStats, StoredRecord,
};
use torchcache_store::segment::Encoding;

use crate::bucket::{Bucket, ROW_LEN, StepClock};

/// The fleet: each machine uses each identity.
pub(crate) const MACHINES: usize = 100;
pub(crate) const IDENTITIES: u64 = 10;

/// The rows of a full object: 64 MiB of rows of 2,000 bytes.
pub(crate) const FULL_OBJECT: u64 = 1 << 15;

/// The most rows that an index has takes so many bytes for each.
pub(crate) const INDEX_BYTES: u64 = 64;

/// The bytes of a row's value, and what an object has for it in addition.
pub(crate) const VALUE_LEN: u64 = 2000;
pub(crate) const ROW_OVERHEAD: u64 = 48;

/// The default of the most rows of an index.
pub(crate) fn max_rows() -> u64 {
    RemoteConfig::new("", "", PathBuf::new()).max_rows as u64
}

/// The key of a row.
pub(crate) fn key(number: u64) -> Key {
    *blake3::hash(&number.to_le_bytes()).as_bytes()
}

/// Rows that are all zeros, of one length.
#[derive(Debug)]
struct Zeros(Vec<u8>);

impl RecordSource for Zeros {
    fn read(&self, keys: &[Key], each: &mut dyn FnMut(StoredRecord<'_>)) {
        let schema: Arc<[u8]> = b"output: float32 [500]".as_slice().into();
        for key in keys {
            each(StoredRecord {
                key,
                schema: &schema,
                raw_len: self.0.len() as u32,
                encoding: Encoding::Raw,
                stored: &self.0,
            });
        }
    }
}

/// A local disk that keeps no footers.
#[derive(Debug)]
struct NoDisk;

impl FileSystem for NoDisk {
    fn open_dir(&self, _: &Path, _: bool) -> io::Result<Arc<dyn Directory>> {
        Err(ErrorKind::Unsupported.into())
    }
}

/// Requests and what they transferred. The unit follows from the use: counts, or counts a day.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Traffic {
    pub(crate) puts: f64,
    pub(crate) gets: f64,
    pub(crate) lists: f64,
    /// Objects that were put.
    pub(crate) objects: f64,
    /// Bytes of footers and hints that were read.
    pub(crate) bytes_in: f64,
    pub(crate) bytes_out: f64,
}

impl Traffic {
    fn of(stats: &RemoteStats) -> Traffic {
        let requests = &stats.requests;
        Traffic {
            puts: requests.puts as f64,
            gets: requests.gets as f64,
            lists: requests.lists as f64,
            objects: stats.uploads.objects as f64,
            bytes_in: requests.bytes_in as f64,
            bytes_out: requests.bytes_out as f64,
        }
    }

    fn zip(self, other: Traffic, of: impl Fn(f64, f64) -> f64) -> Traffic {
        Traffic {
            puts: of(self.puts, other.puts),
            gets: of(self.gets, other.gets),
            lists: of(self.lists, other.lists),
            objects: of(self.objects, other.objects),
            bytes_in: of(self.bytes_in, other.bytes_in),
            bytes_out: of(self.bytes_out, other.bytes_out),
        }
    }
}

impl AddAssign for Traffic {
    fn add_assign(&mut self, other: Traffic) {
        *self = self.zip(other, |a, b| a + b);
    }
}

impl Sub for Traffic {
    type Output = Traffic;

    fn sub(self, other: Traffic) -> Traffic {
        self.zip(other, |a, b| a - b)
    }
}

impl Mul<f64> for Traffic {
    type Output = Traffic;

    fn mul(self, factor: f64) -> Traffic {
        self.zip(self, |a, _| a * factor)
    }
}

/// A process on a machine of its own, with the rows of one module hash.
#[derive(Debug)]
pub(crate) struct Machine {
    pub(crate) remote: Remote,
    source: Zeros,
}

impl Machine {
    /// A machine whose values have `len` bytes, with an index of at most `max_rows` of its rows.
    pub(crate) fn new(
        bucket: &Arc<Bucket>,
        clock: &StepClock,
        identity: usize,
        len: u64,
        max_rows: u64,
    ) -> Machine {
        let disk = Arc::new(NoDisk);
        Machine::on_disk(
            bucket,
            clock,
            identity,
            len,
            max_rows,
            (disk, PathBuf::new()),
        )
    }

    /// A machine that keeps footers.
    pub(crate) fn on_disk(
        bucket: &Arc<Bucket>,
        clock: &StepClock,
        identity: usize,
        len: u64,
        max_rows: u64,
        (fs, footers): (Arc<dyn FileSystem>, PathBuf),
    ) -> Machine {
        let mut config = RemoteConfig::new("team", &format!("{identity:032x}"), footers);
        config.max_rows = max_rows as usize;
        Machine {
            remote: Remote::new(bucket.clone(), Arc::new(clock.clone()), fs, config),
            source: Zeros(vec![0; len as usize]),
        }
    }

    pub(crate) fn work(&self) {
        self.remote.work(&self.source);
    }

    /// Looks rows up, computes those that are missing and has them uploaded. Returns how many were found.
    pub(crate) fn call(&self, keys: &[Key]) -> usize {
        let located = self.remote.locate(keys);
        let missing = keys.iter().zip(&located).filter(|(_, row)| row.is_none());
        let len = self.source.0.len() as u32;
        self.remote.push(missing.map(|(key, _)| (*key, len)));
        located.iter().flatten().count()
    }

    /// Puts these rows as one object.
    pub(crate) fn put(&self, numbers: Range<u64>) {
        let keys: Vec<Key> = numbers.map(key).collect();
        self.call(&keys);
        self.flush();
    }

    pub(crate) fn flush(&self) {
        let user = self.remote.new_user();
        let flushed = (self.remote).flush(&self.source, Duration::from_secs(60), &user);
        flushed.expect("the bucket has no faults");
    }

    pub(crate) fn traffic(&self) -> Traffic {
        Traffic::of(&self.remote.stats())
    }
}

/// Fills a bucket with so many objects of so many short rows, a minute apart.
pub(crate) fn fill(bucket: &Bucket, clock: &StepClock, objects: u64, rows: u64) {
    // A writer copies the list of all objects that it knows at each of its uploads.
    const AT_ONCE: u64 = 200;
    for first in (0..objects).step_by(AT_ONCE as usize) {
        let part = Bucket::new(clock, false);
        let writer = Machine::new(&part, clock, 0, 8, max_rows());
        for n in first..objects.min(first + AT_ONCE) {
            writer.put(n * rows..(n + 1) * rows);
            clock.sleep(Duration::from_secs(60));
        }
        bucket.take(&part);
    }
    clock.sleep(Duration::from_secs(3600));
}

/// What all machines do.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Workload {
    pub(crate) machines: usize,
    pub(crate) identities: usize,
    /// Objects that are there before.
    pub(crate) objects: u64,
    /// The rows of a batch: of a call that computes all of them. They are one row here, of as many bytes.
    pub(crate) batch: u64,
    /// How many rows a machine computes a day, for each identity.
    pub(crate) computed: f64,
    /// Each machine looks up a row every second that no machine has and that it does not upload.
    pub(crate) misses: bool,
    /// Hours that pass before, at least one, and that are counted.
    pub(crate) hours: (u64, u64),
}

impl Workload {
    /// What all machines together cause in a day.
    pub(crate) fn run(&self) -> Traffic {
        let clock = StepClock::new();
        let bucket = Bucket::new(&clock, false);
        if self.objects > 0 {
            fill(&bucket, &clock, self.objects, 1);
        }
        let len = self.batch * (VALUE_LEN + ROW_OVERHEAD) - ROW_OVERHEAD;
        let machine = |n| Machine::new(&bucket, &clock, n % self.identities, len, max_rows());
        let machines: Vec<Machine> = (0..self.machines * self.identities).map(machine).collect();
        let measure = || {
            let mut sum = Traffic::default();
            machines.iter().for_each(|it| sum += it.traffic());
            // Of a row that stands for many, the others.
            sum.bytes_in += (bucket.footer_rows() * (self.batch - 1) * ROW_LEN) as f64;
            sum
        };
        let per_second = self.computed / self.batch as f64 / 86_400.0;
        // They start one after the other within an hour, so that they do not work in step.
        let stagger = 3600.0 / machines.len() as f64;
        let mut due = vec![0.0; machines.len()];
        let (mut number, mut second) = (1 << 40, 0.0);
        let mut run = |hours: u64| {
            for _ in 0..hours * 3600 {
                let started = (second / stagger) as usize + 1;
                for (machine, due) in machines.iter().zip(&mut due).take(started) {
                    *due += per_second;
                    if *due >= 1.0 {
                        *due -= 1.0;
                        number += 1;
                        machine.call(&[key(number)]);
                    }
                    if self.misses {
                        machine.remote.locate(&[[0xFF; 32]]);
                    }
                    machine.work();
                }
                second += 1.0;
                clock.sleep(Duration::from_secs(1));
            }
        };
        run(self.hours.0);
        let before = measure();
        run(self.hours.1);
        (measure() - before) * (24.0 / self.hours.1 as f64)
    }
}
