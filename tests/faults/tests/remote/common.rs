//! Machines that share a bucket, and rows that follow from their keys.

use std::collections::HashMap;
use std::ops::Range;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use torchcache_faults::objects::{ObjectFault, Request, SimClock, SimObjects};
use torchcache_faults::rows::{key, keys, value};
use torchcache_faults::sim::Sim;
use torchcache_store::Key;
use torchcache_store::remote::{
    Clock, RecordSource, Remote, RemoteConfig, RemoteFlushError, RemoteStats, ReportedLosses,
    StoredRecord,
};
use torchcache_store::segment::Encoding;

pub(crate) const PREFIX: &str = "team/";
pub(crate) const HASH: &str = "0123abcd";

/// What the keys of segments begin with.
pub(crate) const SEGMENTS: &str = "team/torchcache-1/0123abcd/s/";

/// The key of the hint.
pub(crate) const LATEST: &str = "team/torchcache-1/0123abcd/latest";

/// How long a call waits, as the option has it by default.
pub(crate) const TIMEOUT: Duration = Duration::from_secs(2);

/// The rows of a machine that are on its disk: their lengths. Half of those with even lengths are compressed.
#[derive(Debug, Default)]
pub(crate) struct LocalRows(Mutex<HashMap<Key, usize>>);

impl LocalRows {
    fn record(key: &Key, len: usize) -> (Encoding, Vec<u8>) {
        let value = value(key, len);
        if !LocalRows::is_compressed(key, len) {
            return (Encoding::Raw, value);
        }
        let frame = zstd::bulk::compress(&value, 1).expect("it compresses");
        assert!(frame.len() < len);
        (Encoding::Zstd, frame)
    }

    fn is_compressed(key: &Key, len: usize) -> bool {
        len.is_multiple_of(2) && key[0].is_multiple_of(2)
    }

    fn stored_len(key: &Key, len: usize) -> u32 {
        match LocalRows::is_compressed(key, len) {
            true => LocalRows::record(key, len).1.len() as u32,
            false => len as u32,
        }
    }

    /// Evicts a row.
    pub(crate) fn remove(&self, key: &Key) {
        self.0.lock().unwrap().remove(key);
    }
}

impl RecordSource for LocalRows {
    fn read(&self, keys: &[Key], each: &mut dyn FnMut(StoredRecord<'_>)) {
        let schema: Arc<[u8]> = b"a schema".as_slice().into();
        for key in keys {
            let Some(len) = self.0.lock().unwrap().get(key).copied() else {
                continue;
            };
            let (encoding, stored) = LocalRows::record(key, len);
            each(StoredRecord {
                key,
                schema: &schema,
                raw_len: len as u32,
                encoding,
                stored: &stored,
            });
        }
    }
}

/// A process on a machine of its own.
pub(crate) struct Machine {
    pub(crate) objects: Arc<SimObjects>,
    pub(crate) clock: SimClock,
    pub(crate) disk: Sim,
    pub(crate) rows: LocalRows,
    pub(crate) remote: Remote,
    /// What its flushes reported.
    pub(crate) reported: ReportedLosses,
    config: RemoteConfig,
}

impl Machine {
    pub(crate) fn new(bucket: &SimObjects) -> Machine {
        Machine::with(bucket, 0, |_| {})
    }

    /// A machine whose clock is wrong by so many seconds, and with other bounds.
    pub(crate) fn with(
        bucket: &SimObjects,
        ahead: i64,
        change: impl FnOnce(&mut RemoteConfig),
    ) -> Machine {
        let mut config = RemoteConfig::new(PREFIX, HASH, "/footers".into());
        change(&mut config);
        let objects = Arc::new(bucket.with_faults(|_| None));
        Machine::on(objects, bucket.clock().ahead_by(ahead), config)
    }

    /// Another cache of the process, on a disk of its own.
    pub(crate) fn sibling(&self, prefix: &str) -> Machine {
        let mut config = self.config.clone();
        prefix.clone_into(&mut config.prefix);
        Machine::on(self.objects.clone(), self.clock.clone(), config)
    }

