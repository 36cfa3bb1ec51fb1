//! Any bytes as a manifest, compared with another one: what follows a zero byte.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;

use torchcache_store::fs::FileSystem;
use torchcache_store::manifest::{FILE, IdentityPart, Manifest, difference};

use crate::memory::bounded;
use crate::sim::Sim;

/// The memory that reading may take: for each byte of the file, and once.
const EACH_BYTE: usize = 8;
const ONCE: usize = 4 << 10;

/// The longest text of a difference: three names for each of four categories, of 120 characters each,
/// all escaped.
const LONGEST: usize = 16 << 10;

/// Reads any bytes as two manifests, and compares them.
///
/// # Panics
/// If what is read is not what was written, or the text of the difference is wrong, long, or has control
/// characters.
pub fn run(bytes: &[u8]) {
    let mut files = bytes.splitn(2, |byte| *byte == 0);
    let [first, second] = [(); 2].map(|()| read(files.next().unwrap_or_default()));
    if let (Some(first), Some(second)) = (first, second) {
        compare(&first.parts, &second.parts);
        compare(&first.parts, &first.parts);
    }
}

/// The manifest that a file holds, read in each way there is.
fn read(bytes: &[u8]) -> Option<Manifest> {
    let sim = Sim::new();
    sim.add(&Path::new("/here").join(FILE), bytes.to_vec());
    let dir = |path: &str, create| sim.open_dir(Path::new(path), create).expect("it is there");
    let here = dir("/here", false);
    let most = EACH_BYTE * bytes.len() + ONCE;
    let read = bounded(most, || Manifest::read(&*here));
    let parsed = Manifest::parse(bytes);
    assert_eq!(read.is_ok(), parsed.is_ok());
    match read {
        Ok(manifest) => {
            let there = dir("/there", true);
            manifest.write(&there).expect("it is written");
            let again = Manifest::read(&*there).expect("it was written by us");
            assert_eq!(again, manifest);
            Some(manifest)
        }
        Err(error) => {
            let text = error.to_string();
            assert!(
                text.len() < 100 && !text.contains(char::is_control),
                "{text:?}"
            );
            None
        }
    }
}

/// The parts, by what they are and where.
fn sorted(parts: &[IdentityPart]) -> BTreeMap<(u8, &str), Vec<[u8; 32]>> {
    let mut sorted: BTreeMap<_, Vec<_>> = BTreeMap::new();
    for part in parts {
        let digests = sorted.entry((part.category as u8, part.path.as_str()));
        digests.or_default().push(part.digest);
    }
    sorted
}

fn compare(before: &[IdentityPart], after: &[IdentityPart]) {
    let text = difference(before, after);
    assert_eq!(
        text,
        difference(after, before),
        "either way the same things changed"
    );
    assert!(
        text.len() < LONGEST && !text.contains(char::is_control),
        "{text:?}"
    );
    let (before, after) = (sorted(before), sorted(after));
    let all: BTreeSet<_> = before.keys().chain(after.keys()).copied().collect();
    let differs = |place: &(u8, &str)| before.get(place) != after.get(place);
    let changed: Vec<_> = all.into_iter().filter(differs).collect();
    assert_eq!(changed.is_empty(), text.starts_with("nothing "), "{text}");
    for category in 0..4 {
        let count = changed.iter().filter(|place| place.0 == category).count();
        let more = format!(" and {} more changed", count.saturating_sub(1));
        assert!(
            count <= 3 || text.contains(&more),
            "{text}: {count} of {category}"
        );
    }
}
