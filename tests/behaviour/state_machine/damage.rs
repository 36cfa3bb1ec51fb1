//! Damage to the files of a disk tier.

use std::fs::{self, File, OpenOptions};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};

use crate::persistent_module::segments;

/// A kind of damage.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Damage {
    /// A byte of a segment changes.
    Flip,
    /// A segment is cut short.
    Cut,
    /// A segment is removed.
    Remove,
    /// The directory of an identity is removed.
    RemoveDirectory,
    /// A segment is copied to the directory of another identity.
    Transplant,
    /// A file replaces the cache directory, or is removed again.
    Block,
}

/// Damages a segment and returns the directory name of its identity, or `None` if there was no
/// segment to damage.
///
/// If segments may be `mapped`, a cut segment is a new file: cutting a mapped file ends the process, as
/// documented.
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
        Damage::Block => unreachable!("not damage to a segment"),
    }
    Some(directory.file_name()?.to_str()?.to_owned())
}

fn flip(file: &File, place: u64) {
    let mut byte = [0];
    file.read_exact_at(&mut byte, place).unwrap();
    file.write_all_at(&[byte[0] ^ 0x10], place).unwrap();
}

/// Replaces a file.
fn replace(path: &Path, bytes: &[u8]) {
    let new = path.with_extension("new");
    fs::write(&new, bytes).unwrap();
    fs::rename(new, path).unwrap();
}

/// The directories next to this one.
fn others(root: &Path, directory: &Path) -> Vec<PathBuf> {
    let entries = fs::read_dir(root).unwrap().flatten();
    let mut others: Vec<PathBuf> = entries.map(|entry| entry.path()).collect();
    others.retain(|other| other.is_dir() && other != directory);
    others.sort();
    others
}

/// Replaces a directory by a file or, if it is one already, removes the file and with `restore` puts
/// the directory back. Returns whether it is a file now.
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
