//! The commands on a real server that speaks S3, with a proxy in front that causes faults. `cargo xtask test` installs the
//! server.

use std::process::Output;
use std::sync::OnceLock;

use serde_json::Value;
use torchcache_servers::{
    Fault, FaultProxy, READER, RequestKind, SeaweedFs, Server, WRITER, variables,
};

use crate::support::{command, hash, root, text};

const BUCKET: &str = "command-line";

/// One server for all tests, each with a prefix of its own.
fn server() -> &'static SeaweedFs {
    static SERVER: OnceLock<(SeaweedFs, tempfile::TempDir)> = OnceLock::new();
    let (server, _) = SERVER.get_or_init(|| {
        let dir = tempfile::tempdir().unwrap();
        let server = SeaweedFs::start(dir.path()).expect("the server starts");
        server.create_bucket(BUCKET).expect("it can be made");
        (server, dir)
    });
    server
}

/// A directory with caches in `features`, and a prefix.
struct Team {
    dir: tempfile::TempDir,
    url: String,
}

impl Team {
    fn new(prefix: &str) -> Team {
        server();
        let dir = tempfile::tempdir().unwrap();
        let features = dir.path().join("features");
        std::fs::rename(root().keep(), &features).unwrap();
        // Its rows only look compressed.
        std::fs::remove_dir_all(features.join(hash(2))).unwrap();
        let url = format!("s3://{BUCKET}/{prefix}");
        Team { dir, url }
    }

    /// The same with the caches in the bucket.
    fn pushed(prefix: &str) -> Team {
        let team = Team::new(prefix);
        let pushed = team.json(&["push", "features", &team.url], 0);
        assert_eq!(pushed["rows"], 1840);
        team
    }

    fn run_as(&self, endpoint: &str, key: (&str, &str), args: &[&str]) -> Output {
        let mut command = command(args);
        command
            .current_dir(self.dir.path())
            .envs(variables(endpoint, key));
        command.output().unwrap()
    }

    #[track_caller]
    fn json(&self, args: &[&str], code: i32) -> Value {
        self.json_at(&server().endpoint(), args, code)
    }

    #[track_caller]
    fn json_at(&self, endpoint: &str, args: &[&str], code: i32) -> Value {
        let output = self.run_as(endpoint, WRITER, &[args, &["--json"]].concat());
        let (out, err) = (text(&output.stdout), text(&output.stderr));
        assert_eq!(output.status.code(), Some(code), "{args:?}: {out}{err}");
        serde_json::from_str(&out).unwrap_or_else(|error| panic!("{error} in {out}"))
    }

    /// What a run prints that ends with this exit code.
    #[track_caller]
    fn printed_as(&self, key: (&str, &str), args: &[&str], code: i32) -> String {
        let output = self.run_as(&server().endpoint(), key, args);
        let all = text(&output.stdout) + &text(&output.stderr);
        assert_eq!(output.status.code(), Some(code), "{args:?}: {all}");
        all
    }
}

fn proxy() -> FaultProxy {
    FaultProxy::start(server().address()).expect("it starts")
}

#[test]
fn rows_go_to_a_bucket_and_come_back() {
    let team = Team::pushed("back");
    let url = &*team.url;
    assert_eq!(
        team.json(&["ls", url], 0)["caches"]
            .as_array()
            .map(Vec::len),
        Some(4)
    );
    assert_eq!(team.json(&["show", url, &hash(1)], 0)["rows"], 1797);
    let checked = team.json(&["check", url], 0);
    assert_eq!(
        (&checked["intact"], &checked["rows"]),
        (&true.into(), &1840.into())
    );
    assert_eq!(team.json(&["pull", url, "copy"], 0)["rows"], 1840);
    assert_eq!(team.json(&["check", "copy"], 0)["intact"], true);
    let pruned = team.json(&["prune", url, "--max-size", "600KB", "--grace", "1ms"], 0);
    assert_eq!(pruned["removed_rows"], 1797);
    let cleared = team.json(&["clear", url, "--yes"], 0);
    assert_eq!(cleared["removed_segments"], 2);
    assert_eq!(
        team.json(&["ls", url], 0)["caches"],
        Value::Array(Vec::new())
    );
}

#[test]
fn readers_read_and_are_told_what_is_denied() {
    let team = Team::pushed("readers");
    let url = &*team.url;
    team.printed_as(READER, &["ls", url], 0);
    team.printed_as(READER, &["check", url], 0);
    team.printed_as(READER, &["pull", url, "copy"], 0);
    let cleared = team.printed_as(READER, &["clear", url, "--yes"], 2);
    assert!(
        cleared.contains("not removed: 4 objects in all"),
        "{cleared}"
    );
    assert!(cleared.contains("denied"), "{cleared}");
    let pruned = ["prune", url, "--max-size", "1B", "--grace", "1ms", "--yes"];
    let pruned = team.printed_as(READER, &pruned, 2);
    assert!(pruned.contains("not removed: 3 objects in all"), "{pruned}");
    let more = format!("s3://{BUCKET}/denied");
    let pushed = team.printed_as(READER, &["push", "features", &more], 2);
    assert!(
        pushed.contains("cannot push to") && pushed.contains("denied"),
        "{pushed}"
    );
    assert_eq!(
        team.json(&["check", url], 0)["rows"],
        1840,
        "nothing was removed"
    );
}

#[test]
fn buckets_and_credentials_that_are_wrong_are_explained() {
    let team = Team::new("wrong");
    let wrong = ("writer", "another secret");
    let denied = team.printed_as(wrong, &["ls", &team.url], 2);
    assert!(denied.contains("check the credentials"), "{denied}");
    assert!(!denied.contains("another secret"), "{denied}");
    let missing = team.printed_as(WRITER, &["ls", "s3://no-such-bucket/x"], 2);
    assert!(missing.contains("bucket does not exist"), "{missing}");
}

#[test]
fn denied_removals_are_counted_and_asked_for_once() {
    let team = Team::pushed("removals");
    let proxy = proxy();
    proxy.set_plan(|request| match request.kind() {
        RequestKind::Delete => Fault::denied(),
        _ => Fault::None,
    });
    let cleared = team.json_at(&proxy.endpoint(), &["clear", &team.url, "--yes"], 2);
    assert_eq!(
        (&cleared["failures"], &cleared["removed_segments"]),
        (&4.into(), &0.into())
    );
    // Once for each cache.
    assert_eq!(proxy.count(RequestKind::Delete), 4);
}

#[test]
fn what_a_network_damages_is_asked_for_again() {
    let team = Team::pushed("network");
    for fault in [
        Fault::FlipByte(100),
        Fault::CutBody(50),
        Fault::Reset,
        Fault::slow_down(),
        Fault::WrongRange(7),
    ] {
        let proxy = proxy();
        let requests = std::sync::atomic::AtomicU64::new(0);
        let name = format!("{fault:?}");
        proxy.set_plan(move |request| {
            let number = requests.fetch_add(1, std::sync::atomic::Ordering::SeqCst);
            match request.kind() {
                RequestKind::Get if number.is_multiple_of(3) => fault.clone(),
                _ => Fault::None,
            }
        });
        let checked = team.json_at(&proxy.endpoint(), &["check", &team.url], 0);
        assert_eq!(checked["rows"], 1840, "{name}");
    }
}
