//! Manifests: writes that of an identity, and explains what changed since an earlier one.

use std::io;
use std::path::Path;

use torchcache_store::fs::{FileSystem, Os};
use torchcache_store::manifest::{FILE, Manifest, difference, newest, note_newest};

use super::Identity;

/// Writes the manifest of `identity` into its directory `path`, unless there is one.
///
/// # Errors
///
/// Errors of the file system. The cache works without its manifest.
pub(crate) fn write(path: &Path, module: &str, identity: &Identity) -> io::Result<()> {
    let directory = Os.open_dir(path, false)?;
    let manifest = Manifest::new(module, &identity.hash, identity.parts.clone());
    if manifest.write(&directory)?
        && let Some(root) = path.parent()
    {
        note_newest(root, module, &identity.hash)?;
    }
    Ok(())
}

/// What changed between `identity` and the newest identity of this module in `root`; `None` where
/// `root` has none, or has this one.
pub(crate) fn explain(root: &Path, module: &str, identity: &Identity) -> Option<String> {
    if root.join(&identity.hash).join(FILE).exists() {
        return None;
    }
    let before = newest(root, module)?;
    Some(difference(&before.parts, &identity.parts))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::identity::Fingerprinter;
    use crate::options::Options;

    fn identity(version: &str, walk: impl FnOnce(&mut Fingerprinter<'_>)) -> Identity {
        let options = Options::builder().version(version).build().unwrap();
        Identity::compute("m", &options, &Default::default(), walk).unwrap()
    }

    #[test]
    fn the_change_since_the_newest_manifest_is_explained() {
        let root = tempfile::tempdir().unwrap();
        let before = identity("", |f| f.field("fc.ws", &tch::Tensor::from_slice(&[1.0])));
        let after = identity("", |f| f.field("fc.ws", &tch::Tensor::from_slice(&[2.0])));
        assert_eq!(explain(root.path(), "m", &before), None, "no manifest yet");
        let directory = root.path().join(&before.hash);
        std::fs::create_dir(&directory).unwrap();
        write(&directory, "m", &before).unwrap();
        assert_eq!(
            explain(root.path(), "m", &before),
            None,
            "the same identity"
        );
        assert_eq!(
            explain(root.path(), "other", &after),
            None,
            "another module"
        );
        assert_eq!(
            explain(root.path(), "m", &after).unwrap(),
            "the weights of `fc.ws` changed; fields and options did not"
        );
    }

    #[test]
    fn an_unreadable_manifest_is_ignored() {
        let root = tempfile::tempdir().unwrap();
        std::fs::create_dir(root.path().join("x")).unwrap();
        std::fs::write(root.path().join("x").join(FILE), "{not json").unwrap();
        assert_eq!(explain(root.path(), "m", &identity("", |_| ())), None);
    }
}
