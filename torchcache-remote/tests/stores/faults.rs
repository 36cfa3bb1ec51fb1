//! Faults, caused by a proxy in front of a real server.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread::sleep;
use std::time::{Duration, Instant};

use torchcache_servers::{Fault, FaultProxy, RequestKind, Server, WRITER};
use torchcache_store::remote::{ObjectErrorKind as Kind, ObjectStore};

use crate::support::{location, read, remove, server, soon};

const LEN: u64 = 1 << 20;

/// What a busy machine may need, and what a fault may cost.
const LONG: Duration = Duration::from_secs(30);
const SHORT: Duration = Duration::from_millis(400);

/// A proxy in front of a server that has an object and a hint.
struct World {
    proxy: FaultProxy,
    store: Arc<dyn ObjectStore>,
    bytes: Arc<Vec<u8>>,
}

impl World {
    /// The results of all calls that answer: a list, a small object and a range.
    fn answers(&self, timeout: Duration) -> [Result<usize, Kind>; 3] {
        let deadline = || Instant::now() + timeout;
        let list = self.store.list("f/", None, deadline());
        let get = self.store.get("f/latest", deadline());
        let read = read(&*self.store, &[("f/object", 0..LEN)], deadline()).remove(0);
        [
            list.map(|page| page.objects.len()).map_err(|it| it.kind),
            get.map(|bytes| bytes.len()).map_err(|it| it.kind),
            read.map(|bytes| bytes.len()),
        ]
    }

    /// The results of all calls that change something.
    fn changes(&self, timeout: Duration) -> [Result<(), Kind>; 3] {
        let name = unique("f/new");
        let deadline = || Instant::now() + timeout;
        let put = self.store.put_new(&name, &self.bytes, deadline());
        let set = self.store.set("f/other", b"hint", deadline());
        let removed = remove(&*self.store, &["f/other"], deadline());
        let [put, set] = [put, set].map(|it| it.map_err(|error| error.kind));
        [put, set, removed]
    }
}

fn unique(name: &str) -> String {
    static NEXT: AtomicUsize = AtomicUsize::new(0);
    format!("{name}{}", NEXT.fetch_add(1, Ordering::Relaxed))
}

#[test]
fn each_fault_is_an_error_of_its_kind_before_the_deadline() {
    let dir = tempfile::tempdir().unwrap();
    let server = server(dir.path());
    let proxy = FaultProxy::start(server.address()).unwrap();
    let store = location(&proxy.endpoint(), WRITER, "f").store;
    let bytes: Arc<Vec<u8>> = Arc::new((0..LEN as u32).map(|n| (n % 251) as u8).collect());
    store.put_new("f/object", &bytes, soon()).unwrap();
    store.set("f/latest", b"0123456789abcdef", soon()).unwrap();
    let world = World {
        proxy,
        store,
        bytes,
    };

    errors_of_the_server(&world);
    broken_connections(&world);
    bodies_that_are_not_what_was_asked_for(&world);
    requests_that_hang(&world);
    conditions_and_lost_replies(&world);
    at_most_16_reads(&world);

    world.proxy.set_fault(Fault::None);
    assert_eq!(world.answers(LONG)[1], Ok(16), "the client still works");
}

