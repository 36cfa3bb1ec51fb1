//! `torchcache ls URL`: one line for each cache, by one listing and the manifests.

use std::cmp::Reverse;

use serde_json::json;
use torchcache_store::size::{human, sum};

use super::list::{RemoteList, skipped_json};
use crate::describe::missing_module;
use crate::error::Error;
use crate::output::{CommandReport, DIM, Printer};
use crate::table::{Column, Table};
use crate::text::{count, counted, plain};
use crate::time::{ago, rfc3339};

pub(crate) fn run(printer: &Printer, url: &str) -> Result<CommandReport, Error> {
    let list = RemoteList::open_noting_none(printer, url)?;
    let manifests = list.root.manifests(&list.caches);
    let mut listed: Vec<_> = list.caches.iter().zip(manifests).collect();
    listed.sort_by_key(|(cache, _)| Reverse((cache.last_read(), cache.created())));
    let short = list.short_names();
    let mut table = Table::new([
        Column::Long("TYPE"),
        Column::Left("HASH"),
        Column::Right("SEGMENTS"),
        Column::Right("MAX ROWS"),
        Column::Right("SIZE"),
        Column::Left("LAST READ"),
    ]);
    for (cache, manifest) in &listed {
        table.row([
            match manifest {
                Ok(manifest) => plain(&manifest.module),
                Err(error) => missing_module(error.kind()),
            },
            short[cache.name()].clone(),
            count(cache.segment_count() as u64),
            count(cache.max_rows()),
            human(cache.bytes()),
            cache
                .last_read()
                .map_or("-".to_owned(), |read| ago(read, printer.now)),
        ]);
    }
    let bytes = sum(list.caches.iter().map(|cache| cache.bytes()));
    let max_rows: u64 = list.caches.iter().map(|cache| cache.max_rows()).sum();
    let mut text = table.render(printer.columns);
    text += &format!(
        "{DIM}{}, at most {}, {}{DIM:#}\n",
        counted(list.caches.len() as u64, "cache"),
        counted(max_rows, "row"),
        human(bytes)
    );
    let caches = listed.iter().map(|(cache, manifest)| {
        json!({
            "name": cache.name(),
            "module": manifest.as_ref().ok().map(|manifest| &manifest.module),
            "max_rows": cache.max_rows(),
            "bytes": cache.bytes(),
            "last_read": cache.last_read().map(rfc3339),
            "created": cache.created().map(rfc3339),
            "segments": cache.segment_count(),
        })
    });
    let json = json!({
        "path": url,
        "caches": caches.collect::<Vec<_>>(),
        "skipped": skipped_json([], &list.foreign),
        "max_rows": max_rows,
        "bytes": bytes,
    });
    Ok(CommandReport::new(text, json))
}
