//! The remote tier, over a directory as bucket: a second machine is a handle, or a process, with a directory of its own.

use std::cell::Cell;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Duration;

use tch::{Kind, Tensor};
use tempfile::TempDir;
use torchcache::{
    Error, ErrorKind, Options, RemoteMode, RemoteState, Tier, TorchCache, torchcache,
};

use crate::multi_process::{child, succeed};
use crate::persistent_module::segments;
use crate::read_ahead::wait_until;
use crate::support::{Ran, counts, logged, random, same, warnings};

/// As long as a slow machine may take.
const LONG: Duration = Duration::from_secs(60);

/// `x` and noise, so that no two forwards return the same.
#[torchcache(persistent = true, remote_timeout = 60.0)]
#[derive(Debug)]
struct Noisy {
    torchcache_persistent_cache_dir: PathBuf,
    torchcache_remote: Option<String>,
    torchcache_remote_mode: RemoteMode,
    torchcache_remote_timeout: Option<f64>,
    torchcache_max_memory_cache_size: u64,
    #[torchcache(skip)]
    ran: Ran,
    torchcache: TorchCache,
}

#[torchcache]
impl Noisy {
    fn forward(&self, xs: &Tensor) -> Result<Tensor, Error> {
        self.ran.note(xs);
        Ok(xs + xs.rand_like())
    }
}

/// A bucket, and the local directories of machines.
struct Fleet {
    root: TempDir,
    machines: Cell<usize>,
}

impl Fleet {
    fn new() -> Self {
        Fleet {
            root: tempfile::tempdir().unwrap(),
            machines: Cell::new(0),
        }
    }

    fn bucket(&self) -> PathBuf {
        self.root.path().join("bucket")
    }

    fn url(&self) -> String {
        format!("file://{}", self.bucket().display())
    }

    /// An empty directory.
    fn directory(&self) -> PathBuf {
        let number = self.machines.replace(self.machines.get() + 1);
        self.root.path().join(format!("machine-{number}"))
    }

    fn module_in(&self, directory: &Path) -> Noisy {
        fs::create_dir_all(self.bucket()).unwrap();
        Noisy {
            torchcache_persistent_cache_dir: directory.to_owned(),
            torchcache_remote: Some(self.url()),
            torchcache_remote_mode: RemoteMode::ReadWrite,
            torchcache_remote_timeout: None,
            torchcache_max_memory_cache_size: 1_000_000_000,
            ran: Ran::default(),
            torchcache: TorchCache::default(),
        }
    }

    /// A module on a machine that has no rows.
    fn machine(&self) -> Noisy {
        self.module_in(&self.directory())
    }

    /// The outputs of rows that another machine computed and uploaded.
    fn upload(&self, xs: &Tensor) -> Tensor {
        let machine = self.machine();
        let ys = machine.call(xs);
        machine.upload();
        ys
    }

    /// A child process with this bucket.
    fn child(&self, directory: &Path, words: &[&str]) -> Command {
        let mut command = child(Some(directory), words);
        command.env("TORCHCACHE_REMOTE", self.url());
        command
    }
}

impl Noisy {
    fn call(&self, xs: &Tensor) -> Tensor {
        self.forward(xs).unwrap()
    }

    /// The misses, and the hits in memory, on disk and in the remote.
    fn counts(&self) -> (u64, u64, u64, u64) {
        let (misses, memory, disk) = counts(&self.torchcache);
        (misses, memory, disk, self.torchcache.stats().remote.hits)
    }

    fn upload(&self) {
        self.torchcache.flush_remote(LONG).unwrap();
    }

    fn tiers(&self, xs: &Tensor) -> Vec<Option<Tier>> {
        let rows = self.torchcache.peek(|| self.forward(xs)).unwrap();
        rows.into_iter().map(|row| row.tier).collect()
    }
}

#[test]
fn another_machine_computes_none_of_the_rows() {
    let fleet = Fleet::new();
    let xs = random(&[100, 16]);
    let first = fleet.machine();
    let ys = first.call(&xs);
    first.upload();
    let stats = first.torchcache.stats();
    assert_eq!((stats.remote.uploaded, stats.remote.pending), (100, 0));
    assert_eq!(stats.remote.state, RemoteState::On);

    let second = fleet.machine();
    assert!(same(&second.call(&xs), &ys));
    assert_eq!(second.counts(), (0, 0, 0, 100));
    assert_eq!(second.ran.take(), (0, 0));
    let stats = second.torchcache.stats();
    assert_eq!((stats.hits(), stats.faults.total()), (100, 0));
    assert!(stats.remote.gets > 0 && stats.remote.bytes_in > 100 * 16 * 4);
}

