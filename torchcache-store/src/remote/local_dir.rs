//! The local directory of a remote tier, in that of its cache: footers of segments, and the journals of rows that are not
//! uploaded yet. Removing it costs requests, and those uploads.

use std::ffi::OsStr;
use std::io::{self, ErrorKind};
use std::sync::Arc;

use crate::catalog::directory;
use crate::fs::temp_file::{SUFFIX, is_unique, remove_stale, stale_names};
use crate::fs::{DirEntry, Directory, remove_if_present};

/// The start of the name of a directory.
const PREFIX: &str = "remote-";

/// How many hexadecimal digits follow.
const DIGITS: usize = 16;

/// The end of the name of a journal, in place of that of a temporary file.
pub(crate) const JOURNAL_SUFFIX: &str = ".journal";

/// The name of the directory for a URL and a prefix.
pub(crate) fn name(url: &str, prefix: &str) -> String {
    let mut hasher = blake3::Hasher::new();
    for text in [url, prefix] {
        hasher.update(&(text.len() as u64).to_le_bytes());
        hasher.update(text.as_bytes());
    }
    let digest = hasher.finalize().to_hex();
    format!("{PREFIX}{}", &digest[..DIGITS])
}

/// Whether an entry of a cache's directory is the local directory of a tier.
pub(crate) fn is_local_dir(entry: &DirEntry) -> bool {
    let digits = entry
        .name
        .to_str()
        .and_then(|name| name.strip_prefix(PREFIX));
    let is_digit = |byte: u8| byte.is_ascii_digit() || (b'a'..=b'f').contains(&byte);
    !entry.is_file && digits.is_some_and(|it| it.len() == DIGITS && it.bytes().all(is_digit))
}

/// Whether a file name is that of a journal.
pub(crate) fn is_journal(name: &str) -> bool {
    let unique = name.strip_suffix(JOURNAL_SUFFIX);
    unique.is_some_and(|unique| is_unique(&format!("{unique}{SUFFIX}")))
}

/// Opens the directory; `None` if it is gone, or no directory.
fn open(cache: &dyn Directory, name: &OsStr) -> io::Result<Option<Arc<dyn Directory>>> {
    match cache.open_dir(name).and_then(directory::checked) {
        Ok(dir) => Ok(Some(dir)),
        Err(error) if matches!(error.kind(), ErrorKind::NotFound | ErrorKind::NotADirectory) => {
            Ok(None)
        }
        Err(error) => Err(error),
    }
}

/// Whether a file is removed with the directory: a footer, or the journal of a process that is gone.
fn is_removable(dir: &dyn Directory, name: &str) -> io::Result<bool> {
    if !is_journal(name) {
        return Ok(super::footers::is_footer(name));
    }
    match dir.open(name.as_ref()) {
        Ok(file) => Ok(!file.is_locked()?),
        Err(error) if error.kind() == ErrorKind::NotFound => Ok(true),
        Err(error) => Err(error),
    }
}

/// Whether [`remove`] removes the directory.
pub(crate) fn holds_nothing_else(cache: &dyn Directory, name: &OsStr) -> io::Result<bool> {
    let Some(dir) = open(cache, name)? else {
        return Ok(false);
    };
    let stale = stale_names(&*dir, |_, error| Err(error))?;
    for entry in dir.list()? {
        let is_ours = match entry.name.to_str() {
            Some(name) if entry.is_file => {
                stale.iter().any(|stale| stale == name) || is_removable(&*dir, name)?
            }
            _ => false,
        };
        if !is_ours {
            return Ok(false);
        }
    }
    Ok(true)
}

/// Removes the files of the directory that no living process needs, and then the directory, unless it holds others.
/// Returns whether it is gone.
pub(crate) fn remove(cache: &dyn Directory, name: &OsStr) -> io::Result<bool> {
    let Some(dir) = open(cache, name)? else {
        return Ok(false);
    };
    remove_stale(&*dir, |_, error| Err(error))?;
    for entry in dir.list()? {
        if let Some(name) = entry.name.to_str().filter(|_| entry.is_file)
            && is_removable(&*dir, name)?
        {
            remove_if_present(&*dir, name)?;
        }
    }
    match cache.remove_dir(name) {
        Ok(()) => Ok(true),
        Err(error) if error.kind() == ErrorKind::DirectoryNotEmpty => Ok(false),
        Err(error) => Err(error),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_of_directories_and_journals_are_strict() {
        let dir = |name: &str| DirEntry {
            name: name.into(),
            is_file: false,
        };
        assert!(is_local_dir(&dir(&name("s3://bucket", "team/"))));
        for other in [
            "remote",
            "remote-",
            "remote-0123",
            "remote-0123456789ABCDEF",
        ] {
            assert!(!is_local_dir(&dir(other)), "{other}");
        }
        let name = "18bd1c2f9a3e4d50-1f4a-9c0e6b7d21f3a845";
        assert!(is_journal(&format!("{name}.journal")));
        for other in ["x.journal", &format!("{name}.tcs"), ".journal"] {
            assert!(!is_journal(other), "{other}");
        }
    }

    #[test]
    fn tiers_of_other_urls_and_prefixes_have_other_directories() {
        let names = [("a", "b"), ("ab", ""), ("", "ab"), ("a", "bc")];
        let names: std::collections::HashSet<_> = names
            .iter()
            .map(|(url, prefix)| name(url, prefix))
            .collect();
        assert_eq!(names.len(), 4);
    }
}
