//! How much processor time 100 annotated modules and functions take to compile, next to the same ones without the
//! attribute: a crate of each is written below `target/`, and `cargo check` and `cargo build` compile it, without its
//! dependencies.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use clap::Parser;
use torchcache_benches::args::Args;
use torchcache_benches::table::{Table, ratio, time};

/// Half of them are modules, half functions.
const ITEMS: usize = 100;

fn main() {
    let args = Args::parse();
    let (items, rounds) = if args.quick { (4, 1) } else { (ITEMS, 5) };
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("..");
    let root = root.canonicalize().expect("the repository");
    let crates = [false, true].map(|cached| Generated::write(&root, items, cached));
    let mut table = Table::new(
        1,
        &[
            "command",
            "annotated",
            "plain",
            "annotated / plain",
            "more for each item",
        ],
    );
    for command in ["check", "build"] {
        // The dependencies.
        for it in &crates {
            it.compile(command);
        }
        let rounds = (0..rounds).map(|_| crates.each_ref().map(|it| it.compile(command)));
        let rounds: Vec<[f64; 2]> = rounds.collect();
        let best = |of: usize| rounds.iter().map(|it| it[of]).fold(f64::INFINITY, f64::min);
        let (plain, cached) = (best(0), best(1));
        table.row([
            format!("cargo {command}"),
            time(cached),
            time(plain),
            ratio(cached / plain),
            time((cached - plain) / items as f64),
        ]);
    }
    println!(
        "{} modules and {} functions in one crate, the unoptimized profile, without incremental compilation; \
         processor time, the least of {rounds} rounds.\n\n{table}",
        items / 2,
        items - items / 2
    );
}

/// A crate that was written.
struct Generated {
    root: PathBuf,
    folder: PathBuf,
}

impl Generated {
    fn write(root: &Path, items: usize, cached: bool) -> Self {
        let name = if cached { "annotated" } else { "plain" };
        let folder = root.join("target/compile-time").join(name);
        fs::create_dir_all(folder.join("src")).expect("a folder");
        let write = |file: &str, text: String| {
            fs::write(folder.join(file), text).expect("a file below target/");
        };
        write("Cargo.toml", manifest(root, name));
        write("src/lib.rs", source(items, cached));
        // The versions of the repository, which are compiled already.
        fs::copy(root.join("Cargo.lock"), folder.join("Cargo.lock")).expect("Cargo.lock");
        Generated {
            root: root.to_owned(),
            folder,
        }
    }

    /// Milliseconds of processor time that `cargo check` or `cargo build` takes once the source is newer than what was
    /// compiled.
    fn compile(&self, command: &str) -> f64 {
        let source = self.folder.join("src/lib.rs");
        let text = fs::read(&source).expect("it was written");
        fs::write(&source, text).expect("it was written");
        let start = children();
        let output = Command::new("cargo")
            .args([command, "--quiet", "--offline"])
            .current_dir(&self.folder)
            .env("CARGO_INCREMENTAL", "0")
            .env("CARGO_TARGET_DIR", self.root.join("target"))
            .output()
            .expect("cargo starts");
        let milliseconds = children() - start;
        let errors = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success(), "cargo {command} failed:\n{errors}");
        milliseconds
    }
}

/// Milliseconds of processor time of the programs that this one has run, which hardly depend on what else runs.
fn children() -> f64 {
    let stat = fs::read_to_string("/proc/self/stat").expect("Linux");
    // The name of the program, in parentheses, may have spaces.
    let fields = stat.rsplit(')').next().unwrap_or_default();
    let ticks = fields.split_whitespace().skip(13).take(2);
    let ticks: f64 = ticks.map(|it| it.parse::<f64>().expect("a number")).sum();
    // A tick is a hundredth of a second on Linux.
    ticks * 10.0
}

/// With the profiles of the repository: dependencies are compiled as there.
fn manifest(root: &Path, name: &str) -> String {
    let workspace = fs::read_to_string(root.join("Cargo.toml")).expect("Cargo.toml");
    let profiles = workspace.split_inclusive('\n').collect::<Vec<_>>();
    let mut is_profile = false;
    let is_kept = |line: &&&str| {
        if line.starts_with('[') {
            is_profile = line.starts_with("[profile.") && !line.contains("package.torchcache");
        }
        is_profile
    };
    let profiles: String = profiles.iter().filter(is_kept).copied().collect();
    format!(
        "[package]\nname = \"compile-time-{name}\"\nversion = \"0.0.0\"\nedition = \"2024\"\n\n[workspace]\n\n\
         [dependencies]\ntch = \">=0.24, <0.27\"\ntorchcache = {{ path = {:?} }}\n\n{profiles}",
        root.join("torchcache")
    )
}

fn source(items: usize, cached: bool) -> String {
    let attribute = if cached { "#[torchcache]\n" } else { "" };
    let field = if cached {
        "    torchcache: TorchCache,\n"
    } else {
        ""
    };
    let mut text = "use tch::{Kind, Tensor, nn};\n".to_owned();
    if cached {
        text += "use torchcache::{TorchCache, torchcache};\n";
    }
    for number in 0..items / 2 {
        text += &format!(
            "\n{attribute}#[derive(Debug)]\npub struct Module{number} {{\n    pub first: nn::Linear,\n    \
             pub second: nn::Linear,\n    pub scale: f64,\n{field}}}\n\n{attribute}impl nn::Module for \
             Module{number} {{\n    fn forward(&self, xs: &Tensor) -> Tensor {{\n        let hidden = \
             xs.apply(&self.first).relu();\n        hidden.apply(&self.second) * self.scale\n    }}\n}}\n"
        );
    }
    for number in items / 2..items {
        text += &format!(
            "\n{attribute}pub fn function{number}(xs: &Tensor, scale: f64, normalize: bool) -> Tensor {{\n    \
             let mean = xs.mean_dim(1, true, Kind::Float) * scale;\n    if normalize {{ &mean / mean.norm() }} \
             else {{ mean }}\n}}\n"
        );
    }
    text
}
