//! The program or library that a call is in, and its source file, in words that are the same for every
//! checkout and machine.

use std::collections::BTreeMap;
use std::ffi::OsStr;
use std::fs::File;
use std::panic::Location;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, OnceLock};

use super::parts::unique;
use crate::sync::lock;
use crate::tensor::parallel;

/// The source file of a location, relative to its package.
#[derive(Debug, PartialEq)]
pub(crate) struct SourceFile {
    pub(crate) path: String,
    /// Whether the path names a package and its release, so that it stands for one code.
    pub(crate) is_released: bool,
}

impl SourceFile {
    /// From the path that the compiler recorded. Cargo passes paths relative to the workspace for its
    /// members, and absolute ones for all dependencies.
    pub(crate) fn new(recorded: &str) -> Self {
        let recorded = recorded.replace('\\', "/");
        let parts: Vec<&str> = recorded.split('/').collect();
        let released = |path| SourceFile {
            path,
            is_released: true,
        };
        for (at, pair) in parts.windows(2).enumerate() {
            let below = &parts[at + 2..];
            match (pair, below) {
                // `registry/src/index.crates.io-0123456789abcdef/name-1.2.3/src/lib.rs`
                (["registry", "src"], [index, package, _, ..]) => {
                    if let Some(index) = without_hash(index) {
                        let rest = below[2..].join("/");
                        return released(format!("{index}/{package}/{rest}"));
                    }
                }
                // `git/checkouts/name-0123456789abcdef/0123abc/src/lib.rs`
                (["git", "checkouts"], [name, revision, _, ..]) => {
                    if let Some(name) = without_hash(name) {
                        let rest = below[2..].join("/");
                        return released(format!("git/{name}/{revision}/{rest}"));
                    }
                }
                _ => {}
            }
        }
        // The folder of the package contains `src`.
        let is_absolute = recorded.starts_with('/') || recorded.get(1..3) == Some(":/");
        let package = parts.iter().rposition(|&part| part == "src");
        let package = package.and_then(|src| src.checked_sub(1));
        SourceFile {
            path: match package {
                Some(package) if is_absolute => parts[package..].join("/"),
                _ => recorded,
            },
            is_released: false,
        }
    }
}

/// A name without the hash that Cargo appends to it: `-` and 16 hexadecimal digits.
fn without_hash(name: &str) -> Option<&str> {
    let (name, hash) = name.rsplit_once('-')?;
    (hash.len() == 16 && hash.bytes().all(|digit| digit.is_ascii_hexdigit())).then_some(name)
}

/// Bytes that are the same throughout this process, and different in every other.
pub(crate) fn this_run() -> [u8; 32] {
    static RUN: OnceLock<[u8; 32]> = OnceLock::new();
    *RUN.get_or_init(unique)
}

/// The file of the program or library that contains a source location.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Object {
    path: PathBuf,
    /// Of the file that is mapped: another one may have its path by now.
    mapped: Option<MappedFile>,
}

#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
struct MappedFile {
    /// Major and minor number.
    device: (u64, u64),
    inode: u64,
}

impl Object {
    /// The one in which the constant `location` is: the one whose code makes the call.
    pub(crate) fn of(location: &'static Location<'static>) -> Option<Self> {
        if cfg!(target_os = "linux") {
            let maps = std::fs::read("/proc/self/maps").ok()?;
            let address = std::ptr::from_ref(location).addr() as u64;
            return Object::mapped_at(address, &String::from_utf8_lossy(&maps));
        }
        // Other systems do not list what is mapped.
        let path = std::env::current_exe().ok()?;
        Some(Object { path, mapped: None })
    }

