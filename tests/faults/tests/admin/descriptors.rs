//! No file descriptor is left for a call: administration fails, and leaves nothing out.

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use rustix::io::Errno;
use torchcache_faults::cases::{Counter, seen, series};
use torchcache_faults::faulty::{Call, Fate, Faulty};
use torchcache_faults::sim::Sim;
use torchcache_store::admin::{CacheRows, Keep, Root, check, clear, prune, repair};
use torchcache_store::fs::FileSystem;
use torchcache_store::manifest::Manifest;

use crate::common::{HOUR, age, put, root, store};

/// Two caches with two segments, a manifest and a file of a crashed writer each.
fn caches() -> Sim {
    let sim = root();
    for cache in ["c", "d"] {
        let store = store(sim.clone(), cache);
        put(&store, 0..3);
        put(&store, 3..6);
        let dir = sim
            .open_dir(&Path::new("/root").join(cache), false)
            .unwrap();
        Manifest::new("m::Module", cache, Vec::new())
            .write(&dir)
            .unwrap();
        drop(
            dir.create(".tmp-0000000000000001-1-0.tcs".as_ref())
                .unwrap(),
        );
        age(&sim, cache, HOUR);
    }
    sim
}

const OLD: Keep = Keep::ReadWithin(Duration::from_secs(60));

/// What was found or done; `None` if it says that something failed.
type Operation = fn(&Root) -> Option<String>;

fn summaries(root: &Root) -> Option<String> {
    let mut found = String::new();
    let listing = root.list().ok()?;
    assert!(listing.unopened.is_empty(), "{listing:?}");
    for cache in &listing.caches {
        let summary = cache.summary().ok()?;
        let module = summary.manifest.as_ref().map(|it| &it.module).unwrap();
        found += &format!("{module} {} {} ", summary.rows(), summary.temp_files);
    }
    Some(found)
}

fn checks(root: &Root) -> Option<String> {
    let mut found = String::new();
    for report in check(&root.list().ok()?.caches, &()) {
        if report.error.is_some() || report.segments.iter().any(|it| it.state.is_unknown()) {
            return None;
        }
        let repaired = repair(&report);
        if repaired.error.is_some() {
            return None;
        }
        let states = report.segments.iter().map(|segment| &segment.state);
        let states: Vec<_> = states.collect();
        found += &format!("{states:?} {:?} ", repaired.stale_files);
    }
    Some(found)
}

fn pruned(root: &Root, keep: Keep, dry_run: bool) -> Option<String> {
    let report = prune(root, keep, dry_run).ok()?;
    let mut found = format!("{:?} {} ", report.skipped, report.remaining_bytes);
    for pruned in &report.caches {
        let segments = pruned
            .segments
            .iter()
            .map(|segment| (segment.bytes, segment.rows));
        let segments: Vec<_> = segments.collect();
        found += &format!(
            "{:?} {segments:?} {} ",
            pruned.cache, pruned.directory_removed
        );
    }
    report.failed.is_empty().then_some(found)
}

fn cleared(root: &Root) -> Option<String> {
    let mut found = String::new();
    for cache in &root.list().ok()?.caches {
        let report = clear(cache, false).ok()?;
        if !report.failed.is_empty() {
            return None;
        }
        found += &format!("{report:?} ");
    }
    Some(found)
}

fn exported(root: &Root) -> Option<String> {
    let mut found = String::new();
    for cache in &root.list().ok()?.caches {
        let rows = CacheRows::open(cache).ok()?;
        let distinct = rows.distinct(0).ok()?;
        found += &format!("{} {:?} ", distinct.count(), rows.skipped());
    }
    Some(found)
}

#[test]
fn a_missing_descriptor_is_a_failure_of_every_operation() {
    let operations: [(&str, Operation); 7] = [
        ("summary", summaries),
        ("check and repair", checks),
        ("prune, dry run", |root| pruned(root, OLD, true)),
        ("prune by age", |root| pruned(root, OLD, false)),
        ("prune by module", |root| {
            pruned(root, Keep::LatestPerModule(1), false)
        }),
        ("clear", cleared),
        ("export", exported),
    ];
    let mut times = 0;
    for (name, operation) in operations {
        for is_last in [false, true] {
            let sim = caches();
            let expected = run(&sim, operation, |_| false).unwrap();
            assert!(expected.is_some(), "{name}");
            times += series(format_args!("{name}, is the last: {is_last}"), |nth| {
                let sim = caches();
                let opened = Arc::new(Counter::default());
                let is_missing = {
                    let opened = opened.clone();
                    move |call| {
                        let takes_one = matches!(call, Call::OpenDir | Call::List | Call::Open);
                        takes_one && {
                            let number = opened.next();
                            number == nth || number > nth && is_last
                        }
                    }
                };
                if let Some(Some(found)) = run(&sim, operation, is_missing) {
                    assert_eq!(Some(found), expected, "{name}");
                }
                opened.get() >= nth
            });
        }
    }
    seen("operation without a descriptor", times);
}

#[test]
fn a_root_whose_parent_finds_no_descriptor_is_not_opened() {
    let opens = Counter::default();
    let faulty = Faulty::new(root(), move |call: Call, _: &_| {
        match call == Call::OpenDir && opens.next() == 1 {
            true => Fate::Fails(Errno::MFILE),
            false => Fate::Done,
        }
    });
    let opened = Root::open_on(Arc::new(faulty), Path::new("/root"));
    let error = opened.expect_err("it would be used by its path alone");
    assert_eq!(error.raw_os_error(), Some(Errno::MFILE.raw_os_error()));
}

/// Runs an operation; `None` if the root cannot be opened.
fn run(
    sim: &Sim,
    operation: Operation,
    is_missing: impl Fn(Call) -> bool + Send + Sync + 'static,
) -> Option<Option<String>> {
    let faulty = Faulty::new(sim.clone(), move |call: Call, _: &_| {
        match is_missing(call) {
            true => Fate::Fails(Errno::MFILE),
            false => Fate::Done,
        }
    });
    let root = Root::open_on(Arc::new(faulty), Path::new("/root")).ok()?;
    Some(operation(&root))
}
