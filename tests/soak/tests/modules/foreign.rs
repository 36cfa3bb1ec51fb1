//! Segments in the directory of another identity. Their rows have other keys, so that they are
//! misses there.

use std::fs;
use std::path::{Path, PathBuf};

use tch::nn::Module;
use torchcache_faults::report::{Report, cases};
use torchcache_soak::modules::{Scale, check, rows};

#[test]
fn segments_of_another_identity_are_misses() {
    let report = Report::new("a segment under another identity's directory");
    for round in 0..cases(2, 50) {
        report.case(format_args!("round {round}"), || foreign(&report));
    }
    report.finish();
}

fn segments(dir: &Path) -> Vec<PathBuf> {
    let entries = fs::read_dir(dir).into_iter().flatten().flatten();
    let paths = entries.map(|entry| entry.path());
    paths
        .filter(|path| path.extension().is_some_and(|end| end == "tcs"))
        .collect()
}

fn foreign(report: &Report) {
    let root = tempfile::tempdir().unwrap();
    let numbers: Vec<i64> = (0..50).collect();
    let xs = rows(&numbers);
    let mut directories = Vec::new();
    for factor in [2.0, 3.0] {
        let scale = Scale::by(factor, root.path());
        check(report, &scale.forward(&xs), &scale.expected(&xs));
        scale.torchcache.flush().expect("no row is lost");
        let hash = scale.torchcache.module_hash().expect("an identity");
        directories.push(root.path().join(hash));
    }
    let [two, three] = [&directories[0], &directories[1]].map(|dir| segments(dir));
    for (segment, dir) in [(&two[0], &directories[1]), (&three[0], &directories[0])] {
        let copied = fs::copy(segment, dir.join("0-moved.tcs"));
        copied.unwrap();
        report.caused(1);
    }
    for (factor, own) in [(2.0, &two[0]), (3.0, &three[0])] {
        // With its own rows gone, there are only those of the other.
        fs::remove_file(own).unwrap();
        let scale = Scale::by(factor, root.path());
        check(report, &scale.forward(&xs), &scale.expected(&xs));
        let ran = scale.ran.take();
        assert!(ran == 50, "{ran} of 50 rows were computed");
        let faults = scale.torchcache.stats().faults;
        assert!(faults.is_empty(), "a sound segment is no fault: {faults:?}");
    }
}
