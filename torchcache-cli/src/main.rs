//! The command line of torchcache. Each of `commands` runs a function of the store's administration on
//! arguments that `args` checked, and returns a report as text and as JSON.

mod args;
mod commands;
mod describe;
mod error;
mod export;
mod json;
mod output;
mod progress;
mod select;
mod table;
mod text;
mod time;

use std::process::ExitCode;

use args::{Args, Command};
use clap::Parser;
use commands::{check, clear, diff, export as export_command, generate, ls, prune, show};
use error::Error;
use output::{Output, Report};

fn main() -> ExitCode {
    let args = match Args::try_parse() {
        Ok(args) => args,
        Err(usage) => return output::print_usage(&usage),
    };
    let output = Output::new(args.json);
    match run(&output, args.command) {
        Ok(report) => output.print(report),
        Err(error) => output::print_error(&error),
    }
}

fn run(output: &Output, command: Command) -> Result<Report, Error> {
    match command {
        Command::Ls(args) => ls::run(output, &args),
        Command::Show(args) => show::run(output, &args),
        Command::Diff(args) => diff::run(output, &args),
        Command::Check(args) => check::run(output, &args),
        Command::Prune(args) => prune::run(output, &args),
        Command::Clear(args) => clear::run(output, &args),
        Command::Export(args) => export_command::run(output, &args),
        Command::Completions(args) => generate::completions(&args),
        Command::Man(args) => generate::man(&args),
    }
}