fn errors_of_the_server(world: &World) {
    for (fault, kind) in [
        (Fault::internal_error(), Kind::Other),
        (Fault::slow_down(), Kind::Throttled),
        (Fault::too_many_requests(), Kind::Throttled),
        (Fault::denied(), Kind::Denied),
        (Fault::error(401, "Unauthorized"), Kind::Denied),
        (Fault::expired_token(), Kind::Denied),
        (Fault::error(403, "ExpiredToken"), Kind::Denied),
    ] {
        world.proxy.set_fault(fault.clone());
        world.proxy.reset_counts();
        assert_eq!(world.answers(LONG), [Err(kind); 3], "{fault:?}");
        assert_eq!(world.changes(LONG), [Err(kind); 3], "{fault:?}");
        let kinds = [
            RequestKind::List,
            RequestKind::Get,
            RequestKind::Put,
            RequestKind::Delete,
        ];
        let counts = kinds.map(|it| world.proxy.count(it));
        assert_eq!(counts, [1, 2, 2, 1], "{fault:?}: no request is made again");
    }
    // Some rights may be there and others not.
    world.proxy.set_plan(|request| match request.kind() {
        RequestKind::Put | RequestKind::Delete => Fault::denied(),
        _ => Fault::None,
    });
    assert!(world.answers(LONG).iter().all(Result::is_ok));
    assert_eq!(world.changes(LONG), [Err(Kind::Denied); 3]);
    world.proxy.set_plan(|request| match request.kind() {
        RequestKind::Delete => Fault::denied(),
        _ => Fault::None,
    });
    assert_eq!(world.changes(LONG), [Ok(()), Ok(()), Err(Kind::Denied)]);
    // An error in a success is none.
    world.proxy.set_fault(Fault::error_in_success());
    let [list, _, read] = world.answers(LONG);
    assert_eq!([list, read], [Err(Kind::Other); 2]);
    assert_eq!(world.changes(LONG), [Err(Kind::Other); 3]);
}

fn broken_connections(world: &World) {
    for fault in [Fault::Reset, Fault::LoseReply] {
        world.proxy.set_fault(fault.clone());
        assert_eq!(world.answers(LONG), [Err(Kind::Other); 3], "{fault:?}");
        assert_eq!(world.changes(LONG), [Err(Kind::Other); 3], "{fault:?}");
    }
}

fn bodies_that_are_not_what_was_asked_for(world: &World) {
    let World {
        proxy,
        store,
        bytes,
    } = world;
    let range = |range| read(&**store, &[("f/object", range)], soon()).remove(0);

    // Of a body that is cut, no more than what came, and what came.
    for keep in [0, 1, 100_000, LEN as usize - 1] {
        proxy.set_fault(Fault::CutBody(keep));
        match range(0..LEN) {
            Ok(got) => assert!(got.len() <= keep && got[..] == bytes[..got.len()], "{keep}"),
            Err(kind) => assert_eq!((kind, keep), (Kind::Other, 0)),
        }
    }
    proxy.set_fault(Fault::CutBody(7));
    assert_eq!(store.get("f/latest", soon()).unwrap_err().kind, Kind::Other);
    assert_eq!(
        store.list("f/", None, soon()).unwrap_err().kind,
        Kind::Other
    );

    for fault in [
        Fault::WrongRange(1),
        Fault::WrongRange(5_000),
        Fault::IgnoreRange,
        Fault::LongBody(1),
    ] {
        proxy.set_fault(fault.clone());
        assert_eq!(range(100..200), Err(Kind::Other), "{fault:?}");
    }
    // What is damaged comes as it is: the caller has checksums.
    proxy.set_fault(Fault::FlipByte(3));
    let got = range(100..200).unwrap();
    assert_eq!((got.len(), got[3]), (100, bytes[103] ^ 1));
    // What comes slowly, but in time, is whole.
    let (chunk, pause) = (LEN as usize / 4, Duration::from_millis(20));
    proxy.set_fault(Fault::SlowBody { chunk, pause });
    assert!(range(0..LEN) == Ok(bytes.to_vec()));
    proxy.set_fault(Fault::Delay(Duration::from_millis(50)));
    assert!(range(0..LEN) == Ok(bytes.to_vec()));
}

fn requests_that_hang(world: &World) {
    world.proxy.set_fault(Fault::Hang);
    let begin = Instant::now();
    assert_eq!(world.answers(SHORT), [Err(Kind::TimedOut); 3]);
    assert_eq!(world.changes(SHORT), [Err(Kind::TimedOut); 3]);
    assert!(
        begin.elapsed() < Duration::from_secs(30),
        "{:?}",
        begin.elapsed()
    );

    // On a busy machine an answer may begin late.
    let (chunk, pause) = (1, Duration::from_secs(600));
    world.proxy.set_fault(Fault::SlowBody { chunk, pause });
    let mut timeouts = [1, 4, 16].map(Duration::from_secs).into_iter();
    loop {
        let timeout = timeouts.next().expect("the answers begin");
        let begin = Instant::now();
        let answers = world.answers(timeout);
        assert!(
            begin.elapsed() < 3 * timeout + Duration::from_secs(20),
            "{:?}",
            begin.elapsed()
        );
        if answers == [Err(Kind::Slow); 3] {
            break;
        }
        let are_late = |it: &Result<_, Kind>| matches!(it, Err(Kind::Slow | Kind::TimedOut));
        assert!(answers.iter().all(are_late), "{answers:?}");
    }
    // A deadline that has passed makes no request.
    world.proxy.reset_counts();
    assert_eq!(world.answers(Duration::ZERO), [Err(Kind::NotMade); 3]);
    assert_eq!(world.proxy.count(RequestKind::List), 0);
}

