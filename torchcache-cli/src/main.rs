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
use commands::{check, clear, diff, export as export_command, generate, key, ls, prune, show};
use error::Error;
use output::{CommandReport, Printer};
use torchcache_store::threads;

fn main() -> ExitCode {
    threads::block_file_size_signal();
    let args = match Args::try_parse() {
        Ok(args) => args,
        Err(usage) => return output::print_usage(&usage),
    };
    let printer = Printer::new(args.json);
    match run(&printer, args.command) {
        Ok(report) => printer.print(report),
        Err(error) => output::print_error(&error),
    }
}

fn run(printer: &Printer, command: Command) -> Result<CommandReport, Error> {
    match command {
        Command::Ls(args) => ls::run(printer, &args),
        Command::Show(args) => show::run(printer, &args),
        Command::Diff(args) => diff::run(printer, &args),
        Command::Check(args) => check::run(printer, &args),
        Command::Prune(args) => prune::run(printer, &args),
        Command::Clear(args) => clear::run(printer, &args),
        Command::Export(args) => export_command::run(printer, &args),
        Command::Key(args) => key::run(&args),
        Command::Completions(args) => generate::completions(&args),
        Command::Man(args) => generate::man(&args),
    }
}
