//! A process that the scenarios start: `child ROLE DIR WORDS…`.

use std::path::Path;

use torchcache_faults::roles::ROLES;

fn main() {
    let args: Vec<String> = std::env::args().skip(1).collect();
    let [role, dir, rest @ ..] = args.as_slice() else {
        panic!("a role and a directory are wanted, not {args:?}");
    };
    let found = ROLES.iter().find(|(name, _)| name == role);
    let (_, play) = found.unwrap_or_else(|| panic!("no role {role}"));
    play(Path::new(dir), rest);
}
