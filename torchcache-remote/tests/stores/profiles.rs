//! Credentials of a profile, by a program that stands for `aws`.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::time::{Duration, Instant};

use torchcache_servers::{FaultProxy, Server, WRITER};
use torchcache_store::remote::ObjectErrorKind;

use crate::support::{BUCKET, server, soon};

/// A program that notes its arguments and runs a script.
fn write_program(dir: &Path, script: &str) {
    let path = dir.join("aws");
    let noted = dir.join("noted");
    let text = format!(
        "#!/bin/sh\necho \"$@\" >> '{}'\n{script}\n",
        noted.display()
    );
    fs::write(&path, text).unwrap();
    fs::set_permissions(&path, fs::Permissions::from_mode(0o755)).unwrap();
}

fn noted(dir: &Path) -> Vec<String> {
    let text = fs::read_to_string(dir.join("noted")).unwrap_or_default();
    text.lines().map(str::to_owned).collect()
}

/// The variables of a user who has profiles. The metadata service is one that refuses connections.
fn variables(dir: &Path) -> Vec<(String, String)> {
    let path = std::env::var("PATH").unwrap_or_default();
    [
        ("HOME", dir.display().to_string()),
        ("PATH", format!("{}:{path}", dir.display())),
        ("AWS_PROFILE", "team".to_owned()),
        ("AWS_METADATA_ENDPOINT", "http://127.0.0.1:9".to_owned()),
        // A variable that is set to nothing counts as not set.
        ("AWS_ACCESS_KEY_ID", String::new()),
        ("AWS_ENDPOINT_URL", String::new()),
    ]
    .map(|(name, value)| (name.to_owned(), value))
    .into()
}

#[test]
fn credentials_of_a_profile_are_exported_once() {
    let dir = tempfile::tempdir().unwrap();
    let server = server(&dir.path().join("server"));
    let (name, secret) = WRITER;
    write_program(
        dir.path(),
        &format!(
            "echo '{{\"Version\": 1, \"AccessKeyId\": \"{name}\", \"SecretAccessKey\": \"{secret}\", \
             \"Expiration\": \"2099-01-01T00:00:00+00:00\"}}'"
        ),
    );
    // The endpoint and the region come from the profile as well.
    fs::create_dir(dir.path().join(".aws")).unwrap();
    let config = format!(
        "[default]\nregion = nowhere\n[profile team]\nregion = eu-north-1\nendpoint_url = {}\n",
        server.endpoint()
    );
    fs::write(dir.path().join(".aws/config"), config).unwrap();

    let url = format!("s3://{BUCKET}/profile");
    let it = torchcache_remote::open_with(&url, variables(dir.path())).unwrap();
    assert_eq!(noted(dir.path()).len(), 0, "opening asks for nothing");
    std::thread::scope(|scope| {
        for n in 0..4 {
            let store = &it.store;
            scope.spawn(move || store.set(&format!("profile/{n}"), b"a", soon()).unwrap());
        }
    });
    assert_eq!(
        it.store
            .list("profile/", None, soon())
            .unwrap()
            .objects
            .len(),
        4
    );
    let expected = "configure export-credentials --format process --profile team";
    assert_eq!(noted(dir.path()), [expected]);
}

#[test]
fn a_profile_is_named_only_where_a_variable_names_one() {
    let dir = tempfile::tempdir().unwrap();
    write_program(dir.path(), "exit 1");
    fs::create_dir(dir.path().join(".aws")).unwrap();
    fs::write(dir.path().join(".aws/config"), "[sso-session team]\n").unwrap();
    let all = variables(dir.path()).into_iter();
    let all = all.filter(|(name, _)| name != "AWS_PROFILE");
    let url = format!("s3://{BUCKET}/profile");
    let it = torchcache_remote::open_with(&url, all).unwrap();
    let denied = it.store.get("profile/a", soon()).unwrap_err();
    assert_eq!(denied.kind, ObjectErrorKind::Denied, "{denied}");
    let expected = "configure export-credentials --format process";
    assert_eq!(noted(dir.path()), [expected]);
}

#[test]
fn a_profile_without_credentials_is_denied() {
    let dir = tempfile::tempdir().unwrap();
    let proxy = FaultProxy::start(([127, 0, 0, 1], 9).into()).unwrap();
    let mut all = variables(dir.path());
    all.push(("AWS_ENDPOINT_URL_S3".to_owned(), proxy.endpoint()));
    let url = format!("s3://{BUCKET}/profile");
    let error = |deadline| {
        let it = torchcache_remote::open_with(&url, all.clone()).unwrap();
        it.store.get("profile/a", deadline).unwrap_err()
    };

    write_program(
        dir.path(),
        "echo 'The SSO session has expired' >&2; exit 255",
    );
    let expired = error(soon());
    assert_eq!(expired.kind, ObjectErrorKind::Denied, "{expired}");
    assert!(
        expired.to_string().contains("The SSO session has expired"),
        "{expired}"
    );

    write_program(dir.path(), "echo nothing");
    let printed = error(soon());
    assert_eq!(printed.kind, ObjectErrorKind::Denied, "{printed}");

    // A program that does not end costs no more than the deadline. It ends with the test.
    write_program(dir.path(), r#"while [ -e "$0" ]; do sleep 0.1; done"#);
    let late = error(Instant::now() + Duration::from_millis(300));
    assert_eq!(late.kind, ObjectErrorKind::TimedOut, "{late}");
}
