//! The command line: what was asked for, who does it, and the exit code. Everything that knows
//! about libtorch, cargo or files lives in the modules.

mod bench;
mod cargo;
mod command;
mod cuda_bundle;
mod demo;
mod error;
mod executable;
mod install;
mod layout;
mod libtorch;
mod machine;
mod minilm;
mod mirror;
mod page;
mod pip;
mod planted;
mod progress;
mod python;
mod readback;
mod release;
mod sanitize;
mod soak;
mod staged;
mod test;

use std::env;
use std::path::Path;
use std::process::ExitCode;

use command::Command;
use error::Result;

fn main() -> ExitCode {
    match run() {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            error.print();
            error.exit_code()
        }
    }
}

fn run() -> Result<()> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"))
        .parent()
        .expect("xtask/ lies in the root");
    match Command::parse(env::args_os().skip(1))? {
        Command::Help => command::print_help(),
        Command::Setup(release) => libtorch::prepare(root, release).map(|_| ()),
        Command::Minilm => minilm::run(root),
        Command::Demo(args) => demo::run(root, &args),
        Command::Bench(plan) => bench::run(root, &plan),
        Command::Test(release, args) => test::run(root, release, &args),
        Command::Soak(args) => soak::run(root, &args),
        Command::Planted(names) => planted::run(root, &names),
        Command::Sanitize => sanitize::run(root),
        Command::Layout => layout::run(root),
        Command::CudaBundle => cuda_bundle::run(root),
    }
}
