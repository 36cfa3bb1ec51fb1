//! `manifest.json`: what went into the identity that a directory is named after, so that an
//! unexpected miss can be explained. It is apart from whoever computes identities, so that it is read
//! where no tensor is known; nothing is decided by it. Its layout is in `docs/format.md`.
//!
//! ```
//! use torchcache_store::fs::{FileSystem, Os};
//! use torchcache_store::manifest::{Category, Manifest, Part, difference, newest};
//!
//! let root = tempfile::tempdir()?;
//! let weights = |digest| vec![Part::new("fc.ws", Category::Weights, "Float[10, 4]", digest)];
//! let before = Manifest::new("demo::Head", "5eed", weights([1; 32]));
//! before.write(&Os.open_dir(&root.path().join("5eed"), true)?)?;
//!
//! let before = newest(root.path(), "demo::Head").expect("it was written");
//! assert_eq!(
//!     difference(&before.parts, &weights([2; 32])),
//!     "the weights of `fc.ws` changed; code, fields and options did not"
//! );
//! # Ok::<(), std::io::Error>(())
//! ```

mod difference;

use std::fmt;
use std::io::{self, ErrorKind};
use std::path::Path;
use std::sync::Arc;
use std::time::SystemTime;

use serde::{Deserialize, Serialize};

pub use difference::difference;

use crate::fs::temp_file::TempFile;
use crate::fs::{Directory, File, FileSystem, Os, read_exact};

/// The name of the file.
pub const FILE: &str = "manifest.json";

/// The layout that this build writes and reads.
const FORMAT: u32 = 1;

/// Manifests are small; a larger file is not ours.
const MAX_BYTES: u64 = 16 << 20;

/// Longer values are cut in the manifest: their digest says whether they changed. And so are names
/// where they are shown.
const READABLE: usize = 120;

/// What went into an identity.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Manifest {
    format: u32,
    /// The path and name of the module.
    pub module: String,
    /// The identity, after which the directory is named.
    pub hash: String,
    /// The program that wrote it, with its version.
    pub created_by: String,
    /// What was hashed, in that order.
    pub parts: Vec<Part>,
    /// What the rows of each cached function are made of.
    #[serde(default)]
    pub outputs: Vec<Output>,
}

/// What a cached function returns.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Output {
    /// Its name.
    pub function: String,
    /// How the output is built of tensors: see [`Schema`](crate::schema::Schema::structure).
    pub structure: String,
}

/// One thing that went into the hash.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Part {
    /// What it is.
    pub category: Category,
    /// Where it is in the module. Several parts may have one path.
    pub path: String,
    /// A short readable value; the digest decides.
    pub value: String,
    /// The BLAKE3 digest of its bytes.
    #[serde(with = "hex")]
    pub digest: [u8; 32],
}

/// What a part is. The numbers go into the hash.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Category {
    /// The code of a function.
    Code = 0,
    /// A plain value.
    Field = 1,
    /// A tensor.
    Weights = 2,
    /// An option that changes what rows hold.
    Option = 3,
}

impl fmt::Display for Category {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            Category::Code => "code",
            Category::Field => "field",
            Category::Weights => "weights",
            Category::Option => "option",
        })
    }
}

impl Part {
    /// A part whose value may be of any length.
    pub fn new(path: &str, category: Category, readable: &str, digest: [u8; 32]) -> Part {
        Part {
            category,
            path: path.to_owned(),
            value: shortened(readable),
            digest,
        }
    }
}

fn shortened(text: &str) -> String {
    match text.char_indices().nth(READABLE) {
        Some((end, _)) => format!("{}…", &text[..end]),
        None => text.to_owned(),
    }
}

impl Manifest {
    /// What an identity of a module consists of.
    pub fn new(module: &str, hash: &str, parts: Vec<Part>) -> Manifest {
        Manifest {
            format: FORMAT,
            module: module.to_owned(),
            hash: hash.to_owned(),
            created_by: concat!("torchcache ", env!("CARGO_PKG_VERSION")).to_owned(),
            parts,
            outputs: Vec::new(),
        }
    }

