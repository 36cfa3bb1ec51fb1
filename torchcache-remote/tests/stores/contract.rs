//! What the trait promises, for each kind of store.

use std::sync::Arc;
use std::time::Duration;

use torchcache_remote::RemoteLocation;
use torchcache_store::remote::ObjectErrorKind;

use crate::support::{read, remove, soon};

/// All of the contract that needs no faults.
pub(crate) fn check_contract(location: &RemoteLocation) {
    let store = &*location.store;
    let key = |name: &str| match location.prefix.is_empty() {
        true => name.to_owned(),
        false => format!("{}/{name}", location.prefix),
    };
    let not_found = ObjectErrorKind::NotFound;
    let list = |prefix: &str, after: Option<&str>| {
        let page = store.list(&key(prefix), after.map(key).as_deref(), soon());
        let page = page.expect("objects are listed");
        assert!(page.is_last);
        page.objects
    };

    // Nothing exists at first.
    assert_eq!(list("s/", None), []);
    assert_eq!(store.get(&key("s/a"), soon()).unwrap_err().kind, not_found);
    assert_eq!(
        read(store, &[(&key("s/a"), 0..1)], soon()),
        [Err(not_found)]
    );
    remove(store, &[&key("s/a")], soon()).expect("it is no error that there is none");

    // What is put can be read, whole and in ranges, and is not replaced.
    let bytes: Arc<Vec<u8>> = Arc::new((0..100_000u32).map(|n| (n % 251) as u8).collect());
    store
        .put_new(&key("s/a"), &bytes, soon())
        .expect("there is none");
    let again = store.put_new(&key("s/a"), &Arc::new(vec![1]), soon());
    assert_eq!(again.unwrap_err().kind, ObjectErrorKind::AlreadyExists);
    let a = key("s/a");
    let got = read(
        store,
        &[
            (&a, 0..10),
            (&a, 99_990..100_000),
            (&a, 7..7),
            (&a, 99_999..200_000),
            (&key("s/b"), 0..1),
        ],
        soon(),
    );
    assert_eq!(got[0].as_deref(), Ok(&bytes[..10]));
    assert_eq!(got[1].as_deref(), Ok(&bytes[99_990..]));
    assert_eq!(got[2].as_deref(), Ok(&[][..]));
    assert_eq!(
        got[3].as_deref(),
        Ok(&bytes[99_999..]),
        "as far as there are bytes"
    );
    assert_eq!(got[4], Err(not_found));
    let error = store.get(&a, soon()).unwrap_err();
    assert_eq!(
        error.kind,
        ObjectErrorKind::Other,
        "{error}: it is longer than 64 KiB"
    );

    // Small objects can be replaced.
    store.set(&key("latest"), b"first", soon()).unwrap();
    store.set(&key("latest"), b"second", soon()).unwrap();
    assert_eq!(store.get(&key("latest"), soon()).unwrap(), b"second");

    // Listings are sorted, begin after a key and have sizes and times.
    for name in ["s/c", "s/b", "s2/d"] {
        store.set(&key(name), name.as_bytes(), soon()).unwrap();
    }
    let listed = list("s/", None);
    let keys: Vec<_> = listed.iter().map(|it| &*it.key).collect();
    assert_eq!(keys, [key("s/a"), key("s/b"), key("s/c")]);
    assert_eq!([listed[0].size, listed[1].size], [100_000, 3]);
    let age = listed[0].modified.elapsed().unwrap_or_default();
    assert!(age < Duration::from_secs(3600), "{age:?}");
    let after: Vec<_> = list("s/", Some("s/a"))
        .into_iter()
        .map(|it| it.key)
        .collect();
    assert_eq!(after, [key("s/b"), key("s/c")]);
    assert_eq!(list("s/", Some("s/c")), []);
    assert_eq!(list("s/b", None).len(), 1, "a prefix may end within a name");

    // What is removed is gone.
    remove(store, &[&a, &key("s/none"), &key("s/none")], soon()).unwrap();
    assert_eq!(read(store, &[(&a, 0..1)], soon()), [Err(not_found)]);
    assert_eq!(list("s/", None).len(), 2);
    store
        .put_new(&a, &bytes, soon())
        .expect("there is none any more");
}

#[test]
fn a_directory_keeps_the_contract() {
    let dir = tempfile::tempdir().unwrap();
    for name in ["plain", "with space", "ünï%20codé"] {
        let url = format!("file://{}/{name}", dir.path().display());
        let location = torchcache_remote::open(&url).unwrap();
        check_contract(&location);
        assert!(dir.path().join(name).join("latest").is_file(), "{name}");
    }
}

#[test]
fn locations_of_one_bucket_share_a_client() {
    let first = torchcache_remote::open("file:///one/a").unwrap();
    let second = torchcache_remote::open("file:///one/b").unwrap();
    assert!(Arc::ptr_eq(&first.store, &second.store));
    assert_eq!([&*first.prefix, &*second.prefix], ["one/a", "one/b"]);
}
