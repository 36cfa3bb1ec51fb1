//! The remote tier over a real server, and a proxy in front of it that causes faults. Machines are processes with
//! directories of their own.

use std::path::PathBuf;
use std::process::Command;
use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};
use std::thread;
use std::time::Duration;

use tempfile::TempDir;
use torchcache_servers::{
    Fault, FaultProxy, READER, RequestKind, SeaweedFs, Server, WRITER, variables,
};

use crate::multi_process::{child, succeed};

/// What `try-to-share` prints if nothing goes wrong.
const FLUSHED: &str = "flushed";

struct World {
    root: TempDir,
    server: SeaweedFs,
    proxy: FaultProxy,
}

impl World {
    fn new() -> Self {
        let root = tempfile::tempdir().unwrap();
        let server = SeaweedFs::start(&root.path().join("server")).expect("the server starts");
        server.create_bucket("team").expect("the bucket is made");
        let proxy = FaultProxy::start(server.address()).unwrap();
        World {
            root,
            server,
            proxy,
        }
    }

    fn directory(&self, name: &str) -> PathBuf {
        self.root.path().join(name)
    }

    /// A machine that reaches the server by the proxy.
    fn machine(&self, name: &str, prefix: &str, words: &[&str]) -> Command {
        let mut command = child(Some(&self.directory(name)), words);
        command.env("TORCHCACHE_REMOTE", format!("s3://team/{prefix}"));
        command.envs(variables(&self.proxy.endpoint(), WRITER));
        command
    }

    fn requests(&self) -> usize {
        let kinds = [RequestKind::List, RequestKind::Get, RequestKind::Put];
        kinds.map(|kind| self.proxy.count(kind)).into_iter().sum()
    }
}

/// What `try-to-share` printed.
#[derive(Debug)]
struct Tried {
    computed: u64,
    /// In the remote, or where the background put rows of it.
    found: u64,
    faults: u64,
    flushed: String,
    /// In tenths of a second.
    waited: u64,
    state: String,
}

/// The child checks every row.
fn try_to_share(command: Command) -> Tried {
    let printed = succeed(command);
    let words: Vec<&str> = printed.split_whitespace().collect();
    let &[
        "computed",
        computed,
        "found",
        found,
        "faults",
        faults,
        flushed,
        "waited",
        waited,
        state,
    ] = words.as_slice()
    else {
        panic!("{printed}");
    };
    let number = |text: &str| text.parse().unwrap();
    Tried {
        computed: number(computed),
        found: number(found),
        faults: number(faults),
        flushed: flushed.to_owned(),
        waited: number(waited),
        state: state.to_owned(),
    }
}

#[test]
fn faults_of_the_server_are_misses_within_the_deadline() {
    let world = World::new();
    let seeded = try_to_share(world.machine("seed", "rows", &["try-to-share", "0", "20"]));
    assert_eq!((seeded.computed, &*seeded.flushed), (20, FLUSHED));
    let healthy = try_to_share(world.machine("healthy", "rows", &["try-to-share", "0", "20"]));
    assert_eq!((healthy.computed, healthy.found), (0, 20));
    assert_eq!((healthy.faults, &*healthy.state), (0, "On"));

    let slow = Fault::SlowBody {
        chunk: 16,
        pause: Duration::from_millis(100),
    };
    let faults = [
        ("500", Fault::internal_error()),
        ("503", Fault::slow_down()),
        ("429", Fault::too_many_requests()),
        ("denied", Fault::denied()),
        ("expired", Fault::expired_token()),
        ("reset", Fault::Reset),
        ("hang", Fault::Hang),
        ("lost-reply", Fault::LoseReply),
        ("cut", Fault::CutBody(10)),
        ("slow", slow),
        ("wrong-range", Fault::WrongRange(1)),
        ("whole-object", Fault::IgnoreRange),
        ("flipped", Fault::FlipByte(100)),
        ("long", Fault::LongBody(7)),
        ("error-in-200", Fault::error_in_success()),
    ];
    // Of objects, and of all requests.
    let faults: Vec<_> = faults
        .into_iter()
        .flat_map(|(name, fault)| [(name, fault.clone(), false), (name, fault, true)])
        .collect();
    let next = AtomicUsize::new(0);
    thread::scope(|scope| {
        for _ in 0..6 {
            scope.spawn(|| {
                while let Some((name, fault, of_all)) = faults.get(next.fetch_add(1, Relaxed)) {
                    fault_is_a_miss(&world, name, fault, *of_all);
                }
            });
        }
    });
}

