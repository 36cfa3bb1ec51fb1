//! What the thread that makes the requests does to its process.

use std::time::{Duration, Instant};

use rustix::process::{WaitOptions, waitpid};
use torchcache_faults::process::fork;
use torchcache_store::remote::ObjectErrorKind;

use crate::support::{read, soon};

#[test]
#[cfg(target_os = "linux")]
fn its_threads_handle_no_signal() {
    let dir = tempfile::tempdir().unwrap();
    let it = torchcache_remote::open(&format!("file://{}", dir.path().display())).unwrap();
    let key = format!("{}/a", it.prefix);
    it.store.set(&key, b"a", soon()).unwrap();
    let mut threads = 0;
    for task in std::fs::read_dir("/proc/self/task").unwrap() {
        // Threads of other tests may end meanwhile.
        let Ok(status) = std::fs::read_to_string(task.unwrap().path().join("status")) else {
            continue;
        };
        let field = |name: &str| {
            status
                .lines()
                .find_map(|line| line.strip_prefix(name))
                .unwrap()
                .trim()
        };
        if !field("Name:").starts_with("torchcache") {
            continue;
        }
        threads += 1;
        let blocked = u64::from_str_radix(field("SigBlk:"), 16).unwrap();
        for signal in [libc::SIGTERM, libc::SIGINT, libc::SIGHUP, libc::SIGUSR1] {
            assert!(
                blocked & (1 << (signal - 1)) != 0,
                "{signal} in {}",
                field("Name:")
            );
        }
    }
    assert!(
        threads >= 2,
        "one for requests, and one for files: {threads}"
    );
}

#[test]
fn a_forked_process_makes_no_request_and_does_not_wait() {
    let dir = tempfile::tempdir().unwrap();
    let it = torchcache_remote::open(&format!("file://{}", dir.path().display())).unwrap();
    let key = |name: &str| format!("{}/{name}", it.prefix);
    it.store.set(&key("a"), b"a", soon()).unwrap();
    let pid = fork(|| {
        let begin = Instant::now();
        let errors = [
            it.store
                .get(&key("a"), soon())
                .map(|_| ())
                .unwrap_err()
                .kind,
            it.store.set(&key("b"), b"b", soon()).unwrap_err().kind,
            read(&*it.store, &[(&key("a"), 0..1)], soon())
                .remove(0)
                .unwrap_err(),
        ];
        assert_eq!(errors, [ObjectErrorKind::Other; 3]);
        assert!(begin.elapsed() < Duration::from_secs(10));
        0
    });
    let ended = waitpid(Some(pid.unwrap()), WaitOptions::empty()).unwrap();
    let status = ended.map(|(_, status)| (status.exit_status(), status.terminating_signal()));
    assert_eq!(status, Some((Some(0), None)));
    assert!(!dir.path().join("b").exists());
    assert_eq!(it.store.get(&key("a"), soon()).unwrap(), b"a");
}
