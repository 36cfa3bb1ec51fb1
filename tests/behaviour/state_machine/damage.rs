//! What may happen to the files of a disk tier, done to them.

use std::fs::{self, File, OpenOptions};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};

use crate::persistent_module::segments;

/// What happens.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Damage {
    /// A byte of a segment is another one.
    Flip,
    /// A segment ends too soon.
    Cut,
    /// A segment is gone.
    Remove,
    /// All of an identity is gone.
    RemoveDirectory,
    /// A segment lies in the directory of another identity as well.
    Transplant,
    /// A file is in the way of the whole directory, or is taken away again.
    Block,
}

/// Where a segment was damaged: the name of its identity's directory. `None` where there was nothing
/// to damage.
///
/// `mapped`: somebody may have mapped the segments. A file that is cut short then ends the process,
/// as is documented, so another file takes its place.
pub(crate) fn damage(damage: Damage, root: &Path, pick: usize, mapped: bool) -> Option<String> {
    let length = |path: &PathBuf| fs::metadata(path).unwrap().len();
    let mut found = segments(root);
    found.retain(|path| length(path) > 0);
    let path = found.get(pick % found.len().max(1))?;
    let (directory, length) = (path.parent()?, length(path));
    let place = pick as u64 * 7919 % length;
    match damage {
        Damage::Flip => {
            let file = OpenOptions::new().read(true).write(true).open(path);
            flip(&file.unwrap(), place);
        }
        Damage::Cut if mapped => {
            let bytes = fs::read(path).unwrap();
            replace(path, &bytes[..place as usize]);
        }
        Damage::Cut => {
            let file = OpenOptions::new().write(true).open(path);
            file.unwrap().set_len(place).unwrap();
        }
        Damage::Remove => fs::remove_file(path).unwrap(),
        Damage::RemoveDirectory => fs::remove_dir_all(directory).unwrap(),
        Damage::Transplant => {
            let copy = others(root, directory).pop()?.join(path.file_name()?);
            if copy.exists() {
                return None;
            }
            replace(&copy, &fs::read(path).unwrap());
        }
        Damage::Block => unreachable!("it is not done to a segment"),
    }
    Some(directory.file_name()?.to_str()?.to_owned())
}

fn flip(file: &File, place: u64) {
    let mut byte = [0];
    file.read_exact_at(&mut byte, place).unwrap();
    file.write_all_at(&[byte[0] ^ 0x10], place).unwrap();
}

/// Puts a new file in place of what is there.
fn replace(path: &Path, bytes: &[u8]) {
    let new = path.with_extension("new");
    fs::write(&new, bytes).unwrap();
    fs::rename(new, path).unwrap();
}

/// The directories beside this one.
fn others(root: &Path, directory: &Path) -> Vec<PathBuf> {
    let entries = fs::read_dir(root).unwrap().flatten();
    let mut others: Vec<PathBuf> = entries.map(|entry| entry.path()).collect();
    others.retain(|other| other.is_dir() && other != directory);
    others.sort();
    others
}

/// Puts a file in the way of a directory, or where there is one takes it away, and puts back what was
/// there if `restore`. Returns whether it is in the way now.
pub(crate) fn block(root: &Path, restore: bool) -> bool {
    let aside = root.with_extension("aside");
    if root.is_file() {
        fs::remove_file(root).unwrap();
        match restore {
            true => fs::rename(aside, root).unwrap(),
            false => fs::remove_dir_all(aside).unwrap(),
        }
        return false;
    }
    fs::create_dir_all(root).unwrap();
    fs::rename(root, aside).unwrap();
    fs::write(root, "in the way").unwrap();
    true
}
