//! Which caches there are: a root holds one directory for each. What is only a directory beside them
//! is not taken for one.

use std::ffi::{OsStr, OsString};
use std::fmt;
use std::io::{self, ErrorKind};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use crate::catalog::directory;
use crate::fs::permissions;
use crate::fs::temp_file::{is_temp, is_unique};
use crate::fs::{Directory, FileSystem, Os, read_exact};
use crate::manifest::{self, Manifest};
use crate::segment::{END_MAGIC, MAGIC, SegmentError, SegmentReader, segment_names};

/// How often at most a directory is listed that changes meanwhile.
const LOOKS: usize = 64;

/// A directory of caches, or that of one cache, or both.
#[derive(Debug)]
pub struct Root {
    fs: Arc<dyn FileSystem>,
    path: PathBuf,
    is_cache: bool,
}

/// What a root holds.
#[derive(Debug)]
pub struct Listing {
    /// The caches, by name.
    pub caches: Vec<Cache>,
    /// Directories that could not be looked into, and why: they may hold a cache.
    pub unopened: Vec<(PathBuf, io::Error)>,
}

/// The directory of one cache.
#[derive(Clone)]
pub struct Cache {
    fs: Arc<dyn FileSystem>,
    name: String,
    path: PathBuf,
}

impl Root {
    /// Looks at a directory, which links may lead to. One that holds segments itself, or a manifest,
    /// is that of a cache.
    ///
    /// # Errors
    /// What the system says; among it that there is no such directory.
    pub fn open(path: &Path) -> io::Result<Root> {
        Root::open_on(Arc::new(Os), &path.canonicalize()?)
    }

    /// The same on another file system, whose links are not followed: see [`fs`](crate::fs).
    ///
    /// # Errors
    /// As [`Root::open`].
    ///
    /// ```
    /// use std::sync::Arc;
    /// use torchcache_store::fs::Os;
    /// use torchcache_store::admin::Root;
    ///
    /// let dir = tempfile::tempdir()?;
    /// assert!(!Root::open_on(Arc::new(Os), dir.path())?.is_cache());
    /// # Ok::<(), std::io::Error>(())
    /// ```
    pub fn open_on(fs: Arc<dyn FileSystem>, path: &Path) -> io::Result<Root> {
        let dir = fs.open_dir(path, false)?;
        // A file of that name may be somebody else's.
        let is_cache = !segment_names(&*dir)?.is_empty() || Manifest::read(&*dir).is_ok();
        let path = path.to_owned();
        Ok(Root { fs, path, is_cache })
    }

    /// Where it is, with links resolved.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Whether it is the directory of a cache. There may be others in it all the same: a segment or a
    /// manifest that somebody copied to the wrong place makes any directory one.
    pub fn is_cache(&self) -> bool {
        self.is_cache
    }

    /// The caches that are there now. Where there are others in the directory of a cache, that itself
    /// comes first, and is called `.`.
    ///
    /// # Errors
    /// What the system says of the root itself.
    pub fn list(&self) -> io::Result<Listing> {
        let mut listing = Listing {
            caches: Vec::new(),
            unopened: Vec::new(),
        };
        for entry in self.fs.open_dir(&self.path, false)?.list()? {
            if entry.is_file {
                continue;
            }
            let path = self.path.join(&entry.name);
            let dir = self.fs.open_dir(&path, false);
            match dir.and_then(|dir| holds_cache(&*dir)) {
                Ok(true) => listing.caches.push(self.cache(path)),
                Ok(false) => {}
                // Gone meanwhile, a link, a pipe.
                Err(error)
                    if matches!(error.kind(), ErrorKind::NotFound | ErrorKind::NotADirectory) => {}
                Err(error) => listing.unopened.push((path, error)),
            }
        }
        listing.caches.sort_by(|a, b| a.path.cmp(&b.path));
        if self.is_cache {
            let mut itself = self.cache(self.path.clone());
            // What lies in it has names that are relative to it.
            if !listing.caches.is_empty() {
                itself.name = ".".to_owned();
            }
            listing.caches.insert(0, itself);
        }
        Ok(listing)
    }

    fn cache(&self, path: PathBuf) -> Cache {
        let name = path.file_name().unwrap_or(path.as_os_str());
        Cache {
            fs: self.fs.clone(),
            name: name.to_string_lossy().into_owned(),
            path,
        }
    }
}

/// Whether a directory is that of a cache, by the names in it.
fn holds_cache(dir: &dyn Directory) -> io::Result<bool> {
    let is_manifest = dir.stat(manifest::FILE.as_ref()).is_ok_and(|it| it.is_file);
    Ok(is_manifest || !segment_names(dir)?.is_empty() || !temp_names(dir)?.is_empty())
}

/// The names of all files in the making, by whomever.
pub(super) fn temp_names(dir: &dyn Directory) -> io::Result<Vec<OsString>> {
    let entries = dir.list()?.into_iter();
    let temps = entries.filter(|entry| entry.is_file && entry.name.to_str().is_some_and(is_temp));
    Ok(temps.map(|entry| entry.name).collect())
}

