//! `manifest.json`: what went into the identity that a directory is named after, to explain an unexpected
//! miss. Lookups do not depend on it. It knows nothing of tensors, so that the command line can read it. The
//! layout is in `docs/format.md`.
//!
//! ```
//! use torchcache_store::fs::{FileSystem, Os};
//! use torchcache_store::manifest::{Category, IdentityPart, Manifest, difference, newest};
//!
//! let root = tempfile::tempdir()?;
//! let weights = |digest| vec![IdentityPart::new("fc.ws", Category::Weights, "Float[10, 4]", digest)];
//! let before = Manifest::new("demo::Head", "5eed", weights([1; 32]));
//! before.write(&Os.open_dir(&root.path().join("5eed"), true)?)?;
//!
//! let before = newest(root.path(), "demo::Head").expect("it was written");
//! assert_eq!(
//!     difference(&before.parts, &weights([2; 32])),
//!     "the weights of `fc.ws` changed; fields and options did not"
//! );
//! # Ok::<(), std::io::Error>(())
//! ```

mod difference;
mod newest;
mod part;

use std::io::{self, ErrorKind};
use std::sync::Arc;
use std::time::SystemTime;

use serde::{Deserialize, Serialize};

pub use difference::{PartChange, changes, difference};
pub use newest::{newest, note_newest};
pub use part::{Category, IdentityPart, shortened};

use crate::fs::temp_file::TempFile;
use crate::fs::{Directory, File, read_exact};

/// The file name of a manifest.
pub const FILE: &str = "manifest.json";

/// The format version that this build writes and reads.
const FORMAT: u32 = 1;

/// A larger file is not a manifest.
const MAX_BYTES: u64 = 16 << 20;

/// The manifest of a cache.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Manifest {
    format: u32,
    /// The path and name of the module's type.
    pub module: String,
    /// The module hash.
    pub hash: String,
    /// The name and version of the program that wrote it.
    pub created_by: String,
    /// The parts of the identity, in the order of hashing.
    pub parts: Vec<IdentityPart>,
}

impl Manifest {
    /// The manifest of an identity.
    pub fn new(module: &str, hash: &str, parts: Vec<IdentityPart>) -> Manifest {
        Manifest {
            format: FORMAT,
            module: module.to_owned(),
            hash: hash.to_owned(),
            created_by: concat!("torchcache ", env!("CARGO_PKG_VERSION")).to_owned(),
            parts,
        }
    }

    /// Writes the manifest into a directory, unless it has one, which is of the same identity. Returns
    /// whether it did.
    ///
    /// # Errors
    /// If writing fails. The cache works without a manifest.
    pub fn write(&self, dir: &Arc<dyn Directory>) -> io::Result<bool> {
        if dir.stat(FILE.as_ref()).is_ok() {
            return Ok(false);
        }
        let mut json = serde_json::to_vec_pretty(self)?;
        json.push(b'\n');
        publish(dir, &json, None)?;
        Ok(true)
    }

    /// Reads the manifest of a directory.
    ///
    /// # Errors
    /// [`ErrorKind::InvalidData`] if the file is not a manifest that this build reads, and any error of
    /// opening or reading it.
    pub fn read(dir: &dyn Directory) -> io::Result<Manifest> {
        Manifest::parse(&Manifest::bytes(&*dir.open(FILE.as_ref())?)?)
    }

    /// Reads all bytes of a file that may be a manifest.
    pub(crate) fn bytes(file: &dyn File) -> io::Result<Vec<u8>> {
        let len = file.metadata()?.len;
        if len > MAX_BYTES {
            return Err(invalid(format!(
                "it has {len} bytes, more than {MAX_BYTES}"
            )));
        }
        let mut bytes = vec![0; len as usize];
        read_exact(file, &mut bytes, 0)?;
        Ok(bytes)
    }

    /// Parses the bytes of a manifest.
    ///
    /// # Errors
    /// [`ErrorKind::InvalidData`] if they are not a manifest that this build reads. The message says where, but
    /// quotes nothing, since the file may be of another program.
    pub fn parse(bytes: &[u8]) -> io::Result<Manifest> {
        let manifest: Manifest = serde_json::from_slice(bytes).map_err(|error| {
            let (line, column) = (error.line(), error.column());
            invalid(format!(
                "line {line}, column {column} is not part of a manifest"
            ))
        })?;
        match manifest.format {
            FORMAT => Ok(manifest),
            other => Err(invalid(format!(
                "it has format {other}, this build reads {FORMAT}"
            ))),
        }
    }
}

/// Publishes the bytes of a manifest in a directory, unless it has one, with `written` as its time.
pub(crate) fn publish(
    dir: &Arc<dyn Directory>,
    json: &[u8],
    written: Option<SystemTime>,
) -> io::Result<()> {
    match TempFile::written(dir.clone(), json, written)?.publish(FILE) {
        Err(error) if error.kind() != ErrorKind::AlreadyExists => Err(error),
        _ => Ok(()),
    }
}

fn invalid(what: String) -> io::Error {
    io::Error::new(ErrorKind::InvalidData, what)
}

#[cfg(test)]
mod tests;