#[test]
fn rows_of_the_remote_enter_the_nearer_tiers_and_are_not_uploaded_again() {
    let fleet = Fleet::new();
    let xs = random(&[10, 16]);
    let ys = fleet.upload(&xs);

    let directory = fleet.directory();
    let second = fleet.module_in(&directory);
    second.call(&xs);
    let gets = second.torchcache.stats().remote.gets;
    assert!(same(&second.call(&xs), &ys));
    assert_eq!(second.counts(), (0, 10, 0, 10));
    assert_eq!(second.torchcache.stats().remote.gets, gets, "no request");
    second.torchcache.flush().unwrap();
    second.upload();
    let stats = second.torchcache.stats();
    assert_eq!((stats.remote.puts, stats.remote.uploaded), (0, 0));
    drop(second);

    let reopened = fleet.module_in(&directory);
    assert!(same(&reopened.call(&xs), &ys));
    assert_eq!(reopened.counts(), (0, 0, 10, 0));
}

#[test]
fn one_call_finds_its_rows_in_all_tiers() {
    let fleet = Fleet::new();
    let xs = random(&[40, 16]);
    let [memory, disk, remote, new] = <[Tensor; 4]>::try_from(xs.split(10, 0)).unwrap();
    let first = fleet.machine();
    let far = first.call(&remote);
    first.upload();

    let directory = fleet.directory();
    let near = fleet.module_in(&directory).call(&disk);
    let second = fleet.module_in(&directory);
    let nearest = second.call(&memory);
    assert_eq!(second.ran.take(), (1, 10));
    let ys = second.call(&xs);
    assert_eq!(second.ran.take(), (1, 10), "only the new ones");
    assert_eq!(second.counts(), (20, 10, 10, 10));
    for (number, rows) in (0..).zip([&nearest, &near, &far]) {
        assert!(same(&ys.narrow(0, 10 * number, 10), rows), "{number}");
    }
    second.upload();

    let third = fleet.machine();
    let rows = third.call(&Tensor::cat(&[&remote, &new, &memory], 0));
    assert_eq!(third.counts(), (0, 0, 0, 30));
    assert!(same(&rows.narrow(0, 10, 10), &ys.narrow(0, 30, 10)));
}

#[test]
fn a_module_with_another_hash_finds_none() {
    let fleet = Fleet::new();
    let xs = random(&[4, 16]);
    fleet.upload(&xs);
    let options = |version: &str| {
        let options = Options::builder()
            .persistent(true)
            .persistent_cache_dir(fleet.directory())
            .remote(fleet.url())
            .version(version);
        options.build().unwrap()
    };
    for (version, found) in [("1", 0), ("1", 4), ("2", 0)] {
        let net = tch::nn::func(|xs| xs * 2);
        let net = torchcache::Cached::shared(net, (), options(version)).unwrap();
        net.forward(&xs);
        net.cache().flush_remote(LONG).unwrap();
        assert_eq!(net.cache().stats().remote.hits, found, "{version}");
    }
}

#[test]
fn a_read_only_machine_uploads_nothing() {
    let fleet = Fleet::new();
    let xs = random(&[20, 16]);
    let first = fleet.machine();
    first.call(&xs.narrow(0, 0, 10));
    first.upload();
    let before = segments(&fleet.bucket());
    let reader = Noisy {
        torchcache_remote_mode: RemoteMode::ReadOnly,
        ..fleet.machine()
    };
    reader.call(&xs);
    assert_eq!(reader.counts(), (10, 0, 0, 10));
    reader.upload();
    let stats = reader.torchcache.stats();
    assert_eq!((stats.remote.puts, stats.remote.pending), (0, 0));
    assert_eq!(segments(&fleet.bucket()), before);
}

