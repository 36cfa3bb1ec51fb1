//! A process with a store on a disk of its own, and a remote tier that the test works on.

use std::ops::Range;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, Instant};

use torchcache_faults::objects::{ObjectFault, Request, SimClock, SimObjects};
use torchcache_faults::rows::{batch, count_right, fill_from_remote, keys};
use torchcache_faults::sim::Sim;
use torchcache_store::remote::{Clock, RemoteFlushError, RemoteMode, RemoteStats};
use torchcache_store::remote_tier::{RemoteTier, RemoteTierConfig};
use torchcache_store::{Config, Store};

use crate::common::{HASH, PREFIX, TIMEOUT};

/// The directory of the store.
pub(crate) const DIR: &str = "/cache/0123abcd";

pub(crate) fn tier_config(mode: RemoteMode) -> RemoteTierConfig {
    RemoteTierConfig {
        url: "s3://bucket/team".to_owned(),
        prefix: PREFIX.to_owned(),
        module_hash: HASH.to_owned(),
        mode,
    }
}

pub(crate) struct Host {
    pub(crate) objects: Arc<SimObjects>,
    pub(crate) clock: SimClock,
    pub(crate) disk: Sim,
    pub(crate) store: Store,
    pub(crate) tier: RemoteTier,
    mode: RemoteMode,
}

impl Host {
    /// On a machine of its own.
    pub(crate) fn new(bucket: &SimObjects) -> Host {
        Host::with(bucket, Sim::new(), RemoteMode::ReadWrite, 0)
    }

    /// On this disk, and with a clock that is wrong by so many seconds.
    pub(crate) fn with(bucket: &SimObjects, disk: Sim, mode: RemoteMode, ahead: i64) -> Host {
        Host::configured(bucket, disk, mode, ahead, Config::default())
    }

    pub(crate) fn configured(
        bucket: &SimObjects,
        disk: Sim,
        mode: RemoteMode,
        ahead: i64,
        config: Config,
    ) -> Host {
        let objects = Arc::new(bucket.with_faults(|_| None));
        let clock = bucket.clock().ahead_by(ahead);
        let store = Store::open_on(Arc::new(disk.clone()), DIR, config).expect("it opens");
        let tier = RemoteTier::without_thread(
            &store,
            objects.clone(),
            Arc::new(clock.clone()),
            tier_config(mode),
        );
        Host {
            objects,
            clock,
            disk,
            store,
            tier,
            mode,
        }
    }

    /// Ends the process, by whatever keeps no thread of it alive, and starts another one.
    pub(crate) fn restart(self) -> Host {
        let Host {
            objects,
            disk,
            store,
            tier,
            mode,
            ..
        } = self;
        drop((tier, store));
        Host::with(&objects, disk, mode, 0)
    }

    /// Has requests of these kinds fail from now on.
    pub(crate) fn fail(&self, kinds: &'static [Request], fault: ObjectFault) {
        self.objects
            .set_faults(move |request| kinds.contains(&request).then_some(fault));
    }

    pub(crate) fn heal(&self) {
        self.objects.set_faults(|_| None);
    }

    /// Computes rows.
    pub(crate) fn compute(&self, numbers: Range<u64>, len: usize) {
        self.store.put(batch(numbers.clone(), len));
        self.tier
            .push(keys(numbers).into_iter().map(|key| (key, len as u32)));
    }

    pub(crate) fn flush(&self) -> Result<(), RemoteFlushError> {
        self.tier.flush(Duration::from_secs(60))
    }

    /// Works in the background for so long.
    pub(crate) fn work(&self, seconds: u64) {
        for _ in 0..seconds {
            self.tier.work();
            self.clock.sleep(Duration::from_secs(1));
        }
    }

    /// Gets rows as the library does, and returns how many came from the remote. Each is right.
    #[track_caller]
    pub(crate) fn get(&self, numbers: Range<u64>, len: usize) -> usize {
        fill_from_remote((&self.store, &self.tier), numbers, len, self.deadline())
    }

    /// Until when a call waits that begins now.
    pub(crate) fn deadline(&self) -> Instant {
        self.clock.now() + TIMEOUT
    }

    /// How many of these rows the store has.
    #[track_caller]
    pub(crate) fn local(&self, numbers: Range<u64>, len: usize) -> u64 {
        count_right(&self.store, numbers, len)
    }

    pub(crate) fn stats(&self) -> RemoteStats {
        self.tier.stats()
    }

    /// The files of the tier whose names end so.
    pub(crate) fn tier_files(&self, suffix: &str) -> Vec<PathBuf> {
        let dirs = self.disk.directories(DIR.as_ref());
        let mut files: Vec<_> = dirs.iter().flat_map(|dir| self.disk.files(dir)).collect();
        files.retain(|file| file.to_string_lossy().ends_with(suffix));
        files
    }
}
