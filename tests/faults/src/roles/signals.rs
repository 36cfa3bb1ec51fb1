//! A program that handles its signals itself, while the store works.

use std::path::Path;

use torchcache_store::fs::{FileSystem, Os};
use torchcache_store::manifest::Manifest;
use torchcache_store::{Compression, Fault, Store};

use crate::process::say;
use crate::rows::{batch, expect_all, manual_flush, put_flushed};
use crate::sys;

/// The signals that [`run`] waits for.
pub const SIGNALS: [i32; 6] = [
    libc::SIGTERM,
    libc::SIGINT,
    libc::SIGHUP,
    libc::SIGUSR1,
    libc::SIGALRM,
    libc::SIGXFSZ,
];

const LEN: usize = 3000;

/// `wait`: waits for each signal by `sigwait`. `limit`: writes beyond a limit of file sizes.
pub fn run(dir: &Path, args: &[String]) {
    match args {
        [how] if how == "wait" => wait(dir),
        [how] if how == "limit" => exceed(dir),
        _ => panic!("`wait` or `limit`, not {args:?}"),
    }
}

fn wait(dir: &Path) {
    let config = manual_flush().with_compression(Some(Compression::new(1, 1)));
    let store = Store::open(dir, config).unwrap();
    put_flushed(&store, 0..1000, LEN);
    expect_all(&store, 0..1000, LEN);
    // After the threads of the store were started: they do not inherit the mask.
    let next = sys::blocked(&SIGNALS);
    say("BLOCKS");
    for (number, signal) in (1..).zip(SIGNALS) {
        // A thread that waits already gets a signal ahead of all others.
        std::io::stdin().read_line(&mut String::new()).unwrap();
        assert_eq!(next(), signal);
        put_flushed(&store, 1000 * number..1000 * number + 10, LEN);
        say("GOT");
    }
}

fn exceed(dir: &Path) {
    let opened = Os.open_dir(dir, true).unwrap();
    for _ in 0..3 {
        let mut file = opened.create("large".as_ref()).unwrap();
        let written = file
            .write_all(&[0; 1 << 20])
            .expect_err("it is above the limit");
        assert_eq!(written.raw_os_error(), Some(libc::EFBIG));
        opened.remove("large".as_ref()).unwrap();
        let parts = vec!["x"; 100].join(" ");
        let manifest = Manifest::new(&parts.repeat(100), "hash", Vec::new()).write(&opened);
        assert_eq!(manifest.unwrap_err().raw_os_error(), Some(libc::EFBIG));
    }
    let store = Store::open(dir, manual_flush()).unwrap();
    store.put(batch(0..400, LEN));
    store.flush().expect_err("it does not fit");
    assert!(store.stats().faults.get(Fault::NoSpace) > 0);
    // The signal is neither blocked nor pending: the next write of the program itself ends it.
    say("WRITES");
    std::fs::write(dir.join("own"), [0; 1 << 20]).unwrap();
}