#[test]
fn a_write_only_machine_finds_nothing_and_uploads() {
    let fleet = Fleet::new();
    let xs = random(&[20, 16]);
    let first = fleet.machine();
    first.call(&xs.narrow(0, 0, 10));
    first.upload();
    let writer = Noisy {
        torchcache_remote_mode: RemoteMode::WriteOnly,
        ..fleet.machine()
    };
    writer.call(&xs.narrow(0, 10, 10));
    writer.call(&xs.narrow(0, 0, 10));
    assert_eq!(writer.counts(), (20, 0, 0, 0));
    writer.upload();
    let third = fleet.machine();
    third.call(&xs);
    assert_eq!(third.counts(), (0, 0, 0, 20));
}

#[test]
fn a_call_that_may_not_wait_asks_no_remote_and_read_ahead_does() {
    let fleet = Fleet::new();
    let xs = random(&[20, 16]);
    let ys = fleet.upload(&xs);
    let second = Noisy {
        torchcache_remote_timeout: Some(0.0),
        ..fleet.machine()
    };
    second.call(&xs.narrow(0, 0, 5));
    assert_eq!(second.counts(), (5, 0, 0, 0));
    let rest = xs.narrow(0, 5, 15);
    second
        .torchcache
        .read_ahead(|| second.forward(&rest))
        .unwrap();
    wait_until(|| second.torchcache.stats().read_ahead == 15);
    assert!(same(&second.call(&rest), &ys.narrow(0, 5, 15)));
    assert_eq!(second.counts(), (5, 15, 0, 0));
}

#[test]
fn rows_that_were_read_ahead_are_on_disk_where_memory_has_no_room() {
    let fleet = Fleet::new();
    let xs = random(&[20, 16]);
    let ys = fleet.upload(&xs);
    let second = Noisy {
        torchcache_max_memory_cache_size: 0,
        ..fleet.machine()
    };
    second
        .torchcache
        .read_ahead(|| second.forward(&xs))
        .unwrap();
    wait_until(|| second.torchcache.stats().disk.rows == 20);
    assert!(same(&second.call(&xs), &ys));
    assert_eq!(second.counts(), (0, 0, 20, 0));
}

#[test]
fn peek_shows_rows_of_the_remote_without_a_request() {
    let fleet = Fleet::new();
    let xs = random(&[20, 16]);
    fleet.upload(&xs);
    let second = fleet.machine();
    // Less than a quarter of the object, of which the background would fetch the rest.
    second.call(&xs.narrow(0, 0, 1));
    let before = second.torchcache.stats().remote;
    let mut expected = vec![Some(Tier::Remote); 20];
    expected[0] = Some(Tier::Memory);
    assert_eq!(second.tiers(&xs), expected);
    let after = second.torchcache.stats().remote;
    assert_eq!((after.gets, after.hits), (before.gets, before.hits));
    assert_eq!(
        second
            .torchcache
            .read_ahead(|| second.forward(&xs))
            .unwrap(),
        19
    );
}

#[test]
fn peek_before_the_first_call_does_not_take_its_time() {
    let fleet = Fleet::new();
    let xs = random(&[3, 16]);
    fleet.upload(&xs);
    let second = fleet.machine();
    second.tiers(&xs);
    second.call(&xs);
    assert_eq!(second.counts(), (0, 0, 0, 3));
}

#[test]
fn removed_rows_are_computed_and_replace_those_of_the_remote() {
    let fleet = Fleet::new();
    let xs = random(&[10, 16]);
    let ys = fleet.upload(&xs);
    let second = fleet.machine();
    assert!(same(&second.call(&xs), &ys));
    let some = xs.narrow(0, 0, 4);
    second.torchcache.remove(|| second.forward(&some)).unwrap();
    let again = second.call(&xs);
    assert_eq!(second.ran.take(), (1, 4));
    assert!(same(&again.narrow(0, 4, 6), &ys.narrow(0, 4, 6)));
    assert!(!same(&again, &ys));
    second.upload();
    let third = fleet.machine();
    assert!(same(&third.call(&xs), &again));
    assert_eq!(third.counts(), (0, 0, 0, 10));
}

#[test]
fn recomputed_rows_replace_those_of_the_remote() {
    let fleet = Fleet::new();
    let xs = random(&[10, 16]);
    fleet.upload(&xs);
    let second = fleet.machine();
    let again = second.torchcache.recompute(|| second.call(&xs)).unwrap();
    assert_eq!(second.ran.take(), (1, 10));
    assert!(same(&second.call(&xs), &again));
    second.upload();
    assert!(same(&fleet.machine().call(&xs), &again));
}

