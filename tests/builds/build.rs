//! The factor of a build, by its feature: as an environment variable and in files.

use std::path::Path;
use std::{env, fs};

fn main() {
    println!("cargo:rerun-if-changed=../build.rs");
    let is_three = env::var_os("CARGO_FEATURE_THREE").is_some();
    let factor = if is_three { "3.0" } else { "2.0" };
    let out = env::var("OUT_DIR").expect("Cargo sets it");
    println!("cargo:rustc-env=FACTOR={factor}");
    let write = |name: &str| {
        fs::write(Path::new(&out).join(name), factor).expect("the folder can be written to");
    };
    write("factor.txt");
    // A file and a variable that only one of the builds has.
    if is_three {
        write("three.txt");
        println!("cargo:rustc-env=THREE={factor}");
    }
}