    fn on(objects: Arc<SimObjects>, clock: SimClock, config: RemoteConfig) -> Machine {
        let disk = Sim::new();
        let remote = Remote::new(
            objects.clone(),
            Arc::new(clock.clone()),
            Arc::new(disk.clone()),
            config.clone(),
        );
        Machine {
            objects,
            clock,
            disk,
            rows: LocalRows::default(),
            reported: remote.new_user(),
            remote,
            config,
        }
    }

    /// Starts the process again.
    pub(crate) fn restart(&mut self) {
        self.remote = Remote::new(
            self.objects.clone(),
            Arc::new(self.clock.clone()),
            Arc::new(self.disk.clone()),
            self.config.clone(),
        );
        self.reported = self.remote.new_user();
    }

    /// Has requests of these kinds fail from now on.
    pub(crate) fn fail(&self, kinds: &'static [Request], fault: ObjectFault) {
        self.objects
            .set_faults(move |request| kinds.contains(&request).then_some(fault));
    }

    pub(crate) fn heal(&self) {
        self.objects.set_faults(|_| None);
    }

    /// Computes rows and has them uploaded some time.
    pub(crate) fn compute(&self, numbers: Range<u64>, len: usize) {
        let rows = keys(numbers);
        let mut local = self.rows.0.lock().unwrap();
        local.extend(rows.iter().map(|key| (*key, len)));
        drop(local);
        self.remote.push(
            rows.iter()
                .map(|key| (*key, LocalRows::stored_len(key, len))),
        );
    }

    pub(crate) fn flush(&self) -> Result<(), RemoteFlushError> {
        self.flush_within(Duration::from_secs(60))
    }

    pub(crate) fn flush_within(&self, timeout: Duration) -> Result<(), RemoteFlushError> {
        self.remote.flush(&self.rows, timeout, &self.reported)
    }

    /// Computes rows and uploads them as one object.
    #[track_caller]
    pub(crate) fn put(&self, numbers: Range<u64>, len: usize) {
        self.compute(numbers, len);
        self.flush().expect("it is uploaded");
    }

    /// Works in the background for so long.
    pub(crate) fn work(&self, seconds: u64) {
        for _ in 0..seconds {
            self.remote.work(&self.rows);
            self.clock.sleep(Duration::from_secs(1));
        }
    }

    /// Which rows the machine gets by one call. Each is right.
    #[track_caller]
    pub(crate) fn get(&self, keys: &[Key]) -> Vec<bool> {
        let begun = self.clock.now();
        let got = self.get_until(keys, begun + TIMEOUT);
        assert!(
            self.clock.now() <= begun + TIMEOUT,
            "the call took too long"
        );
        got
    }

    /// The same where other threads let time pass.
    #[track_caller]
    pub(crate) fn get_until(&self, keys: &[Key], deadline: Instant) -> Vec<bool> {
        let located = self.remote.locate(keys);
        let (slots, rows): (Vec<usize>, Vec<_>) = (0..)
            .zip(located)
            .filter_map(|(n, row)| Some((n, row?)))
            .unzip();
        let mut values: Vec<Vec<u8>> = rows.iter().map(|row| vec![0xEE; row.len]).collect();
        let mut out: Vec<&mut [u8]> = values.iter_mut().map(Vec::as_mut_slice).collect();
        let read = self.remote.read(&rows, &mut out, deadline);
        let mut got = vec![false; keys.len()];
        for (n, (slot, value_read)) in slots.into_iter().zip(values).enumerate() {
            if read[n] {
                assert_eq!(rows[n].schema(), b"a schema");
                assert!(value_read == value(&keys[slot], rows[n].len), "a wrong row");
            }
            got[slot] = read[n];
        }
        got
    }

    /// How many of these rows it gets by one call.
    #[track_caller]
    pub(crate) fn count(&self, numbers: Range<u64>) -> usize {
        let got = self.get(&keys(numbers));
        got.into_iter().filter(|got| *got).count()
    }

    /// How many of these rows are located.
    pub(crate) fn located(&self, numbers: Range<u64>) -> usize {
        self.remote.locate(&keys(numbers)).iter().flatten().count()
    }

    pub(crate) fn stats(&self) -> RemoteStats {
        self.remote.stats()
    }
}

pub(crate) fn bucket() -> SimObjects {
    SimObjects::new(SimClock::default())
}

/// A key that no machine has a row of.
pub(crate) fn unknown() -> Key {
    key(u64::MAX)
}