    /// The file of the mapping that contains `address`, in the format of `/proc/self/maps`.
    fn mapped_at(address: u64, maps: &str) -> Option<Self> {
        let hex = |text| u64::from_str_radix(text, 16).ok();
        maps.lines().find_map(|line| {
            let (range, line) = line.split_once(' ')?;
            let (start, end) = range.split_once('-')?;
            if !(hex(start)?..hex(end)?).contains(&address) {
                return None;
            }
            let (_permissions, line) = line.split_once(' ')?;
            let (_offset, line) = line.split_once(' ')?;
            let (device, line) = line.split_once(' ')?;
            let (inode, path) = line.split_once(' ')?;
            let (major, minor) = device.split_once(':')?;
            let path = path.trim_start();
            path.starts_with('/').then_some(Object {
                path: PathBuf::from(path.strip_suffix(" (deleted)").unwrap_or(path)),
                mapped: Some(MappedFile {
                    device: (hex(major)?, hex(minor)?),
                    inode: inode.parse().ok()?,
                }),
            })
        })
    }

    /// Its name, which builds and checkouts of one program have in common.
    pub(crate) fn name(&self) -> String {
        let text = |name: Option<&OsStr>| name.unwrap_or_default().to_string_lossy().into_owned();
        let name = text(self.path.file_name());
        let extensions = [".exe", ".dll", ".dylib", ".so"];
        let stem = extensions.iter().find_map(|end| name.strip_suffix(end));
        let stem = stem.unwrap_or(&name);
        let stem = without_hash(stem).unwrap_or(stem);
        if !stem.starts_with('_') {
            return stem.to_owned();
        }
        // Many Python packages have a `_native.abi3.so`.
        let package = text(self.path.parent().and_then(Path::file_name));
        format!("{package}/{stem}")
    }

    /// The digest of its file. Where another file has its path by now, it equals no other digest.
    pub(crate) fn digest(&self) -> [u8; 32] {
        static DIGESTS: Mutex<BTreeMap<Object, [u8; 32]>> = Mutex::new(BTreeMap::new());
        if let Some(&digest) = lock(&DIGESTS).get(self) {
            return digest;
        }
        // The second is the running program, also after another file replaced it.
        let files = [&*self.path, Path::new("/proc/self/exe")];
        let digest = files.into_iter().find_map(|path| self.hash(path));
        let digest = digest.unwrap_or_else(unique);
        *lock(&DIGESTS).entry(self.clone()).or_insert(digest)
    }

    /// The digest of the file at `path`, if that is the mapped one.
    fn hash(&self, path: &Path) -> Option<[u8; 32]> {
        let mut file = File::open(path).ok()?;
        let is_mapped = self.mapped.as_ref();
        if is_mapped.is_some_and(|mapped| !mapped.is(&file)) {
            return None;
        }
        parallel::hash_file(&mut file).ok()
    }
}

impl MappedFile {
    #[cfg(target_os = "linux")]
    fn is(&self, file: &File) -> bool {
        use std::os::linux::fs::MetadataExt;
        let Ok(metadata) = file.metadata() else {
            return false;
        };
        let device = metadata.st_dev();
        let major = device >> 8 & 0xfff | device >> 32 & !0xfff;
        let minor = device & 0xff | device >> 12 & !0xff;
        // Overlays and volumes of btrfs have numbers of their own, with the major number 0, and the
        // mapping has those of the disk below them.
        metadata.st_ino() == self.inode && (major == 0 || (major, minor) == self.device)
    }