impl Cache {
    /// The module hash that the directory is named after, or the name that somebody chose.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Where it is.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Its manifest. The cache works without one.
    ///
    /// # Errors
    /// What the system says, and what is no manifest.
    pub fn manifest(&self) -> io::Result<Manifest> {
        Manifest::read(&*self.open()?)
    }

    /// The directory, if nobody else may have written what it holds.
    pub(super) fn open(&self) -> io::Result<Arc<dyn Directory>> {
        directory::open(&*self.fs, &self.path, false)
    }

    /// Removes the directory, which has to be empty.
    pub(super) fn remove_dir(&self) -> io::Result<()> {
        self.fs.remove_dir(&self.path)
    }
}

impl fmt::Debug for Cache {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Cache").field(&self.path).finish()
    }
}

/// Lists the segments of a directory until a listing has nothing new, and no name changed meanwhile:
/// while others merge, a listing may have neither a merged segment nor one of its sources. `look` gets
/// each listing, and says whether there was something new in it.
pub(super) fn each_listing(
    dir: &dyn Directory,
    mut look: impl FnMut(Vec<OsString>) -> bool,
) -> io::Result<()> {
    for _ in 0..LOOKS {
        let before = dir.metadata()?.modified;
        if !look(segment_names(dir)?) && dir.metadata()?.modified == before {
            break;
        }
    }
    Ok(())
}

/// Opens a segment, if nobody else may have written it.
pub(super) fn open_trusted(
    dir: &dyn Directory,
    name: &OsStr,
) -> Result<SegmentReader, SegmentError> {
    trusted(dir, name, |dir, name| {
        SegmentReader::open_in(dir, name, false)
    })
}

/// Looks into a segment, if nobody else may have written it: that is asked before anything in the file
/// is looked at, so that what a stranger wrote is not called corrupt. Nor is what only ends in `.tcs`.
pub(super) fn trusted<T>(
    dir: &dyn Directory,
    name: &OsStr,
    look: impl FnOnce(&dyn Directory, &OsStr) -> Result<T, SegmentError>,
) -> Result<T, SegmentError> {
    permissions::check_file(&dir.stat(name)?, &dir.metadata()?)
        .map_err(SegmentError::PermissionRejected)?;
    let looked = look(dir, name);
    if looked.as_ref().is_err_and(SegmentError::is_corruption) && is_foreign(dir, name)? {
        let why = "it is a segment neither by its name nor by what is at its ends";
        return Err(SegmentError::PermissionRejected(why.to_owned()));
    }
    looked
}

/// Whether a file that ends in `.tcs` is of another program: torchcache gives no such name, and nothing
/// of a segment is at either end of it, not even the zeros that a power cut leaves.
pub(super) fn is_foreign(dir: &dyn Directory, name: &OsStr) -> io::Result<bool> {
    if name.to_str().is_some_and(is_unique) {
        return Ok(false);
    }
    let file = dir.open(name)?;
    let len = file.metadata()?.len;
    let mut begin = vec![0; len.min(MAGIC.len() as u64) as usize];
    read_exact(&*file, &mut begin, 0)?;
    let mut end = vec![0; begin.len()];
    read_exact(&*file, &mut end, len - begin.len() as u64)?;
    let is_blank = begin.iter().all(|&byte| byte == 0);
    Ok(!is_blank && !MAGIC.starts_with(&begin) && end != END_MAGIC)
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::os::unix::fs::symlink;

    use super::*;

    fn names(root: &Path) -> Vec<String> {
        let listing = Root::open(root).and_then(|root| root.list());
        let caches = listing.expect("it can be listed").caches;
        caches.into_iter().map(|cache| cache.name).collect()
    }

    #[test]
    fn caches_are_directories_with_a_manifest_or_segments_and_nothing_else() {
        let temp = tempfile::tempdir().expect("a temporary directory");
        let root = temp.path();
        let file = |path: &str| {
            let path = root.join(path);
            fs::create_dir_all(path.parent().expect("it has one")).expect("it can be made");
            fs::write(path, b"?").expect("it can be written");
        };
        file("by-manifest/manifest.json");
        file("by-segment/a.tcs");
        file("unfinished/.tmp-1.tcs");
        file("foreign/notes.txt");
        file("manifest.json");
        fs::create_dir(root.join("empty")).expect("it can be made");
        symlink(root.join("by-segment"), root.join("link")).expect("it can be made");
        assert_eq!(names(root), ["by-manifest", "by-segment", "unfinished"]);
        // Of a cache's own directory, through a link as well, since it was named.
        assert_eq!(names(&root.join("by-segment")), ["by-segment"]);
        assert_eq!(names(&root.join("link")), ["by-segment"]);
        assert!(Root::open(&root.join("absent")).is_err());
        // A stray segment hides none of them.
        file("stray.tcs");
        let all = names(root);
        assert_eq!(all, [".", "by-manifest", "by-segment", "unfinished"]);
        assert!(Root::open(&root.join("manifest.json")).is_err());
    }
}
