//! The whole tier on real servers: machines with stores on disk, administration, and a server that is killed.

use std::ops::Range;
use std::sync::Arc;
use std::time::{Duration, Instant};

use tempfile::TempDir;
use torchcache_faults::cases::eventually;
use torchcache_faults::rows::{batch, expect_all, fill_from_remote, keys};
use torchcache_remote::RemoteLocation;
use torchcache_servers::{Ceph, Server, WRITER};
use torchcache_store::Store;
use torchcache_store::admin::{Keep, SegmentState};
use torchcache_store::remote::{ObjectError, ObjectPage, ObjectStore, RangeRead, SystemClock};
use torchcache_store::remote_admin::{RemoteKeep, RemotePrunePlan, RemoteRoot};
use torchcache_store::remote_tier::RemoteTier;

use crate::support::{BUCKET, HASH, location_of, machine, server, soon};

/// The length of the rows.
const LEN: usize = 2_000;

/// The rows of each segment.
const ROWS: u64 = 1_000;

/// Longer than a server takes to start, and than the pause that follows.
const WAIT: Duration = Duration::from_secs(300);

#[test]
fn machines_share_rows_by_seaweedfs() {
    let dir = tempfile::tempdir().unwrap();
    check_tier(&mut server(dir.path()));
}

#[test]
#[ignore = "needs Ceph: cargo xtask servers"]
fn machines_share_rows_by_ceph() {
    let dir = tempfile::tempdir().unwrap();
    check_tier(&mut Ceph::start(dir.path()).expect("the server starts"));
}

/// A machine with a directory of its own.
struct Machine {
    _dir: TempDir,
    store: Store,
    tier: RemoteTier,
}

impl Machine {
    fn new(location: &RemoteLocation) -> Machine {
        let dir = tempfile::tempdir().unwrap();
        let (store, tier) = machine(dir.path(), location);
        Machine {
            _dir: dir,
            store,
            tier,
        }
    }

    fn compute(&self, numbers: Range<u64>) {
        self.store.put(batch(numbers.clone(), LEN));
        let rows = keys(numbers).into_iter().map(|key| (key, LEN as u32));
        self.tier.push(rows);
    }
}

/// The same objects, all of them put two hours earlier, except the hint, by which the clock of the store is read.
#[derive(Debug)]
struct Aged(Arc<dyn ObjectStore>);

impl ObjectStore for Aged {
    fn list(
        &self,
        prefix: &str,
        after: Option<&str>,
        deadline: Instant,
    ) -> Result<ObjectPage, ObjectError> {
        let mut page = self.0.list(prefix, after, deadline)?;
        let others = page.objects.iter_mut();
        for object in others.filter(|it| !it.key.ends_with("/latest")) {
            object.modified -= Duration::from_secs(2 * 3600);
        }
        Ok(page)
    }

    fn read(
        &self,
        reads: &[RangeRead],
        deadline: Instant,
        done: &mut dyn FnMut(usize, Result<Vec<u8>, ObjectError>),
    ) {
        self.0.read(reads, deadline, done);
    }

    fn get(&self, key: &str, deadline: Instant) -> Result<Vec<u8>, ObjectError> {
        self.0.get(key, deadline)
    }

    fn put_new(
        &self,
        key: &str,
        bytes: &Arc<Vec<u8>>,
        deadline: Instant,
    ) -> Result<(), ObjectError> {
        self.0.put_new(key, bytes, deadline)
    }

    fn set(&self, key: &str, bytes: &[u8], deadline: Instant) -> Result<(), ObjectError> {
        self.0.set(key, bytes, deadline)
    }

    fn remove(
        &self,
        keys: &[String],
        deadline: Instant,
        done: &mut dyn FnMut(usize, Result<(), ObjectError>),
    ) {
        self.0.remove(keys, deadline, done);
    }
}

/// How many of these rows a machine with an empty directory gets. Those are then on its disk, each as it was computed.
fn count_on_new_machine(location: &RemoteLocation, numbers: Range<u64>) -> usize {
    let Machine { _dir, store, tier } = Machine::new(location);
    let got = fill_from_remote((&store, &tier), numbers.clone(), LEN, soon());
    store.flush().expect("it is written");
    if got > 0 {
        expect_all(&store, numbers, LEN);
    }
    let stats = tier.stats();
    assert_eq!((stats.corrupt, stats.unread), (0, 0), "{stats:?}");
    got
}

/// Machines upload and read rows, the server is killed and starts again, and all is compacted and pruned.
///
/// Nothing remains once the threads of all machines have ended, each of which puts a read mark or a hint before.
pub(crate) fn check_tier(server: &mut dyn Server) {
    const SEGMENTS: u64 = 4;
    const ALL: u64 = SEGMENTS * ROWS;
    server.create_bucket(BUCKET).expect("the bucket is made");
    let location = location_of(server, &server.endpoint(), WRITER, "tier");
    let aged = Arc::new(Aged(location.store.clone()));
    let without_machines = Arc::strong_count(&location.store);
    let first = Machine::new(&location);
    for n in 0..SEGMENTS - 1 {
        first.compute(n * ROWS..(n + 1) * ROWS);
        first.tier.flush(WAIT).expect("it is uploaded");
    }
    let flushed = ALL - ROWS;
    assert_eq!(
        count_on_new_machine(&location, 0..flushed),
        flushed as usize
    );

    // What was flushed is kept, and what is computed meanwhile comes later.
    server.kill();
    first.compute(flushed..ALL);
    let flush = first.tier.flush(Duration::from_secs(1));
    flush.expect_err("there is no server");
    server.restart().expect("it starts again");
    first.tier.flush(WAIT).expect("it is uploaded");
    drop(first);
    assert_eq!(count_on_new_machine(&location, 0..ALL), ALL as usize);

    let root = RemoteRoot::new(aged, Arc::new(SystemClock), &location.prefix);
    let compact = || root.compact(HASH, false, &()).expect("it is compacted");
    let report = compact();
    let joined: Vec<_> = report.joined.iter().map(|it| it.sources).collect();
    assert_eq!(joined, [SEGMENTS], "{report:?}");
    assert_eq!(count_on_new_machine(&location, 0..ALL), ALL as usize);
    let report = compact();
    assert_eq!(report.removed_segments, SEGMENTS, "{report:?}");
    assert_eq!(count_on_new_machine(&location, 0..ALL), ALL as usize);
    let caches = root.list().expect("it is listed").caches;
    let checked = root.check(&caches, &());
    let states: Vec<_> = checked.iter().flat_map(|it| &it.segments).collect();
    let is_whole = |it: &SegmentState| matches!(it, SegmentState::Intact { rows } if *rows == ALL);
    assert!(
        states.len() == 1 && is_whole(&states[0].state),
        "{states:?}"
    );

    // A read mark that is put after the plan was made keeps its segment.
    let have_ended = || Arc::strong_count(&location.store) == without_machines;
    assert!(eventually(WAIT, have_ended), "threads of machines go on");
    let keep = RemoteKeep {
        keep: Keep::MaxBytes(0),
        grace: Duration::ZERO,
    };
    let plan = RemotePrunePlan::new(&root, keep).expect("it is listed");
    let pruned = plan.carry_out(&());
    assert_eq!(pruned.remaining_bytes, 0, "{pruned:?}");
    assert_eq!(count_on_new_machine(&location, 0..ALL), 0);
    assert!(root.list().expect("it is listed").caches.is_empty());
}
