//! `torchcache show URL`: one cache in detail, by the footers of its segments.

use std::ffi::OsStr;

use super::list::{RemoteList, failed, skipped_json};
use crate::commands::show::{as_json, sections};
use crate::error::Error;
use crate::output::{CommandReport, Printer};

pub(crate) fn run(
    printer: &Printer,
    url: &str,
    hash: Option<&OsStr>,
) -> Result<CommandReport, Error> {
    let list = RemoteList::open(printer, url)?;
    let cache = list.find(hash)?;
    let summary = list.root.summary(cache).map_err(failed("read", url))?;
    let (text, schemas) = sections(printer, cache.name(), ("store", url), &summary);
    let mut json = as_json(cache.name(), url, &summary, &schemas);
    json["skipped"] = skipped_json([], &list.foreign);
    Ok(CommandReport::new(text, json))
}
