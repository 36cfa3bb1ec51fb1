//! What the child processes of scenarios do, each on a directory.

pub mod directory;
mod endless;
pub mod fill;
mod forked;
pub mod image;
pub mod neighbour;
pub mod other_user;
pub mod remote_tier;
pub mod shared_dir;
pub mod shutdown;
pub mod signals;
pub mod steady;

use std::path::Path;

/// What a child process does in its directory, given further arguments.
pub type Role = fn(&Path, &[String]);

/// Every role, by its name.
pub const ROLES: &[(&str, Role)] = &[
    ("directory", directory::run),
    ("fill", fill::run),
    ("neighbour", neighbour::run),
    ("shutdown", shutdown::run),
    ("signals", signals::run),
    ("remote_tier", remote_tier::run),
    ("steady", steady::run),
    ("other_user", other_user::run),
    ("image", image::run),
    ("shared_dir", shared_dir::run),
];
