//! What fuzzers begin with and what they found, through the functions that they call.

use std::fs;
use std::path::Path;

use torchcache_faults::fuzzed::TARGETS;

/// One test for all: some of them watch the memory of the whole process.
#[test]
fn every_seed_of_every_target_is_survived() {
    let package = std::env::var("CARGO_MANIFEST_DIR").expect("cargo says where this package is");
    let fuzz = Path::new(&package).with_file_name("fuzz");
    for (name, target) in TARGETS {
        let folder = fuzz.join("seeds").join(name);
        let files = fs::read_dir(&folder).expect("there are seeds");
        let mut paths: Vec<_> = files
            .map(|file| file.expect("it is listed").path())
            .collect();
        paths.sort();
        assert!((1..=20).contains(&paths.len()), "{} files", paths.len());
        for path in paths {
            println!("{}", path.display());
            target(&fs::read(&path).expect("it can be read"));
        }
        let harness = fuzz.join("fuzz_targets").join(name).with_extension("rs");
        assert!(harness.exists(), "{}", harness.display());
    }
}
