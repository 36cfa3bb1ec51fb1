//! The command line of torchcache: which command was given, who does it, and how the program ends.
//! Arguments are checked in `args`, once; what is done to directories and files is
//! `torchcache_store::admin`; what is printed is made in `commands`.

mod args;
mod commands;
mod describe;
mod error;
mod export;
mod find;
mod json;
mod output;
mod progress;
mod table;
mod text;
mod time;

use std::process::ExitCode;

use args::{Args, Command};
use error::Error;
use output::{Output, Printed};

fn main() -> ExitCode {
    let args = match Args::of_the_process() {
        Ok(args) => args,
        Err(code) => return code,
    };
    let output = Output::new(args.json);
    match run(&output, args.command) {
        Ok(printed) => output.print(printed),
        Err(error) => output::fail(&error),
    }
}

fn run(output: &Output, command: Command) -> Result<Printed, Error> {
    match command {
        Command::Ls(ls) => commands::ls::run(output, &ls),
        Command::Show(show) => commands::show::run(output, &show),
        Command::Diff(diff) => commands::diff::run(output, &diff),
        Command::Verify(verify) => commands::verify::run(output, &verify),
        Command::Prune(prune) => commands::prune::run(output, &prune),
        Command::Clear(clear) => commands::clear::run(output, &clear),
        Command::Export(export) => export::run(output, &export),
        Command::Completions(completions) => commands::generate::completions(output, &completions),
        Command::Man(man) => commands::generate::man(output, &man),
    }
}
