//! Which users may have written a directory and its files. Checksums detect damage, not malice: a user
//! who can write to the directory can forge rows. So a directory or file is rejected if users can write
//! to it whom its owner did not choose.

use std::io;

use rustix::io::Errno;
use rustix::process::{Gid, Uid, getegid, geteuid, getgroups};

use super::{Directory, Metadata};

/// The mode bit that lets all users write.
const WRITE_OTHERS: u32 = 0o002;
/// The mode bit that lets the group write.
const WRITE_GROUP: u32 = 0o020;

/// No path has so many directories.
const MAX_DEPTH: usize = 4096;

/// The mode bit that lets only owners remove the files of a directory.
const STICKY: u32 = 0o1000;

/// The user of this process, who may change.
struct User {
    id: Uid,
    /// The primary group.
    group: Gid,
    groups: Vec<Gid>,
}

impl User {
    fn current() -> User {
        User {
            id: geteuid(),
            group: getegid(),
            groups: getgroups().unwrap_or_default(),
        }
    }

    /// Whether this user may use files of `owner`: its own and those of root. Root may use any.
    fn accepts_owner(&self, owner: u32) -> bool {
        self.id.is_root() || [self.id.as_raw(), Uid::ROOT.as_raw()].contains(&owner)
    }

    /// Whether the group of `dir` may write to it, and this user is a member.
    fn shares(&self, dir: &Metadata) -> bool {
        let mut groups = self.groups.iter().chain([&self.group]);
        dir.mode & WRITE_GROUP != 0 && groups.any(|group| group.as_raw() == dir.group)
    }

    /// Whether any user may have put another user's directory in its place: one of those above it is open to all
    /// users or to the primary group of this one, which all may have, and none in between belongs to this user or root.
    fn may_be_planted(&self, dir: &dyn Directory) -> bool {
        for depth in 1..MAX_DEPTH {
            match dir.stat("../".repeat(depth).as_ref()) {
                Ok(above) if above.mode & WRITE_OTHERS != 0 => return true,
                Ok(above)
                    if above.mode & WRITE_GROUP != 0 && above.group == self.group.as_raw() =>
                {
                    return true;
                }
                Ok(above) if !self.accepts_owner(above.owner) => {}
                Ok(_) => return false,
                Err(_) => return true,
            }
        }
        true
    }
}

/// What to do where all users may write.
const WRITABLE_BY_ALL: &str = "all users may write to it and could forge rows; run `chmod -R o-w` on it, or, if that \
     changes nothing since the mount has one mode for all files, mount it with `umask=022`, on SMB with \
     `dir_mode=0755,file_mode=0644`, in WSL with `metadata`";

/// Checks whether a directory may hold a cache.
///
/// # Errors
/// [`io::ErrorKind::PermissionDenied`] with the reason and the fix.
pub(crate) fn check_directory(dir: &dyn Directory) -> io::Result<()> {
    let user = User::current();
    let metadata = dir.metadata()?;
    let (owner, group) = (metadata.owner, metadata.group);
    let why = if metadata.mode & WRITE_OTHERS != 0 {
        WRITABLE_BY_ALL.to_owned()
    } else if user.accepts_owner(owner) {
        return Ok(());
    } else if !user.shares(&metadata) {
        format!(
            "it belongs to user {owner}, and this process runs as user {}; to share it, run `chgrp -R` \
             with a group of both and `chmod -R g+rwX` on it",
            user.id.as_raw()
        )
    } else if group == user.group.as_raw() && user.may_be_planted(dir) {
        format!(
            "it belongs to user {owner}, who shares it only with the primary group {group} of this \
             process, below a directory that all users or this group may write to: any user may have made it; run \
             `chgrp -R` with a group for sharing on it, or move it"
        )
    } else {
        return Ok(());
    };
    Err(io::Error::new(io::ErrorKind::PermissionDenied, why))
}

/// Checks whether a file of a directory may be read.
///
/// # Errors
/// The reason why it may not.
pub(crate) fn check_file(file: &Metadata, dir: &Metadata) -> Result<(), String> {
    let user = User::current();
    if file.mode & WRITE_OTHERS != 0 {
        return Err("all users may write to it; run `chmod o-w` on it".to_owned());
    }
    // If the group may write to the directory, files of its members belong there.
    if user.accepts_owner(file.owner) || file.owner == dir.owner || dir.mode & WRITE_GROUP != 0 {
        return Ok(());
    }
    Err(format!("it belongs to user {}", file.owner))
}

