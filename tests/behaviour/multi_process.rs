//! Several processes: reopening, a kill while writing, a full disk, and the environment variables. The
//! other ways in which a process ends are in `torchcache-soak`.

use std::fs;
use std::io::{BufRead, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};

pub(crate) fn child(directory: Option<&Path>, words: &[&str]) -> Command {
    let mut command = Command::new(program());
    command
        .args(words)
        .env_remove("TORCHCACHE_DIR")
        .env_remove("TORCHCACHE_REMOTE")
        .env_remove("TORCHCACHE_REMOTE_MODE")
        .env_remove("TORCHCACHE_DISABLE");
    if let Some(directory) = directory {
        command.env("TORCHCACHE_DIR", directory);
    }
    command
}

/// The child under a limit of the shell.
fn limited(limit: &str, directory: &Path, words: &str) -> Command {
    let mut command = Command::new("sh");
    let shell = format!("{limit}; exec {} {words}", program().display());
    command
        .args(["-c", &shell])
        .env("TORCHCACHE_DIR", directory);
    command
}

/// The `child` program: where Cargo put it, or next to this test if both were moved.
pub(crate) fn program() -> PathBuf {
    let built = PathBuf::from(env!("CARGO_BIN_EXE_child"));
    if built.exists() {
        return built;
    }
    std::env::current_exe()
        .expect("a path to this test")
        .with_file_name("child")
}

fn run(mut command: Command) -> (String, Output) {
    let output = command.output().expect("the child starts");
    (
        String::from_utf8_lossy(&output.stdout).trim().to_owned(),
        output,
    )
}

pub(crate) fn succeed(command: Command) -> String {
    let (stdout, output) = run(command);
    assert!(
        output.status.success(),
        "{}",
        String::from_utf8_lossy(&output.stderr)
    );
    stdout
}

#[test]
fn flushed_rows_survive_a_kill_while_writing() {
    for round in 0..8u64 {
        let root = tempfile::tempdir().unwrap();
        let mut child = child(Some(root.path()), &["stream", "3"])
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let mut lines = BufReader::new(child.stdout.take().unwrap()).lines();
        let rows = |line: String| -> u64 { line["flushed ".len()..].parse().unwrap() };
        let mut flushed = 0;
        for _ in 0..=round {
            let line = lines.next().expect("the child streams until it is killed");
            flushed = rows(line.unwrap());
        }
        // The child goes on to the next rows; the kill may leave half a file.
        std::thread::sleep(std::time::Duration::from_millis(round * 3));
        child.kill().unwrap();
        assert!(!child.wait().unwrap().success(), "killed, not ended");
        // Lines printed before the kill acknowledge more rows.
        for line in lines.map_while(Result::ok) {
            flushed = rows(line);
        }
        let count = flushed.to_string();
        // The child checks every row against its input.
        let found = succeed(self::child(Some(root.path()), &["store", "0", &count]));
        assert_eq!(
            found,
            format!("hits {flushed} misses 0 faults []"),
            "round {round}"
        );
    }
}

#[test]
fn a_full_disk_is_a_counted_fault() {
    // A limit on the size of files simulates the full disk: writes beyond it fail, also where the signal
    // that comes with it is not ignored.
    for limit in ["ulimit -f 8; trap '' XFSZ", "ulimit -f 8"] {
        let root = tempfile::tempdir().unwrap();
        let stdout = succeed(limited(limit, root.path(), "store-on-disk 0 500"));
        assert!(
            stdout.starts_with("hits 0 misses 500 faults [("),
            "{limit}: {stdout}"
        );
        // With free space the rows are computed and stored.
        let again = succeed(child(Some(root.path()), &["store-on-disk", "0", "500"]));
        assert!(again.starts_with("hits 0 misses 500"), "{again}");
        let again = succeed(child(Some(root.path()), &["store-on-disk", "0", "500"]));
        assert_eq!(again, "hits 500 misses 0 faults []");
    }
}

#[test]
fn several_processes_write_to_one_directory() {
    let root = tempfile::tempdir().unwrap();
    let children: Vec<_> = (0..4)
        .map(|number| {
            let from = (number * 50).to_string();
            child(Some(root.path()), &["store", &from, "100"])
                .stdout(Stdio::piped())
                .spawn()
                .unwrap()
        })
        .collect();
    for child in children {
        assert!(child.wait_with_output().unwrap().status.success());
    }
    let found = succeed(child(Some(root.path()), &["store", "0", "250"]));
    assert_eq!(found, "hits 250 misses 0 faults []");
}

#[test]
fn private_directories_are_removed_even_after_a_kill() {
    let temporary = tempfile::tempdir().unwrap();
    let left = || fs::read_dir(temporary.path()).unwrap().count();
    let private = |words: &[&str]| {
        let mut command = child(None, words);
        command.env("TMPDIR", temporary.path());
        command
    };
    assert_eq!(
        succeed(private(&["store", "0", "10"])),
        "hits 0 misses 10 faults []"
    );
    assert_eq!(left(), 0, "removed at exit");
    let mut killed = private(&["stream", "1"])
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let mut lines = BufReader::new(killed.stdout.take().unwrap()).lines();
    lines.next().unwrap().unwrap();
    killed.kill().unwrap();
    killed.wait().unwrap();
    assert_eq!(left(), 1, "left behind by the kill");
    succeed(private(&["store", "0", "10"]));
    assert_eq!(left(), 0, "removed by the next process");
}

#[test]
fn torchcache_dir_must_be_an_absolute_path() {
    for value in ["", "relative/path", "~/features", "$HOME/features"] {
        let (_, output) = run(child(Some(Path::new(value)), &["store", "0", "1"]));
        let stderr = String::from_utf8_lossy(&output.stderr);
        assert!(!output.status.success());
        let wanted = format!("TORCHCACHE_DIR is {value:?}; expected an absolute path");
        assert!(stderr.contains(&wanted), "{stderr}");
        assert!(
            stderr.contains("with `~` and variables expanded"),
            "{stderr}"
        );
        assert!(stderr.contains("child::double"), "{stderr}");
    }
}

#[test]
fn torchcache_disable_switches_every_cache_off() {
    let root = tempfile::tempdir().unwrap();
    for (value, calls) in [
        ("1", "calls 0 enabled false persistent true hash None"),
        ("0", "calls 1 enabled true persistent true hash Some"),
    ] {
        let mut command = child(Some(root.path()), &["disabled", "0", "10"]);
        let stdout = succeed({
            command.env("TORCHCACHE_DISABLE", value);
            command
        });
        assert!(stdout.starts_with(calls), "{stdout}");
        assert_eq!(
            fs::read_dir(root.path()).unwrap().count() == 0,
            value == "1"
        );
    }
}

#[test]
fn a_disk_tier_that_cannot_open_leaves_memory() {
    let root = tempfile::tempdir().unwrap();
    let stdout = succeed(limited("ulimit -n 1000", root.path(), "out-of-files"));
    assert_eq!(
        stdout,
        "hits 10 misses 20 faults [(\"opening the disk tier\", 1)]"
    );
}

#[test]
fn many_identities_need_few_files() {
    let root = tempfile::tempdir().unwrap();
    let stdout = succeed(limited("ulimit -n 64", root.path(), "many-identities"));
    assert_eq!(stdout, "hits 2000 faults 0");
}

#[test]
#[cfg(target_os = "linux")]
fn a_tier_that_cannot_grow_evicts() {
    let root = tempfile::tempdir().unwrap();
    let printed = succeed(child(Some(root.path()), &["little-memory"]));
    assert_eq!(printed, "400 401 true true");
}
