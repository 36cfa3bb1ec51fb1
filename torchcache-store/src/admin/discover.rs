//! Finds the caches below a root, which holds one directory for each, and opens their segments after a
//! check of the permissions. Other directories in a root are ignored.

use std::collections::BTreeMap;
use std::ffi::OsStr;
use std::fmt;
use std::io::{self, ErrorKind};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};

use crate::catalog::directory;
use crate::descriptors::are_exhausted;
use crate::fs::permissions;
use crate::fs::temp_file::is_temp;
use crate::fs::{Directory, DirectoryId, FileSystem, Metadata, Os, file_names};
use crate::manifest::{self, Manifest};
use crate::remote::local_dir::is_local_dir;
use crate::segment::{
    SegmentError, SegmentReader, has_flipped_version, is_foreign, segment_names, visit_segments,
};
use crate::size::sum;
use crate::threads;

/// A directory of caches, or the directory of one cache, or both.
///
/// It and its caches are opened in the directories that were above them when they were found, so that a link that
/// takes the place of one of those leads nowhere else, and another directory in the place of a found one is none.
#[derive(Debug)]
pub struct Root {
    place: Place,
    is_cache: bool,
}

/// Where a directory is.
#[derive(Clone)]
struct Place {
    fs: Arc<dyn FileSystem>,
    /// The directory above, if it could be opened.
    above: Option<Arc<dyn Directory>>,
    path: PathBuf,
    /// Which directory it was when it was found.
    id: Option<DirectoryId>,
}

/// Why a directory is not the one that was found.
#[derive(Debug, thiserror::Error)]
#[error("another directory took its place since it was listed; run this again")]
struct Replaced;

/// Whether an error says that another directory took the place of one.
pub(super) fn is_replaced(error: &io::Error) -> bool {
    error.get_ref().is_some_and(|error| error.is::<Replaced>())
}

impl Place {
    /// Does something by the name in the directory above, or by the path where that is not supported.
    fn reach<T>(
        &self,
        by_name: impl FnOnce(&dyn Directory, &OsStr) -> io::Result<T>,
        by_path: impl FnOnce(&Path) -> io::Result<T>,
    ) -> io::Result<T> {
        let reached = match (&self.above, self.path.file_name()) {
            (Some(above), Some(name)) => by_name(&**above, name),
            _ => Err(ErrorKind::Unsupported.into()),
        };
        match reached {
            Err(error) if error.kind() == ErrorKind::Unsupported => by_path(&self.path),
            reached => reached,
        }
    }

    fn open(&self) -> io::Result<Arc<dyn Directory>> {
        let dir = self.reach(
            |above, name| above.open_dir(name),
            |path| self.fs.open_dir(path, false),
        )?;
        match self.id {
            Some(id) if dir.id()? != id => Err(io::Error::new(ErrorKind::NotFound, Replaced)),
            _ => Ok(dir),
        }
    }

    /// Opens the directory, so that no other one is opened later.
    fn find(&mut self) -> io::Result<Arc<dyn Directory>> {
        let dir = self.open()?;
        self.id = Some(dir.id()?);
        Ok(dir)
    }

    /// Removes the directory, which must be empty.
    fn remove(&self) -> io::Result<()> {
        self.reach(
            |above, name| above.remove_dir(name),
            |path| self.fs.remove_dir(path),
        )
    }

    /// A directory in this one, which was opened.
    fn within(&self, opened: &Arc<dyn Directory>, name: &OsStr) -> Place {
        Place {
            fs: self.fs.clone(),
            above: Some(opened.clone()),
            path: self.path.join(name),
            id: None,
        }
    }
}

/// The contents of a root.
#[derive(Debug)]
pub struct Listing {
    /// The caches, by name.
    pub caches: Vec<Cache>,
    /// Directories that may be caches but could not be opened, with the error of each.
    pub unopened: Vec<(PathBuf, io::Error)>,
}

/// The directory of one cache.
#[derive(Clone)]
pub struct Cache {
    place: Place,
    name: String,
}

impl Root {
    /// Opens a directory; links in `path` are followed. A directory with segments or a manifest is that of
    /// a cache.
    ///
    /// # Errors
    /// If the directory does not exist or cannot be listed.
    pub fn open(path: &Path) -> io::Result<Root> {
        Root::open_on(Arc::new(Os), &path.canonicalize()?)
    }

