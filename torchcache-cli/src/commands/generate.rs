//! `torchcache completions` and `torchcache man`: what the definition of the command line knows.

use clap::CommandFactory;
use clap_mangen::Man as Page;
use serde_json::json;

use crate::args::{Args, Completions, Man};
use crate::error::Error;
use crate::output::{Output, Printed};

const NAME: &str = "torchcache";

pub(crate) fn completions(_: &Output, args: &Completions) -> Result<Printed, Error> {
    let mut script = Vec::new();
    clap_complete::generate(args.shell, &mut Args::command(), NAME, &mut script);
    let script = String::from_utf8_lossy(&script).into_owned();
    let json = json!({ "shell": args.shell.to_string(), "text": script });
    Ok(Printed::source(script, json))
}

pub(crate) fn man(_: &Output, args: &Man) -> Result<Printed, Error> {
    let mut program = Args::command().disable_help_subcommand(true);
    program.build();
    let page = match &args.command {
        None => Page::new(program),
        Some(name) => {
            let command = program.find_subcommand(name).ok_or_else(|| {
                let names: Vec<_> = program.get_subcommands().map(|it| it.get_name()).collect();
                let names = names.join(", ");
                Error::not_done(format!("there is no command {name:?}; there are {names}"))
            })?;
            // Only the program has a version, and the pages of its commands stand beside its own.
            let version = program.get_version().unwrap_or_default().to_owned();
            let page = Page::new(command.clone()).title(format!("{NAME}-{name}"));
            page.source(format!("{NAME} {version}"))
        }
    };
    let mut roff = Vec::new();
    page.render(&mut roff)
        .map_err(|error| Error::not_done(format!("cannot write the page: {error}")))?;
    let roff = String::from_utf8_lossy(&roff).into_owned();
    let json = json!({ "text": roff });
    Ok(Printed::source(roff, json))
}