#[test]
fn cleared_rows_are_found_in_the_remote() {
    let fleet = Fleet::new();
    let xs = random(&[10, 16]);
    let first = fleet.machine();
    let ys = first.call(&xs);
    first.upload();
    first.torchcache.clear();
    assert!(same(&first.call(&xs), &ys));
    assert_eq!(first.ran.take(), (1, 10));
    assert_eq!(first.counts(), (10, 0, 0, 10));
}

#[test]
fn imported_rows_are_uploaded() {
    let fleet = Fleet::new();
    let xs = random(&[10, 16]);
    let first = fleet.machine();
    first.call(&xs.narrow(0, 0, 1));
    let rest = xs.narrow(0, 1, 9);
    let done = first
        .torchcache
        .import(&rest * 3.0, || first.forward(&rest));
    assert_eq!(done.unwrap().imported, 9);
    first.upload();
    let second = fleet.machine();
    second.call(&xs.narrow(0, 0, 1));
    let done = second
        .torchcache
        .import(&rest * 4.0, || second.forward(&rest));
    assert_eq!(done.unwrap().present, 9, "the remote has them");
    assert!(same(&second.call(&rest), &(&rest * 3.0)));
}

#[test]
fn rows_from_before_the_disk_tier_are_uploaded() {
    let fleet = Fleet::new();
    let xs = random(&[10, 16]);
    let mut first = fleet.machine();
    first.torchcache_max_memory_cache_size = 1_000_000;
    first.call(&xs);
    // The rows in memory are those of the former directory.
    first.torchcache_persistent_cache_dir = fleet.directory();
    first.torchcache_remote = Some(format!("{}/other", fleet.url()));
    let ys = first.call(&xs);
    first.upload();
    assert_eq!(first.ran.take(), (1, 10));
    let second = Noisy {
        torchcache_remote: first.torchcache_remote.clone(),
        ..fleet.machine()
    };
    assert!(same(&second.call(&xs), &ys));
    assert_eq!(second.counts(), (0, 0, 0, 10));
}

#[test]
fn without_a_remote_nothing_is_uploaded_and_flushing_it_succeeds() {
    let fleet = Fleet::new();
    let module = Noisy {
        torchcache_remote: None,
        ..fleet.machine()
    };
    module.upload();
    module.call(&random(&[3, 16]));
    module.upload();
    let stats = module.torchcache.stats();
    assert_eq!(stats.remote, Default::default());
    assert!(!stats.to_string().contains("remote"));
    assert!(segments(&fleet.bucket()).is_empty());
}

#[test]
fn a_url_that_names_no_object_store_is_an_error_with_what_was_expected() {
    let fleet = Fleet::new();
    for (url, expected) in [
        ("ftp://team/rows", "s3://bucket/prefix"),
        ("bucket", "file:///path"),
        ("s3://", "names no bucket"),
        ("file://relative/path", "three slashes"),
    ] {
        let module = Noisy {
            torchcache_remote: Some(url.to_owned()),
            ..fleet.machine()
        };
        let error = module.forward(&random(&[2, 16])).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::InvalidOption, "{url}");
        let text = error.to_string();
        let start = "Noisy: option `remote`: ";
        assert!(text.contains(start) && text.contains(expected), "{text}");
        assert!(text.contains(url), "{text}");
        assert_eq!(module.ran.take(), (0, 0));
    }
}

#[test]
fn a_remote_needs_a_disk_tier() {
    let options = Options::builder().remote("s3://bucket").build();
    let error = options.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::InvalidOption);
    assert!(error.to_string().contains("`persistent = true`"), "{error}");
}

#[test]
fn a_corrupt_row_of_the_remote_is_a_counted_miss() {
    let fleet = Fleet::new();
    let xs = random(&[10, 1000]);
    let ys = fleet.upload(&xs);
    let [segment] = <[PathBuf; 1]>::try_from(segments(&fleet.bucket())).unwrap();
    let mut bytes = fs::read(&segment).unwrap();
    // In the third row or close to it.
    bytes[2 * 4100 + 500] ^= 1;
    fs::write(&segment, bytes).unwrap();
    let second = fleet.machine();
    let found = second.call(&xs);
    assert_eq!(second.counts(), (1, 0, 0, 9));
    let differing = found.ne_tensor(&ys).any_dim(1, false);
    assert_eq!(differing.sum(Kind::Int64).int64_value(&[]), 1);
    assert!(second.torchcache.stats().faults.remote_corrupt > 0);
    assert!(same(&second.call(&xs), &found));
}

