//! Who else may have written what a directory holds. Checksums tell damage, not malice: whoever can
//! write into the directory can plant rows. So a directory, or a file in it, into which people may
//! write whom its owner did not choose is not used.

use std::io;
use std::sync::OnceLock;

use rustix::process::{Gid, Uid, getegid, geteuid, getgroups};

use super::Metadata;

/// The bit of a mode that lets everybody write.
const EVERYBODY: u32 = 0o002;
/// The bit of a mode that lets the group write.
const GROUP: u32 = 0o020;

/// Who this process is.
struct User {
    id: Uid,
    groups: Vec<Gid>,
}

impl User {
    fn this() -> &'static User {
        static USER: OnceLock<User> = OnceLock::new();
        USER.get_or_init(|| {
            let mut groups = getgroups().unwrap_or_default();
            groups.push(getegid());
            let id = geteuid();
            User { id, groups }
        })
    }

    /// Whether what belongs to `owner` is as good as the user's own. The administrator gives
    /// directories to whoever shall have them, and may use any.
    fn trusts(&self, owner: u32) -> bool {
        self.id.is_root() || [self.id.as_raw(), Uid::ROOT.as_raw()].contains(&owner)
    }

    /// Whether `dir` was given to a group for all of its members to write to, this user among them.
    fn shares(&self, dir: &Metadata) -> bool {
        let member = self.groups.iter().any(|group| group.as_raw() == dir.group);
        member && dir.mode & GROUP != 0
    }
}

/// Whether a directory may hold a cache.
///
/// # Errors
/// Why it may not, and what to do about it.
pub(crate) fn directory(dir: &Metadata) -> io::Result<()> {
    let user = User::this();
    let why = if dir.mode & EVERYBODY != 0 {
        "everybody may write to it, and so plant rows; take that away with `chmod o-w`".to_owned()
    } else if !user.trusts(dir.owner) && !user.shares(dir) {
        format!(
            "it belongs to user {}, and this is user {}; to share it, give it to a group of both \
             and let the group write to it",
            dir.owner,
            user.id.as_raw()
        )
    } else {
        return Ok(());
    };
    Err(io::Error::new(io::ErrorKind::PermissionDenied, why))
}

/// Whether a file of a directory may be read from, and why not.
pub(crate) fn file(file: &Metadata, dir: &Metadata) -> Result<(), String> {
    let user = User::this();
    if file.mode & EVERYBODY != 0 {
        return Err("everybody may write to it".to_owned());
    }
    // Where the group may write to the directory, its members' files are in their place.
    if user.trusts(file.owner) || file.owner == dir.owner || dir.mode & GROUP != 0 {
        return Ok(());
    }
    Err(format!("it belongs to user {}", file.owner))
}

#[cfg(test)]
mod tests {
    use std::time::UNIX_EPOCH;

    use super::*;

    fn metadata(owner: u32, group: u32, mode: u32) -> Metadata {
        Metadata {
            len: 0,
            modified: UNIX_EPOCH,
            is_file: false,
            owner,
            group,
            mode,
        }
    }

    fn user(id: u32, group: u32) -> User {
        User {
            id: Uid::from_raw(id),
            groups: vec![Gid::from_raw(group)],
        }
    }

    #[test]
    fn own_directories_and_those_of_the_administrator_are_used() {
        assert!(user(1000, 10).trusts(1000));
        assert!(user(1000, 10).trusts(0));
        assert!(!user(1000, 10).trusts(1001));
        assert!(user(0, 0).trusts(1001), "the administrator may use any");
    }

    #[test]
    fn a_directory_is_shared_by_a_group_that_may_write_to_it() {
        let of_another = |group, mode| metadata(1001, group, mode);
        assert!(user(1000, 10).shares(&of_another(10, 0o775)));
        assert!(!user(1000, 10).shares(&of_another(10, 0o755)));
        assert!(!user(1000, 10).shares(&of_another(11, 0o775)));
    }

    #[test]
    fn what_everybody_may_write_to_is_used_by_nobody() {
        let own = geteuid().as_raw();
        let group = getegid().as_raw();
        directory(&metadata(own, group, 0o755)).expect("it is this user's");
        for mode in [0o777, 0o757, 0o722] {
            let refused = directory(&metadata(own, group, mode)).expect_err("it is open");
            assert!(refused.to_string().contains("chmod o-w"), "{refused}");
        }
        let dir = metadata(own, group, 0o755);
        assert_eq!(file(&metadata(own, group, 0o644), &dir), Ok(()));
        assert!(file(&metadata(own, group, 0o646), &dir).is_err());
    }
}
