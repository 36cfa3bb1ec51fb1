//! Which module has an identity that does not cover its code: with a `version`, closures that differ
//! in their code or captures have the same module hash. In a process, one module claims it.

use std::any::Any;
use std::collections::BTreeMap;
use std::panic::Location;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};

use crate::cache::claims::{Claims, Conflict};
use crate::sync::lock;

/// Who claims an identity: the same for modules that are meant to be.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) struct Claimant {
    /// The source location that wraps the module.
    pub(super) place: &'static Location<'static>,
    /// The number of the module. `None` where all modules that are wrapped there are equal.
    pub(super) number: Option<u64>,
}

/// The rows that are claimed with an identity: those of others may be of another module.
#[derive(Debug, PartialEq)]
pub(super) enum Rows {
    /// They end with the tiers that hold them.
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

    /// A digest of the rows and of an identity.
    fn of_identity(&self, identity: [u8; 32]) -> [u8; 32] {
        let mut hasher = blake3::Hasher::new();
        hasher.update(&identity);
        match self {
            Rows::InMemory => hasher.update(b"in memory"),
            Rows::OnDisk(None) => hasher.update(b"private"),
            Rows::OnDisk(Some(path)) => {
                hasher.update(b"below ");
                hasher.update(path.as_os_str().as_encoded_bytes())
            }
            Rows::OfOuterModule => hasher.update(b"outer"),
        };
        *hasher.finalize().as_bytes()
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

/// The most claims of rows that outlive their modules: a few megabytes.
const MAX_CLAIMS: usize = 1 << 15;

/// Those of rows that outlive their modules.
static PERMANENT: Mutex<Claims<Claimant>> = Mutex::new(Claims::new(MAX_CLAIMS));

/// Those of rows in memory: who has each, and how often.
static HELD: Mutex<BTreeMap<[u8; 32], (Claimant, usize)>> = Mutex::new(BTreeMap::new());

/// A claim that ends when this is dropped.
struct HeldClaim([u8; 32]);

impl Drop for HeldClaim {
    fn drop(&mut self) {
        let mut held = lock(&HELD);
        if let Some((_, count)) = held.get_mut(&self.0) {
            *count -= 1;
            if *count == 0 {
                held.remove(&self.0);
            }
        }
    }
}

impl Claimant {
    /// Claims an identity for `rows`. Those in memory are claimed until the returned value is dropped; if
    /// they outlive the module, no other one may ever have it.
    ///
    /// # Errors
    ///
    /// Another module has it, or may have it.
    pub(super) fn claim(
        self,
        identity: [u8; 32],
        rows: &Rows,
    ) -> Result<Option<Arc<dyn Any + Send + Sync>>, Conflict<Claimant>> {
        if *rows != Rows::InMemory {
            let key = rows.of_identity(identity);
            let claimed = lock(&PERMANENT).claim(key, self, Claimant::eq);
            return claimed.map(|()| None);
        }
        let mut held = lock(&HELD);
        let (first, count) = held.entry(identity).or_insert((self, 0));
        if *first != self {
            return Err(Conflict::With(*first));
        }
        *count += 1;
        Ok(Some(Arc::new(HeldClaim(identity))))
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

    #[test]
    fn rows_in_memory_are_claimed_while_they_are_held() {
        let place = Location::caller();
        let [one, other] = [Some(1), Some(2)].map(|number| Claimant { place, number });
        let identity = *blake3::hash(b"rows_in_memory_are_claimed").as_bytes();
        let claim = |claimant: Claimant| claimant.claim(identity, &Rows::InMemory);
        let (first, again) = (claim(one).unwrap(), claim(one).unwrap());
        assert!(claim(other).is_err_and(|conflict| conflict == Conflict::With(one)));
        drop(first);
        assert!(claim(other).is_err(), "it is still held");
        drop(again);
        assert!(
            !lock(&HELD).contains_key(&identity),
            "nothing is left of it"
        );
        assert!(claim(other).is_ok());
    }

    #[test]
    fn rows_on_disk_are_claimed_for_each_directory() {
        let place = Location::caller();
        let [one, other] = [Some(3), Some(4)].map(|number| Claimant { place, number });
        let identity = *blake3::hash(b"rows_on_disk_are_claimed").as_bytes();
        let below = |path: &str| Rows::OnDisk(Some(PathBuf::from(path)));
        for (claimant, rows, is_claimed) in [
            (one, below("/first"), true),
            (one, below("/first"), true),
            (other, below("/first"), false),
            (other, below("/second"), true),
            (other, Rows::OnDisk(None), true),
            (one, Rows::OnDisk(None), false),
            (one, Rows::OfOuterModule, true),
            (other, Rows::OfOuterModule, false),
        ] {
            let claimed = claimant.claim(identity, &rows).is_ok();
            assert_eq!(claimed, is_claimed, "{claimant:?}, {rows:?}");
        }
    }
}