#[test]
fn objects_that_are_gone_are_misses() {
    let fleet = Fleet::new();
    let xs = random(&[10, 16]);
    fleet.upload(&xs);
    let second = fleet.machine();
    second.call(&xs.narrow(0, 0, 1));
    for segment in segments(&fleet.bucket()) {
        fs::remove_file(segment).unwrap();
    }
    let ys = second.call(&xs);
    assert_eq!(second.counts(), (9, 1, 0, 1));
    assert!(same(&second.call(&xs), &ys));
}

#[test]
fn objects_of_other_programs_are_left_alone() {
    let fleet = Fleet::new();
    let xs = random(&[10, 16]);
    let ys = fleet.upload(&xs);
    let [segment] = <[PathBuf; 1]>::try_from(segments(&fleet.bucket())).unwrap();
    let folder = segment.parent().unwrap();
    let name = segment.file_name().unwrap().to_str().unwrap();
    // One with a name that says a later time, and one whose name is right and that is no segment.
    let later = name.replacen(&name[..1], "f", 1);
    for name in ["notes.txt", "x.tcs", &later] {
        fs::write(folder.join(name), [7; 4096]).unwrap();
    }
    let second = fleet.machine();
    assert!(same(&second.call(&xs), &ys));
    assert_eq!(second.counts(), (0, 0, 0, 10));
    assert!(folder.join("notes.txt").exists() && folder.join(later).exists());
}

#[test]
fn a_shape_that_the_remote_contradicts_bypasses_the_cache() {
    // The two have one identity and return rows of other shapes.
    let fleet = Fleet::new();
    let xs = random(&[4, 16]);
    let options = || {
        let options = Options::builder()
            .persistent(true)
            .persistent_module_hash("shared")
            .persistent_cache_dir(fleet.directory())
            .remote(fleet.url());
        options.build().unwrap()
    };
    let narrow = tch::nn::func(|xs| xs.narrow(1, 0, 8));
    let narrow = torchcache::Cached::shared(narrow, (), options()).unwrap();
    narrow.forward(&xs.narrow(0, 0, 2));
    narrow.cache().flush_remote(LONG).unwrap();
    let wide = tch::nn::func(|xs| xs * 2);
    let wide = torchcache::Cached::shared(wide, (), options()).unwrap();
    let own = wide.forward(&xs.narrow(0, 2, 2));
    assert!(same(&own, &(xs.narrow(0, 2, 2) * 2)));
    assert!(same(&wide.forward(&xs), &(&xs * 2)));
    assert_eq!(wide.cache().stats().bypassed, 1);
}

#[test]
fn processes_of_two_directories_share_rows() {
    let fleet = Fleet::new();
    let directories = [fleet.directory(), fleet.directory()];
    fs::create_dir_all(fleet.bucket()).unwrap();
    let share = |number: usize| {
        let from = (20 * number).to_string();
        let mut command = fleet.child(&directories[number % 2], &["share", &from, "100"]);
        command.stdout(Stdio::piped()).spawn().unwrap()
    };
    let children: Vec<_> = (0..8).map(share).collect();
    for child in children {
        let output = child.wait_with_output().unwrap();
        assert!(output.status.success());
        let printed = String::from_utf8(output.stdout).unwrap();
        assert!(printed.trim().ends_with("faults 0 flushed"), "{printed}");
    }
    let third = fleet.directory();
    let printed = succeed(fleet.child(&third, &["share", "0", "240"]));
    assert_eq!(printed, "computed 0 found 240 faults 0 flushed");
}

#[test]
fn rows_of_a_process_that_was_killed_are_uploaded_by_the_next_one() {
    let fleet = Fleet::new();
    fs::create_dir_all(fleet.bucket()).unwrap();
    let directory = fleet.directory();
    let mut child = fleet
        .child(&directory, &["store-until-killed", "0", "50"])
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let mut line = String::new();
    let mut stdout = std::io::BufReader::new(child.stdout.take().unwrap());
    std::io::BufRead::read_line(&mut stdout, &mut line).unwrap();
    assert_eq!(line, "stored\n");
    child.kill().unwrap();
    child.wait().unwrap();
    assert!(segments(&fleet.bucket()).is_empty());
    let printed = succeed(fleet.child(&directory, &["share", "50", "1"]));
    assert_eq!(printed, "computed 1 found 0 faults 0 flushed");
    let other = fleet.directory();
    let printed = succeed(fleet.child(&other, &["share", "0", "51"]));
    assert_eq!(printed, "computed 0 found 51 faults 0 flushed");
}

