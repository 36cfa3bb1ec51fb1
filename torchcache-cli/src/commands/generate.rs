//! `torchcache completions` and `torchcache man`: generated from the definition of the command line.

use clap::CommandFactory;
use clap_mangen::Man as Page;
use serde_json::json;

use crate::args::{self, Args, Completions, Man};
use crate::error::Error;
use crate::output::CommandReport;

const NAME: &str = "torchcache";

pub(crate) fn completions(args: &Completions) -> Result<CommandReport, Error> {
    let mut script = Vec::new();
    clap_complete::generate(args.shell, &mut Args::command(), NAME, &mut script);
    let script = String::from_utf8_lossy(&script).into_owned();
    let json = json!({ "shell": args.shell.to_string(), "text": script });
    Ok(CommandReport::source(script, json))
}

pub(crate) fn man(args: &Man) -> Result<CommandReport, Error> {
    let page = match &args.command {
        None => Page::new(args::definition()),
        // Only the program has a version, and the pages of its commands should show it.
        Some(command) => Page::new((**command).clone())
            .title(format!("{NAME}-{}", command.get_name()))
            .source(concat!("torchcache ", env!("CARGO_PKG_VERSION"))),
    };
    let mut roff = Vec::new();
    page.render(&mut roff)
        .map_err(|error| Error::failed(format!("cannot write the page: {error}")))?;
    let roff = String::from_utf8_lossy(&roff).into_owned();
    let json = json!({ "text": roff });
    Ok(CommandReport::source(roff, json))
}
