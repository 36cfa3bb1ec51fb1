//! Which module has an identity that does not cover its code: with a `version`, closures that differ
//! in their code or captures have the same module hash. In a process, one module claims it.

use std::collections::BTreeMap;
use std::panic::Location;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, Weak};

use crate::sync::lock;

/// Who claims an identity.
#[derive(Debug)]
pub(super) struct Claimant {
    /// The source location that wraps the module.
    pub(super) place: &'static Location<'static>,
    /// Lives as long as the module. `None` where all modules that are wrapped there are equal.
    pub(super) alive: Option<Arc<()>>,
}

/// The rows that are claimed with an identity: those of others may be of another module.
#[derive(Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Rows {
    /// They end with the module.
    InMemory,
    /// Below a configured directory, or a private one of the process.
    OnDisk(Option<PathBuf>),
    /// Those of a module that contains this one, and may outlive it.
    OfOuterModule,
}

impl Rows {
    /// The rows below `directory`, or else in a private one.
    pub(super) fn on_disk(directory: Option<&Path>) -> Self {
        Rows::OnDisk(directory.map(resolved))
    }
}

/// A path without links and relative parts, as far as it exists.
fn resolved(path: &Path) -> PathBuf {
    let path = std::path::absolute(path).unwrap_or_else(|_| path.to_owned());
    let found = path.ancestors().find_map(|ancestor| {
        let rest = path.strip_prefix(ancestor).ok()?;
        Some(ancestor.canonicalize().ok()?.join(rest))
    });
    found.unwrap_or(path)
}

#[derive(Debug)]
struct Claim {
    place: &'static Location<'static>,
    alive: Option<Weak<()>>,
}

static CLAIMS: Mutex<BTreeMap<([u8; 32], Rows), Claim>> = Mutex::new(BTreeMap::new());

impl Claimant {
    /// Claims an identity for `rows`. If they outlive the module, no other one may ever have it.
    ///
    /// # Errors
    ///
    /// The location that wraps the module which has it.
    pub(super) fn claim(
        &self,
        identity: [u8; 32],
        rows: Rows,
    ) -> Result<(), &'static Location<'static>> {
        let mut claims = lock(&CLAIMS);
        claims.retain(|(_, rows), claim| *rows != Rows::InMemory || claim.is_alive());
        let claim = claims.entry((identity, rows)).or_insert_with(|| Claim {
            place: self.place,
            alive: self.alive.as_ref().map(Arc::downgrade),
        });
        if claim.is_by(self) {
            Ok(())
        } else {
            Err(claim.place)
        }
    }
}

impl Claim {
    fn is_by(&self, claimant: &Claimant) -> bool {
        let one = match (&self.alive, &claimant.alive) {
            (Some(owner), Some(claimant)) => std::ptr::eq(owner.as_ptr(), Arc::as_ptr(claimant)),
            (None, None) => true,
            _ => false,
        };
        one && self.place == claimant.place
    }

    fn is_alive(&self) -> bool {
        let alive = self.alive.as_ref();
        alive.is_none_or(|alive| alive.strong_count() > 0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_directory_has_one_name() {
        let root = tempfile::tempdir().unwrap();
        let (real, link) = (root.path().join("real"), root.path().join("link"));
        std::fs::create_dir(&real).unwrap();
        std::os::unix::fs::symlink(&real, &link).unwrap();
        let name = |path: &Path| Rows::on_disk(Some(path));
        let before = name(&real.join("made later"));
        assert_eq!(name(&link.join("./made later")), before);
        std::fs::create_dir(real.join("made later")).unwrap();
        assert_eq!(name(&link.join("made later")), before);
        assert_ne!(name(&real.join("other")), before);
    }
}
