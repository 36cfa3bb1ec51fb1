//! No room: on a disk that is full, for a quota that is used up, beyond the size that a file may
//! have. What fits stays, the rest is a miss, and with room again all is well.

use std::path::Path;
use std::process::Command;
use std::sync::Arc;

use fastrand::Rng;
use torchcache_store::{Config, Fault, Store, StoreError};

use crate::children::{self, Running, say, sums};
use crate::rows::{batch, patient};
use crate::sim::Sim;
use crate::tally::{Plan, Tally};

const LEN: usize = 3000;

/// Every how many rounds a real file system is filled.
const REAL: u64 = 10;

pub(super) fn run(plan: &Plan) -> Tally {
    let mut tally = Tally::default();
    let mut rng = Rng::with_seed(plan.seed);
    for round in 0..plan.rounds {
        if round % REAL == 0 {
            tally.round("a small tmpfs", |tally| real(tally, &Limit::Tmpfs));
            tally.round("a limit of file sizes", |tally| {
                real(tally, &Limit::FileSize)
            });
        }
        let capacity = rng.u64(4_000..400_000);
        let name = format!("a disk of {capacity} bytes");
        tally.round(&name, |tally| in_memory(tally, capacity, &mut rng));
    }
    tally
}

fn in_memory(tally: &mut Tally, capacity: u64, rng: &mut Rng) -> Result<(), String> {
    let (sim, dir) = (Sim::new(), Path::new("/cache"));
    let store = Store::open_on(Arc::new(sim.clone()), dir, patient());
    let store = store.map_err(|error| error.to_string())?;
    sim.set_capacity(Some(capacity));
    let mut flushed = Vec::new();
    let mut put = 0;
    while store.stats().faults.get(Fault::NoSpace) == 0 {
        let rows = put..put + rng.u64(1..40);
        put = rows.end;
        store.put(batch(rows.clone(), LEN));
        if store.flush().is_ok() {
            flushed.push(rows);
        }
        tally.right_or_missing(&store, 0..put, LEN);
    }
    tally.caused += 1;
    for rows in &flushed {
        tally.all_there(&store, rows.clone(), LEN);
    }
    drop(store);
    // It can be opened and read while the disk is full.
    let store = Store::open_on(Arc::new(sim.clone()), dir, patient());
    let store = store.map_err(|error| error.to_string())?;
    for rows in flushed {
        tally.all_there(&store, rows, LEN);
    }
    sim.set_capacity(None);
    store.put(batch(0..put, LEN));
    store.flush().map_err(|error| error.to_string())?;
    tally.all_there(&store, 0..put, LEN);
    Ok(())
}

/// What is in the way in a real file system.
enum Limit {
    /// A file system of a megabyte, which a child mounts in a namespace of its own.
    Tmpfs,
    /// A limit of this process.
    FileSize,
}

fn real(tally: &mut Tally, limit: &Limit) -> Result<(), String> {
    let root = tempfile::tempdir().map_err(|error| error.to_string())?;
    let child = children::command("fill", root.path(), &[]);
    let shell = match limit {
        Limit::Tmpfs => "mount -t tmpfs -o size=1m,mode=755 none \"$4\" && exec \"$@\"",
        // Without a handler the signal ends the process.
        Limit::FileSize => "trap '' XFSZ; ulimit -f 512; exec \"$@\"",
    };
    let mut command = match limit {
        Limit::Tmpfs => {
            let mut command = Command::new("unshare");
            command.args(["--user", "--map-root-user", "--mount", "sh"]);
            command
        }
        Limit::FileSize => Command::new("sh"),
    };
    // The words behind the script: the program, `child`, the role, the directory.
    command.args(["-c", shell, "sh"]).arg(child.get_program());
    command.args(child.get_args());
    command.stdout(std::process::Stdio::piped());
    let mut running = Running::start(command)?;
    if running.line().as_deref() != Some("STARTED") && matches!(limit, Limit::Tmpfs) {
        tally.skip("no tmpfs can be mounted here");
        return Ok(());
    }
    sums(tally, running)
}

/// The child: fills its directory, and makes room again.
pub(super) fn fill(dir: &Path, _: &[String]) {
    say("STARTED");
    let mut tally = Tally::default();
    let config = Config {
        segment_bytes: 100_000,
        ..patient()
    };
    let store = Store::open(dir, config.clone()).expect("it opens");
    for n in 0..10 {
        store.put(batch(20 * n..20 * n + 20, LEN));
        store.flush().expect("small segments fit");
    }
    // More in one segment than fits.
    store.reconfigure(Config {
        segment_bytes: 10_000_000,
        ..config
    });
    store.put(batch(1000..1400, LEN));
    let lost = store.flush().expect_err("this one does not");
    assert!(matches!(lost, StoreError::Lost { .. }), "{lost}");
    let stats = store.stats();
    assert!(stats.faults.get(Fault::NoSpace) > 0, "{stats:?}");
    assert_eq!(
        stats.faults.total(),
        stats.faults.get(Fault::NoSpace),
        "{stats:?}"
    );
    tally.caused += stats.faults.get(Fault::NoSpace);
    tally.all_there(&store, 0..200, LEN);
    tally.right_or_missing(&store, 1000..1400, LEN);
    store.clear();
    store.put(batch(2000..2020, LEN));
    store.flush().expect("there is room again");
    tally.all_there(&store, 2000..2020, LEN);
    say(tally.line());
}