fn conditions_and_lost_replies(world: &World) {
    let World {
        proxy,
        store,
        bytes,
    } = world;
    // A reply is lost: the object is there all the same, and the next try says so.
    let key = unique("f/lost");
    proxy.set_fault(Fault::LoseReply);
    assert_eq!(
        store.put_new(&key, bytes, soon()).unwrap_err().kind,
        Kind::Other
    );
    proxy.set_fault(Fault::None);
    assert_eq!(
        store.put_new(&key, bytes, soon()).unwrap_err().kind,
        Kind::AlreadyExists
    );
    assert!(read(&**store, &[(&key, 0..LEN)], soon()) == [Ok(bytes.to_vec())]);
    // A conflict with a request that is under way is no object.
    proxy.set_fault(Fault::error(409, "ConditionalRequestConflict"));
    assert_eq!(
        store.put_new(&key, bytes, soon()).unwrap_err().kind,
        Kind::Other
    );
    // A store that ignores the condition replaces the object.
    proxy.set_fault(Fault::IgnoreCondition);
    store
        .put_new(&key, &Arc::new(b"other".to_vec()), soon())
        .unwrap();
    proxy.set_fault(Fault::None);
    assert_eq!(store.get(&key, soon()).unwrap(), b"other");
    // So does one that does not implement it, which is tried once.
    proxy.set_plan(|request| match request.header("if-none-match") {
        Some(_) => Fault::not_implemented(),
        None => Fault::None,
    });
    proxy.reset_counts();
    for n in [2, 3] {
        store.put_new(&key, bytes, soon()).unwrap();
        assert_eq!(proxy.count(RequestKind::Put), n);
    }
}

/// Of all callers together. Those that are aborted free their slots.
fn at_most_16_reads(world: &World) {
    let World {
        proxy,
        store,
        bytes,
    } = world;
    let many = || {
        std::thread::scope(|scope| {
            let threads: Vec<_> = (0..4)
                .map(|_| {
                    scope.spawn(|| {
                        let reads: Vec<_> = (0..20).map(|n| ("f/object", n..n + 1)).collect();
                        read(&**store, &reads, soon())
                    })
                })
                .collect();
            let results = threads.into_iter().map(|it| it.join().unwrap());
            results.collect::<Vec<_>>()
        })
    };
    proxy.set_fault(Fault::Delay(Duration::from_millis(50)));
    proxy.reset_counts();
    for results in many() {
        for (n, result) in results.into_iter().enumerate() {
            assert_eq!(result, Ok(vec![bytes[n]]));
        }
    }
    assert_eq!(proxy.count(RequestKind::Get), 80);
    assert_eq!(proxy.most_under_way(), 16);

    proxy.set_fault(Fault::Hang);
    let reads: Vec<_> = (0..40).map(|n| ("f/object", n..n + 1)).collect();
    let results = read(&**store, &reads, Instant::now() + SHORT);
    assert_eq!(results[..16], [const { Err(Kind::TimedOut) }; 16]);
    assert_eq!(results[16..], [const { Err(Kind::NotMade) }; 24]);
    // The connections of aborted requests are closed.
    let until = soon();
    while proxy.under_way() > 0 && Instant::now() < until {
        sleep(Duration::from_millis(5));
    }
    assert_eq!(proxy.under_way(), 0);
    proxy.set_fault(Fault::None);
    assert!(many().into_iter().flatten().all(|it| it.is_ok()));
}