#[test]
fn rows_are_uploaded_when_the_process_ends() {
    let fleet = Fleet::new();
    fs::create_dir_all(fleet.bucket()).unwrap();
    succeed(fleet.child(&fleet.directory(), &["store-to-share", "0", "50"]));
    let printed = succeed(fleet.child(&fleet.directory(), &["share", "0", "50"]));
    assert_eq!(printed, "computed 0 found 50 faults 0 flushed");
}

#[test]
fn the_environment_sets_remote_and_mode() {
    let fleet = Fleet::new();
    fs::create_dir_all(fleet.bucket()).unwrap();
    let share = |mode: &str, from: &str, count: &str| {
        let directory = fleet.directory();
        let mut command = fleet.child(&directory, &["share", from, count]);
        succeed(std::mem::replace(
            command.env("TORCHCACHE_REMOTE_MODE", mode),
            Command::new("true"),
        ))
    };
    assert_eq!(share("", "0", "10"), "computed 10 found 0 faults 0 flushed");
    assert_eq!(
        share("read-only", "0", "20"),
        "computed 10 found 10 faults 0 flushed"
    );
    assert_eq!(
        share("write-only", "0", "20"),
        "computed 20 found 0 faults 0 flushed"
    );
    assert_eq!(
        share("read-write", "0", "20"),
        "computed 0 found 20 faults 0 flushed"
    );
}

#[test]
fn an_unknown_mode_in_the_environment_is_an_error() {
    let fleet = Fleet::new();
    let directory = fleet.directory();
    let mut command = fleet.child(&directory, &["share", "0", "1"]);
    command.env("TORCHCACHE_REMOTE_MODE", "readonly");
    let output = command.output().unwrap();
    let text = String::from_utf8_lossy(&output.stderr);
    assert!(!output.status.success());
    assert!(
        text.contains(
            "the environment variable TORCHCACHE_REMOTE_MODE is \"readonly\"; expected read-write, read-only or \
             write-only"
        ),
        "{text}"
    );
}

#[test]
fn a_wrong_url_in_the_environment_is_an_error_that_names_the_variable() {
    let fleet = Fleet::new();
    let directory = fleet.directory();
    let mut command = child(Some(&directory), &["share", "0", "1"]);
    command.env("TORCHCACHE_REMOTE", "bucket/rows");
    let output = command.output().unwrap();
    let text = String::from_utf8_lossy(&output.stderr);
    assert!(!output.status.success());
    let start = "the environment variable TORCHCACHE_REMOTE: \"bucket/rows\" names no object store";
    assert!(text.contains(start), "{text}");
}

#[test]
fn a_cache_in_memory_ignores_the_environment() {
    let fleet = Fleet::new();
    fs::create_dir_all(fleet.bucket()).unwrap();
    let directory = fleet.directory();
    for url in [fleet.url(), "bucket/rows".to_owned()] {
        let mut command = fleet.child(&directory, &["share-in-memory", "0", "5"]);
        command.env("TORCHCACHE_REMOTE", url);
        assert_eq!(succeed(command), "computed 5 found 0 faults 0 flushed");
    }
    assert!(segments(&fleet.bucket()).is_empty());
}

#[test]
fn a_temporary_directory_with_a_remote_is_no_reason_for_a_warning() {
    let fleet = Fleet::new();
    fs::create_dir_all(fleet.bucket()).unwrap();
    let options = |remote: Option<String>| {
        let options = Options::builder().persistent(true).version("temporary");
        let options = match remote {
            Some(url) => options.remote(url),
            None => options,
        };
        options.build().unwrap()
    };
    for (remote, expected) in [(Some(fleet.url()), 0), (None, 1)] {
        let net = tch::nn::func(|xs| xs * 2);
        let net = torchcache::Cached::shared(net, (), options(remote)).unwrap();
        let (_, lines) = logged(|| net.forward(&random(&[2, 2])));
        assert_eq!(warnings(&lines, "are then removed"), expected, "{lines:?}");
    }
}
