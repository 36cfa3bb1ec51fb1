//! Segments lie where they do not belong: in the directory of another identity, and in that of
//! other weights. Their rows have other keys, so that nobody finds them there.

use std::fs;
use std::path::{Path, PathBuf};

use tch::nn::Module;
use torchcache_faults::Tally;
use torchcache_faults::tally::{Plan, ensure};

use crate::modules::{Scale, check, rows};

pub(crate) fn run(plan: &Plan) -> Tally {
    let mut tally = Tally::default();
    for _ in 0..plan.rounds {
        tally.round("segments of another identity", foreign);
    }
    tally
}

fn segments(dir: &Path) -> Vec<PathBuf> {
    let entries = fs::read_dir(dir).into_iter().flatten().flatten();
    let paths = entries.map(|entry| entry.path());
    paths
        .filter(|path| path.extension().is_some_and(|end| end == "tcs"))
        .collect()
}

fn foreign(tally: &mut Tally) -> Result<(), String> {
    let root = tempfile::tempdir().map_err(|error| error.to_string())?;
    let numbers: Vec<i64> = (0..50).collect();
    let xs = rows(&numbers);
    let mut directories = Vec::new();
    for factor in [2.0, 3.0] {
        let scale = Scale::by(factor, root.path());
        check(tally, &scale.forward(&xs), &scale.expected(&xs));
        ensure(scale.torchcache.flush(), || "rows were lost".into())?;
        let hash = scale.torchcache.module_hash().ok_or("no identity")?;
        directories.push(root.path().join(hash));
    }
    let [two, three] = [&directories[0], &directories[1]].map(|dir| segments(dir));
    for (segment, dir) in [(&two[0], &directories[1]), (&three[0], &directories[0])] {
        let copied = fs::copy(segment, dir.join("0-moved.tcs"));
        copied.map_err(|error| error.to_string())?;
        tally.caused += 1;
    }
    for (factor, own) in [(2.0, &two[0]), (3.0, &three[0])] {
        // With its own rows gone, there are only those of the other.
        fs::remove_file(own).map_err(|error| error.to_string())?;
        let scale = Scale::by(factor, root.path());
        check(tally, &scale.forward(&xs), &scale.expected(&xs));
        let ran = scale.ran.take();
        ensure(ran == 50, || format!("{ran} of 50 rows were computed"))?;
        let faults = scale.torchcache.stats().faults;
        ensure(faults.is_empty(), || {
            format!("a sound segment is no fault: {faults:?}")
        })?;
    }
    Ok(())
}
