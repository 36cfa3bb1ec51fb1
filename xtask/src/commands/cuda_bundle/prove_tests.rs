//! Runs `prove.py` on a bundle of programs that pass, fail, hang and measure, with a torch that has a GPU.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::process::{Command, Output};

use serde_json::{Value, json};

use super::PROVE;
use crate::commands::bench::proof;

/// Modules of Python that stand for the real ones.
const MODULES: [(&str, &str); 3] = [
    (
        "torch.py",
        "\
__version__ = '2.11.0+cu130'
class cuda:
    is_available = lambda: True
    device_count = lambda: 1
    class get_device_properties:
        name, major, minor, total_memory, multi_processor_count = 'GPU 9', 9, 0, 1, 2
        __init__ = lambda self, number: None
",
    ),
    ("numpy.py", ""),
    ("torchcache.py", "torchcache = 1"),
];

/// Tests of one name fail, and all of them hang where they are asked to.
const TESTS: &str = "\
[ -z \"$HANG\" ] || { echo 'test first ... ok'; echo 'test second ... ok'; sleep 600; }
case \"$1\" in
    device::) echo 'test device::digests ... FAILED'; echo 'it panicked at a.rs:1:'; echo 'no driver'; echo 'test result: FAILED. 8 passed; 1 failed;'; exit 101 ;;
    *) echo \"hashing: $TORCHCACHE_DEVICE_HASHING, tests: $*\"; echo 'test result: ok. 3 passed; 0 failed; 1 ignored'
esac
";

/// One part hangs and another fails, each after a figure.
const BENCH: &str = "\
figure() { printf '{\"part\": \"%s\", \"what\": \"hit\", \"text\": \"1 µs\", \"bar\": {\"text\": \"at most 2 µs\", \"reached\": %s}}\\n' \"$1\" \"$2\"; }
case $1 in
    limits) figure $1 true >>\"$3\"; sleep 600 ;;
    hashing) ;;
    hits) figure $1 false >>\"$3\" ;;
    epoch) figure $1 true >>\"$3\"; echo 'out of memory'; exit 3 ;;
    models) figure $1 true >>\"$3\"
esac
";

/// A bundle in `folder`.
fn make(folder: &Path) {
    let write = |file: &str, text: &str| {
        let path = folder.join(file);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, text).unwrap();
    };
    write("prove.py", PROVE);
    write(
        "bundle.json",
        r#"{"versions": "torchcache 0.1.0", "commit": "abc"}"#,
    );
    let programs = [
        ("test", "torchcache", "torchcache", TESTS),
        ("test", "tests", "behaviour", TESTS),
        ("bench", "benches", "cuda", BENCH),
    ];
    let mut list = String::new();
    for (kind, package, target, script) in programs {
        list += &format!("{kind} {package} {target} {target}\n");
        fs::create_dir_all(folder.join(package)).unwrap();
        let file = format!("bin/{target}");
        write(&file, &format!("#!/bin/sh\n{script}"));
        fs::set_permissions(folder.join(file), fs::Permissions::from_mode(0o755)).unwrap();
    }
    write("programs", &list);
    for (file, text) in MODULES {
        write(&format!("python/{file}"), text);
    }
}

/// Runs `prove.py`. `None` without a Python.
fn prove(folder: &Path, arguments: &[&str]) -> Option<(Output, Value)> {
    prove_with(folder, arguments, ("HANG", ""))
}

fn prove_with(
    folder: &Path,
    arguments: &[&str],
    (variable, value): (&str, &str),
) -> Option<(Output, Value)> {
    let run = Command::new("python3")
        .arg(folder.join("prove.py"))
        .args(["--limits", "0.2"])
        .args(arguments)
        .env(variable, value)
        .env("PYTHONPATH", folder.join("python"))
        .env("PATH", "/usr/bin:/bin")
        .env_remove("CUDA_HOME")
        .output();
    let output = run.ok()?;
    let text = fs::read_to_string(folder.join("output/proof.json"));
    let text = text.unwrap_or_else(|error| panic!("{error}: {output:?}"));
    Some((output, serde_json::from_str(&text).unwrap()))
}

/// What came of a step, and why.
fn outcome(proof: &Value, name: &str) -> (String, String) {
    let steps = proof["steps"].as_array().unwrap();
    let step = steps.iter().find(|step| step["name"] == name);
    let step = step.unwrap_or_else(|| panic!("no step {name} in {proof}"));
    let text = |field: &str| step[field].as_str().unwrap().to_owned();
    (text("status"), text("reason"))
}

