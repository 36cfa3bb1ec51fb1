//! Ceph, an object store for the long tests of the remote tier, below `target/ceph/`: packages of Debian 12, unpacked
//! without installing them.

use std::path::{Path, PathBuf};

use anyhow::{Result, ensure};
use xshell::{Shell, cmd};

use crate::install::debian;
use crate::install::staged::{Partial, Staged};

/// Debian has one revision of it at a time.
const VERSION: &str = "16.2.15";

/// The packages that have what a test runs. The others that they need are libraries, and programs for other purposes.
const PACKAGES: [&str; 5] = [
    "ceph-base",
    "ceph-common",
    "ceph-mon",
    "ceph-osd",
    "radosgw",
];

/// What a test runs.
const PROGRAMS: [&str; 6] = [
    "ceph-mon",
    "ceph-osd",
    "monmaptool",
    "osdmaptool",
    "radosgw",
    "radosgw-admin",
];

/// The folder whose `usr/bin` has Ceph: it is installed below `target/` if it is missing, where there are packages of it.
/// Else `/`, if the machine has it, or `None`.
pub(crate) fn folder(root: &Path) -> Result<Option<PathBuf>> {
    let staged = Staged {
        parent: &root.join("target/ceph"),
        name: VERSION,
    };
    let accepted = [VERSION.to_owned()];
    if staged.is_complete(&accepted) || missing_packages().is_some() {
        return staged.ensure(&accepted, install).map(Some);
    }
    let system = Path::new("/");
    Ok(missing_program(system).is_none().then(|| system.to_owned()))
}

fn missing_program(folder: &Path) -> Option<&'static str> {
    let is_missing = |program: &&str| !folder.join("usr/bin").join(program).is_file();
    PROGRAMS.into_iter().find(is_missing)
}

/// The packages, and the libraries that they need and the machine lacks. `None` if there are no such packages for it.
fn missing_packages() -> Option<Vec<String>> {
    let sh = Shell::new().ok()?;
    let packages = PACKAGES.map(|name| format!("{name}={VERSION}*"));
    let of_ceph = &packages;
    let simulated = cmd!(
        sh,
        "apt-get install --simulate --no-install-recommends {of_ceph...}"
    );
    let simulated = simulated.quiet().ignore_stderr().read().ok()?;
    let libraries = libraries(&simulated).into_iter();
    Some(packages.into_iter().chain(libraries).collect())
}

/// The libraries that apt-get would install, with their versions.
fn libraries(simulated: &str) -> Vec<String> {
    let installed = simulated.lines().filter_map(|it| it.strip_prefix("Inst "));
    let named = installed.filter_map(|it| {
        let (name, _) = it.split_once(' ')?;
        let (_, version) = it.split_once('(')?;
        let (version, _) = version.split_once(' ')?;
        name.starts_with("lib").then(|| format!("{name}={version}"))
    });
    named.collect()
}

fn install(partial: &Partial) -> Result<()> {
    eprintln!("fetching Debian's packages of Ceph {VERSION}, about 60 MB, into target/ceph/");
    let packages = missing_packages().unwrap_or_default();
    debian::unpack(&packages, &partial.content, partial)?;
    let missing = missing_program(&partial.content);
    ensure!(missing.is_none(), "no {missing:?} in the packages of Ceph");
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn libraries_are_fetched_in_the_versions_that_apt_chose() {
        let simulated = "Reading package lists...\n\
            Inst libfmt9 (9.1.0+ds1-2 Debian:12.12/oldstable [amd64])\n\
            Inst librados2 [16.2.11] (16.2.15 Debian-Security:12/oldstable [amd64]) []\n\
            Inst lvm2 (2.03.16-2 Debian:12.12/oldstable [amd64])\n\
            Conf libfmt9 (9.1.0+ds1-2 Debian:12.12/oldstable [amd64])\n";
        assert_eq!(
            libraries(simulated),
            ["libfmt9=9.1.0+ds1-2", "librados2=16.2.15"]
        );
    }
}
