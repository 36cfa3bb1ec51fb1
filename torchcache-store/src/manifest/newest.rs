//! The newest manifest of a module. A small file in the root names its directory, so that it is found in the
//! same time however many there are.

use std::hash::Hasher;
use std::io;
use std::path::Path;

use twox_hash::XxHash3_64;

use super::{FILE, Manifest};
use crate::fs::temp_file::replace;
use crate::fs::{FileSystem, Os, read_exact};

/// Of a root without such a file, so many directories are searched; none if there are more.
const MAX_SEARCHED: usize = 64;

/// The longest name of a directory.
const MAX_NAME: u64 = 255;

/// The file that names the newest cache of a module.
fn note_file(module: &str) -> String {
    let mut hasher = XxHash3_64::with_seed(0);
    hasher.write(module.as_bytes());
    format!(".newest-{:016x}", hasher.finish())
}

/// Notes that the manifest in this directory of a root is the newest of its module.
///
/// # Errors
/// If the note cannot be written. The manifest is then not found among many.
pub fn note_newest(root: &Path, module: &str, dir: &str) -> io::Result<()> {
    let root = Os.open_dir(root, false)?;
    replace(&root, &note_file(module), dir.as_bytes())
}

/// Finds the most recently written manifest of a module in the directories of `root`: the one that
/// [`note_newest`] named, or, in a small root, the newest of all.
pub fn newest(root: &Path, module: &str) -> Option<Manifest> {
    let noted = || noted(root, module).ok().flatten();
    let is_of_module = |manifest: &Manifest| manifest.module == module;
    noted()
        .filter(is_of_module)
        .or_else(|| searched(root, is_of_module))
}

fn noted(root: &Path, module: &str) -> io::Result<Option<Manifest>> {
    let dir = Os.open_dir(root, false)?;
    let file = dir.open(note_file(module).as_ref())?;
    let mut name = vec![0; file.metadata()?.len.min(MAX_NAME) as usize];
    read_exact(&*file, &mut name, 0)?;
    // The file may be of another program.
    let name = String::from_utf8(name).unwrap_or_default();
    if name.is_empty() || name.starts_with('.') || name.contains('/') {
        return Ok(None);
    }
    Manifest::read(&*Os.open_dir(&root.join(name), false)?).map(Some)
}

fn searched(root: &Path, is_of_module: impl Fn(&Manifest) -> bool) -> Option<Manifest> {
    let entries = std::fs::read_dir(root).ok()?.take(MAX_SEARCHED + 1);
    let entries: Vec<_> = entries.flatten().collect();
    if entries.len() > MAX_SEARCHED {
        return None;
    }
    let written = entries.iter().filter_map(|entry| {
        let dir = Os.open_dir(&entry.path(), false).ok()?;
        let written = dir.stat(FILE.as_ref()).ok()?.modified;
        Some((written, Manifest::read(&*dir).ok()?))
    });
    let of_module = written.filter(|(_, manifest)| is_of_module(manifest));
    let newest = of_module.max_by_key(|(written, _)| *written)?;
    Some(newest.1)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn write(root: &Path, module: &str, hash: &str) {
        let dir = Os.open_dir(&root.join(hash), true).expect("it is made");
        let written = Manifest::new(module, hash, Vec::new()).write(&dir);
        assert!(written.expect("it is written"));
    }

    #[test]
    fn a_note_removes_what_a_killed_one_left() {
        use std::time::{Duration, SystemTime};
        let root = tempfile::tempdir().expect("a temporary directory");
        let note = note_file("m");
        let age = Duration::from_secs(2 * 3600);
        for (prefix, age, stays) in [
            (".tmp-", age, false),
            (".tmp-unlocked-", age, false),
            (".tmp-", Duration::ZERO, true),
            (".tmp-unlocked-", Duration::ZERO, true),
        ] {
            let left = root.path().join(format!("{prefix}{note}.tcs"));
            let file = std::fs::File::create(&left).expect("it can be made");
            let modified = file.set_modified(SystemTime::now() - age);
            modified.expect("it is ours");
            note_newest(root.path(), "m", "dir").expect("it is written");
            let noted = std::fs::read(root.path().join(&note)).expect("it is there");
            assert_eq!(noted, b"dir");
            assert_eq!(left.exists(), stays, "{left:?} may have a writer");
            let _ = std::fs::remove_file(left);
        }
    }

    #[test]
    fn the_newest_manifest_is_found_without_reading_the_others() {
        let root = tempfile::tempdir().expect("a temporary directory");
        let found = |module| newest(root.path(), module).map(|manifest| manifest.hash);
        for n in 0..=MAX_SEARCHED {
            write(root.path(), "m", &format!("{n}"));
        }
        assert_eq!(found("m"), None, "that would take time with their number");
        for hash in ["7", "new"] {
            if hash == "new" {
                write(root.path(), "m", hash);
            }
            note_newest(root.path(), "m", hash).expect("it is written");
            assert_eq!((found("m").as_deref(), found("n")), (Some(hash), None));
        }
        write(root.path(), "n", "other");
        for wrong in ["", "other", "gone", "../x", ".", "/etc", &"x".repeat(300)] {
            note_newest(root.path(), "m", wrong).expect("it is written");
            assert_eq!(found("m"), None, "{wrong}");
        }
    }
}