/// Checks that a file that this process made may be read when the directory is opened again. On some mounts, files have
/// another mode or owner than directories.
///
/// # Errors
/// [`io::ErrorKind::PermissionDenied`] with the reason and the fix.
pub(crate) fn check_new_file(file: &Metadata, dir: &Metadata) -> io::Result<()> {
    let why = match check_file(file, dir) {
        Ok(()) => return Ok(()),
        Err(_) if file.mode & WRITE_OTHERS != 0 => WRITABLE_BY_ALL.to_owned(),
        Err(why) => format!("a new file in it cannot be used: {why}"),
    };
    Err(io::Error::new(io::ErrorKind::PermissionDenied, why))
}

/// Whether this process may remove a file of a directory that it may write to.
pub(crate) fn may_remove(file: &Metadata, dir: &Metadata) -> bool {
    let user = geteuid();
    dir.mode & STICKY == 0 || user.is_root() || [file.owner, dir.owner].contains(&user.as_raw())
}

/// Why this process may remove no file of a directory, if the system says so.
pub(crate) fn removal_denied(dir: &dyn Directory) -> Option<io::ErrorKind> {
    let error = dir.check_writable().err()?;
    // Some containers refuse the call itself, with `EPERM`.
    let is_denied = matches!(
        Errno::from_io_error(&error),
        Some(Errno::ACCESS | Errno::ROFS)
    );
    is_denied.then(|| error.kind())
}

/// Whether only the user of this process may write to a file or directory with this owner and mode; and
/// root.
pub fn is_private(owner: u32, mode: u32) -> bool {
    owner == geteuid().as_raw() && mode & (WRITE_GROUP | WRITE_OTHERS) == 0
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;
    use std::time::UNIX_EPOCH;

    use super::*;
    use crate::fs::{FileSystem, Os};

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
            group: Gid::from_raw(group),
            groups: vec![Gid::from_raw(group)],
        }
    }

    #[test]
    fn own_directories_and_those_of_root_are_accepted() {
        assert!(user(1000, 10).accepts_owner(1000));
        assert!(user(1000, 10).accepts_owner(0));
        assert!(!user(1000, 10).accepts_owner(1001));
        assert!(user(0, 0).accepts_owner(1001), "root may use any");
    }

    #[test]
    fn a_directory_is_shared_by_its_writing_group() {
        let of_another = |group, mode| metadata(1001, group, mode);
        assert!(user(1000, 10).shares(&of_another(10, 0o775)));
        assert!(!user(1000, 10).shares(&of_another(10, 0o755)));
        assert!(!user(1000, 10).shares(&of_another(11, 0o775)));
    }

    #[test]
    fn what_the_group_may_write_to_is_not_private() {
        let own = geteuid().as_raw();
        assert!(is_private(own, 0o755) && is_private(own, 0o100_600));
        for (owner, mode) in [(own + 1, 0o755), (own, 0o775), (own, 0o757)] {
            assert!(!is_private(owner, mode), "{owner}, {mode:o}");
        }
    }

    #[test]
    fn what_all_users_may_write_to_is_rejected() {
        let root = tempfile::tempdir().expect("a temporary directory");
        let check = |mode| {
            let mode = std::fs::Permissions::from_mode(mode);
            std::fs::set_permissions(root.path(), mode).expect("it is ours");
            check_directory(&*Os.open_dir(root.path(), false).expect("it is there"))
        };
        check(0o755).expect("it is of this user");
        for mode in [0o777, 0o757, 0o722] {
            let refused = check(mode).expect_err("all users may write");
            assert!(refused.to_string().contains("`chmod -R o-w`"), "{refused}");
        }
        let own = geteuid().as_raw();
        let group = getegid().as_raw();
        let dir = metadata(own, group, 0o755);
        assert_eq!(check_file(&metadata(own, group, 0o644), &dir), Ok(()));
        let refused = check_file(&metadata(own, group, 0o646), &dir).expect_err("so may they");
        assert!(refused.contains("`chmod o-w`"), "{refused}");
    }

    #[test]
    fn others_remove_no_file_below_a_sticky_bit() {
        let own = geteuid().as_raw();
        let (dir, file) = (
            |owner, mode| metadata(owner, 7, mode),
            metadata(own + 1, 7, 0o644),
        );
        assert!(may_remove(&file, &dir(own + 2, 0o775)));
        assert!(
            may_remove(&file, &dir(own, 0o1775)),
            "the directory is ours"
        );
        assert!(may_remove(&metadata(own, 7, 0o644), &dir(own + 2, 0o1775)));
        assert_eq!(
            may_remove(&file, &dir(own + 2, 0o1775)),
            geteuid().is_root()
        );
    }
}