#[test]
fn steps_that_fail_or_hang_stop_no_other() {
    let folder = tempfile::tempdir().unwrap();
    make(folder.path());
    let Some((output, proof)) = prove(folder.path(), &[]) else {
        return; // No Python.
    };
    assert_eq!(output.status.code(), Some(1));
    for (name, status, reason) in [
        ("machine", "passed", "GPU 9"),
        ("device hashing", "passed", "3 tests"),
        (
            "kernels",
            "failed",
            "8 passed, 1 failed: device::digests; the first: no driver",
        ),
        ("random rows", "passed", "3 tests"),
        ("ignored tests", "passed", "3 tests"),
        ("large rows", "passed", "3 tests"),
        ("memcheck", "not run", "compute-sanitizer not found"),
        ("behaviour", "passed", "3 tests"),
        ("one directory", "passed", "3 tests"),
        ("several devices", "not run", "this machine has one device"),
        ("python package", "passed", "it is installed"),
        (
            "bench limits",
            "failed",
            "killed after its time limit of 3 s",
        ),
        ("bench hashing", "failed", "it measured nothing"),
        ("bench hits", "failed", "missed 1 of 1 bars: hit"),
        ("bench epoch", "failed", "exit code 3: out of memory"),
        ("bench models", "passed", "1 figures, 1 bars reached"),
    ] {
        let expected = (status.to_owned(), reason.to_owned());
        assert_eq!(outcome(&proof, name), expected, "{name}");
    }
    // Figures count that were measured before a failure.
    let figures = proof["figures"].as_array().unwrap().iter();
    let parts: Vec<_> = figures.map(|figure| figure["part"].clone()).collect();
    assert_eq!(json!(parts), json!(["limits", "hits", "epoch", "models"]));
    let log = fs::read_to_string(folder.path().join("output/prove-behaviour.log")).unwrap();
    assert!(log.contains("hashing: on"), "{log}");
    let log = fs::read_to_string(folder.path().join("output/prove-ignored-tests.log")).unwrap();
    assert!(
        log.contains("hashing: on, tests: device_hashing:: "),
        "{log}"
    );
    assert!(log.contains(" --include-ignored"), "{log}");
    let summary = fs::read_to_string(folder.path().join("output/proof.txt")).unwrap();
    assert!(summary.contains("MISSED: at most 2 µs"), "{summary}");
    assert!(
        summary.contains("9 passed, 5 failed, 3 not run"),
        "{summary}"
    );

    let file = folder.path().join("output/proof.json");
    let error = format!("{:#}", proof::markdown(&file).unwrap_err());
    assert!(error.contains("`kernels` failed"), "{error}");
}

/// Each test that is ignored for want of a GPU is in a step, and named as it is there.
#[test]
fn tests_that_need_a_gpu_are_in_a_step() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("../tests/behaviour");
    let mut modules = Vec::new();
    for entry in fs::read_dir(root).unwrap() {
        let path = entry.unwrap().path();
        let text = fs::read_to_string(&path).unwrap_or_default();
        if text.contains("#[ignore = \"needs a CUDA device") {
            let name = path.file_stem().unwrap().to_str().unwrap();
            modules.push(format!("{name}::"));
        }
    }
    assert!(modules.len() >= 3, "{modules:?}");
    for module in modules {
        assert!(PROVE.contains(&module), "{module}");
    }
    let skipped = "on_the_default_stream_of_a_thread";
    assert!(PROVE.contains(skipped));
    let tests = include_str!("../../../../tests/behaviour/device_hashing.rs");
    assert!(tests.contains(&format!("fn {skipped}")));
}

#[test]
fn tests_that_hang_are_killed_and_those_before_them_counted() {
    let folder = tempfile::tempdir().unwrap();
    make(folder.path());
    let run = prove_with(folder.path(), &["random rows"], ("HANG", "1"));
    let Some((output, proof)) = run else {
        return; // No Python.
    };
    assert_eq!(output.status.code(), Some(1));
    let reason = "killed after its time limit of 4 s; 2 tests had passed";
    let expected = ("failed".to_owned(), reason.to_owned());
    assert_eq!(outcome(&proof, "random rows"), expected);
}

#[test]
fn named_steps_alone_are_run_and_their_figures_can_be_published() {
    let folder = tempfile::tempdir().unwrap();
    make(folder.path());
    let Some((output, proof)) = prove(folder.path(), &["machine", "bench models"]) else {
        return; // No Python.
    };
    assert_eq!(output.status.code(), Some(0), "{output:?}");
    assert_eq!(proof["steps"].as_array().unwrap().len(), 2);
    let page = proof::markdown(&folder.path().join("output/proof.json")).unwrap();
    assert!(page.contains("GPU 9; torchcache 0.1.0."), "{page}");
    assert!(page.contains("| hit | 1 µs |"), "{page}");
}

#[test]
fn without_a_gpu_nothing_is_proven() {
    let folder = tempfile::tempdir().unwrap();
    make(folder.path());
    let Some((output, proof)) = prove(folder.path(), &["--cpu", "machine", "kernels"]) else {
        return; // No Python.
    };
    assert_eq!(output.status.code(), Some(0), "{output:?}");
    let expected = ("not run".to_owned(), "--cpu".to_owned());
    assert_eq!(outcome(&proof, "kernels"), expected);
    assert_eq!(proof["cpu"], true);
}