    /// With what its functions return.
    #[must_use]
    pub fn with_outputs(mut self, outputs: Vec<Output>) -> Manifest {
        self.outputs = outputs;
        self
    }

    /// Writes it into a directory, unless one is there: then it is of the same identity.
    ///
    /// # Errors
    /// What the file system says. The cache works without its manifest.
    pub fn write(&self, dir: &Arc<dyn Directory>) -> io::Result<()> {
        if dir.stat(FILE.as_ref()).is_ok() {
            return Ok(());
        }
        let mut json = serde_json::to_vec_pretty(self)?;
        json.push(b'\n');
        put(dir, &json, None)
    }

    /// Reads the manifest of a directory.
    ///
    /// # Errors
    /// What the file system says, and [`ErrorKind::InvalidData`] for what is no manifest of ours.
    pub fn read(dir: &dyn Directory) -> io::Result<Manifest> {
        Manifest::parse(&Manifest::bytes(&*dir.open(FILE.as_ref())?)?)
    }

    /// All bytes of a file that may be a manifest.
    pub(crate) fn bytes(file: &dyn File) -> io::Result<Vec<u8>> {
        let len = file.metadata()?.len;
        if len > MAX_BYTES {
            return Err(foreign(format!(
                "it has {len} bytes, more than {MAX_BYTES}"
            )));
        }
        let mut bytes = vec![0; len as usize];
        read_exact(file, &mut bytes, 0)?;
        Ok(bytes)
    }

    /// The manifest that a file of these bytes holds.
    ///
    /// # Errors
    /// [`ErrorKind::InvalidData`], and where in the file it is no manifest of ours. The message
    /// repeats nothing of the file: it may be anything.
    pub fn parse(bytes: &[u8]) -> io::Result<Manifest> {
        let manifest: Manifest = serde_json::from_slice(bytes).map_err(|error| {
            let (line, column) = (error.line(), error.column());
            foreign(format!(
                "line {line}, column {column} is not as in a manifest"
            ))
        })?;
        match manifest.format {
            FORMAT => Ok(manifest),
            other => Err(foreign(format!(
                "it is of format {other}, this build reads {FORMAT}"
            ))),
        }
    }
}

/// Puts the bytes of a manifest into a directory, unless one is there; as if written at some time.
pub(crate) fn put(
    dir: &Arc<dyn Directory>,
    json: &[u8],
    written: Option<SystemTime>,
) -> io::Result<()> {
    let (temp, mut file) = TempFile::create(dir.clone())?;
    file.write_all(json)?;
    if let Some(written) = written {
        // The manifest is worth more than its age.
        let _ = file.set_modified(written);
    }
    file.sync()?; // or a power cut could leave the name without the bytes
    match temp.publish(FILE) {
        Err(error) if error.kind() != ErrorKind::AlreadyExists => Err(error),
        _ => Ok(()),
    }
}

fn foreign(what: String) -> io::Error {
    io::Error::new(ErrorKind::InvalidData, what)
}

/// The manifest of a module that was written last, among those in the directories of `root`.
pub fn newest(root: &Path, module: &str) -> Option<Manifest> {
    let dirs = Os.open_dir(root, false).ok()?.list().ok()?;
    let written = dirs.iter().filter_map(|entry| {
        let dir = Os.open_dir(&root.join(&entry.name), false).ok()?;
        let written = dir.stat(FILE.as_ref()).ok()?.modified;
        Some((written, Manifest::read(&*dir).ok()?))
    });
    let of_module = written.filter(|(_, manifest)| manifest.module == module);
    let newest = of_module.max_by_key(|(written, _)| *written)?;
    Some(newest.1)
}

#[cfg(test)]
mod tests;