/// Calls with a fault of each object, or of all requests, and then calls without.
fn fault_is_a_miss(world: &World, name: &str, fault: &Fault, of_all: bool) {
    let proxy = FaultProxy::start(world.server.address()).unwrap();
    let machine = format!("{name}-{of_all}");
    let tried = || {
        let mut command = world.machine(&machine, "rows", &["try-to-share", "0", "20"]);
        command.envs(variables(&proxy.endpoint(), WRITER));
        try_to_share(command)
    };
    let fault = fault.clone();
    proxy.set_plan(move |request| match request.kind() {
        RequestKind::Get => fault.clone(),
        _ if of_all => fault.clone(),
        _ => Fault::None,
    });
    let faulty = tried();
    assert_eq!(faulty.computed + faulty.found, 20, "{machine}: {faulty:?}");
    // In tenths of a second: four calls of one second at most, and what a busy machine adds. A request that hangs, and
    // that a call waits for to its end, takes 30 seconds.
    assert!(faulty.waited <= 4 * 10 + 100, "{machine}: {faulty:?}");
    // Requests that take longer are under way, and a store that sends whole objects is right.
    if !["hang", "slow", "whole-object"].contains(&name) {
        assert!(faulty.faults > 0, "{machine}: {faulty:?}");
    }
    proxy.set_fault(Fault::None);
    let again = tried();
    assert_eq!(again.computed, 0, "{machine}: {again:?}");
    assert_eq!(
        (again.faults, &*again.flushed),
        (0, FLUSHED),
        "{machine}: {again:?}"
    );
}

#[test]
fn an_unreachable_remote_is_waited_for_once() {
    let world = World::new();
    world.proxy.set_fault(Fault::Hang);
    let tried = try_to_share(world.machine("hanging", "rows", &["try-to-share", "0", "200"]));
    assert_eq!((tried.computed, tried.found), (200, 0));
    assert_eq!(tried.flushed, "NotUploaded");
    // The first of 40 calls waits, for one second; a busy machine adds to that.
    assert!((9..100).contains(&tried.waited), "{tried:?}");
    assert!(world.requests() < 10, "{}", world.requests());

    // The next process uploads the rows.
    world.proxy.set_fault(Fault::None);
    let next = try_to_share(world.machine("hanging", "rows", &["try-to-share", "0", "1"]));
    assert_eq!((next.computed, &*next.flushed), (0, FLUSHED));
    let other = try_to_share(world.machine("other", "rows", &["try-to-share", "0", "200"]));
    assert_eq!((other.computed, other.found), (0, 200));
}

#[test]
fn a_server_that_is_killed_loses_no_acknowledged_row() {
    let mut world = World::new();
    let first = try_to_share(world.machine("first", "rows", &["try-to-share", "0", "20"]));
    assert_eq!(first.flushed, FLUSHED);
    world.server.kill();
    let words = ["try-to-share", "0", "40"];
    let second = try_to_share(world.machine("second", "rows", &words));
    assert_eq!((second.computed, second.found), (40, 0));
    assert_eq!(second.flushed, "NotUploaded");
    world.server.restart().expect("it starts again");
    let third = try_to_share(world.machine("third", "rows", &words));
    assert_eq!((third.computed, third.found), (20, 20));
    assert_eq!(third.flushed, FLUSHED);
}

#[test]
fn keys_that_may_only_read_find_rows_and_upload_none() {
    let world = World::new();
    let writer = try_to_share(world.machine("writer", "rows", &["try-to-share", "0", "20"]));
    assert_eq!(writer.flushed, FLUSHED);
    let words = ["try-to-share", "0", "40"];
    let reader = |name: &str| {
        let mut command = world.machine(name, "rows", &words);
        command.envs(variables(&world.proxy.endpoint(), READER));
        command
    };
    let denied = try_to_share(reader("denied"));
    assert_eq!((denied.computed, denied.found), (20, 20));
    assert_eq!(denied.flushed, "NotUploaded");
    world.proxy.reset_counts();
    let mut read_only = reader("read-only");
    read_only.env("TORCHCACHE_REMOTE_MODE", "read-only");
    let read_only = try_to_share(read_only);
    assert_eq!((read_only.computed, read_only.found), (20, 20));
    assert_eq!((&*read_only.flushed, read_only.faults), (FLUSHED, 0));
    assert_eq!(world.proxy.count(RequestKind::Put), 0);
    let mut wrong = world.machine("wrong", "rows", &words);
    wrong.envs(variables(&world.proxy.endpoint(), ("writer", "guessed")));
    let wrong = try_to_share(wrong);
    assert_eq!((wrong.computed, wrong.found), (40, 0));
    let mut missing = world.machine("missing", "rows", &words);
    missing.env("TORCHCACHE_REMOTE", "s3://no-such-bucket/rows");
    let missing = try_to_share(missing);
    assert_eq!((missing.computed, missing.found), (40, 0));
    assert_eq!(missing.flushed, "NotUploaded");
}

#[test]
fn reading_ahead_hides_at_least_half_of_the_latency() {
    let world = World::new();
    // Else the background would fetch the rest of an object after a quarter of it was read.
    succeed(world.machine("seed", "rows", &["share-apart", "0", "75"]));
    world.proxy.set_plan(|request| match request.kind() {
        RequestKind::Get => Fault::Delay(Duration::from_millis(50)),
        _ => Fault::None,
    });
    let pass = |how: &str| -> u64 {
        let waited = succeed(world.machine(how, "rows", &["first-pass", "0", "75", how]));
        waited.parse().unwrap()
    };
    let (plain, ahead) = (pass("plain"), pass("reading-ahead"));
    assert!(plain >= 15 * 50, "{plain} ms");
    assert!(2 * ahead <= plain, "{ahead} ms, without it {plain} ms");
}
