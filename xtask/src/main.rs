//! Development tasks: `cargo xtask COMMAND`. Each command installs what it needs below `target/`.

mod cli;
mod commands;
mod executable;
mod install;
mod machine;
mod mirror;
mod page;
mod release;
mod shell;

use std::path::Path;
use std::process::ExitCode;

use anyhow::Result;
use clap::Parser;

use cli::{Cli, Command, Device};
use commands::{
    bench, cuda_bundle, demo, docs, fake_device, kernels, layout, planted, sanitize, servers, soak,
    test,
};
use install::{libtorch, minilm};
use shell::Reported;

fn main() -> ExitCode {
    match run(Cli::parse().command) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            if !error.is::<Reported>() {
                eprintln!("error: {error:#}");
            }
            ExitCode::FAILURE
        }
    }
}

fn run(command: Command) -> Result<()> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"))
        .parent()
        .expect("xtask/ is in the root");
    match command {
        Command::Setup { tch } => libtorch::prepare(root, tch).map(|_| ()),
        Command::Minilm => minilm::folder(root).map(|folder| println!("{}", folder.display())),
        Command::Demo { args } => demo::run(root, &args),
        Command::Test {
            all,
            device,
            tch,
            args,
        } => match device {
            Some(Device::Fake) => fake_device::run(root, tch, &args),
            None => test::run(root, tch, all, &args),
        },
        Command::Bench(plan) => bench::run(root, &plan),
        Command::Servers => servers::run(root).map(|not_run| servers::report(&not_run)),
        Command::Soak { names } => soak::run(root, &names),
        Command::Planted { names } => planted::run(root, &names),
        Command::Sanitize => sanitize::run(root),
        Command::Docs => docs::run(root),
        Command::Kernels { check } => kernels::run(root, check),
        Command::Layout => layout::run(root),
        Command::CudaBundle => cuda_bundle::run(root),
    }
}
