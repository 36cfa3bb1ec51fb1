//! Real servers: answers, keys and kills.

use std::net::TcpListener;
use std::sync::Arc;
use std::time::{Duration, Instant};

use torchcache_remote::RemoteLocation;
use torchcache_servers::{Ceph, FaultProxy, READER, RequestKind, Server, WRITER};
use torchcache_store::remote::ObjectErrorKind;

use crate::contract::check_contract;
use crate::support::{BUCKET, location, location_of, read, remove, server, soon};

#[test]
fn seaweedfs_keeps_the_contract_and_its_objects() {
    let dir = tempfile::tempdir().unwrap();
    let mut server = server(dir.path());
    check_server(&mut server, 1_000);
}

#[test]
#[ignore = "needs Ceph: cargo xtask servers"]
fn ceph_keeps_the_contract_and_its_objects() {
    let dir = tempfile::tempdir().unwrap();
    let mut server = Ceph::start(dir.path()).expect("the server starts");
    check_server(&mut server, 1_000);
}

/// All that a server has to do, with at most `page` objects in a page of a listing.
pub(crate) fn check_server(server: &mut dyn Server, page: usize) {
    server.create_bucket(BUCKET).expect("the bucket is made");
    let endpoint = server.endpoint();
    for prefix in ["", "plain", "with space", "ünï%20codé+&=~"] {
        check_contract(&location_of(server, &endpoint, WRITER, prefix));
    }
    let proxy = FaultProxy::start(server.address()).unwrap();
    let by_proxy = |prefix| location_of(server, &proxy.endpoint(), WRITER, prefix);
    check_contract(&by_proxy("by/proxy"));
    pages_are_one_request_each(&by_proxy("many"), &proxy, page);
    keys_say_what_is_allowed(server);

    // What was acknowledged is kept when the server is killed, and the same client goes on.
    let it = location_of(server, &endpoint, WRITER, "killed");
    let bytes = Arc::new(vec![7; 100_000]);
    for n in 0..10 {
        it.store
            .put_new(&format!("killed/{n}"), &bytes, soon())
            .unwrap();
    }
    server.kill();
    let error = it.store.get("killed/0", soon()).unwrap_err();
    assert_eq!(error.kind, ObjectErrorKind::Other, "{error}");
    // Of a new connection, and of one that was open.
    let (text, reasons) = (error.to_string(), ["refused", "connection closed"]);
    assert!(reasons.iter().any(|it| text.contains(it)), "{error}");
    server.restart().expect("it starts again");
    for n in 0..10 {
        let key = format!("killed/{n}");
        let got = read(&*it.store, &[(&key, 0..100_000)], soon());
        assert!(got == [Ok(bytes.to_vec())], "{key}");
    }
}

fn pages_are_one_request_each(it: &RemoteLocation, proxy: &FaultProxy, page: usize) {
    let objects = page + 200;
    let key = |n: usize| format!("many/s/{n:05}");
    std::thread::scope(|scope| {
        for worker in 0..8 {
            let store = &it.store;
            scope.spawn(move || {
                for n in (worker..objects).step_by(8) {
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
    assert_eq!(keys, (0..objects).map(key).collect::<Vec<_>>());
    assert_eq!(proxy.count(RequestKind::List), 2);
}

fn keys_say_what_is_allowed(server: &dyn Server) {
    let denied = ObjectErrorKind::Denied;
    let of_key = |key| location_of(server, &server.endpoint(), key, "keys").store;
    let writer = of_key(WRITER);
    writer.set("keys/a", b"a", soon()).unwrap();

    let reader = of_key(READER);
    assert_eq!(reader.get("keys/a", soon()).unwrap(), b"a");
    assert_eq!(reader.list("keys/", None, soon()).unwrap().objects.len(), 1);
    let absent = reader.get("keys/b", soon()).unwrap_err().kind;
    assert_eq!(absent, ObjectErrorKind::NotFound);
    let bytes = Arc::new(vec![1]);
    assert_eq!(
        reader.put_new("keys/b", &bytes, soon()).unwrap_err().kind,
        denied
    );
    assert_eq!(reader.set("keys/a", b"b", soon()).unwrap_err().kind, denied);
    // To this request, Azurite answers that it is broken. Its unknown accounts are unknown objects.
    let is_emulator = server.scheme() == "az";
    let removed = remove(&*reader, &["keys/a"], soon()).unwrap_err();
    assert!(removed == denied || is_emulator, "{removed:?}");

    let unknown = (!is_emulator).then_some(("unknown", WRITER.1));
    for key in [(WRITER.0, "another secret")].into_iter().chain(unknown) {
        let store = of_key(key);
        assert_eq!(store.get("keys/a", soon()).unwrap_err().kind, denied);
        assert_eq!(store.list("keys/", None, soon()).unwrap_err().kind, denied);
        assert_eq!(store.set("keys/a", b"b", soon()).unwrap_err().kind, denied);
        assert_eq!(read(&*store, &[("keys/a", 0..1)], soon()), [Err(denied)]);
    }
    assert_eq!(writer.get("keys/a", soon()).unwrap(), b"a");

    // A missing bucket is no missing object: the settings are wrong.
    let url = format!("{}://absent/a", server.scheme());
    let variables = server.variables(&server.endpoint(), WRITER);
    let absent = torchcache_remote::open_with(&url, variables).unwrap().store;
    for error in [
        absent.get("a/b", soon()).unwrap_err(),
        absent.list("a/", None, soon()).unwrap_err(),
        absent.set("a/b", b"", soon()).unwrap_err(),
    ] {
        assert_eq!(error.kind, ObjectErrorKind::Other, "{error}");
        let text = error.to_string();
        let names = ["NoSuchBucket", "ContainerNotFound"];
        assert!(names.iter().any(|name| text.contains(name)), "{error}");
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
