//! What commands need from elsewhere: taken from where the environment says, else installed below
//! `target/`.

pub(crate) mod azurite;
pub(crate) mod ceph;
pub(crate) mod fake_cuda;
pub(crate) mod fashion_mnist;
pub(crate) mod libtorch;
pub(crate) mod minilm;
pub(crate) mod nvrtc;
pub(crate) mod python_peer;
pub(crate) mod readback;
pub(crate) mod seaweedfs;

mod debian;
mod pip;
mod python;
mod staged;
mod torch_wheel;

use std::env;
use std::path::PathBuf;

/// The path in a variable of the environment. One that is set to nothing counts as not set.
pub(crate) fn named(variable: &str) -> Option<PathBuf> {
    let value = env::var_os(variable).filter(|value| !value.is_empty());
    value.map(|value| absolute(value.into()))
}

/// The absolute path of what exists: tests run in the folder of their package. Others stay: a shell may find the program.
fn absolute(path: PathBuf) -> PathBuf {
    match path.exists() {
        true => std::path::absolute(&path).unwrap_or(path),
        false => path,
    }
}

/// A program that a shell would find.
fn in_path(program: &str) -> Option<PathBuf> {
    let path = env::var_os("PATH")?;
    let mut programs = env::split_paths(&path).map(|folder| folder.join(program));
    programs.find(|path| path.is_file())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_named_path_is_absolute_and_the_name_of_a_program_stays() {
        let source = env::current_dir().unwrap().join("src/main.rs");
        assert_eq!(absolute("src/main.rs".into()), source);
        assert_eq!(absolute(source.clone()), source);
        assert_eq!(absolute("python3".into()), PathBuf::from("python3"));
    }
}