    /// Like [`Root::open`], on another [file system](crate::fs), and without following links.
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
        let above = match path.parent().map(|parent| fs.open_dir(parent, false)) {
            Some(Err(error)) if are_exhausted(&error) => return Err(error),
            above => above.and_then(Result::ok),
        };
        let path = path.to_owned();
        let id = None;
        let mut place = Place {
            fs,
            above,
            path,
            id,
        };
        let dir = place.find()?;
        // `manifest.json` may be a file of another program.
        let is_cache = !segment_names(&*dir)?.is_empty() || read_manifest(&*dir)?.is_ok();
        Ok(Root { place, is_cache })
    }

    /// The path, with links resolved.
    pub fn path(&self) -> &Path {
        &self.place.path
    }

    /// Whether it is the directory of a cache. It may contain other caches all the same, after a segment
    /// or a manifest was copied to the wrong place.
    pub fn is_cache(&self) -> bool {
        self.is_cache
    }

    /// Lists the caches. If the root is a cache and contains others, it comes first under the name `.`.
    ///
    /// # Errors
    /// If the root itself cannot be listed, or no file descriptor is left for a directory in it.
    pub fn list(&self) -> io::Result<Listing> {
        let mut listing = Listing {
            caches: Vec::new(),
            unopened: Vec::new(),
        };
        let opened = self.place.open()?;
        for entry in opened.list()? {
            if entry.is_file || is_local_dir(&entry) {
                continue;
            }
            let mut place = self.place.within(&opened, &entry.name);
            match place.find().and_then(|dir| holds_cache(&*dir)) {
                Ok(true) => listing.caches.push(Cache::new(place)),
                Ok(false) => {}
                // It says nothing about the directory.
                Err(error) if are_exhausted(&error) => return Err(error),
                // Gone meanwhile, a link or a pipe.
                Err(error)
                    if matches!(error.kind(), ErrorKind::NotFound | ErrorKind::NotADirectory) => {}
                Err(error) => listing.unopened.push((place.path, error)),
            }
        }
        listing.caches.sort_by(|a, b| a.path().cmp(b.path()));
        if self.is_cache {
            let mut itself = Cache::new(self.place.clone());
            if !listing.caches.is_empty() {
                itself.name = ".".to_owned();
            }
            listing.caches.insert(0, itself);
        }
        Ok(listing)
    }
}

/// The name of a file as text, which no other name has: bytes that are not UTF-8 are written as `\xNN`, and so is a
/// backslash.
pub fn name_text(name: &OsStr) -> String {
    let chunks = name.as_encoded_bytes().utf8_chunks().map(|chunk| {
        let invalid = chunk.invalid().iter().map(|byte| format!("\\x{byte:02x}"));
        chunk.valid().replace('\\', "\\x5c") + &invalid.collect::<String>()
    });
    chunks.collect()
}

/// Whether a directory is that of a cache, judging by the names in it.
fn holds_cache(dir: &dyn Directory) -> io::Result<bool> {
    let is_manifest = dir.stat(manifest::FILE.as_ref()).is_ok_and(|it| it.is_file);
    Ok(is_manifest
        || !segment_names(dir)?.is_empty()
        || !file_names(dir, is_temp)?.is_empty()
        || dir.list()?.iter().any(is_local_dir))
}

impl Cache {
    fn new(place: Place) -> Cache {
        let name = place.path.file_name().unwrap_or(place.path.as_os_str());
        let name = name_text(name);
        Cache { place, name }
    }

    /// The module hash that the directory is named after, or the name that the user chose, as
    /// [`name_text`] writes it.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// The directory.
    pub fn path(&self) -> &Path {
        &self.place.path
    }

    /// Reads the manifest. A cache works without one.
    ///
    /// # Errors
    /// [`ErrorKind::NotFound`] without a manifest, [`ErrorKind::InvalidData`] if the file is not one that
    /// this version can read, and any other error of reading it.
    pub fn manifest(&self) -> io::Result<Manifest> {
        Manifest::read(&*self.open()?)
    }

    /// Opens the directory if its permissions are accepted.
    pub(crate) fn open(&self) -> io::Result<Arc<dyn Directory>> {
        directory::checked(self.place.open()?)
    }

    /// Removes the directory, which must be empty.
    pub(super) fn remove_dir(&self) -> io::Result<()> {
        self.place.remove()
    }
}

impl fmt::Debug for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.path.fmt(f)
    }
}

impl fmt::Debug for Cache {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Cache").field(&self.path()).finish()
    }
}

/// A segment, and what was read of it.
pub(crate) struct Found<T> {
    pub(crate) file: Metadata,
    pub(crate) contents: Result<T, SegmentError>,
}

/// The segments of a directory by name. An error is one of the system that says nothing about the file.
pub(crate) type Segments<T> = BTreeMap<String, io::Result<Found<T>>>;

