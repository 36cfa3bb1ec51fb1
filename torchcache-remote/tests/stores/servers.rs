//! A real server: its answers, its keys, its death.

use std::net::TcpListener;
use std::sync::Arc;
use std::time::{Duration, Instant};

use torchcache_servers::{FaultProxy, READER, RequestKind, Server, WRITER, variables};
use torchcache_store::remote::ObjectErrorKind;

use crate::contract::check_contract;
use crate::support::{location, read, remove, server, soon};

#[test]
fn a_server_keeps_the_contract_and_its_objects() {
    let dir = tempfile::tempdir().unwrap();
    let mut server = server(dir.path());
    for prefix in ["", "plain", "with space", "ünï%20codé+&=~"] {
        check_contract(&location(&server.endpoint(), WRITER, prefix));
    }
    let proxy = FaultProxy::start(server.address()).unwrap();
    check_contract(&location(&proxy.endpoint(), WRITER, "by/proxy"));
    pages_are_one_request_each(&proxy);
    keys_say_what_is_allowed(&server.endpoint());

    // What was acknowledged is kept when the server is killed, and the same client goes on.
    let it = location(&server.endpoint(), WRITER, "killed");
    let bytes = Arc::new(vec![7; 100_000]);
    for n in 0..10 {
        it.store
            .put_new(&format!("killed/{n}"), &bytes, soon())
            .unwrap();
    }
    server.kill();
    let error = it.store.get("killed/0", soon()).unwrap_err();
    assert_eq!(error.kind, ObjectErrorKind::Other, "{error}");
    assert!(error.to_string().contains("refused"), "{error}");
    server.restart().expect("it starts again");
    for n in 0..10 {
        let key = format!("killed/{n}");
        let got = read(&*it.store, &[(&key, 0..100_000)], soon());
        assert!(got == [Ok(bytes.to_vec())], "{key}");
    }
}

/// A page has at most 1,000 objects.
fn pages_are_one_request_each(proxy: &FaultProxy) {
    const OBJECTS: usize = 1_200;
    let it = location(&proxy.endpoint(), WRITER, "many");
    let key = |n: usize| format!("many/s/{n:05}");
    std::thread::scope(|scope| {
        for worker in 0..8 {
            let store = &it.store;
            scope.spawn(move || {
                for n in (worker..OBJECTS).step_by(8) {
                    store.set(&key(n), b"small", soon()).expect("it is put");
                }
            });
        }
    });
    proxy.reset_counts();
    let mut keys = Vec::new();
    loop {
        let after = keys.last().cloned();
        let page = it.store.list("many/s/", after.as_deref(), soon()).unwrap();
        keys.extend(page.objects.into_iter().map(|it| it.key));
        if page.is_last {
            break;
        }
    }
    assert_eq!(keys, (0..OBJECTS).map(key).collect::<Vec<_>>());
    assert_eq!(proxy.count(RequestKind::List), 2);
}

fn keys_say_what_is_allowed(endpoint: &str) {
    let denied = ObjectErrorKind::Denied;
    let writer = location(endpoint, WRITER, "keys");
    writer.store.set("keys/a", b"a", soon()).unwrap();

    let reader = location(endpoint, READER, "keys").store;
    assert_eq!(reader.get("keys/a", soon()).unwrap(), b"a");
    assert_eq!(reader.list("keys/", None, soon()).unwrap().objects.len(), 1);
    let bytes = Arc::new(vec![1]);
    assert_eq!(
        reader.put_new("keys/b", &bytes, soon()).unwrap_err().kind,
        denied
    );
    assert_eq!(reader.set("keys/a", b"b", soon()).unwrap_err().kind, denied);
    assert_eq!(remove(&*reader, &["keys/a"], soon()), Err(denied));

    for key in [(WRITER.0, "another secret"), ("unknown", WRITER.1)] {
        let store = location(endpoint, key, "keys").store;
        assert_eq!(store.get("keys/a", soon()).unwrap_err().kind, denied);
        assert_eq!(store.list("keys/", None, soon()).unwrap_err().kind, denied);
        assert_eq!(store.set("keys/a", b"b", soon()).unwrap_err().kind, denied);
        assert_eq!(read(&*store, &[("keys/a", 0..1)], soon()), [Err(denied)]);
    }
    assert_eq!(writer.store.get("keys/a", soon()).unwrap(), b"a");

    // A missing bucket is no missing object: the settings are wrong.
    let absent = torchcache_remote::open_with("s3://absent/a", variables(endpoint, WRITER));
    let absent = absent.unwrap().store;
    for error in [
        absent.get("a/b", soon()).unwrap_err(),
        absent.list("a/", None, soon()).unwrap_err(),
        absent.set("a/b", b"", soon()).unwrap_err(),
    ] {
        assert_eq!(error.kind, ObjectErrorKind::Other, "{error}");
        assert!(error.to_string().contains("NoSuchBucket"), "{error}");
    }
}

#[test]
fn a_server_that_does_not_exist_is_an_error_before_the_deadline() {
    let free = TcpListener::bind("127.0.0.1:0").unwrap();
    let refusing = format!("http://{}", free.local_addr().unwrap());
    drop(free);
    // It accepts connections, as the system does for it, and never answers.
    let silent = TcpListener::bind("127.0.0.1:0").unwrap();
    let hanging = format!("http://{}", silent.local_addr().unwrap());
    // A name that no resolver has.
    let unknown = "http://does-not-exist.invalid".to_owned();
    for (endpoint, kinds) in [
        (refusing, [ObjectErrorKind::Other].as_slice()),
        // Of 40 reads, some find no free connection.
        (
            hanging,
            &[ObjectErrorKind::TimedOut, ObjectErrorKind::NotMade],
        ),
        (
            unknown,
            &[
                ObjectErrorKind::Other,
                ObjectErrorKind::TimedOut,
                ObjectErrorKind::NotMade,
            ],
        ),
    ] {
        let store = location(&endpoint, WRITER, "a").store;
        let timeout = Duration::from_millis(500);
        let begin = Instant::now();
        let deadline = || Instant::now() + timeout;
        let bytes = Arc::new(vec![1]);
        let mut errors = vec![
            store.get("a/b", deadline()).unwrap_err().kind,
            store.list("a/", None, deadline()).unwrap_err().kind,
            store.put_new("a/b", &bytes, deadline()).unwrap_err().kind,
            store.set("a/b", b"", deadline()).unwrap_err().kind,
            remove(&*store, &["a/b"; 40], deadline()).unwrap_err(),
        ];
        let reads: Vec<_> = (0..40).map(|_| ("a/b", 0..1)).collect();
        for read in read(&*store, &reads, deadline()) {
            errors.push(read.unwrap_err());
        }
        assert!(
            errors.iter().all(|it| kinds.contains(it)),
            "{endpoint}: {errors:?}"
        );
        // Six calls, each until its deadline at most.
        assert!(
            begin.elapsed() < 6 * timeout + Duration::from_secs(5),
            "{endpoint}"
        );
    }
}
