//! The command line of torchcache. Each of `commands` runs a function of the store's administration on
//! arguments that `args` checked, those of `commands::remote` on URLs, and returns a report as text and as JSON.

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

use args::{Args, Command, Location};
use clap::Parser;
use commands::{
    check, clear, diff, export as export_command, generate, key, ls, prune, remote, show,
};
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
        Command::Ls(args) => match &args.dir {
            Location::Dir(dir) => ls::run(printer, dir),
            Location::Url(url) => remote::ls::run(printer, url),
        },
        Command::Show(args) => match &args.dir {
            Location::Dir(dir) => show::run(printer, dir, args.hash.as_deref()),
            Location::Url(url) => remote::show::run(printer, url, args.hash.as_deref()),
        },
        Command::Diff(args) => diff::run(printer, &args),
        Command::Check(args) => match &args.dir {
            Location::Dir(dir) => check::run(printer, dir, args.repair),
            Location::Url(url) => remote::check::run(printer, url, args.repair),
        },
        Command::Prune(args) => match &args.dir {
            Location::Dir(dir) => prune::run(printer, dir, &args),
            Location::Url(url) => remote::prune::run(printer, url, &args),
        },
        Command::Clear(args) => match &args.dir {
            Location::Dir(dir) => clear::run(printer, dir, &args),
            Location::Url(url) => remote::clear::run(printer, url, &args),
        },
        Command::Push(args) => remote::transfer::push(printer, &args),
        Command::Pull(args) => remote::transfer::pull(printer, &args),
        Command::Compact(args) => remote::compact::run(printer, &args),
        Command::Export(args) => export_command::run(printer, &args),
        Command::Key(args) => key::run(&args),
        Command::Completions(args) => generate::completions(&args),
        Command::Man(args) => generate::man(&args),
    }
}