    #[cfg(not(target_os = "linux"))]
    fn is(&self, _: &File) -> bool {
        false
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::process::Command;

    #[track_caller]
    fn check(recorded: &str, path: &str, is_released: bool) {
        let path = path.to_owned();
        let expected = SourceFile { path, is_released };
        assert_eq!(SourceFile::new(recorded), expected, "{recorded}");
    }

    #[test]
    fn released_packages_have_one_path_in_every_cargo_home() {
        for home in ["/home/a/.cargo", "/opt/cargo home", "C:\\Users\\a\\.cargo"] {
            let slash = if home.contains('\\') { "\\" } else { "/" };
            let recorded = |parts: &[&str]| [&[home], parts].concat().join(slash);
            for hash in ["6f17d22bba15001f", "1949cf8c6b5b557f"] {
                let index = format!("index.crates.io-{hash}");
                let parts = ["registry", "src", &index, "dep-1.2.0", "src", "a", "b.rs"];
                let expected = "index.crates.io/dep-1.2.0/src/a/b.rs";
                check(&recorded(&parts), expected, true);
            }
            let parts = [
                "git",
                "checkouts",
                "dep-0123456789abcdef",
                "0ab1c2d",
                "crates",
                "dep",
                "src",
                "lib.rs",
            ];
            let expected = "git/dep/0ab1c2d/crates/dep/src/lib.rs";
            check(&recorded(&parts), expected, true);
        }
    }

    #[test]
    fn path_dependencies_have_the_path_in_their_package() {
        for (recorded, path) in [
            ("/home/a/one/helper/src/lib.rs", "helper/src/lib.rs"),
            ("/srv/two/helper/src/lib.rs", "helper/src/lib.rs"),
            (
                "/home/a/src/one/helper/src/model/mod.rs",
                "helper/src/model/mod.rs",
            ),
            ("D:\\work\\helper\\src\\lib.rs", "helper/src/lib.rs"),
            ("/work/vendor/dep/src/lib.rs", "dep/src/lib.rs"),
            (
                "/usr/share/cargo/registry/dep-1.0.0/src/lib.rs",
                "dep-1.0.0/src/lib.rs",
            ),
            // Nothing says where the package starts.
            ("/home/a/one/main.rs", "/home/a/one/main.rs"),
            ("/src/lib.rs", "/src/lib.rs"),
            // Folders with the names of Cargo's.
            ("/a/registry/src/dep/x/src/lib.rs", "x/src/lib.rs"),
            ("/a/git/checkouts/dep/x/src/lib.rs", "x/src/lib.rs"),
        ] {
            check(recorded, path, false);
        }
    }

    #[test]
    fn members_of_the_workspace_keep_their_path() {
        for path in [
            "src/main.rs",
            "crates/a/src/lib.rs",
            "tests/b.rs",
            "../c/src/lib.rs",
            "<anon>",
            "",
        ] {
            check(path, path, false);
        }
        check("crates\\a\\src\\lib.rs", "crates/a/src/lib.rs", false);
    }

    /// Programs of two checkouts with a helper, and a dependency in two Cargo homes, compiled as Cargo
    /// does: the program by a relative path, all others by absolute ones.
    #[test]
    fn two_checkouts_and_cargo_homes_record_the_same_files() {
        let [one, two] = ["one", "two"].map(|name| {
            let root = tempfile::tempdir().unwrap();
            let (checkout, home) = (
                root.path().join(name),
                root.path().join(format!("cargo {name}")),
            );
            let dep =
                home.join("registry/src/index.crates.io-0123456789abcdef/dep-1.0.0/src/lib.rs");
            let helper = checkout.join("helper/src/lib.rs");
            let library = "pub fn file() -> &'static str { std::panic::Location::caller().file() }";
            let main =
                "fn main() { println!(\"{}\\n{}\\n{}\", file!(), dep::file(), helper::file()) }";
            for (path, code) in [
                (&dep, library),
                (&helper, library),
                (&checkout.join("app/src/main.rs"), main),
            ] {
                std::fs::create_dir_all(path.parent().unwrap()).unwrap();
                std::fs::write(path, code).unwrap();
            }
            let app = checkout.join("app");
            let compile = |arguments: &[&str]| {
                let compiler = std::env::var_os("RUSTC").unwrap_or("rustc".into());
                let mut command = Command::new(compiler);
                command
                    .current_dir(&app)
                    .args(["--edition", "2024", "-L", "."]);
                assert!(command.args(arguments).status().unwrap().success());
            };
            compile(&[
                "--crate-type",
                "lib",
                "--crate-name",
                "dep",
                dep.to_str().unwrap(),
            ]);
            compile(&[
                "--crate-type",
                "lib",
                "--crate-name",
                "helper",
                helper.to_str().unwrap(),
            ]);
            compile(&[
                "src/main.rs",
                "-o",
                "app",
                "--extern",
                "dep",
                "--extern",
                "helper",
            ]);
            let output = Command::new(app.join("app")).output().unwrap();
            let output = String::from_utf8(output.stdout).unwrap();
            assert!(
                output.contains(home.to_str().unwrap()),
                "absolute: {output}"
            );
            output
                .lines()
                .map(|line| SourceFile::new(line).path)
                .collect::<Vec<_>>()
        });
        assert_eq!(one, two);
        assert_eq!(
            one,
            [
                "src/main.rs",
                "index.crates.io/dep-1.0.0/src/lib.rs",
                "helper/src/lib.rs"
            ]
        );
    }

    const MAPS: &str = "\
55d5e3a00000-55d5e3a52000 r--p 00000000 fd:00 1234                       /home/a b/app-0123456789abcdef
55d5e3a52000-55d5e3b00000 r-xp 00052000 fd:00 1234                       /home/a b/app-0123456789abcdef
7f0000000000-7f0000001000 rw-p 00000000 00:00 0
7f0000001000-7f0000002000 r--p 00000000 103:1f 99                        /lib/libmodel.so (deleted)
7ffd00000000-7ffd00021000 rw-p 00000000 00:00 0                          [stack]
";

    #[test]
    fn the_mapped_file_around_an_address_is_found() {
        let object = |address| Object::mapped_at(address, MAPS);
        let app = object(0x55d5_e3a6_0000).unwrap();
        assert_eq!(app.path, Path::new("/home/a b/app-0123456789abcdef"));
        assert_eq!(app.name(), "app");
        let library = object(0x7f00_0000_1fff).unwrap();
        assert_eq!(library.name(), "libmodel");
        let mapped = library.mapped.unwrap();
        assert_eq!((mapped.device, mapped.inode), ((0x103, 0x1f), 99));
        for outside in [0, 0x7f00_0000_0000, 0x7f00_0000_2000, 0x7ffd_0000_0000] {
            assert_eq!(object(outside), None, "{outside:x}");
        }
    }

    #[test]
    fn names_are_without_hash_and_extension() {
        for (path, name) in [
            ("/a/app", "app"),
            ("/a/app-0123456789abcdef", "app"),
            ("/a/app-0123456789abcdeg", "app-0123456789abcdeg"),
            ("/a/app-2024", "app-2024"),
            ("/a/app-0123456789abcdef.exe", "app"),
            ("/a/libmodel.so", "libmodel"),
            ("/a/my.app", "my.app"),
            ("/site-packages/model/_native.abi3.so", "model/_native.abi3"),
        ] {
            let object = Object {
                path: path.into(),
                mapped: None,
            };
            assert_eq!(object.name(), name, "{path}");
        }
    }

    /// Of this program, whose file has been replaced.
    #[cfg(target_os = "linux")]
    #[test]
    fn the_file_that_is_mapped_is_hashed() {
        let here = Object::of(Location::caller()).unwrap();
        let content = *blake3::hash(&std::fs::read("/proc/self/exe").unwrap()).as_bytes();
        assert_eq!(here.digest(), content);
        let other = tempfile::NamedTempFile::new().unwrap();
        let moved = |path: &Path| Object {
            path: path.to_owned(),
            ..here.clone()
        };
        assert_eq!(moved(other.path()).digest(), content, "another file");
        assert_eq!(moved(Path::new("/no/such/file")).digest(), content);
        let unknown = Object {
            path: other.path().to_owned(),
            mapped: Some(MappedFile {
                device: (0xfff, 1),
                inode: 1,
            }),
        };
        assert_ne!(unknown.digest(), *blake3::hash(b"").as_bytes());
        assert_eq!(unknown.digest(), unknown.digest());
    }
}