/// Reads the segments of a directory, several at a time, and returns those of the last listing. Other
/// processes may use the directory meanwhile: see [`visit_segments`]. Before segments are read, `expect`
/// gets their bytes. That no file descriptor is left says nothing about a segment, and is an error.
pub(crate) fn read_segments<T: Send>(
    dir: &dyn Directory,
    expect: impl Fn(u64),
    read: impl Fn(&str, &Metadata) -> Result<T, SegmentError> + Sync,
) -> io::Result<Segments<T>> {
    let segments = Mutex::new(BTreeMap::new());
    let listed = visit_segments(dir, |names| {
        let stat = |name: String| (dir.stat(name.as_ref()), name);
        let files: Vec<_> = names.into_iter().map(stat).collect();
        let known = files.iter().filter_map(|(file, _)| file.as_ref().ok());
        expect(sum(known.map(|file| file.len)));
        let workers = threads::count().min(files.len());
        threads::for_each(workers, files.into_iter(), |(file, name)| {
            let found = file.map(|file| {
                let contents = if_permitted(dir, &name, &file, &read);
                Found { file, contents }
            });
            let is_gone = match &found {
                Ok(found) => found
                    .contents
                    .as_ref()
                    .is_err_and(SegmentError::is_not_found),
                Err(error) => error.kind() == ErrorKind::NotFound,
            };
            if !is_gone {
                let mut segments = segments.lock().unwrap_or_else(PoisonError::into_inner);
                segments.insert(name, found);
            }
        });
    })?;
    let mut segments = segments
        .into_inner()
        .unwrap_or_else(PoisonError::into_inner);
    segments.retain(|name, _| listed.contains(name));
    let errors = segments.values().filter_map(|found| match found {
        Ok(found) => match &found.contents {
            Err(SegmentError::Io(error)) => Some(error),
            _ => None,
        },
        Err(error) => Some(error),
    });
    let exhausted = errors.into_iter().find(|error| are_exhausted(*error));
    match exhausted.and_then(io::Error::raw_os_error) {
        Some(number) => Err(io::Error::from_raw_os_error(number)),
        None => Ok(segments),
    }
}

/// Reads the manifest of a directory. The outer error says that no file descriptor is left, and nothing about the
/// manifest.
pub(super) fn read_manifest(dir: &dyn Directory) -> io::Result<io::Result<Manifest>> {
    match Manifest::read(dir) {
        Err(error) if are_exhausted(&error) => Err(error),
        manifest => Ok(manifest),
    }
}

/// Opens a segment whose permissions were accepted.
pub(crate) fn open(dir: &dyn Directory, name: &str) -> Result<SegmentReader, SegmentError> {
    let opened = SegmentReader::open_in(dir, name.as_ref(), false);
    if let Err(SegmentError::FutureVersion(version)) = opened
        && has_flipped_version(&*dir.open(name.as_ref())?, version)?
    {
        let what = format!("a bit of its version was flipped: it begins as version {version}");
        return Err(SegmentError::Corrupt(what));
    }
    opened
}

/// Calls `read` on a segment if its permissions are accepted. They are checked before the file is opened,
/// so that a file of another user is not reported as corrupt. Nor is a file of another program whose name
/// ends in `.tcs`.
pub(super) fn if_permitted<T>(
    dir: &dyn Directory,
    name: &str,
    file: &Metadata,
    read: impl FnOnce(&str, &Metadata) -> Result<T, SegmentError>,
) -> Result<T, SegmentError> {
    permissions::check_file(file, &dir.metadata()?).map_err(SegmentError::PermissionRejected)?;
    let result = read(name, file);
    if result.as_ref().is_err_and(SegmentError::is_corruption) && is_foreign(dir, name)? {
        return Err(SegmentError::Foreign);
    }
    result
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
    fn only_directories_with_cache_files_are_caches() {
        let temp = tempfile::tempdir().expect("a temporary directory");
        let root = temp.path();
        let file = |path: &str| {
            let path = root.join(path);
            fs::create_dir_all(path.parent().expect("it has one")).expect("it can be made");
            fs::write(path, b"?").expect("it can be written");
        };
        file("by-manifest/manifest.json");
        file("by-segment/a.tcs");
        file("unfinished/.tmp-0000000000000001-1-0000000000000001.tcs");
        file("foreign/notes.txt");
        file("manifest.json");
        fs::create_dir(root.join("empty")).expect("it can be made");
        symlink(root.join("by-segment"), root.join("link")).expect("it can be made");
        assert_eq!(names(root), ["by-manifest", "by-segment", "unfinished"]);
        // The directory of a cache itself; a link that was named is followed.
        assert_eq!(names(&root.join("by-segment")), ["by-segment"]);
        assert_eq!(names(&root.join("link")), ["by-segment"]);
        assert!(Root::open(&root.join("absent")).is_err());
        // A stray segment in the root hides no cache.
        file("stray.tcs");
        let all = names(root);
        assert_eq!(all, [".", "by-manifest", "by-segment", "unfinished"]);
        assert!(Root::open(&root.join("manifest.json")).is_err());
    }
}
